"""The core: memory, determinism, groups, snapshots, errors."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same, need, random_ops

import kvgym

LEVELS = kvgym.describe({"envs": 1})["simd_levels"]
TENSORS = ("obs", "reward", "terminated", "truncated", "mask", "components", "metrics")
OUTPUTS = ("obs", "mask", "components", "metrics")


def trajectory(steps=40, envs=70, seed=3, **config):
    """Everything that a batch writes in some steps of random operations."""
    rng, out = np.random.default_rng(seed), []
    with kvgym.Batch(envs, outputs=OUTPUTS, **config) as batch:
        batch.reset()
        for _ in range(steps):
            block = batch.step(random_ops(rng, envs))
            out.append([getattr(block, name).copy() for name in TENSORS])
    return out


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("mode", ["next-step", "same-step"])
@pytest.mark.parametrize("config", [{"workers": 2}, {"workers": 3}, {"workers": 2, "groups": 3}, {"blocks": 1}, {"blocks": 5}, {"stores": "stream"}],
                         ids=str)
def test_trajectories_do_not_depend_on(mode, config):
    want = trajectory(autoreset=mode, workers=1)
    assert_same(trajectory(autoreset=mode, **config), want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("profile", ["seed", "serving"])
def test_every_level_gives_the_same_bits(level, profile):
    """One process has one level while batches are open, so each level has its turn."""
    gc.collect()
    try:
        assert_same(trajectory(simd=level, profile=profile), trajectory(simd=LEVELS[0], profile=profile))
    finally:
        kvgym.Batch(1, simd=LEVELS[-1]).close()


def test_a_second_level_is_refused():
    gc.collect()
    if len(LEVELS) == 1:
        pytest.skip("this machine has one SIMD level")
    with kvgym.Batch(1, simd=LEVELS[-1]) as batch:
        with pytest.raises(kvgym.RefusedError, match="simd"):
            kvgym.Batch(1, simd=LEVELS[0])
        kvgym.Batch(1, simd=LEVELS[-1]).close()
        batch.reset()


def test_another_policy_differs():
    """So that equal trajectories mean something."""
    assert trajectory(seed=3)[20][0].tobytes() != trajectory(seed=4)[20][0].tobytes()


@pytest.mark.parametrize("split", [1, 7, 64])
def test_batches_split_anywhere(split):
    whole = trajectory(envs=70, steps=20)
    rng = np.random.default_rng(3)
    a, b = kvgym.Batch(split, outputs=OUTPUTS), kvgym.Batch(70 - split, first_env=split, outputs=OUTPUTS)
    a.reset(), b.reset()
    for t in range(20):
        ops = random_ops(rng, 70)
        x, y = a.step(ops[:split]), b.step(ops[split:])
        for k, name in enumerate(TENSORS):
            assert_same(np.concatenate([getattr(x, name), getattr(y, name)]), whole[t][k], name)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_send_and_recv_equal_step(groups):
    whole = trajectory(envs=70, steps=20)
    rng = np.random.default_rng(3)
    with kvgym.Batch(70, groups=groups, outputs=OUTPUTS, workers=2) as batch:
        batch.reset()
        for t in range(20):
            ops = random_ops(rng, 70)
            for g in range(groups):
                batch.send(g, ops[slice(*batch.groups[g])])
            for g in reversed(range(groups)):  # received in any order, rows are by environment
                rows, block = batch.recv(g)
                for k, name in enumerate(TENSORS):
                    assert_same(getattr(block, name)[rows].copy(), whole[t][k][rows], name)


def test_group_errors():
    with kvgym.Batch(4, groups=2) as batch:
        batch.reset()
        batch.send(0, np.zeros((2, 64), np.int64))
        for call, word in ((lambda: batch.send(0), "flight"), (lambda: batch.recv(1), "[Ss]end"), (batch.step, "flight"), (batch.reset, "flight"),
                           (lambda: batch.send(2), "group"), (lambda: batch.recv(-1), "group"), (lambda: batch.send(1, np.zeros((3, 64), int)), "ops")):
            with pytest.raises(kvgym.RefusedError, match=word):
                call()
        batch.recv(0)
        batch.step()


def test_pairs_equal_ops():
    rng, n = np.random.default_rng(5), 6
    a, b = kvgym.Batch(n), kvgym.Batch(n)
    a.reset(), b.reset()
    for _ in range(20):
        ops = random_ops(rng, n)
        pairs = np.stack([ops, np.broadcast_to(np.arange(64), ops.shape)], 2)
        assert_same(a.step(ops).obs.copy(), b.step(pairs=pairs).obs.copy())
    with pytest.raises(kvgym.RefusedError, match="pairs"):
        a.step(pairs=np.zeros((n, 3)))


def test_two_compressions_in_one_step_reach_int4():
    a, b = kvgym.Batch(1), kvgym.Batch(1)
    slot = int(np.flatnonzero(a.reset().mask[0, :, 2])[0])
    b.reset()
    quant = 16 + 12 * slot
    assert a.step(pairs=[[[2, slot]]]).obs[0, quant] == 0.5
    assert b.step(pairs=[[[2, slot], [2, slot]]]).obs[0, quant] == 0.25


def test_outputs_and_layout():
    batch = kvgym.Batch(5, outputs=("mask",), slots=32, steps=7)
    assert batch.block.obs is None and batch.block.components is None and batch.block.mask.shape == (5, 32, 4)
    batch = kvgym.Batch(5, outputs=OUTPUTS, slots=144)
    assert batch.block.obs.shape == (5, 16 + 12 * 144) and batch.block.components.shape == (5, 11) and batch.block.metrics.shape == (5, 19)
    assert [len(batch.description[k]) for k in ("components", "weights", "metrics", "ops")] == [11, 11, 19, 4]


def test_blocks_take_turns():
    batch = kvgym.Batch(3, blocks=3)
    batch.reset()
    results = [batch.step().obs for _ in range(6)]
    at = [address(x) for x in results]
    assert len(set(at[:3])) == 3 and at[3:] == at[:3]


def test_masked_reset_keeps_rows_whatever_block():
    for blocks in (1, 2, 3):
        batch = kvgym.Batch(6, blocks=blocks, outputs=OUTPUTS)
        batch.reset()
        block = batch.step(np.ones((6, 64), int))
        old = [getattr(block, name).copy() for name in TENSORS]
        mask = np.array([True, False] * 3)
        block = batch.reset(mask)
        for name, before in zip(TENSORS, old, strict=True):
            assert_same(getattr(block, name)[~mask].copy(), before[~mask], name)
        assert not np.array_equal(block.obs[mask], old[0][mask])


def test_step_into_a_block():
    """A rollout's storage, written in place: no copy and no other memory."""
    torch = need("torch", "test-python")
    steps, n = 20, 8
    storage = torch.zeros((steps, n, 784))
    a, b = kvgym.Batch(n), kvgym.Batch(n)
    blocks = [a.new_block({"obs": storage[t]}) for t in range(steps)]
    a.reset(), b.reset()
    rng = np.random.default_rng(2)
    for t in range(steps):
        ops = random_ops(rng, n)
        got = a.step(ops, into=blocks[t])
        assert address(got.obs) == storage[t].data_ptr() and a.block is got
        b.step(ops)
        assert_same(storage[t].numpy().copy(), b.block.obs.copy())
    with pytest.raises(kvgym.RefusedError, match="into"):
        b.step(into=blocks[0])


