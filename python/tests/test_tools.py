"""Episodes played by tool calls: equal to the tensor environment to the last digit, light, and safe among threads."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_process import needs_fork, python

import kvgym
from kvgym.tools import Episode, schemas

ROOT = Path(__file__).resolve().parents[2]
OPS = {"evict": 1, "compress": 2, "swap_to_cpu": 3}


def ids(message):
    """The sequences that a user message recommends; it ends with the observation."""
    return json.loads(message.splitlines()[-1])["visible_seq_ids"]


@pytest.fixture
def trace(tmp_path):
    """Requests of some sessions over five minutes, as Mooncake writes them."""
    rng, path = random.Random(5), tmp_path / "trace.jsonl"
    rows = [{"timestamp": 700 * i, "input_length": (n := rng.randrange(600, 5000)), "output_length": rng.randrange(20, 300),
             "hash_ids": [i % 7, *range(1000 * i + 7, 1000 * i + 7 + (n - 1) // 512)]} for i in range(430)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize("options", [{}, {"difficulty": "hard"}, {"profile": "serving"}, {"profile": "serving", "preset": "llama3-70b.8xh100"},
                                     {"slots": 16, "steps": 30, "max_wait": 2}, {"trace": None}, {"trace": None, "profile": "serving", "difficulty": "hard"}],
                         ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "defaults")
def test_equal_to_the_batch_to_the_last_digit(options, trace):
    if "trace" in options:
        options = {**options, "trace": str(trace)}
    rng, others = random.Random(1), {k: v for k, v in options.items() if k != "env"}
    for env in range(4):
        batch = kvgym.Batch(1, first_env=env, autoreset="disabled", outputs=("components", "metrics"), workers=1, **others)
        batch.reset()
        with Episode(env=env, **options) as episode:
            message, score = episode.prompt, np.float32(0)
            while not episode.done:
                pairs = []
                for _ in range(rng.randrange(6)):
                    name, slot = rng.choice(list(OPS)), rng.choice(ids(message) or [0])
                    if not episode.call(name, {"seq_id": slot}).startswith("refused"):
                        pairs.append((OPS[name], slot))
                message = episode.step()
                block = batch.step(pairs=np.array(pairs, np.int32).reshape(1, -1, 2))
                score += block.reward[0]
                result = episode.result()
                assert result["score"] == float(score) and episode.done == bool(block.terminated[0])
                named = dict(zip(batch.description["components"], block.components[0], strict=True))
                weights = dict(zip(batch.description["components"], batch.description["weights"], strict=True))
                assert result["weights"] == {k: w for k, w in weights.items() if w}
                assert result["components"] == {k: float(named[k]) for k in result["weights"]}
                assert result["metrics"] == dict(zip(batch.description["metrics"], map(float, block.metrics[0]), strict=True))
                assert result["metrics"]["invalid_actions"] == 0
                weighed = sum(w * result["components"][k] for k, w in result["weights"].items())
                assert 0 <= weighed - result["score"] < 2**-20 + 1e-12  # the score is rounded down to a multiple of 2^-20
            assert result["turns"] == episode.result()["turns"] == options.get("steps", 15) and result["done"] is True


def test_result_and_types():
    with Episode(difficulty="hard", env=3) as episode:
        assert "evict(seq_id)" in episode.system and episode.prompt.startswith("Choose") and episode.done is False
        first = ids(episode.prompt)[0]
        assert episode.call("evict", {"seq_id": first}).startswith(f"{first} evicted: frees ")
        assert "refused" in episode.call("evict", json.dumps({"seq_id": first}))
        result = episode.result()
        assert list(result) == ["difficulty", "turns", "done", "score", "components", "weights", "metrics", "calls", "faults"]
        assert result["difficulty"] == "hard" and result["turns"] == 0 and result["done"] is False
        assert result["calls"] == {"evict": 2, "compress": 0, "swap_to_cpu": 0, "keep": 0} and result["faults"] == {"repeated": 1}
        for name in ("components", "weights", "metrics"):
            assert all(type(x) is float for x in result[name].values())
        assert type(result["score"]) is float and len(result["components"]) == 7
        assert set(result["metrics"]) >= {"total_tokens_metric", "total_failures_metric", "total_latency_metric", "pressure_steps_metric"}


def test_schemas():
    assert [s["function"]["name"] for s in schemas()] == ["evict", "compress", "swap_to_cpu", "keep"]
    for s in schemas():
        parameters = s["function"]["parameters"]
        assert s["type"] == "function" and parameters["type"] == "object"
        assert parameters["required"] == list(parameters["properties"]) == ([] if s["function"]["name"] == "keep" else ["seq_id"])


@pytest.mark.parametrize("arguments", ["", "{", "[]", "null", "\0", "\ud800", '{"seq_id": "\0"}', {"seq_id": {1, 2}}, {"seq_id": float("nan")}, {"seq_id": None},
                                       {"seq_id": 10**400}, {"seq_id": 3, "why": "\ud800"}, "9" * 5000, "[" * 100_000, '{"seq_id": "\U0001f600' + "\u0301" * 99 + '"}'])
def test_whatever_a_model_writes_is_answered(arguments):
    with Episode() as episode:
        for name in ("evict", "keep", "\0", "\ud800", "x" * 100_000, ""):
            answer = episode.call(name, arguments)
            assert 0 < len(answer) < 300 and "\n" not in answer
        assert sum(episode.result()["faults"].values()) >= 5
        episode.step()
        assert episode.result()["metrics"]["invalid_actions"] == 0


def test_suggest_plays_the_baseline():
    batch = kvgym.Batch(1, first_env=2, difficulty="hard", autoreset="disabled", outputs=())
    batch.reset()
    with Episode(difficulty="hard", env=2) as episode:
        score = np.float32(0)
        while not episode.done:
            for name, arguments in episode.suggest("greedy"):
                episode.call(name, arguments)
            episode.step()
            score += batch.step(pairs=batch.decide("greedy")).reward[0]
        assert episode.result()["score"] == float(score) and episode.suggest("greedy") == []
        with pytest.raises(kvgym.RefusedError, match='policy: "oracle": allowed noop'):
            Episode().suggest("oracle")


def test_errors():
    episode = Episode(steps=2)
    episode.step()
    assert "over" in episode.step() and episode.done
    assert "over" in episode.call("evict", {"seq_id": 1})
    with pytest.raises(kvgym.RefusedError, match="step: 3: allowed 2, the episode is over"):
        episode.step()
    episode.close()
    episode.close()
    for call in (lambda: episode.call("keep", ""), episode.step, episode.result, lambda: episode.suggest("noop")):
        with pytest.raises(kvgym.ClosedError, match="closed"):
            call()
    with pytest.raises(TypeError, match="pickled"):
        __import__("pickle").dumps(Episode())
    for options, words in (({"difficulty": "extreme"}, "difficulty"), ({"steps": 0}, "steps: 0"), ({"slots": 65}, "slots: 65"), ({"max_wait": -1}, "max_wait"),
                           ({"seed": -1}, "seed"), ({"env": 2**32}, "first_env"), ({"profile": "x"}, "profile"), ({"preset": "x"}, "preset"),
                           ({"trace": "/no/such"}, "/no/such"), ({"trace": {"path": "x", "format": "xml"}}, "format")):
        with pytest.raises(kvgym.RefusedError, match=words):
            Episode(**options)
    with pytest.raises(TypeError):
        Episode(seed=1.5)


def test_episodes_of_one_trace_read_it_once_until_it_changes(trace):
    one = Episode(trace=trace, seed=1).prompt
    for difficulty in ("easy", "medium", "hard"):
        with Episode(trace={"path": str(trace)}, seed=1, difficulty=difficulty) as episode:
            assert episode.result()["difficulty"] == difficulty
    begin = time.thread_time()
    for env in range(100):
        Episode(trace=trace, seed=1, env=env).close()
    assert time.thread_time() - begin < 0.5
    rows = trace.read_text().splitlines()
    trace.write_text("\n".join(rows[:300]) + "\n")
    assert Episode(trace=trace, seed=1).prompt != one
    trace.write_text("nonsense\n")
    with pytest.raises(kvgym.RefusedError):
        Episode(trace=trace)
    trace.write_text("\n".join(rows) + "\n")
    assert Episode(trace=trace, seed=1).prompt == one


def test_close_while_another_thread_is_in_a_call():
    """close waits for it; what comes after is told that the episode is closed, and nobody gets half an answer."""
    for make, call in ((lambda: Episode(profile="serving"), lambda e: e.suggest("search")), (Episode, lambda e: (e.call("keep"), e.step()))):
        for _ in range(20):
            episode, outcomes, started = make(), [], threading.Event()

            def work(episode=episode, outcomes=outcomes, started=started, call=call):
                try:
                    while True:
                        started.set()
                        call(episode)
                except (kvgym.ClosedError, kvgym.RefusedError) as e:
                    outcomes.append(e)

            thread = threading.Thread(target=work)
            thread.start()
            started.wait()
            episode.close()
            thread.join(20)
            assert not thread.is_alive() and len(outcomes) == 1


def test_256_episodes_in_one_event_loop():
    """As evaluations run them: all live at once, each in a task of its own. No call takes the event loop 5 ms of the processor.

    Twice or, if need be, up to six times, since a processor that others use counts some of their time, too; without Python's own collector, which
    may come in any call.
    """
    longest = 0.0

    def timed(call, *arguments):
        nonlocal longest
        begin = time.thread_time()
        out = call(*arguments)
        longest = max(longest, time.thread_time() - begin)
        return out

    async def play(env):
        episode = timed(lambda: Episode(env=env, difficulty="hard"))
        try:
            message = episode.prompt
            while not episode.done:
                await asyncio.sleep(0)
                for slot in ids(message)[:3]:
                    timed(episode.call, "compress", {"seq_id": slot})
                message = timed(episode.step)
            return episode.result()
        finally:
            timed(episode.close)

    async def everything():
        return await asyncio.gather(*map(play, range(256)))

    runs, times = [], []
    gc.collect()
    gc.disable()
    try:
        while len(runs) < 2 or (min(times) >= 0.005 and len(runs) < 6):
            longest = 0.0
            runs.append(asyncio.run(everything()))
            times.append(longest)
    finally:
        gc.enable()
    assert len(runs[0]) == 256 and all(r["done"] and r["turns"] == 15 for r in runs[0])
    assert all(r == runs[0] for r in runs), "the same whatever runs beside"
    assert min(times) < 0.005, times


def resident():
    """KiB of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell its memory in /proc")
