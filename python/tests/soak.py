"""Steps by every path of the package for a given time, in turns, and tells whether memory grows: that of this process, and of a server.

    python python/tests/soak.py [TIME]      90s, 3m or 1h (the default); make soak SOAK=3m

Paths that throw much away at once make memory swing, so growth is by the least tenth of samples: that of the last quarter of the time less that of the
second one. Exit status: 0 flat, 1 grown, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import kvgym

BINARY = Path(os.environ.get("KVGYM_BINARY") or Path(__file__).parents[2] / "build" / "kvgym")
ENVS = 64
TURN = 0.1  # seconds of a path before the next one has its turn
GROWTH = 4.0  # MiB that are allowed: what allocators do, whatever the time
EVERYTHING = ("obs", "mask", "components", "metrics")
CONNECTED = {"name": "soak", "timeout": 20.0}


def random_ops(rng: np.random.Generator, envs: int) -> Iterator[np.ndarray]:
    """Operations, over and over: drawing new ones would take longer than the steps."""
    return itertools.cycle([np.where(rng.random((envs, 64)) < 0.1, rng.integers(0, 5, (envs, 64)), 0) for _ in range(31)])


def rotating(dtype: str) -> Iterator[None]:
    """A batch whose blocks take turns, made anew now and then."""
    while True:
        with kvgym.Batch(ENVS, obs_dtype=dtype, outputs=EVERYTHING, autoreset="same-step") as batch:
            ops = random_ops(np.random.default_rng(1), ENVS)
            batch.reset()
            for _ in range(3000):
                batch.step(next(ops))
                yield


def storage(dtype: str) -> Iterator[None]:
    """A batch that writes into a rollout's arrays, which a trainer throws away now and then."""
    batch, ops = kvgym.Batch(ENVS, obs_dtype=dtype), random_ops(np.random.default_rng(2), ENVS)
    batch.reset()
    while True:
        blocks = [batch.new_block({"obs": row}) for row in np.zeros((15, ENVS, batch.obs_length), dtype)]
        for block in blocks * 20:
            batch.step(next(ops), into=block)
            yield


