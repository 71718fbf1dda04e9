"""A scripted model behind real HTTP, and what its episodes must come to."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kv_cache_eviction import core

import kvgym
from kvgym import tools

ROOT = Path(__file__).resolve().parents[3]
KVGYM = ROOT / "build" / "kvgym"
ENVIRONMENT = ROOT / "python" / "environments" / "kv_cache_eviction"
ID = "kv-cache-eviction"
BIN = Path(sys.executable).parent

Turn = str | list[list[Any]]

# Every kind of mistake, in between calls that change the score; the last turn does, too.
SCRIPT: list[Turn] = [
    [["evict", {"seq_id": 3}], ["compress", {"seq_id": 5}], ["compress", {"seq_id": 5}]],
    [["evict", '{"seq_id": ']],
    [["drop", {"seq_id": 1}], ["swap_to_cpu", {"seq_id": 1}]],
    "I keep everything.",
    [["evict", {"seq_id": "2"}], ["compress", [4]], ["compress", {"seq_id": 1.5}], ["compress", {"seq_id": True}], ["compress", "null"]],
    [["keep", {}], ["keep", {"seq_id": 1}]],
    [["compress", {"seq_id": 999}], ["compress", {}], ["compress", {"seq_id": 4, "state": {"episode": None}}]],
    [["swap_to_cpu", {"seq_id": 7}], ["swap_to_cpu", {"seq_id": 7}]],
    [["compress", {"seq_id": i}] for i in range(24)],
    "Nothing to do.",
    [["evict", {"seq_id": 63}]],
    [["compress", {"seq_id": 6}], ["evict", {"seq_id": 6}], ["compress", {"seq_id": 6}]],
    [[" ", {}], ["keep", ""]],
    [["swap_to_cpu", {"seq_id": 0}]],
    [["evict", {"seq_id": i}] for i in range(12)],
]
# What of it reaches the simulator, as operations and slots in their order: what a Batch is told.
PAIRS = [[(1, 3), (2, 5), (2, 5)], [], [(3, 1)], [], [(1, 2)], [(0, 1)], [(2, 4)], [(3, 7)], [(2, i) for i in range(24)], [], [(1, 63)], [(2, 6), (1, 6)], [],
         [(3, 0)], [(1, i) for i in range(12)]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """serve(policy or script, flags) starts kvgym serve-model and gives its base URL."""
    assert KVGYM.is_file(), f"{KVGYM}: not found: make build"
    servers: list[subprocess.Popen] = []

    def start(policy: str | list[Turn] = "greedy", *flags: str) -> str:
        if not isinstance(policy, str):
            file = tmp_path / f"script{len(servers)}.json"
            file.write_text(json.dumps(policy))
            policy = f"script:{file}"
        servers.append(subprocess.Popen([KVGYM, "serve-model", "--policy", policy, "--quiet", *flags], stdout=subprocess.PIPE, text=True))
        return servers[-1].stdout.readline().strip()

    yield start
    for server in servers:
        server.terminate()
        server.wait(60)
        server.stdout.close()


def run(command: list[str | Path], cwd: Path, limit: float = 150, **env: str) -> str:
    """Runs a command of this virtual environment, which must exit with 0, and gives its output. Nothing outside of this machine can be reached."""
    got = subprocess.run([str(c) for c in command], cwd=cwd, timeout=limit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(BIN.parent), "NO_PROXY": "127.0.0.1",
                              "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", **env})
    assert got.returncode == 0, got.stdout[-6000:]
    return got.stdout


def commands(file: str, begin: str, url: str) -> list[list[str]]:
    """The command lines of a page that begin so, with the address of this server."""
    return [shlex.split(line.replace("http://127.0.0.1:8123/v1", url)) for line in (ROOT / file).read_text().splitlines() if line.startswith(begin) and "8123" in line]


def programs(file: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / file).read_text(), re.M | re.S)


class Expected:
    """What an episode comes to in the tensor environment: a Batch of the same seed that plays the same operations."""

    def __init__(self, pairs: list[list[tuple[int, int]]], **scenario: Any) -> None:
        env = scenario.pop("env")
        with kvgym.Batch(1, first_env=env, autoreset="disabled", outputs=("components", "metrics"), workers=1, **scenario) as batch:
            batch.reset()
            total = 0.0
            for step in range(scenario.get("steps", 15)):
                now = pairs[step] if step < len(pairs) and pairs[step] else [(0, 0)]
                block = batch.step(pairs=np.array([now], np.int32))
                total += block.reward[0].item()
            assert block.terminated[0]
            layout = batch.description
            components = dict(zip(layout["components"], block.components[0].tolist(), strict=True))
            metrics = dict(zip(layout["metrics"], block.metrics[0].tolist(), strict=True))
        self.weights = {name: w for name, w in zip(layout["components"], layout["weights"], strict=True) if w}
        self.components = {name: components[name] for name in self.weights}
        self.metrics = {name: value for name, value in metrics.items() if name.endswith("_metric")}
        self.score = total  # rewards are multiples of 2^-20 and add up without rounding
        self.reward = 0.0
        for name, weight in self.weights.items():
            self.reward += weight * self.components[name]

    def check(self, summary: dict[str, Any], reward: float) -> None:
        """Equal to the last bit. The score is the weighted sum rounded down to 2^-20, hence the bound."""
        assert summary["done"] and summary["score"] == self.score and summary["components"] == self.components
        assert {name: summary["metrics"][name] for name in self.metrics} == self.metrics
        assert reward == self.reward and -1e-12 < reward - self.score < 2**-20 + 1e-12


def expected(pairs: list[list[tuple[int, int]]] = PAIRS, **scenario: Any) -> Expected:
    return Expected(pairs, **{"difficulty": "hard", "seed": 5, "env": 0, **scenario})


def calls_of(message: Any) -> list[dict[str, Any]]:
    """The tool calls of a message, with name and arguments; saved ones of verifiers below 0.4 are text."""
    calls = (message if isinstance(message, dict) else message.model_dump()).get("tool_calls") or []
    return [json.loads(c) if isinstance(c, str) else c for c in calls]


def pairs_of(messages: list[Any]) -> list[list[tuple[int, int]]]:
    """The operations that the assistant's messages of a transcript ask for."""
    ops = {"keep": 0, "evict": 1, "compress": 2, "swap_to_cpu": 3}
    return [[(ops[c["name"]], json.loads(c["arguments"]).get("seq_id", 0)) for c in calls_of(m)] for m in messages if m["role"] == "assistant"]


