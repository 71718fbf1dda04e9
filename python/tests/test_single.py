"""The single environment."""

from __future__ import annotations

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers import assert_same, deep_copy

import kvgym


@pytest.mark.parametrize("config", [{}, {"profile": "serving"}, {"obs_dtype": "uint8"}, {"infos": ("components", "metrics")}, {"truncate": True}])
def test_check_env(config):
    check_env(gymnasium.make(kvgym.ENV_ID, **config).unwrapped)


def test_episode():
    env = kvgym.KVCacheEnv()
    obs, info = env.reset(seed=3)
    assert obs.shape == (784,) and obs.dtype == np.float32 and obs in env.observation_space
    assert info["action_mask"].shape == (64, 4) and info["action_mask"].dtype == np.bool_
    for t in range(15):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert type(reward) is float and type(terminated) is bool and type(truncated) is bool
        assert terminated == (t == 14) and not truncated
    assert info["action_mask"].tolist() == [[True, False, False, False]] * 64
    with pytest.raises(kvgym.RefusedError, match="ended"):
        env.step(np.zeros(64, np.int64))
    env.reset()
    env.step(np.zeros(64, np.int64))


def test_what_was_returned_never_changes():
    env = kvgym.KVCacheEnv(infos=("action_mask", "components", "metrics"))
    kept = [env.reset(seed=1)]
    copies = [deep_copy(kept[0])]
    for t in range(45):
        kept.append(env.reset() if t % 15 == 14 else env.step(np.full(64, t % 4)))
        copies.append(deep_copy(kept[-1]))
    assert_same(kept, copies)


def test_action_masks():
    env = kvgym.KVCacheEnv()
    _, info = env.reset(seed=1)
    assert_same(env.action_masks(), info["action_mask"].reshape(-1).copy())
    assert env.action_masks().shape == (256,)
    with pytest.raises(kvgym.RefusedError, match="action_mask"):
        kvgym.KVCacheEnv(infos=()).action_masks()


@pytest.mark.parametrize(("action", "error"), [(np.zeros(63, np.int64), ValueError), (np.zeros((64, 1), np.int64), ValueError), (np.zeros(64), ValueError),
                                               ("keep", ValueError), (None, ValueError)])
def test_bad_actions(action, error):
    env = kvgym.KVCacheEnv()
    env.reset()
    with pytest.raises(error) as e:
        env.step(action)
    assert isinstance(e.value, kvgym.KvgymError)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**64, ValueError), (1.0, TypeError), ("a", TypeError)])
def test_bad_seeds(seed, error):
    with pytest.raises(error) as e:
        kvgym.KVCacheEnv().reset(seed=seed)
    assert isinstance(e.value, kvgym.KvgymError)


def test_unknown_options():
    with pytest.raises(kvgym.RefusedError, match="difficulty"):
        kvgym.KVCacheEnv().reset(options={"difficulty": "hard"})


@pytest.mark.parametrize("make", [lambda: kvgym.KVCacheEnv(), lambda: kvgym.make_vec(2), lambda: kvgym.Batch(2)])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_handles_are_not_copied(make, how):
    """A copy would close its original's batch, or free its memory a second time."""
    env = make()
    if how is copy.copy and not isinstance(env, kvgym.Batch):
        how = copy.deepcopy
    with pytest.raises(TypeError, match=r"snapshot|cannot be copied"):
        how(env)
    env.reset()