def groups() -> Iterator[None]:
    """Two halves in flight."""
    batch, ops = kvgym.Batch(ENVS, groups=2), random_ops(np.random.default_rng(3), ENVS // 2)
    batch.reset()
    for g in (0, 1):
        batch.send(g, next(ops))
    while True:
        for g in (0, 1):
            batch.recv(g)
            batch.send(g, next(ops))
            yield


def single() -> Iterator[None]:
    """One environment after the other, each for some episodes."""
    ops = random_ops(np.random.default_rng(4), 1)
    while True:
        env = kvgym.KVCacheEnv(infos=("action_mask", "components", "metrics"))
        for episode in range(50):
            env.reset(seed=episode if episode % 3 else None)
            while not env.step(next(ops)[0])[2]:
                yield
        env.close()


def vector(**config: object) -> Iterator[None]:
    """A vector environment with resets, whose caller keeps more results than there are blocks, and at times a wrong call."""
    rng, ops = np.random.default_rng(5), random_ops(np.random.default_rng(6), ENVS)
    while True:
        env, kept = kvgym.make_vec(ENVS, autoreset="same-step", infos=("action_mask", "components", "metrics"), **config), deque(maxlen=20)
        kept.append(env.reset())
        for step in range(1500):
            kept.append(env.step(next(ops)))
            if step % 40 == 0:
                kept.append(env.reset(seed=step, options={"reset_mask": rng.random(ENVS) < 0.5}))
            if step % 100 == 99:
                kept.clear()
                with contextlib.suppress(kvgym.RefusedError):
                    env.step(np.zeros((1, 1), int))
            yield
        env.close()


def ahead() -> Iterator[None]:
    """What looks ahead: policies, snapshots, forks."""
    batch, other = kvgym.Batch(8), kvgym.Batch(8)
    batch.reset(), other.reset()
    while True:
        batch.step(pairs=batch.decide("greedy"))
        other.restore(batch.snapshot(0, 4), 2)
        batch.fork(1, 2, into=other)
        batch.identities()
        yield


def connection() -> Iterator[None]:
    """A trainer of a server, which leaves and comes again."""
    ops = random_ops(np.random.default_rng(7), ENVS)
    while True:
        with kvgym.connect(**CONNECTED) as env:
            env.reset()
            mine = env.new_block()
            for step in range(1000):
                if step % 10:
                    env.step(next(ops))
                else:
                    env.step(next(ops), into=mine)
                    env.identities()
                yield


PATHS: dict[str, Callable[[], Iterator[None]]] = {
    "batch, float32": lambda: rotating("float32"), "batch, bytes": lambda: rotating("uint8"), "storage, float32": lambda: storage("float32"),
    "storage, bytes": lambda: storage("uint8"), "groups": groups, "one environment": single, "vector": vector,
    "vector, connected": lambda: vector(connect=CONNECTED), "connection": connection, "policies, forks": ahead}


class Memory:
    """The memory of a process in MiB, and of the Go heap in it what the last collection of garbage has left."""

    def __init__(self, name: str, pid: int, trace: Path) -> None:
        self.name, self._status, self._trace = name, Path(f"/proc/{pid}/status"), trace
        self.samples: list[float] = []
        self.heap = "none yet"

    def sample(self) -> float:
        self.samples.append(int(re.search(r"VmRSS:\s+(\d+)", self._status.read_text())[1]) / 1024)
        with self._trace.open("rb") as trace:
            trace.seek(max(0, self._trace.stat().st_size - 4096))
            collected = re.findall(r"^gc (\d+) .* \d+->\d+->(\d+) MB", trace.read().decode(), re.M)
        if collected:
            self.heap = f"{collected[-1][1]} MB after collection {collected[-1][0]}"
        return self.samples[-1]

    def growth(self) -> float:
        n = len(self.samples)
        last, second = (sorted(part)[len(part) // 10] for part in (self.samples[-(n // 4):], self.samples[n // 4:n // 2]))
        return last - second


def seconds(text: str) -> float:
    """A time such as 90s, 3m or 1h: in the first seconds memory grows by what is used for the first time."""
    found = re.fullmatch(r"(\d+)([smh])", text)
    time_ = int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0
    if time_ < 60:
        print(f"soak: time: {text}: allowed such as 90s, 3m, 1h, a minute at least", file=sys.stderr)
        sys.exit(2)
    return time_


def soak(limit: float, watched: list[Memory]) -> dict[str, int]:
    """Gives the paths their turns until the time is over, with a line for each tenth of it; returns their steps."""
    running, steps, begin, tenth = {name: path() for name, path in PATHS.items()}, dict.fromkeys(PATHS, 0), time.monotonic(), 1
    while (now := time.monotonic() - begin) < limit:
        for name, path in running.items():
            end = time.monotonic() + TURN
            while time.monotonic() < end:
                next(path)
                steps[name] += 1
        for memory in watched:
            memory.sample()
        if now >= tenth * limit / 10:
            tenth += 1
            print(f"{now:6.0f} s: " + "; ".join(f"{m.name} {m.samples[-1]:.1f} MiB, Go heap {m.heap}" for m in watched), flush=True)
    return steps


def main(limit: float) -> int:
    directory = Path(tempfile.mkdtemp(prefix="kvs", dir="/tmp"))  # a socket's path must be short
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    ours, theirs = directory / "client", directory / "server"
    said = os.dup(2)
    os.dup2(os.open(ours, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)  # where Go's lines of this process go
    with theirs.open("w") as trace:
        server = subprocess.Popen([BINARY, "serve", "--name", "soak", "--envs", str(2 * ENVS), "--clients", "2", "--autoreset", "same-step", "--outputs",
                                   ",".join(EVERYTHING), "--quiet"], stderr=trace)
    watched = [Memory("client", os.getpid(), ours), Memory("server", server.pid, theirs)]
    try:
        steps = soak(limit, watched)
    except KeyboardInterrupt:
        return 130
    finally:
        os.dup2(said, 2)
        server.terminate()
        server.wait()
        shutil.rmtree(directory)
    print("steps: " + "; ".join(f"{name} {n:,}" for name, n in steps.items()))
    for memory in watched:
        print(f"{memory.name}: grown by {memory.growth():+.2f} MiB, from {min(memory.samples):.1f} to {max(memory.samples):.1f}: allowed {GROWTH:g}")
    return int(any(memory.growth() > GROWTH for memory in watched))


if __name__ == "__main__":
    if os.environ.get("GODEBUG") != "gctrace=1":  # Go then writes a line for each collection of garbage; it reads this when it is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GODEBUG": "gctrace=1"})
    sys.exit(main(seconds(sys.argv[1] if len(sys.argv) > 1 else "1h")))