def test_buffers_of_the_caller():
    n = 4
    given = {"obs": np.full((n, 784), 9, np.float32), "mask": np.zeros((n, 64, 4), np.uint8), "reward": np.full(n, 9, np.float32),
             "terminated": np.ones(n, np.bool_)}
    batch = kvgym.Batch(n, buffers=given)
    block = batch.reset()
    for name, array in given.items():
        assert address(getattr(block, name)) == address(array), name
    other = kvgym.Batch(n)
    other.reset()
    for _ in range(3):
        batch.step(np.ones((n, 64), int))
        other.step(np.ones((n, 64), int))
        for name, array in given.items():
            assert_same(array.view(np.uint8).copy(), getattr(other.block, name).view(np.uint8).copy(), name)


@pytest.mark.parametrize("array", [np.zeros((4, 784)), np.zeros((3, 784), np.float32), np.zeros((784, 4), np.float32).T,
                                   np.zeros((4, 2 * 784), np.float32)[:, ::2]])
def test_bad_buffers(array):
    with pytest.raises(kvgym.RefusedError, match="obs"):
        kvgym.Batch(4, buffers={"obs": array})
    array = np.zeros((4, 784), np.float32)
    array.flags.writeable = False
    with pytest.raises(kvgym.RefusedError, match="obs"):
        kvgym.Batch(4, buffers={"obs": array})
    with pytest.raises(kvgym.RefusedError, match="observation"):
        kvgym.Batch(4, buffers={"observation": np.zeros((4, 784), np.float32)})