def played(script: list[Turn] = SCRIPT, **scenario: Any) -> tuple[list[list[str]], dict[str, Any]]:
    """The engine's own answers to a script, turn by turn, and the result."""
    with tools.Episode(**{"difficulty": "hard", "seed": 5, **scenario}) as episode:
        answers = []
        for turn in script:
            calls = [] if isinstance(turn, str) else turn
            answers.append([episode.call(name, a if isinstance(a, str) else json.dumps(a)) for name, a in calls])
            episode.step()
        return answers, episode.result()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tools.Episode]]:
    """The episodes that a test opens, which it must leave closed."""
    episodes: list[tools.Episode] = []
    init = tools.Episode.__init__

    def opening(self: tools.Episode, **kwargs: Any) -> None:
        init(self, **kwargs)
        episodes.append(self)

    monkeypatch.setattr(tools.Episode, "__init__", opening)
    yield episodes
    for episode in episodes:
        with pytest.raises(kvgym.ClosedError):
            episode.step()


def break_engine(monkeypatch: pytest.MonkeyPatch, where: str, error: Exception) -> Counter[int]:
    """Lets the engine fail in one method of environment 1, step in the sixth turn. Gives how often each environment's episode was opened."""
    opened, steps = Counter(), Counter()

    def fails(self: tools.Episode, *args: Any, **kwargs: Any) -> Any:
        steps[id(self)] += 1
        if where == "close":
            tools.Episode.close(self)
        if where == "step" and steps[id(self)] < 6:
            return tools.Episode.step(self)
        raise error

    broken = type("Broken", (tools.Episode,), {where: fails})

    async def start(scenario: dict[str, Any]) -> tools.Episode:
        opened[scenario["env"]] += 1
        return await asyncio.to_thread(broken if scenario["env"] == 1 else tools.Episode, **scenario)

    monkeypatch.setattr(core, "start", start)
    return opened


class Slices:
    """Times what our coroutines do between two suspensions, while nothing else can run on the event loop.

    Each slice is (name, seconds, seconds of processor time). Where other processes take the processor away, seconds of the first kind pass that are not
    ours; a call of ours that blocks spends them in every slice of its kind.
    """

    def __init__(self) -> None:
        self.all: list[tuple[str, float, float]] = []
        self.collecting = 0.0  # processor time that this thread has spent in collections of garbage, which is whoever's
        gc.callbacks.append(self._collection)

    def _collection(self, phase: str, _: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self.collecting += time.thread_time() * (1 if phase == "stop" else -1)

    def wrap(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        f = getattr(owner, name)

        @functools.wraps(f)
        async def timed(*args: Any, **kwargs: Any) -> Any:
            return await _Timed(f(*args, **kwargs), name, self)

        monkeypatch.setattr(owner, name, timed)

    def check(self) -> None:
        gc.callbacks.remove(self._collection)
        assert len(self.all) > 256
        walls, busy = sorted(s[1] for s in self.all), sorted(s[2] for s in self.all)
        print(f"{len(busy)} slices: median {walls[len(walls) // 2] * 1e3:.3f} ms; processor time: median {busy[len(busy) // 2] * 1e3:.3f} ms, "
              f"99.9 % below {busy[-len(busy) // 1000] * 1e3:.3f} ms, longest {busy[-1] * 1e3:.3f} ms in {max(self.all, key=lambda s: s[2])[0]}")
        assert walls[len(walls) * 9 // 10] < 0.005, "blocked, and be it in waiting"
        assert busy[-len(busy) // 1000] < 0.005 and busy[-1] < 0.025, "at work; single ones of a busy machine run hot"


class _Timed:
    def __init__(self, coroutine: Any, name: str, slices: Slices) -> None:
        self.coroutine, self.name, self.slices = coroutine, name, slices

    def __await__(self) -> Any:
        resume, value = self.coroutine.send, None
        while True:
            begin, busy = time.perf_counter(), time.thread_time() - self.slices.collecting
            try:
                waits_for = resume(value)
            except StopIteration as e:
                return e.value
            finally:
                self.slices.all.append((self.name, time.perf_counter() - begin, time.thread_time() - self.slices.collecting - busy))
            try:
                resume, value = self.coroutine.send, (yield waits_for)
            except BaseException as e:
                resume, value = self.coroutine.throw, e
