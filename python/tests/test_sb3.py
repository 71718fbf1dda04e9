"""The adapter for Stable-Baselines3, on Stable-Baselines3 and sb3-contrib."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same, deep_copy, need, random_ops

need("stable_baselines3", "test-python")
need("sb3_contrib", "test-python")

from sb3_contrib import MaskablePPO  # noqa: E402
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

import kvgym  # noqa: E402
from kvgym.sb3 import SB3VecEnv  # noqa: E402


def dummy(n, **config):
    return DummyVecEnv([lambda i=i: Monitor(kvgym.KVCacheEnv(first_env=i, **config)) for i in range(n)])


@pytest.mark.parametrize("config", [{}, {"profile": "serving", "truncate": True, "steps": 7}, {"obs_dtype": "uint8"}], ids=str)
def test_equals_dummy_vec_env(config):
    n, rng = 4, np.random.default_rng(1)
    a, b = SB3VecEnv(n, **config), dummy(n, **config)
    assert a.observation_space == b.observation_space and a.action_space == b.action_space
    ends = 0
    for t in range(400):
        if t % 100 == 0:
            if t != 300:
                assert a.seed(t + 5) == b.seed(t + 5)
            assert_same(a.reset().copy(), b.reset())
        masks, want = np.stack(a.env_method("action_masks")), np.stack(b.env_method("action_masks"))
        assert_same(masks, want, f"masks {t}")
        ops = random_ops(rng, n)
        x, y = a.step(ops), b.step(ops)
        for i in range(3):
            assert_same(x[i].copy(), y[i].copy(), f"step {t}: {i}")
        for i in np.flatnonzero(x[2]):
            ends += 1
            assert_same(x[3][i]["terminal_observation"].copy(), y[3][i]["terminal_observation"].copy())
            assert x[3][i]["TimeLimit.truncated"] == y[3][i]["TimeLimit.truncated"]
            assert x[3][i]["episode"]["l"] == y[3][i]["episode"]["l"]
            assert abs(x[3][i]["episode"]["r"] - y[3][i]["episode"]["r"]) < 1e-6
    assert ends > 80


def test_a_servers_environments(serve):
    """The same as in process; PPO takes them."""
    serve("t", "--autoreset", "same-step", "--profile", "serving", envs=4)
    a, b, rng = SB3VecEnv(connect="t"), SB3VecEnv(4, profile="serving"), np.random.default_rng(2)
    assert a.num_envs == 4 and a.observation_space == b.observation_space and a.action_space == b.action_space
    kept, copies = [], []
    for t in range(200):
        if t % 60 == 0:
            if t:
                assert a.seed(t) == b.seed(t)
            assert_same(a.reset().copy(), b.reset().copy())
        assert_same(a.action_masks(), b.action_masks())
        ops = random_ops(rng, 4)
        x, y = a.step(ops), b.step(ops)
        for info in x[3] + y[3]:
            info.get("episode", {}).pop("t", None)
        assert_same(deep_copy(x), deep_copy(y), f"step {t}")
        kept.append(x[:3])
        copies.append(deep_copy(x[:3]))
        del x, y
    assert_same(kept, copies)
    MaskablePPO("MlpPolicy", a, n_steps=16, batch_size=32, n_epochs=1, device="cpu").learn(64)
    a.close()
    with pytest.raises(kvgym.RefusedError, match="served with num_envs 4: allowed num_envs 5"):
        SB3VecEnv(5, connect="t")


def test_a_server_that_does_not_fit(serve):
    serve("t", "--outputs", "obs")
    with pytest.raises(kvgym.RefusedError, match="connect: t: served with autoreset next-step, outputs obs: allowed autoreset same-step, outputs obs,mask"):
        SB3VecEnv(connect="t")


def test_what_was_returned_never_changes():
    env, rng = SB3VecEnv(3), np.random.default_rng(1)
    kept = [(env.reset(),)]
    copies = [deep_copy(kept[0])]
    for _ in range(40):
        kept.append(env.step(random_ops(rng, 3))[:3])
        copies.append(deep_copy(kept[-1]))
    assert_same(kept, copies)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_part_alone_never_changes(part):
    env, kept, copies = SB3VecEnv(3), [], []
    env.reset()
    for t in range(34):
        kept.append(env.step(np.full((3, 64), t % 4))[part])
        copies.append(kept[-1].copy())
    assert_same(kept, copies)


def test_rewards_are_writable_and_not_the_librarys():
    a, b = SB3VecEnv(3), SB3VecEnv(3)
    a.reset(), b.reset()
    for _ in range(33):
        x, y = a.step(np.ones((3, 64), int)), b.step(np.ones((3, 64), int))
        assert_same(x[1].copy(), y[1].copy())
        assert x[1].dtype == np.float32
        x[1][:] += 1  # as PPO does for truncated episodes
    for i in np.flatnonzero(x[2]):
        assert x[3][i]["episode"]["r"] == y[3][i]["episode"]["r"]


def test_vec_env_contract():
    env = SB3VecEnv(3)
    assert env.get_attr("render_mode") == [None] * 3 and env.get_attr("num_envs", [0, 2]) == [3, 3]
    assert env.env_is_wrapped(Monitor) == [False] * 3
    env.set_attr("note", 5)
    assert env.note == 5
    with pytest.raises(kvgym.RefusedError, match="note"):
        env.set_attr("note", 6, [0])
    with pytest.raises(kvgym.RefusedError, match="other"):
        env.env_method("other")
    env.reset()
    assert len(env.reset_infos) == 3 and len(env.env_method("action_masks", indices=[1])) == 1
    env.set_options({"difficulty": "hard"})
    with pytest.raises(kvgym.RefusedError, match="difficulty"):
        env.reset()
    VecNormalize(SB3VecEnv(2)).reset()
    env.close()
    with pytest.raises(kvgym.ClosedError):
        env.step(np.zeros((3, 64), int))


def test_ppo_trains():
    env = SB3VecEnv(16)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=512, n_epochs=2, seed=0, device="cpu").learn(2048)
    assert model.num_timesteps == 2048 and len(model.ep_info_buffer) == min(100, 16 * (128 // 15))


def test_maskable_ppo_trains():
    env = SB3VecEnv(16)
    assert is_masking_supported(env) and get_action_masks(env).shape == (16, 256)
    model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=256, n_epochs=1, seed=0, device="cpu").learn(512)
    obs, batch = env.reset(), env.batch
    for _ in range(10):
        masks = get_action_masks(env)
        action, _ = model.predict(obs, action_masks=masks)
        assert np.take_along_axis(masks.reshape(16, 64, 4), action[..., None], 2).all()
        obs = env.step(action)[0]
    assert batch.num_envs == 16