def test_torch_tensors_are_the_same_memory():
    torch = need("torch", "test-python")
    batch = kvgym.Batch(4, blocks=1, outputs=OUTPUTS)
    tensors = {name: batch.block.torch(name) for name in TENSORS}
    for name, tensor in tensors.items():
        assert tensor.data_ptr() == address(getattr(batch.block, name)), name
    batch.reset()
    batch.step(torch.ones((4, 64), dtype=torch.int64))
    assert tensors["obs"].abs().sum() > 0 and tensors["mask"].dtype == torch.bool
    for name, tensor in tensors.items():
        assert_same(tensor.numpy().copy(), getattr(batch.block, name).copy(), name)
    given = torch.zeros((4, 784))
    other = kvgym.Batch(4, buffers={"obs": given})
    other.reset()
    assert given.abs().sum() > 0 and other.block.torch("obs").data_ptr() == given.data_ptr()
    with pytest.raises(kvgym.RefusedError, match="components"):
        other.block.torch("components")


def test_memory_outlives_the_batch():
    batch = kvgym.Batch(4)
    obs = batch.reset().obs
    copy, row = obs.copy(), obs[2, 5:10]
    batch.close()
    del batch
    gc.collect()
    [kvgym.Batch(4).reset() for _ in range(20)]
    assert_same(obs.copy(), copy)
    assert_same(row.copy(), copy[2, 5:10].copy())


def test_blocks_that_are_lent():
    block = kvgym.Batch(3, outputs=OUTPUTS).new_block()
    assert not block.lent()
    for name in TENSORS:
        view = getattr(block, name)[:]
        assert block.lent(), name
        deeper = view[1:].reshape(-1)[:1]
        del view
        assert block.lent(), name
        del deeper
        assert not block.lent(), name


def test_ops_in_place():
    a, b = kvgym.Batch(3), kvgym.Batch(3)
    a.reset(), b.reset()
    a.ops[:] = 1
    assert_same(a.step().obs.copy(), b.step(np.ones((3, 64), int)).obs.copy())


@pytest.mark.parametrize("value", [4, 255, 256, -1, 2**31, 2**62, -(2**62)])
def test_what_is_no_operation_is_invalid(value):
    batch = kvgym.Batch(2, outputs=("metrics",))
    batch.reset()
    ops = np.zeros((2, 64), np.int64)
    ops[1, :3] = value
    at = batch.description["metrics"].index("invalid_actions")
    assert batch.step(ops).metrics[:, at].tolist() == [0, 3]


def test_snapshot_restore_and_fork():
    rng = np.random.default_rng(4)
    a, b = kvgym.Batch(5, outputs=OUTPUTS, profile="serving"), kvgym.Batch(5, outputs=OUTPUTS, profile="serving", seed=1)
    a.reset(), b.reset()
    for _ in range(6):
        a.step(random_ops(rng, 5))
    saved = a.snapshot()
    assert_same(b.restore(saved).obs.copy(), a.block.obs.copy())
    script = [random_ops(rng, 5) for _ in range(30)]
    want = [a.step(ops).obs.copy() for ops in script]
    assert_same([b.step(ops).obs.copy() for ops in script], want)
    a.restore(saved)
    assert_same([a.step(ops).obs.copy() for ops in script], want)
    a.restore(saved)
    b.reset()
    a.fork(3, 0, into=b)
    a.fork(3, 1)
    assert_same(b.block.obs[0].copy(), a.block.obs[3].copy())
    assert_same(a.block.obs[1].copy(), a.block.obs[3].copy())
    part = a.snapshot(2, 4)
    b.restore(part, first=1)
    assert_same(b.block.obs[1:3].copy(), a.block.obs[2:4].copy())


