"""The vector environment against Gymnasium's own over single environments, and against its contract."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import make, make_vec, spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from helpers import assert_same, deep_copy, random_ops

import kvgym
from kvgym.spaces import feature_names

gymnasium_version = tuple(int(x) for x in __import__("gymnasium").__version__.split(".")[:2])
MODES = list(AutoresetMode)
ALL_INFOS = ("action_mask", "components", "metrics")


def singles(n, mode, vector=SyncVectorEnv, seed=42, **config):
    def one(i):
        return lambda: kvgym.KVCacheEnv(seed=seed, first_env=i, **config)

    kwargs = {"context": "spawn"} if vector is AsyncVectorEnv else {}
    return vector([one(i) for i in range(n)], autoreset_mode=mode, **kwargs)


def random_reset(rng, n, must=None):
    """Arguments of a reset: any mask, any kind of seed."""
    seed = [None, int(rng.integers(1 << 40)), [int(s) if s % 3 else None for s in rng.integers(0, 1 << 62, n)]][rng.integers(3)]
    mask = rng.random(n) < 0.4
    if must is not None:
        mask |= must
    if not mask.any():
        mask[rng.integers(n)] = True
    return {"seed": seed, "options": {"reset_mask": mask}}


def drive(ours, theirs, rng, steps, resets=0.05):
    """Random actions and resets on both; returns how many episodes have ended."""
    n, ends = ours.num_envs, 0
    disabled = ours.autoreset_mode is AutoresetMode.DISABLED
    assert_same(ours.reset(), theirs.reset(), "first reset")
    for t in range(steps):
        ops = random_ops(rng, n, ours.action_space.shape[1])
        ops[rng.random(n) < 0.05] = rng.integers(-3, 9)
        a, b = ours.step(ops), theirs.step(ops)
        assert_same(a, b, f"step {t}")
        ended = a[2] | a[3]
        ends += int(ended.sum())
        if (disabled and ended.any()) or rng.random() < resets:
            args = random_reset(rng, n, ended if disabled else None)
            given = deep_copy(args)
            got = ours.reset(**args)
            assert_same(args, given, "the caller's arguments")  # which Gymnasium's own takes apart
            assert_same(got, theirs.reset(**deep_copy(args)), f"reset after step {t}")
        elif rng.random() < 0.004:
            seed = random_reset(rng, n)["seed"]
            assert_same(ours.reset(seed=seed), theirs.reset(seed=seed), f"whole reset after step {t}")
    return ends


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("infos", [ALL_INFOS, ("action_mask",), ()], ids=["all", "mask", "none"])
def test_equals_sync_vector_env(mode, infos):
    n = 5
    ours = kvgym.make_vec(n, autoreset=mode, infos=infos)
    theirs = singles(n, mode, infos=infos)
    ends = drive(ours, theirs, np.random.default_rng(1), 1500)
    assert ends > 200
    ours.close()
    theirs.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("config", [
    {"profile": "serving", "difficulty": "hard", "seed": 7},
    {"obs_dtype": "uint8", "obs_order": "feature-major", "difficulty": "easy"},
    {"truncate": True, "steps": 4, "profile": "serving", "preset": "llama3-8b.a100"},
    {"steps": 1},
], ids=["serving", "bytes", "truncated", "one-step"])
def test_equals_sync_vector_env_configured(mode, config):
    n = 3
    ours = kvgym.make_vec(n, autoreset=mode, infos=ALL_INFOS, **config)
    theirs = singles(n, mode, infos=ALL_INFOS, **config)
    assert drive(ours, theirs, np.random.default_rng(2), 400) > 50
    ours.close()
    theirs.close()


@pytest.mark.parametrize("mode", MODES)
def test_equals_sync_vector_env_without_resets(mode):
    """Then all environments end together."""
    ours, theirs = kvgym.make_vec(4, autoreset=mode, infos=ALL_INFOS), singles(4, mode, infos=ALL_INFOS)
    assert drive(ours, theirs, np.random.default_rng(3), 200, resets=0) > 40
    ours.close()
    theirs.close()


@pytest.mark.parametrize("mode", MODES)
def test_equals_async_vector_env(mode):
    ours, theirs = kvgym.make_vec(2, autoreset=mode), singles(2, mode, AsyncVectorEnv)
    try:
        assert drive(ours, theirs, np.random.default_rng(4), 150) > 10
    finally:
        theirs.close()
        ours.close()


def test_another_seed_differs():
    a, b = kvgym.make_vec(3, seed=1), kvgym.make_vec(3, seed=2)
    assert a.reset()[0].tobytes() != b.reset()[0].tobytes()
    assert_same(a.reset(seed=9), b.reset(seed=9))
    assert_same(a.reset(seed=[9, 10, 11])[0], b.reset(seed=9)[0])


def test_seeds_are_by_environment():
    """Environment i of reset(seed=s) plays what a single environment plays after reset(seed=s + i)."""
    vec, single = kvgym.make_vec(4), kvgym.KVCacheEnv(seed=99)
    obs, _ = vec.reset(seed=np.int64(100))
    assert vec.batch.identities()[0].tolist() == [100, 101, 102, 103] and vec.batch.identities()[1].tolist() == [0] * 4
    for i in range(4):
        assert_same(obs[i].copy(), single.reset(seed=100 + i)[0].copy())


def test_reset_without_seed_goes_on():
    env = kvgym.make_vec(3)
    first, second = env.reset()[0], env.reset()[0]
    assert not np.array_equal(first, second)
    assert env.batch.identities()[2].tolist() == [1, 1, 1]
    assert_same(kvgym.make_vec(3).reset()[0], first)


def test_spaces():
    env = kvgym.make_vec(6)
    assert env.single_observation_space.shape == (784,) and env.single_observation_space.dtype == np.float32
    assert isinstance(env.single_action_space, spaces.MultiDiscrete) and env.single_action_space.dtype == np.int64
    assert env.single_action_space.nvec.tolist() == [4] * 64
    assert env.observation_space.shape == (6, 784) and env.action_space.shape == (6, 64) and env.action_space.dtype == np.int64
    single = kvgym.KVCacheEnv()
    assert single.observation_space == env.single_observation_space and single.action_space == env.single_action_space


@pytest.mark.parametrize("order", ["slot-major", "feature-major"])
def test_bounds_are_those_of_each_value(order):
    env = kvgym.make_vec(64, obs_order=order, seed=5)
    names, space = feature_names(env.description), env.single_observation_space
    assert len(names) == 784 and len(set(names)) == 784
    at = names.index("pending_growth")
    assert (space.low[at], space.high[at]) == (-1, 1)
    for name, high in (("usage", 2), ("pending_demand", 4), ("slot_0_cost", 2), ("slot_63_phase", 0.75), ("slot_9_prefix", 0.875)):
        assert (space.low[names.index(name)], space.high[names.index(name)]) == (0, high)
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    seen_low, seen_high = obs.min(0), obs.max(0)
    for _ in range(200):
        obs = env.step(random_ops(rng, 64))[0]
        assert env.observation_space.contains(obs)
        seen_low, seen_high = np.minimum(seen_low, obs.min(0)), np.maximum(seen_high, obs.max(0))
    assert seen_low[at] < 0  # so the order of the names is the order of the values
    assert seen_high[names.index("usage")] > 1 and seen_high[names.index("slot_0_phase")] == 0.75


def test_the_mask_tells_what_does_something():
    """An operation is invalid exactly where the mask is 0: the core counts those of a step."""
    env = kvgym.make_vec(16, infos=ALL_INFOS)
    _, infos = env.reset()
    at, rng = env.description["metrics"].index("invalid_actions"), np.random.default_rng(0)
    before = np.zeros(16)
    for t in range(14):
        ops = random_ops(rng, 16)
        wrong = (~np.take_along_axis(infos["action_mask"], ops[..., None], 2)).sum((1, 2))
        infos = env.step(ops)[4]
        assert infos["metrics"][:, at].tolist() == (before + wrong).tolist(), t
        before = infos["metrics"][:, at]
    assert before.sum() > 50


@pytest.mark.parametrize("mode", MODES)
def test_record_episode_statistics_equals_the_core(mode):
    """Returns are sums of rewards, which are increases of the score: their end is the weighted sum of the components."""
    if mode is AutoresetMode.SAME_STEP and gymnasium_version < (1, 4):
        pytest.skip("RecordEpisodeStatistics is wrong in SAME_STEP before Gymnasium 1.4")
    n = 6
    core = kvgym.make_vec(n, autoreset=mode, infos=ALL_INFOS, profile="serving")
    env = RecordEpisodeStatistics(core)
    weights = np.array(core.description["weights"])
    rng, ends, disabled = np.random.default_rng(6), 0, mode is AutoresetMode.DISABLED
    env.reset()
    for _ in range(400):
        _, _, te, tr, infos = env.step(random_ops(rng, n))
        ended = te | tr
        if ended.any():
            ends += int(ended.sum())
            totals = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
            score = totals["components"][ended] @ weights
            np.testing.assert_allclose(infos["episode"]["r"][ended], score, atol=2e-6)
            assert infos["_episode"].tolist() == ended.tolist()
            if not disabled:
                assert (infos["episode"]["l"][ended] <= 15).all()
        if disabled and (ended.any() or rng.random() < 0.1):
            mask = ended | (rng.random(n) < 0.2)
            if mask.any():
                env.reset(options={"reset_mask": mask})
    assert ends > 50


@pytest.mark.parametrize("mode", MODES)
def test_what_was_returned_never_changes(mode):
    """Thirty steps of everything are kept, more than there are kept blocks, with a masked reset among them."""
    n, rng = 4, np.random.default_rng(8)
    env = kvgym.make_vec(n, autoreset=mode, infos=ALL_INFOS)
    kept = [env.reset()]
    copies = [deep_copy(kept[0])]
    for t in range(30):
        kept.append(env.step(random_ops(rng, n)))
        copies.append(deep_copy(kept[-1]))
        ended = kept[-1][2] | kept[-1][3]
        if (mode is AutoresetMode.DISABLED and ended.any()) or t == 5:
            kept.append(env.reset(options={"reset_mask": ended | (np.arange(n) == 1)}))
            copies.append(deep_copy(kept[-1]))
    env.close()
    assert_same(kept, copies)


@pytest.mark.parametrize("part", ["obs", "rewards", "terminations", "truncations", "action_mask", "metrics"])
def test_each_part_alone_never_changes(part):
    """Whoever keeps only one of the results, all others gone, keeps it unchanged."""
    env, kept, copies = kvgym.make_vec(3, infos=ALL_INFOS), [], []
    env.reset()
    for t in range(34):
        *arrays, infos = env.step(np.full((3, 64), t % 4))
        one = {**infos, **dict(zip(("obs", "rewards", "terminations", "truncations"), arrays, strict=True))}.get(part)
        if one is not None:  # metrics are not there where all environments have just been reset
            kept.append(one)
            copies.append(one.copy())
        del arrays, infos, one
    assert len(kept) > 30
    assert_same(kept, copies)


def test_slices_and_rows_keep_their_memory():
    env = kvgym.make_vec(4)
    obs, _ = env.reset()
    row, copy = obs[2][100:200], obs[2][100:200].copy()
    del obs
    for _ in range(40):
        env.step(np.zeros((4, 64), np.int64))
    assert_same(row.copy(), copy)


def test_a_loop_uses_two_blocks():
    env = kvgym.make_vec(4)
    obs, infos = env.reset()
    seen = set()
    for _ in range(100):
        obs, _, _, _, infos = env.step(np.zeros((4, 64), np.int64))
        seen.add(obs.__array_interface__["data"][0])
    assert len(seen) == 2 and infos and all(at % 64 == 0 for at in seen)


def test_returned_arrays_are_writable():
    env = kvgym.make_vec(3)
    obs, infos = env.reset()
    for _ in range(20):
        obs[:], infos["action_mask"][:] = 7, False
        obs, reward, te, tr, infos = env.step(np.zeros((3, 64), np.int64))
        reward += 1
        te[:], tr[:] = True, True
    other = kvgym.make_vec(3)
    other.reset()
    for _ in range(20):
        want = other.step(np.zeros((3, 64), np.int64))
    again = env.step(np.zeros((3, 64), np.int64))
    assert_same(again, other.step(np.zeros((3, 64), np.int64)))
    assert want[1].dtype == np.float64 and want[2].dtype == np.bool_


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integers_are_actions(dtype):
    ops = random_ops(np.random.default_rng(1), 5)
    a, b = kvgym.make_vec(5), kvgym.make_vec(5)
    a.reset(), b.reset()
    for _ in range(5):
        assert_same(a.step(ops), b.step(ops.astype(dtype)))
        assert_same(a.step(ops), b.step(np.asfortranarray(ops.astype(dtype))))


@pytest.mark.parametrize(("options", "error"), [
    ({"reset_mask": [True, False, True]}, TypeError),
    ({"reset_mask": np.array([1, 0, 1])}, TypeError),
    ({"reset_mask": np.array([True, False])}, ValueError),
    ({"reset_mask": np.array([[True, False, True]])}, ValueError),
    ({"reset_mask": np.zeros(3, np.bool_)}, ValueError),
    ({"mask": np.ones(3, np.bool_)}, ValueError),
])
def test_bad_masks(options, error):
    env = kvgym.make_vec(3)
    before = deep_copy(env.reset())
    with pytest.raises(error) as e:
        env.reset(options=options)
    assert isinstance(e.value, kvgym.KvgymError)
    assert_same(env.batch.identities()[2].tolist(), [0, 0, 0])
    assert_same(before[0], env.batch.block.obs.copy())


@pytest.mark.parametrize(("seed", "error"), [
    ([1, 2], ValueError), (-1, ValueError), ([1, -2, 3], ValueError), (2**64 - 1, ValueError), ([1, 2**64, 3], ValueError),
    (1.5, TypeError), ("1", TypeError), ([1, "2", 3], TypeError), (True, TypeError), ([1, 2.5, None], TypeError),
])
def test_bad_seeds(seed, error):
    env = kvgym.make_vec(3)
    env.reset()
    with pytest.raises(error) as e:
        env.reset(seed=seed)
    assert isinstance(e.value, kvgym.KvgymError)


@pytest.mark.parametrize("actions", [np.zeros((2, 64), np.int64), np.zeros((3, 63), np.int64), np.zeros(64, np.int64), np.zeros((3, 64)), None])
def test_bad_actions(actions):
    env = kvgym.make_vec(3)
    env.reset()
    with pytest.raises(kvgym.RefusedError):
        env.step(actions)
    env.step(np.zeros((3, 64), np.int64))


@pytest.mark.parametrize(("config", "word"), [
    ({"autoreset": "sometimes"}, "autoreset"), ({"infos": ("reward",)}, "infos"), ({"profile": "fast"}, "profile"), ({"obs_dtype": "float16"}, "obs_dtype"),
    ({"difficulty": "none"}, "difficulty"), ({"preset": "llama3-8b.a100"}, "preset"), ({"slots": 0}, "slots"), ({"steps": 0}, "steps"),
    ({"simd": "mmx"}, "simd"), ({"workers": -1}, "[Ww]orkers"), ({"trace": "/no/such/file"}, "/no/such/file"), ({"num_envs": 0}, "envs"),
    ({"trace": {"path": "x", "speed": 3}}, "speed"), ({"seed": -1}, "seed"), ({"max_wait": 0}, "max_wait"),
])
def test_bad_configurations(config, word):
    with pytest.raises(kvgym.RefusedError, match=word):
        kvgym.make_vec(**{"num_envs": 2, **config})


def test_order_errors():
    env = kvgym.make_vec(2, autoreset="disabled")
    with pytest.raises(kvgym.RefusedError, match=r"[Rr]eset"):
        env.step(np.zeros((2, 64), np.int64))
    env.reset()
    for _ in range(15):
        env.step(np.zeros((2, 64), np.int64))
    with pytest.raises(kvgym.RefusedError, match="ended"):
        env.step(np.zeros((2, 64), np.int64))
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(kvgym.RefusedError, match="ended"):
        env.step(np.zeros((2, 64), np.int64))
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(np.zeros((2, 64), np.int64))):
        with pytest.raises(kvgym.ClosedError):
            call()


def test_registered():
    env = make_vec(kvgym.ENV_ID, num_envs=3, autoreset="same-step", difficulty="hard")
    assert isinstance(env, kvgym.KVCacheVectorEnv) and env.num_envs == 3 and env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    again = make_vec(env.spec)
    assert isinstance(again, kvgym.KVCacheVectorEnv) and again.num_envs == 3 and again.autoreset_mode is AutoresetMode.SAME_STEP
    assert_same(env.reset(seed=1), again.reset(seed=1))
    sync = make_vec(kvgym.ENV_ID, num_envs=2, vectorization_mode="sync")
    entry = make_vec(kvgym.ENV_ID, num_envs=2, vectorization_mode="vector_entry_point")
    assert_same(sync.reset(seed=3), entry.reset(seed=3))
    ops = np.zeros((2, 64), np.int64)
    for _ in range(40):
        assert_same(sync.step(ops), entry.step(ops))
    assert isinstance(make(kvgym.ENV_ID).unwrapped, kvgym.KVCacheEnv)


def test_modes_do_not_leak_between_environments():
    a, b = singles(2, AutoresetMode.SAME_STEP), singles(2, AutoresetMode.DISABLED)
    assert a.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and b.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert "autoreset_mode" not in kvgym.KVCacheEnv.metadata and "autoreset_mode" not in kvgym.KVCacheVectorEnv.metadata


@pytest.mark.parametrize("name", ["NextStep", "SameStep", "Disabled"])
def test_modes_by_gymnasium_name(name):
    assert kvgym.make_vec(1, autoreset=name).metadata["autoreset_mode"] is AutoresetMode(name)
