"""Shared memory: kvgym serve on one side, kvgym.connect on the other."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import BINARY

import kvgym
from kvgym import shm
from kvgym.batch import TENSORS

KILLS = int(os.environ.get("KVGYM_KILLS") or 6)


def same(a, b, ended_only=True):
    for name in TENSORS:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is None:
            continue
        if name == "final_obs" and ended_only:
            ended = a.terminated | a.truncated
            x, y = x[ended], y[ended]
        assert x.dtype == y.dtype and np.array_equal(x, y), name


FORMS = [
    ([], {}),
    (["--autoreset", "same-step", "--outputs", "obs,mask,components,metrics", "--truncate"],
     {"autoreset": "same-step", "outputs": ("obs", "mask", "components", "metrics"), "truncate": True}),
    (["--profile", "serving", "--obs-dtype", "uint8", "--obs-order", "feature-major", "--slots", "128", "--difficulty", "hard", "--seed", "7"],
     {"profile": "serving", "obs_dtype": "uint8", "obs_order": "feature-major", "slots": 128, "difficulty": "hard", "seed": 7}),
    (["--outputs", "none", "--steps", "4", "--max-wait", "2"], {"outputs": (), "steps": 4, "max_wait": 2}),
]


@pytest.mark.parametrize(("flags", "arguments"), FORMS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_equals_batch(serve, flags, arguments, blocks):
    serve("t", *flags, "--blocks", str(blocks))
    rng = np.random.default_rng(1)
    with kvgym.connect("t") as env, kvgym.Batch(32, blocks=blocks, **arguments) as batch:
        assert env.description["tensors"] == batch.description["tensors"] and env.description["obs"] == batch.description["obs"]
        assert (env.num_envs, env.slots, env.steps, env.obs_length) == (batch.num_envs, batch.slots, batch.steps, batch.obs_length)
        same(env.reset(), batch.reset())
        for step in range(40):
            ops = rng.integers(-1, 6, (32, env.slots)) * (rng.random((32, env.slots)) < 0.2)
            same(env.step(ops.astype([np.int8, np.int64, np.int32][step % 3])), batch.step(ops))
        for pairs in (batch.decide("greedy"), rng.integers(-2, 140, (32, 3, 2)), np.zeros((32, 0, 2), np.int32)):
            same(env.step(pairs=pairs), batch.step(pairs=pairs))
        mask = rng.random(32) < 0.5
        mask[0] = True
        for kw in ({"mask": mask}, {"seeds": range(32)}, {"mask": mask, "seeds": np.arange(32, dtype=np.uint64) + np.uint64(2**63)}):
            same(env.reset(**kw), batch.reset(**kw))
            env.ops[:], batch.ops[:] = 2, 2
            same(env.step(), batch.step())


def test_results_stay_for_blocks_less_one_steps(serve):
    serve("t", "--blocks", "3")
    with kvgym.connect("t") as env:
        first = env.reset()
        kept = first.obs.copy()
        second, third = env.step(np.zeros((32, 64), int)), env.step()
        assert env.block is third and len({id(b) for b in (first, second, third)}) == 3
        assert np.array_equal(first.obs, kept)
        assert env.step() is first and not np.array_equal(first.obs, kept)


def test_tensors_are_shared_memory(serve):
    serve("t")
    env = kvgym.connect("t")
    block = env.reset()
    memory = np.frombuffer(env._memory, np.uint8)
    for name in TENSORS:
        x = getattr(block, name)
        if x is not None:
            assert np.shares_memory(x, memory) and x.ctypes.data % 64 == 0 and x.flags.writeable, name
    assert np.shares_memory(env.ops, memory)
    reward = block.reward
    del memory, block
    env.close()
    env.close()
    reward += 1  # still there
    assert env.block.obs.sum() > 0
    with pytest.raises(kvgym.ClosedError, match="server t: the connection is closed"):
        env.step()


def test_torch_tensors_are_shared_memory(serve):
    torch = pytest.importorskip("torch")
    serve("t")
    with kvgym.connect("t") as env:
        block = env.reset()
        assert block.torch("obs").data_ptr() == block.obs.ctypes.data
        assert block.torch("mask").dtype == torch.bool


def test_send_and_recv(serve):
    serve("t")
    with kvgym.connect("t") as env, kvgym.Batch(32) as batch:
        env.reset(), batch.reset()
        ops = np.full((32, 64), 1, np.int64)
        env.send(0, ops)
        with pytest.raises(kvgym.RefusedError, match="already in flight"):
            env.send(0)
        rows, block = env.recv(0)
        assert rows == slice(0, 32)
        same(block, batch.step(ops))
        with pytest.raises(kvgym.RefusedError, match="not in flight"):
            env.recv(0)
        with pytest.raises(kvgym.RefusedError, match="group: 1: allowed 0"):
            env.send(1)
        env.send(0, ops)  # as if Ctrl-C had come before the result: the next call ends it first
        batch.step(ops)
        same(env.step(ops), batch.step(ops))


def test_own_blocks(serve):
    """Results in memory of this process, which no later step touches; the same as without."""
    serve("t")
    with kvgym.connect("t") as env, kvgym.Batch(32) as batch:
        mine = env.new_block()
        assert env.reset(into=mine) is mine is env.block
        same(mine, batch.reset())
        kept = mine.obs.copy()
        for _ in range(3):
            same(env.step(np.ones((32, 64), int)), batch.step(np.ones((32, 64), int)))
        assert np.array_equal(mine.obs, kept)
        reward = np.zeros(32, np.float32)
        mine = env.new_block({"reward": reward})
        same(env.step(into=mine), batch.step())
        assert mine.reward is reward
        mask = np.arange(32) < 3
        same(env.reset(mask, into=mine), batch.reset(mask))
        with pytest.raises(kvgym.RefusedError, match="into: a block of something else"):
            env.step(into=batch.block)
        for method in (env.decide, env.snapshot, env.restore, env.fork):
            with pytest.raises(kvgym.RefusedError, match="decide, snapshot, restore and fork: not served"):
                method("noop")
        with pytest.raises(TypeError, match="another process connects itself"):
            pickle.dumps(env)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_any_block_may_be_written(serve, blocks):
    """Into shared blocks without a copy and into own ones with one, in any order, masked resets among them, rows that the caller has changed too."""
    serve("t", "--blocks", str(blocks), "--steps", "4")
    rng = np.random.default_rng(blocks)
    with kvgym.connect("t") as env, kvgym.Batch(32, steps=4, blocks=1) as batch:
        ours = [*env.blocks, env.new_block(), env.new_block()]
        theirs = [batch.new_block() for _ in ours]
        assert len(env.blocks) == blocks
        same(env.reset(into=ours[0]), batch.reset(into=theirs[0]))
        for _ in range(200):
            at = rng.integers(len(ours))
            into, other = ours[at], theirs[at]
            if rng.random() < 0.7:
                ops = rng.integers(0, 4, (32, 64))
                same(env.step(ops, into=into), batch.step(ops, into=other))
            else:
                mask = [None, rng.random(32) < 0.3][rng.integers(2)]
                if mask is not None and not mask.any():
                    continue
                seeds = [None, rng.integers(0, 1 << 40, 32)][rng.integers(2)]
                same(env.reset(mask, seeds, into=into), batch.reset(mask, seeds, into=other))
            assert env.block is into
            assert (env.blocks[env._words[shm._TURN // 4]] is into) == (at < blocks)
            if rng.random() < 0.2:
                into.obs[:, :9] = other.obs[:, :9] = 7


def test_own_blocks_go_by_what_nobody_holds(serve):
    """The server writes a block on the way to one of this process: not one whose views are held."""
    serve("t", "--blocks", "3")
    with kvgym.connect("t") as env:
        views = [env.reset().obs[:], env.step(into=env.blocks[0]).reward[:]]
        copies = [v.copy() for v in views]
        mine = env.new_block()
        for _ in range(5):
            env.step(np.ones((32, 64), int), into=mine)
        assert all(np.array_equal(v, c) for v, c in zip(views, copies, strict=True))
        assert [b.lent() for b in env.blocks] == [True, True, False]
        del views
        assert not any(b.lent() for b in env.blocks)


def test_identities(serve):
    serve("t", "--seed", "9", "--steps", "3", clients=2)
    with kvgym.connect("t", range=1) as env, kvgym.Batch(16, seed=9, first_env=16, steps=3) as batch:
        env.reset(), batch.reset()
        for step in range(12):
            if step == 7:
                mask, seeds = np.arange(16) % 3 == 0, [2**64 - 1 - i for i in range(16)]
                env.reset(mask, seeds), batch.reset(mask, seeds)
            block, got = env.step(), env.identities()
            batch.step()
            assert env.block is block
            for x, y in zip(got, batch.identities(), strict=True):
                assert x.dtype == y.dtype and x.tolist() == y.tolist()


def trainer(name: str, range_: str, steps: str) -> None:
    """Another process: prints a digest of all that it sees."""
    import hashlib

    env = kvgym.connect(name, range=int(range_))
    digest = hashlib.sha256()
    block = env.reset()
    for step in range(int(steps) + 1):
        for x in (block.obs, block.reward, block.terminated, block.mask):
            digest.update(x.tobytes())
        block = env.step(choice(env.first_env, env.num_envs, step))
        print(step, flush=True)
    print(digest.hexdigest())


def choice(first: int, envs: int, step: int) -> np.ndarray:
    e, s = np.arange(first, first + envs)[:, None], np.arange(64)[None, :]
    h = (e * 7919 + s * 104729 + step * 1299709) % 97
    return np.where(h < 4, h, 0)


def start_trainer(*args: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, __file__, *map(str, args)], stdout=subprocess.PIPE, text=True)


def test_two_trainers_equal_one_batch(serve):
    import hashlib

    info = serve("t", envs=33, clients=2).info
    trainers = [start_trainer("t", i, 50) for i in range(2)]
    with kvgym.Batch(33, workers=1) as batch:
        digests = [hashlib.sha256() for _ in range(2)]
        block = batch.reset()
        for step in range(51):
            for d, (first, end) in zip(digests, info["ranges"], strict=True):
                for x in (block.obs, block.reward, block.terminated, block.mask):
                    d.update(x[first:end].tobytes())
            block = batch.step(choice(0, 33, step))
    for t, d in zip(trainers, digests, strict=True):
        assert t.communicate(timeout=60)[0].split()[-1] == d.hexdigest()
        assert t.returncode == 0


def test_killed_servers(serve, directory):
    """Noticed within a second, with one error that names the server; what the last call returned is whole; the next server starts at once."""
    worst, steps = 0.0, 0
    for _ in range(KILLS):
        server = serve("t", "--workers", "1", envs=512)
        env, batch = kvgym.connect("t"), kvgym.Batch(512, workers=1)
        env.reset(), batch.reset()
        killed: list[float] = []

        def kill(process=server.process, killed=killed):
            time.sleep(random.random() * 0.05)
            killed.append(time.monotonic())
            process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(kvgym.ServerGoneError) as e:
            while True:
                ops = choice(0, 512, steps)
                same(env.step(ops), batch.block if batch.step(ops) else None)
                steps += 1
        killer.join()
        worst = max(worst, time.monotonic() - killed[0])
        assert str(e.value) == f"server t (process {server.process.pid}): it has ended: start it again with kvgym serve --name t"
        same(env.block, batch.block)
        with pytest.raises(kvgym.ServerGoneError):
            env.reset()
        batch.close()
        server.process.wait()
    assert worst < 1
    print(f"{KILLS} servers killed in {steps} steps, noticed within {worst:.3f} s")
    serve("t").end()
    assert list(directory.iterdir()) == []


def test_killed_trainers(serve):
    """The range is free within a second and afresh, and the other trainer sees nothing of it."""
    serve("t", envs=512, clients=2)
    other, batch = kvgym.connect("t", range=1), kvgym.Batch(256, first_env=256)
    other.reset(), batch.reset()
    worst = 0.0
    for step in range(KILLS):
        t = start_trainer("t", 0, 10**9)
        assert t.stdout is not None and t.stdout.readline()
        time.sleep(random.random() * 0.05)
        t.kill()
        begin = time.monotonic()
        with kvgym.connect("t", range=0) as next_, kvgym.Batch(256) as fresh:
            worst = max(worst, time.monotonic() - begin)
            same(next_.reset(), fresh.reset())
            same(next_.step(choice(0, 256, 3)), fresh.step(choice(0, 256, 3)))
        same(other.step(choice(256, 256, step)), batch.step(choice(256, 256, step)))
        t.wait()
        t.stdout.close()
    assert worst < 1
    print(f"{KILLS} trainers killed, the next one connected within {worst:.3f} s")


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stopping(serve, directory, how, status):
    server = serve("t")
    env = kvgym.connect("t")
    env.reset()
    got, said = server.end(how)
    assert got == status, said
    assert "kvgym serve: t: client" in said and ("interrupted" in said) == (status == 130)
    with pytest.raises(kvgym.ServerGoneError, match=r"^server t \(process \d+\): the server was stopped$"):
        env.step()
    assert list(directory.iterdir()) == []


def test_idle_trainer_loses_its_range(serve):
    serve("t", "--idle", "300ms")
    env = kvgym.connect("t")
    env.reset()
    with kvgym.connect("t", range=0) as next_:  # which waits a second for the range
        next_.reset()
    with pytest.raises(kvgym.ServerGoneError, match="no call for 300ms"):
        env.step()


def test_server_that_does_not_answer(serve):
    server = serve("t")
    env = kvgym.connect("t", step_timeout=0.3)
    env.reset()
    server.stop()
    begin = time.monotonic()
    with pytest.raises(kvgym.ServerTimeoutError, match=r"server t \(process \d+\): no answer in 0.3 s"):
        env.step()
    assert time.monotonic() - begin < 1
    with pytest.raises(kvgym.ServerTimeoutError, match="connect: t: no answer"):
        kvgym.connect("t", timeout=0.3)
    server.process.send_signal(signal.SIGCONT)


def test_refused_connections(serve, directory, monkeypatch):
    info = serve("t", clients=2).info
    for kw, says in (({"range": 2}, "connect: t: range: 2: allowed 0 to 1"), ({"range": -1}, "range: -1"),
                     ({"layout": "0" * 16}, f"connect: t: layout: 0000000000000000: allowed {info['layout']}")):
        with pytest.raises(kvgym.ServerError, match=says):
            kvgym.connect("t", **kw)
    env = kvgym.connect("t", layout=info["layout"])
    assert (env.range, env.layout, env.pid) == (0, info["layout"], info["pid"])
    with pytest.raises(kvgym.ServerError, match=rf"range: 0: taken by process {os.getpid()}: allowed a free one, now \[1\]"):
        kvgym.connect("t", range=0)
    with pytest.raises(kvgym.ServerGoneError, match=r"connect: u: no server at .*/u.sock: start one with kvgym serve --name u"):
        kvgym.connect("u", timeout=0.05)
    with pytest.raises(kvgym.RefusedError, match="connect: name: 'a/b'"):
        kvgym.connect("a/b")
    second = subprocess.run([BINARY, "serve", "--name", "t"], capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert second.stderr == f"kvgym serve: name: t: taken by the server with process number {info['pid']}: allowed one that no server has\n"
    monkeypatch.setattr(shm, "VERSION", 3)
    with pytest.raises(kvgym.ServerError, match="version 2: allowed 3: use a client and a server of the same release"):
        kvgym.connect("t")
    directory.chmod(0o755)
    with pytest.raises(kvgym.ServerError, match="mode 0o755 of user"):
        kvgym.connect("t")
    directory.chmod(0o700)


def test_refused_calls(serve):
    serve("t", "--autoreset", "disabled", "--steps", "2")
    with kvgym.connect("t") as env:
        with pytest.raises(kvgym.RefusedError, match="environment 0: never reset"):
            env.step()
        before = env.reset()
        with pytest.raises(kvgym.RefusedError, match="selects no environment"):
            env.reset(np.zeros(32, bool))
        for call in (lambda: env.step(np.zeros((31, 64), int)), lambda: env.step(np.zeros((32, 64))), lambda: env.step(pairs=np.zeros((32, 129, 2), int)),
                     lambda: env.reset(np.zeros(32)), lambda: env.reset(seeds=[-1] * 32)):
            with pytest.raises(kvgym.RefusedError):
                call()
        assert env.block is before
        env.step(), env.step()
        with pytest.raises(kvgym.RefusedError, match="autoreset is disabled"):
            env.step()
        env.reset()


def test_fork(serve):
    """A child cannot use its parent's connection, makes its own, and does not keep the parent's range."""
    serve("t", clients=2)
    env = kvgym.connect("t", range=0)
    env.reset()
    r, w = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            env.step()
        except kvgym.ForkedError as e:
            said = f"{e}\n{kvgym.connect('t', range=1).reset().obs.shape}"
        finally:
            os.write(w, said.encode())
            time.sleep(30)
            os._exit(0)
    try:
        said = os.read(r, 4096).decode()
        assert said == ("server t: the connection belongs to the process that this one is a fork of: allowed: connect again here\n(16, 784)")
        env.step()
        env.close()
        kvgym.connect("t", range=0, timeout=2).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_thread_at_a_time(serve):
    server = serve("t")
    env = kvgym.connect("t", step_timeout=10)
    env.reset()
    server.stop()
    first = threading.Thread(target=env.step)
    first.start()
    time.sleep(0.1)
    with pytest.raises(kvgym.BusyError):
        env.step()
    server.process.send_signal(signal.SIGCONT)
    first.join()
    env.step()


def test_dropped_connection_frees_its_range(serve):
    serve("t")
    for _ in range(20):
        kvgym.connect("t").reset()


def test_interrupted_wait(serve):
    """Ctrl-C ends the waiting, and the connection goes on."""
    server = serve("t")
    env, batch = kvgym.connect("t"), kvgym.Batch(32)
    env.reset(), batch.reset()
    server.stop()
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        env.step()
    server.process.send_signal(signal.SIGCONT)
    batch.step()
    same(env.step(), batch.step())


if __name__ == "__main__":
    trainer(*sys.argv[1:])