def test_snapshot_errors():
    a = kvgym.Batch(3)
    a.reset()
    saved = a.snapshot()
    for call in (lambda: a.snapshot(2, 1), lambda: a.snapshot(0, 4), lambda: a.snapshot(-1), lambda: a.restore(saved, first=1), lambda: a.restore(b""),
                 lambda: a.restore(saved[:-1]), lambda: a.restore(b"x" + saved[1:]), lambda: a.fork(0, 3), lambda: a.fork(-1, 0),
                 lambda: kvgym.Batch(3, slots=32).restore(saved), lambda: kvgym.Batch(3, profile="serving").restore(saved),
                 lambda: a.fork(0, 0, into=kvgym.Batch(3, slots=32))):
        with pytest.raises(kvgym.RefusedError):
            call()
    broken = bytearray(saved)
    broken[len(saved) // 2] ^= 255
    with pytest.raises(kvgym.RefusedError):
        a.restore(bytes(broken))
    a.step()


def test_policies():
    """greedy, asked for its operations, scores what it scores in kvgym rollout: more than doing nothing."""
    def play(policy):
        batch, score = kvgym.Batch(64, difficulty="hard", outputs=()), np.zeros(64)
        batch.reset()
        for _ in range(15):
            score += batch.step(pairs=batch.decide(policy)).reward
        return score.mean()

    assert play("greedy") > 0.3 > 0.1 > play("noop")
    with pytest.raises(kvgym.RefusedError, match="best"):
        kvgym.Batch(1).decide("best")


def test_identities():
    batch = kvgym.Batch(3, seed=9, first_env=10)
    batch.reset()
    batch.reset(np.array([False, True, False]), [5, 6, 7])
    seeds, envs, episodes = batch.identities()
    assert seeds.tolist() == [9, 6, 9] and envs.tolist() == [10, 0, 12] and episodes.tolist() == [0, 0, 0]


def test_closed():
    batch = kvgym.Batch(2)
    batch.reset()
    batch.close()
    for call in (batch.reset, batch.step, lambda: batch.send(0), lambda: batch.recv(0), lambda: batch.decide("noop"), batch.identities, batch.snapshot,
                 lambda: batch.restore(b"x"), lambda: batch.fork(0, 1), lambda: kvgym.Batch(2).fork(0, 0, into=batch)):
        with pytest.raises(kvgym.ClosedError):
            call()


def test_bad_resets():
    batch = kvgym.Batch(3)
    for args in ((np.ones(2, bool),), (np.ones(3),), (np.zeros(3, bool),), (None, [1, 2]), (None, [1, 2, -3]), (None, [1.0, 2.0, 3.0]), (None, 7)):
        with pytest.raises(kvgym.RefusedError):
            batch.reset(*args)
    with pytest.raises(kvgym.RefusedError, match="Reset"):
        batch.step()


def test_busy():
    """A second thread in the same batch is told so; the first one's step is not disturbed."""
    batch = kvgym.Batch(4096, workers=1)
    batch.reset()
    errors, stop = [], threading.Event()

    def other():
        while not stop.is_set() and not errors:
            try:
                batch.identities()
            except kvgym.KvgymError as e:
                errors.append(e)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        for _ in range(2000):
            try:
                batch.step()
            except kvgym.BusyError as e:
                errors.append(e)
            if errors:
                break
    finally:
        stop.set()
        thread.join(10)
    assert errors and all(isinstance(e, kvgym.BusyError) for e in errors)
    batch.step()


def test_two_batches_in_two_threads():
    want, got = trajectory(steps=30), {}

    def play(k):
        got[k] = trajectory(steps=30)

    threads = [threading.Thread(target=play, args=(k,)) for k in range(3)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    for k in range(3):
        assert_same(got[k], want)


def test_memory_is_given_back():
    """A hundred batches of 20 MB each."""
    for _ in range(100):
        kvgym.Batch(3000, blocks=2).reset()
    if sys.platform == "linux":
        assert int(Path("/proc/self/statm").read_text().split()[1]) * 4096 < 3 << 30


def test_describe_names_every_tensor():
    d = kvgym.describe({"envs": 3, "outputs": list(OUTPUTS), "autoreset": "same-step", "obs_dtype": "uint8"})
    assert {t["name"]: tuple(t["shape"]) for t in d["tensors"]} == {
        "obs": (3, 784), "final_obs": (3, 784), "reward": (3,), "terminated": (3,), "truncated": (3,), "mask": (3, 64, 4), "components": (3, 11),
        "metrics": (3, 19)}
    assert len(d["obs"]["global_scales"]) == 16 and len(d["obs"]["slot_scales"]) == 12
    with pytest.raises(kvgym.RefusedError, match="speed"):
        kvgym.describe({"envs": 1, "speed": 2})
    assert ctypes.sizeof(ctypes.c_void_p) == 8
