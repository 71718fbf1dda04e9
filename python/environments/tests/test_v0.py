"""The StatefulToolEnv of verifiers below 0.4, against a model behind HTTP."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ID, SCRIPT, Slices, break_engine, commands, expected, pairs_of, played, programs, run

import kvgym
from kvgym import tools

vf = pytest.importorskip("verifiers", reason="verifiers is not installed: make test-verifiers-v0")
if not hasattr(vf, "StatefulToolEnv"):
    pytest.skip("this verifiers has no StatefulToolEnv: make test-verifiers-v0", allow_module_level=True)

from kv_cache_eviction import core, v0  # noqa: E402


def evaluate(url: str, n: int = 1, r: int = 1, args: dict[str, Any] | None = None, timeout: float | None = None, **kwargs: Any) -> list[dict[str, Any]]:
    """The rows of an evaluation in this process."""
    env = vf.load_environment(ID, **{"difficulty": "hard", "seed": 5, **(args or {})})
    env.timeout_seconds = timeout
    client = vf.ClientConfig(client_type="openai_chat_completions", api_key_var="NO_KEY", api_base_url=url)
    rows = env.evaluate_sync(client=client, model="scripted", num_examples=n, rollouts_per_example=r, state_columns=["summary"], **kwargs)["outputs"]
    assert Counter(row["example_id"] for row in rows) == dict.fromkeys(range(n), r)
    return rows


def test_a_script_of_all_mistakes(serve, opened):
    rows = evaluate(serve(SCRIPT), n=2, r=2)
    for row in rows:
        env = row["example_id"]
        answers, result = played(env=env)
        expected(env=env).check(row["summary"], row["reward"])
        assert row["summary"] == result and row["error"] is None and row["is_completed"] and not row["is_truncated"]
        assert row["stop_condition"] == "has_final_env_response" and row["num_turns"] == 15
        turns: list[list[str]] = []
        for m in row["completion"]:
            if m["role"] == "assistant":
                turns.append([])
            elif m["role"] == "tool":
                turns[-1].append(m["content"])
        assert turns == answers, "the engine's own words, call by call"
        assert m["role"] == "user" and "The episode is over" in m["content"]
        assert row["metrics"]["total_tool_calls"] == sum(len(t) for t in SCRIPT if isinstance(t, list)) and row["metrics"]["evict_calls"] == 17


def test_rewards_and_metrics(serve):
    [row] = evaluate(serve("greedy"))
    want = expected(pairs_of(row["completion"]))
    want.check(row["summary"], row["reward"])
    for name, value in {**want.components, **{m: want.metrics[m] for m in core.METRICS}}.items():
        assert row["metrics"][name] == value == row[name], name
    env = vf.load_environment(ID)
    weights = dict(zip(env.rubric._get_reward_func_names(), env.rubric._get_reward_weights(), strict=True))
    assert {name: weights.pop(name) for name in core.weights()} == core.weights() and weights.keys() >= set(core.METRICS) and not any(weights.values())


def test_scoring_alone_and_in_groups_is_the_same(serve):
    url = serve("random")
    alone, together = evaluate(url, n=2, r=2, independent_scoring=True), evaluate(url, n=2, r=2)
    assert [row["reward"] for row in alone] == [row["reward"] for row in together]
    assert together[0]["prompt"] == together[1]["prompt"] and together[0]["reward"] == together[1]["reward"], "one example, one scenario"
    assert together[0]["prompt"] != together[2]["prompt"] and together[0]["reward"] != together[2]["reward"]


@pytest.mark.parametrize("args", [{"profile": "serving"}, {"steps": 4}, {"difficulty": "all", "seed": 9}])
def test_arguments(serve, args):
    for row in evaluate(serve("greedy"), n=2, args=args):
        want = expected(pairs_of(row["completion"]), env=row["example_id"], **args)
        want.check(row["summary"], row["reward"])
        assert row["metrics"].keys() >= want.components.keys() | set(core.METRICS) and row["num_turns"] == args.get("steps", 15)
        assert ("goodput" in row["metrics"]) == ("failure_penalty" not in row["metrics"]) == (args.get("profile") == "serving")


def test_a_trace(serve, tmp_path):
    run([Path(__file__).resolve().parents[3] / "build" / "kvgym", "trace", "synth", "--requests", "3000", "--out", tmp_path / "t.jsonl", "--quiet"], tmp_path)
    args = {"trace": str(tmp_path / "t.jsonl")}
    for row in evaluate(serve("greedy"), n=2, args=args):
        expected(pairs_of(row["completion"]), env=row["example_id"], **args).check(row["summary"], row["reward"])


def test_data_sets():
    env = vf.load_environment(ID)
    rows = env.get_dataset()
    assert len(rows) == 300 and len(env.get_eval_dataset(n=5)) == 5 and len(vf.load_environment(ID, num_examples=7).get_dataset()) == 7
    row = rows[3]
    with tools.Episode(**json.loads(row["info"])) as episode:
        assert [m["content"] for m in row["prompt"]] == [episode.system, episode.prompt] and json.loads(row["info"])["env"] == 3
    assert [t.model_dump(exclude_none=True) for t in env.tool_defs] == [t["function"] for t in tools.schemas()]


def test_unknown_arguments_are_refused():
    for args in ({"max_turns": 3}, {"num_examples": 0}, {"difficulty": "none"}):
        with pytest.raises(RuntimeError, match="allowed"):
            vf.load_environment(ID, **args)


@pytest.mark.parametrize("error", [kvgym.BrokenError("step: a panic"), RuntimeError("something else")])
@pytest.mark.parametrize("where", ["__init__", "call", "step", "result", "close"])
def test_a_fault_of_the_engine_is_the_rollouts_error(serve, monkeypatch, caplog, where, error):
    """Neither tool text nor a score, no retry, and the other rollouts go on."""
    opened = break_engine(monkeypatch, where, error)
    with caplog.at_level(logging.ERROR):
        rows = evaluate(serve("greedy"), n=3, r=2, max_retries=3)
    assert opened == {0: 2, 1: 2, 2: 2}, "an engine that fails would fail again"
    for row in rows:
        if row["example_id"] == 1:
            assert row["error"]["error"] == "EngineError" and row["error"]["message"] == str(error) and row["reward"] == 0 and row["summary"] is None
            assert not any(str(error) in str(m) for m in row["completion"])
        else:
            assert row["error"] is None and row["summary"]["done"] and row["reward"] > 0.3
    assert "Error calling reward function" not in caplog.text


def test_no_reward_raises_for_a_rollout_without_a_result(caplog):
    env = vf.load_environment(ID)
    state = vf.State(input={}, prompt=[], completion=[], trajectory=[], task=None, error=v0.EngineError("x"))
    with caplog.at_level(logging.ERROR):
        asyncio.run(env.end_episode(state))
        asyncio.run(env.rubric.score_rollout(state))
    assert state["reward"] == 0 and not caplog.text


def test_a_timeout_plays_the_rest_without_calls(serve, opened):
    """Six calls are answered, the seventh comes too late: five or six steps are the model's. The result is one of all fifteen."""
    [row] = evaluate(serve("compress-all", "--fault-slow", "7", "--slow-by", "60s"), timeout=5)
    assert row["stop_condition"] == "timeout_reached" and row["error"] is None and row["num_turns"] == 6
    pairs = pairs_of(row["completion"])
    assert len(pairs) == 6 and any(pairs)
    want = expected(pairs)
    want.check(row["summary"], row["reward"])
    assert want.score != expected([]).score and row["summary"]["turns"] == 15


