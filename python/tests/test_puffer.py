"""The adapter for PufferLib, on PufferLib."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest
from helpers import assert_same, deep_copy, need, random_ops

_here = os.getcwd()
os.chdir(tempfile.mkdtemp())  # importing pufferlib leaves a link named resources where one stands
try:
    need("pufferlib", "test-puffer")
    import pufferlib.vector
finally:
    os.chdir(_here)

import kvgym  # noqa: E402
from kvgym.puffer import PufferEnv, stream_seeds  # noqa: E402


def buffers(n):
    return {"observations": np.zeros((n, 784), np.float32), "rewards": np.zeros(n, np.float32), "terminals": np.zeros(n, bool),
            "truncations": np.zeros(n, bool), "masks": np.ones(n, bool), "actions": np.zeros((n, 64), np.int32)}


def test_buffers_are_adopted():
    buf = buffers(5)
    env = PufferEnv(5, buf=buf)
    env.reset(seed=1)
    for name in ("observations", "rewards", "terminals", "truncations", "masks", "actions"):
        assert getattr(env, name) is buf[name]
    assert env.batch.block.obs.__array_interface__["data"] == buf["observations"].__array_interface__["data"]
    before = buf["observations"].copy()
    obs, rewards, terminals, truncations, infos = env.step(np.zeros((5, 64), np.int32))
    assert obs is buf["observations"] and rewards is buf["rewards"] and terminals is buf["terminals"] and truncations is buf["truncations"]
    assert infos == [] and not np.array_equal(before, buf["observations"])


def test_equals_the_vector_env():
    n, rng = 5, np.random.default_rng(1)
    env, vec = PufferEnv(n), kvgym.make_vec(n, autoreset="same-step")
    assert_same(env.reset(seed=11)[0].copy(), vec.reset(seed=stream_seeds(11, n).tolist())[0].copy())
    total = np.zeros(n)
    for _ in range(60):
        ops = random_ops(rng, n)
        obs, rewards, terminals, truncations, infos = env.step(ops.astype(np.int32))
        o, r, te, tr, i = vec.step(ops)
        total += r
        assert_same((obs.copy(), rewards.astype(np.float64), terminals.copy(), truncations.copy()), (o.copy(), r, te.copy(), tr.copy()))
        assert_same(env.action_mask.copy(), i["action_mask"].copy())
        if te.any():
            assert infos == [{"episode_return": pytest.approx(total.mean()), "episode_length": 15.0}]
            total[:] = 0
        else:
            assert infos == []


def test_streams_of_neighbouring_seeds_are_disjoint():
    seeds = np.concatenate([stream_seeds(s, 1000) for s in range(50)])
    assert len(set(seeds.tolist())) == 50_000
    a, b = PufferEnv(8), PufferEnv(8)
    rows = {row.tobytes() for row in a.reset(seed=5)[0].copy()} | {row.tobytes() for row in b.reset(seed=6)[0].copy()}
    assert len(rows) == 16


def test_resets():
    env, other = PufferEnv(3, seed=9), PufferEnv(3, seed=0)
    first = env.reset()[0].copy()
    assert_same(first, other.reset(seed=9)[0].copy())
    assert_same(env.reset()[0].copy(), other.reset()[0].copy())
    assert not np.array_equal(first, env.observations)
    assert_same(env.reset(seed=9)[0].copy(), first)


@pytest.mark.parametrize("backend", ["Serial", "Multiprocessing"])
def test_backends(backend):
    """Both write into shared buffers and give what the environments alone give."""
    import multiprocessing

    multiprocessing.set_start_method("spawn", force=True)
    n = 4
    vec = pufferlib.vector.make(PufferEnv, num_envs=2, env_args=[n], backend=getattr(pufferlib.vector, backend),
                                **({"num_workers": 2} if backend == "Multiprocessing" else {}))
    alone = [PufferEnv(n), PufferEnv(n)]
    try:
        assert_same(vec.reset(seed=3)[0].copy(), np.concatenate([e.reset(seed=3 + i)[0] for i, e in enumerate(alone)]))
        rng = np.random.default_rng(0)
        for _ in range(35):
            ops = random_ops(rng, 2 * n).astype(np.int32)
            got = vec.step(ops)
            want = [e.step(ops[i * n:(i + 1) * n]) for i, e in enumerate(alone)]
            for k in range(4):
                assert_same(np.asarray(got[k]).copy(), np.concatenate([w[k] for w in want]))
    finally:
        vec.close()


def test_a_servers_environments(serve):
    """The same as in process, in PufferLib's arrays."""
    serve("t", "--autoreset", "same-step", envs=5)
    buf, rng = buffers(5), np.random.default_rng(2)
    env, alone = PufferEnv(connect="t", buf=buf, seed=3), PufferEnv(5, seed=3)
    assert env.num_agents == 5 and env.single_observation_space == alone.single_observation_space
    for t in range(100):
        if t % 40 == 0:
            seed = [None, t][t > 0]
            assert_same(deep_copy(env.reset(seed)), deep_copy(alone.reset(seed)))
        ops = random_ops(rng, 5).astype(np.int32)
        got = env.step(ops)
        assert_same(deep_copy(got), deep_copy(alone.step(ops)), f"step {t}")
        assert_same(env.action_mask.copy(), alone.action_mask.copy())
        assert got[0] is buf["observations"] and got[1] is buf["rewards"]


def test_workers_of_a_server(serve):
    """Each has a range of its own, and so has the environment that the driver makes to see the spaces."""
    import multiprocessing

    multiprocessing.set_start_method("spawn", force=True)
    serve("t", "--autoreset", "same-step", envs=12, clients=3)
    vec = pufferlib.vector.make(PufferEnv, num_envs=2, env_kwargs={"connect": "t"}, backend=pufferlib.vector.Multiprocessing, num_workers=2)
    try:
        obs = vec.reset(seed=3)[0].copy()
        assert_same(obs, np.concatenate([PufferEnv(4).reset(seed=3 + i)[0] for i in range(2)]))
        for _ in range(20):
            rewards = vec.step(np.zeros((8, 64), np.int32))[1]
        assert np.asarray(rewards).shape == (8,)
    finally:
        vec.close()
    with pytest.raises(kvgym.RefusedError, match="connect: t: served with num_envs 4: allowed num_envs 6"):
        PufferEnv(6, connect="t")


def test_a_server_that_does_not_fit(serve):
    serve("t")
    with pytest.raises(kvgym.RefusedError, match="connect: t: served with autoreset next-step: allowed autoreset same-step"):
        PufferEnv(connect="t")


def test_native_backend():
    env = pufferlib.vector.make(PufferEnv, env_args=[6], backend=pufferlib.PufferEnv, num_envs=1)
    env.async_reset(seed=1)
    assert env.recv()[0].shape == (6, 784)
    env.send(np.zeros((6, 64), np.int32))
    assert env.recv()[6].shape == (6,) and env.agents_per_batch == 6
    env.close()


def test_errors():
    env = PufferEnv(2)
    with pytest.raises(kvgym.RefusedError, match="Reset"):
        env.step(np.zeros((2, 64), np.int32))
    env.reset()
    with pytest.raises(kvgym.RefusedError, match="ops"):
        env.step(np.zeros((2, 64)))
    with pytest.raises(kvgym.RefusedTypeError, match="autoreset: unknown"):
        PufferEnv(2, autoreset="disabled")
    env.close()
    with pytest.raises(kvgym.ClosedError):
        env.step(np.zeros((2, 64), np.int32))