def test_an_episode_is_light_and_leaves_nothing():
    for n in range(200):
        Episode(env=n).close()
    before = resident()
    episodes = [Episode(env=n) for n in range(1000)]
    assert (resident() - before) / len(episodes) < 100, "KiB an episode"
    del episodes
    for n in range(6000):
        Episode(env=n).close()
    assert resident() - before < 100_000, "not 6,000 times an episode"


@needs_fork
def test_a_fork_is_refused_at_once():
    out, _ = python("""
import os, time, kvgym
from kvgym.tools import Episode, schemas
episode = Episode()
calls = {"call": lambda: episode.call("keep"), "step": episode.step, "result": episode.result, "suggest": lambda: episode.suggest("noop"), "open": Episode,
         "schemas": schemas, "close": episode.close}
read, write = os.pipe()
if os.fork() == 0:
    begin = time.monotonic()
    for name, call in calls.items():
        try:
            call()
        except kvgym.ForkedError:
            os.write(write, f"{name} refused\\n".encode())
    os.write(write, f"{time.monotonic() - begin < 0.5}\\n".encode())
    del episode
    os._exit(0)
os.wait()
print(os.read(read, 9999).decode())
episode.step(); print("parent goes on")
""")
    for name in ("call", "step", "result", "suggest", "open", "schemas", "close"):
        assert f"{name} refused" in out, out
    assert "True" in out and "parent goes on" in out


def test_docs_name_every_argument_and_method():
    docs = (ROOT / "docs" / "language-models.md").read_text()
    for name in inspect.signature(Episode.__init__).parameters:
        assert name == "self" or f"`{name}`" in docs, name
    for name in [n for n in dir(Episode) if not n.startswith("_")] + ["system", "prompt"]:
        assert f"`episode.{name}" in docs, name