def test_a_timeout_while_an_episode_is_being_opened(serve, monkeypatch, opened):
    """The thread that opens it goes on; nobody has the episode then, so that it frees itself."""
    good = tools.Episode.__init__

    def slow(self, **kwargs):
        time.sleep(1)
        good(self, **kwargs)

    monkeypatch.setattr(tools.Episode, "__init__", slow)
    [row] = evaluate(serve("greedy"), args={"num_examples": 1}, timeout=0.3)
    assert row["stop_condition"] == "timeout_reached" and row["summary"] is None and row["reward"] == 0
    time.sleep(1)
    assert len(opened) == 3, "for a check, for the data set, for the rollout"
    del opened[2]


def test_an_episode_closed_while_it_is_being_played_out(monkeypatch):
    """As after a second cancellation: close waits for the step, the thread stops."""
    episode = asyncio.run(core.start({"difficulty": "hard", "seed": 5, "env": 0, "steps": 4096}))

    async def main():
        task = asyncio.create_task(core.finish(episode))
        await asyncio.sleep(0.01)
        task.cancel()
        episode.close()

    asyncio.run(main())
    with pytest.raises(kvgym.ClosedError):
        episode.step()


@pytest.mark.parametrize("fault", ["429", "500", "drop"])
def test_faults_of_the_endpoint_that_pass(serve, opened, fault):
    for row in evaluate(serve("greedy", f"--fault-{fault}", "3,17", "--retry-after", "100ms"), n=2, r=2):
        assert row["error"] is None, row["error"]
        expected(pairs_of(row["completion"]), env=row["example_id"]).check(row["summary"], row["reward"])


def test_a_fault_of_the_endpoint_that_stays(serve, opened):
    """The row is there, and no result."""
    rows = evaluate(serve("greedy", "--fault-json", "3,17"), n=2, r=2)
    bad = [row for row in rows if row["error"]]
    assert len(bad) == 2
    for row in bad:
        assert row["error"]["error"] == "ModelError" and row["stop_condition"] == "has_error" and row["reward"] == 0 and row["summary"] is None


def test_a_message_without_anything_is_an_error_of_verifiers(serve, opened):
    [row] = evaluate(serve(["", *SCRIPT[1:]]))
    assert row["error"]["error"] == "EmptyModelResponseError" and row["summary"] is None


def test_broken_arguments_are_the_models_mistake(serve):
    [row] = evaluate(serve("compress-all", "--fault-arguments", "1"))
    assert row["error"] is None and row["summary"]["faults"]["bad_json"] > 0


def test_a_context_that_is_full(serve):
    [row] = evaluate(serve("greedy", "--context", "4000"))
    assert row["stop_condition"] == "prompt_too_long" and row["is_truncated"] and row["error"] is None and row["num_turns"] < 15
    expected(pairs_of(row["completion"])).check(row["summary"], row["reward"])


def test_256_rollouts_at_once_leave_the_event_loop_free(serve, monkeypatch, opened):
    slices = Slices()
    for name in ("setup_state", "env_response", "end_episode", "no_tools_called"):
        slices.wrap(monkeypatch, v0.KVCacheToolEnv, name)
    rows = evaluate(serve("greedy"), n=256, args={"steps": 8})
    assert all(row["error"] is None and row["summary"]["done"] for row in rows)
    slices.check()


def results(out: Path) -> list[dict[str, Any]]:
    [file] = out.glob("evals/*/*/results.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_vf_eval_in_process(serve, tmp_path):
    run(["vf-eval", ID, "-m", "scripted", "-b", serve(SCRIPT), "-k", "NO_KEY", "-a", '{"difficulty": "hard", "seed": 5}', "-s", "-d", "-C", "summary", "-o",
         tmp_path, "--disable-env-server", "-r", "2"], tmp_path)  # without -n: five, as the package's pyproject.toml says
    rows = results(tmp_path)
    assert Counter(row["example_id"] for row in rows) == dict.fromkeys(range(5), 2)
    for row in rows:
        assert row["error"] is None and row["stop_condition"] == "has_final_env_response" and row["num_turns"] == 15
        expected(env=row["example_id"]).check(row["summary"], row["reward"])
        assert row["summary"] == played(env=row["example_id"])[1]


def test_vf_eval_with_workers(serve, tmp_path):
    """The command of the docs."""
    [line] = [c for c in commands("docs/verifiers.md", "vf-eval", serve("greedy")) if "-b" in c]
    run([*line, "-w", "2"], tmp_path)
    assert len(list(tmp_path.glob("outputs/evals/*/*/env_worker_*.log"))) == 2
    rows = results(tmp_path / "outputs")
    assert Counter(row["example_id"] for row in rows) == dict.fromkeys(range(5), 2)
    for row in rows:
        assert row["error"] is None and row["stop_condition"] == "has_final_env_response" and row["num_turns"] == 15
        expected(pairs_of(row["completion"]), env=row["example_id"], seed=42).check(row["summary"], row["reward"])


def test_the_program_of_the_docs(serve, capsys):
    [text] = [text for text in programs("docs/verifiers.md") if "verifiers.v1" not in text]
    exec(compile(text.replace("http://127.0.0.1:8123/v1", serve("greedy")), "docs/verifiers.md", "exec"), {"__name__": "__main__"})
    printed = ast.literal_eval(capsys.readouterr().out.strip())
    assert [row[:2] for row in printed] == [(0, None)] * 2 + [(1, None)] * 2 and all(0 < row[2] - row[3] < 2**-20 for row in printed)


def test_the_other_interface_in_this_verifiers(serve, tmp_path):
    """verifiers 0.3 has both; its command for verifiers.v1 is eval, with workers."""
    run(["eval", ID, "-m", "scripted", "--client.base-url", serve(SCRIPT), "--client.api-key-var", "NO_KEY", "-n", "2", "--env.taskset.difficulty", "hard",
         "--env.taskset.seed", "5", "--no-push", "--no-rich"], tmp_path)
    [file] = tmp_path.glob("outputs/*/traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(e["traces"][0]["task"]["data"]["scenario"]["env"] for e in episodes) == [0, 1]
    for episode in episodes:
        [trace] = episode["traces"]
        assert trace["ok"] and not trace["errors"]
        reward = sum(r["score"] * r["weight"] for r in trace["rewards"].values())
        expected(env=trace["task"]["data"]["scenario"]["env"]).check(trace["info"]["summary"], reward)


def test_vf_eval_exits_with_0_even_if_all_fails(serve, tmp_path):
    """So that nobody reads anything into the exit status."""
    run(["vf-eval", ID, "-m", "scripted", "-b", serve("greedy", "--fault-json", "100%"), "-k", "NO_KEY", "-s", "-d", "-r", "1", "-n", "2", "-o", tmp_path,
         "--disable-env-server"], tmp_path)
    rows = results(tmp_path)
    assert len(rows) == 2 and all(row["error"]["error"] == "ModelError" and row["reward"] == 0 for row in rows)
