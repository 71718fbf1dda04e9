"""The taskset and harness for verifiers.v1, against a model behind HTTP."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import ID, SCRIPT, Slices, break_engine, commands, expected, pairs_of, played, programs, run

import kvgym
from kvgym import tools

vf = pytest.importorskip("verifiers.v1", reason="verifiers is not installed: make test-verifiers-v1")
if version("verifiers") < "0.4":
    pytest.skip(f"verifiers is {version('verifiers')}: make test-verifiers-v1", allow_module_level=True)

from kv_cache_eviction import core, v1  # noqa: E402
from verifiers.v1.serve import EnvClient, env_config_data, serve_env  # noqa: E402


def load(taskset: dict[str, Any] | None = None, **agent: Any) -> Any:
    return vf.load_environment(vf.resolve_env_config({"taskset": {"id": ID, "difficulty": "hard", "seed": 5, **(taskset or {})}, "agent": agent}))


def evaluate(url: str, n: int = 1, r: int = 1, env: Any = None) -> list[Any]:
    """The traces of an evaluation in this process, r for each of n tasks."""
    env = env or load()

    async def main() -> list[Any]:
        ctx = vf.ModelContext(client=vf.EvalClientConfig(base_url=url, api_key_var="NO_KEY"), model="scripted", sampling=vf.SamplingConfig())
        async with env.serving():
            slots = [slot for task in env.taskset.take(n) for slot in env.slots(task, r)]
            return await asyncio.gather(*(env.run_slot(slot, ctx) for slot in slots))

    episodes = asyncio.run(main())
    traces = [episode.traces[0] for episode in episodes]
    assert [trace.task.data.idx for trace in traces] == [i for i in range(n) for _ in range(r)]
    assert [episode.ok for episode in episodes] == [trace.ok for trace in traces]
    return traces


def check(trace: Any, want: Any) -> None:
    """A trace that was played to its end or cut short, and scored."""
    assert trace.ok and not trace.errors
    want.check(trace.info["summary"], trace.reward)
    assert list(trace.rewards) == list(want.weights), "in the order in which v0 adds them up"
    assert {name: (reward.score, reward.weight) for name, reward in trace.rewards.items()} == {name: (want.components[name], w) for name, w in want.weights.items()}
    assert trace.metrics == {name: want.metrics[name] for name in core.METRICS}


def check_failed(trace: Any, condition: str) -> None:
    """An error, no score and no summary."""
    assert not trace.ok and trace.errors and trace.stop_condition == condition, (trace.stop_condition, trace.errors)
    assert not trace.rewards and "summary" not in trace.info


def transcript(trace: Any) -> list[dict[str, Any]]:
    return [node.message.model_dump() for node in trace.nodes]


def test_a_script_of_all_mistakes(serve, opened):
    for trace in evaluate(serve(SCRIPT), n=2, r=2):
        env = trace.task.data.idx
        answers, result = played(env=env)
        check(trace, expected(env=env))
        assert trace.info["summary"] == result and trace.num_turns == 15 and trace.stop_condition == "agent_completed" and len(trace.branches) == 1
        turns: list[list[str]] = []
        for m in transcript(trace):
            if m["role"] == "assistant":
                turns.append([])
            elif m["role"] == "tool":
                turns[-1].append(m["content"])
        assert turns[:-1] == answers[:-1] and turns[-1] == [], "the engine's own words; the last ones no request has carried"


def test_messages_without_anything(serve):
    [trace] = evaluate(serve([""] * 15))
    check(trace, expected([]))
    assert trace.info["summary"]["faults"] == {"no_call": 15} and len(trace.branches) == 1


@pytest.mark.parametrize("taskset", [{}, {"profile": "serving"}, {"steps": 4}, {"difficulty": "all", "seed": 9}])
def test_arguments(serve, taskset):
    for trace in evaluate(serve("greedy"), n=2, env=load(taskset)):
        check(trace, expected(pairs_of(transcript(trace)), env=trace.task.data.idx, **taskset))


def test_a_trace_file(serve, tmp_path):
    run([Path(__file__).resolve().parents[3] / "build" / "kvgym", "trace", "synth", "--requests", "3000", "--out", tmp_path / "t.jsonl", "--quiet"], tmp_path)
    args = {"trace": str(tmp_path / "t.jsonl")}
    for trace in evaluate(serve("greedy"), n=2, env=load(args)):
        check(trace, expected(pairs_of(transcript(trace)), env=trace.task.data.idx, **args))


def test_tasks():
    tasks = list(load().taskset)
    assert len(tasks) == 300 and len({task.key for task in tasks}) == 300
    with tools.Episode(**tasks[3].data.scenario) as episode:
        assert (tasks[3].data.system_prompt, tasks[3].data.prompt) == (episode.system, episode.prompt)
    with pytest.raises(kvgym.RefusedError, match="num_examples: 0"):
        list(load({"num_examples": 0}).taskset)
    for bad in ({"difficulty": "none"}, {"max_turns": 3}):
        with pytest.raises(ValueError, match=r"none|max_turns"):
            load(bad)


def test_the_env_plays_here_and_has_a_turn_cap():
    config = load().config
    assert config.agent.runtime.type == "subprocess" and config.agent.max_turns == 64
    assert config.agent_harnesses()["agent"].id == ID
    load({"steps": 100}, max_turns=100)
    with pytest.raises(ValueError, match=r"agent\.max_turns: 64: allowed 100"):
        load({"steps": 100})


@pytest.mark.parametrize("error", [kvgym.BrokenError("step: a panic"), RuntimeError("something else")])
@pytest.mark.parametrize("where", ["__init__", "call", "step", "result", "close"])
def test_a_fault_of_the_engine_is_the_rollouts_error(serve, monkeypatch, where, error):
    """Neither tool text nor a score, and the other rollouts go on."""
    break_engine(monkeypatch, where, error)
    for trace in evaluate(serve("greedy"), n=3, r=2):
        if trace.task.data.idx == 1:
            assert trace.errors[0].type == "HarnessError" and str(error) in trace.errors[0].message
            assert not trace.ok and not trace.rewards and trace.reward == 0
        else:
            check(trace, expected(pairs_of(transcript(trace)), env=trace.task.data.idx))


@pytest.mark.parametrize("fault", ["429", "500", "drop", "json"])
def test_faults_of_the_endpoint_that_pass(serve, opened, fault):
    for trace in evaluate(serve("greedy", f"--fault-{fault}", "3,17", "--retry-after", "100ms"), n=2, r=2):
        check(trace, expected(pairs_of(transcript(trace)), env=trace.task.data.idx))
        assert len(trace.branches) == 1 and trace.num_turns == 15


@pytest.mark.parametrize("flags", [["--fault-500", "100%"], ["--require-key", "other"], ["--context", "4000"]])
def test_faults_of_the_endpoint_that_stay(serve, opened, flags):
    for trace in evaluate(serve("greedy", *flags), n=2, env=load(harness={"id": ID, "max_retries": 1})):
        check_failed(trace, "provider_error")


def test_a_timeout_plays_the_rest_without_calls(serve, opened):
    [trace] = evaluate(serve("compress-all", "--fault-slow", "7", "--slow-by", "60s"), env=load(timeout={"rollout": 5}))
    assert trace.is_timeout and trace.num_turns == 6
    pairs = pairs_of(transcript(trace))
    check(trace, expected(pairs))
    assert trace.info["summary"]["turns"] == 15 and expected(pairs).score != expected([]).score


def test_a_cap_plays_the_rest_without_calls(serve, opened):
    """The calls of the reply that reached the cap are done."""
    [trace] = evaluate(serve("compress-all"), env=load(max_total_tokens=2500))
    assert trace.stop_condition == "max_total_tokens" and trace.is_truncated and 0 < trace.num_turns < 15
    check(trace, expected(pairs_of(transcript(trace))))


def test_workers(serve):
    """Two processes, as trainers have them; tasks go there as data."""
    url, env = serve(SCRIPT), load()
    context = multiprocessing.get_context("spawn")
    addresses = context.Queue()
    server = context.Process(target=serve_env, kwargs={"config_data": env_config_data(env.config), "max_workers": 2, "elastic": False, "address": "tcp://127.0.0.1:0",
                                                       "address_queue": addresses})
    server.start()

    async def main() -> list[Any]:
        client = EnvClient(addresses.get(timeout=60))
        await client.wait_for_server_startup()
        endpoint = vf.EvalClientConfig(base_url=url, api_key_var="NO_KEY")
        runs = (client.run(endpoint, "scripted", vf.SamplingConfig(), task.data.model_dump(mode="json")) for task in env.taskset.take(4))
        episodes = await asyncio.gather(*runs)
        await client.close()
        return episodes

    try:
        episodes = asyncio.run(main())
    finally:
        server.terminate()
        server.join(60)
    assert len(episodes) == 4
    for i, episode in enumerate(episodes):
        [trace] = episode.traces
        assert episode.ok
        check(trace, expected(env=i))


def test_another_harness_is_told_apart():
    """A trace with turns and without a summary was not played by ours: an error, not zeros. One that nobody has played has zeros."""
    [task] = load().taskset.take(1)
    trace = vf.Trace(task=vf.TraceTask(type="KVCacheTask", data=task.data), agent=vf.AgentInfo(config=vf.AgentConfig()))
    asyncio.run(task.score(trace))
    assert {name: reward.score for name, reward in trace.rewards.items()} == dict.fromkeys(core.weights(), 0) and not any(trace.metrics.values())
    trace.nodes.append(vf.MessageNode(message=vf.AssistantMessage(content="hello"), sampled=True))
    with pytest.raises(vf.TaskError, match=r"allowed --env\.agent\.harness\.id kv-cache-eviction"):
        asyncio.run(task.score(trace))


def test_256_rollouts_at_once_leave_the_event_loop_free(serve, monkeypatch, opened):
    slices = Slices()
    slices.wrap(monkeypatch, v1.KVCacheHarness, "launch")
    for name in (*core.weights(), "totals"):
        slices.wrap(monkeypatch, v1.KVCacheTask, name)
    traces = evaluate(serve("greedy"), n=256, env=load({"steps": 8}))
    assert all(trace.ok and trace.info["summary"]["done"] for trace in traces)
    slices.check()


def outputs(folder: Path) -> list[dict[str, Any]]:
    [file] = folder.glob("outputs/*/traces.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_vf_eval_and_vf_replay(serve, tmp_path):
    run(["vf-eval", ID, "-m", "scripted", "--client.base-url", serve(SCRIPT), "--client.api-key-var", "NO_KEY", "-n", "5", "-r", "2", "--env.taskset.difficulty", "hard",
         "--env.taskset.seed", "5", "--no-push", "--no-rich"], tmp_path)
    episodes = outputs(tmp_path)
    assert Counter(episode["traces"][0]["task"]["data"]["idx"] for episode in episodes) == dict.fromkeys(range(5), 2)
    rewards = Counter()
    for episode in episodes:
        assert episode["ok"] and not episode["errors"]
        [trace] = episode["traces"]
        env = trace["task"]["data"]["idx"]
        assert trace["ok"] and not trace["errors"] and trace["stop_condition"] == "agent_completed"
        reward = sum(r["score"] * r["weight"] for r in trace["rewards"].values())
        expected(env=env).check(trace["info"]["summary"], reward)
        assert trace["info"]["summary"] == played(env=env)[1]
        rewards[env, reward] += 1
    [folder] = tmp_path.glob("outputs/*")
    run(["vf-replay", folder, "--no-rich", "--output-dir", tmp_path / "again"], tmp_path)
    again = [json.loads(line)["traces"][0] for line in (tmp_path / "again" / "traces.jsonl").read_text().splitlines()]
    assert Counter((t["task"]["data"]["idx"], sum(r["score"] * r["weight"] for r in t["rewards"].values())) for t in again) == rewards


def test_the_command_of_the_docs(serve, tmp_path):
    url = serve("greedy")
    [line], [reference] = (commands(page, "vf-eval kv-cache-eviction -m scripted --client", url) for page in ("README.md", "docs/verifiers.md"))
    assert [*line[:line.index("-r")], *line[line.index("-r") + 2:]] == [*reference[:line.index("-r")], *reference[line.index("-r") + 2:]]
    run(line, tmp_path)
    episodes = outputs(tmp_path)
    assert len(episodes) == 5 and all(e["ok"] and e["traces"][0]["info"]["summary"]["score"] > 0.3 for e in episodes)


def test_the_program_of_the_docs(serve, capsys):
    [text] = [text for text in programs("docs/verifiers.md") if "verifiers.v1" in text]
    exec(compile(text.replace("http://127.0.0.1:8123/v1", serve("greedy")), "docs/verifiers.md", "exec"), {"__name__": "__main__"})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [[i, "True"] for i in "0011"] and all(0 < float(row[2]) - float(row[3]) < 2**-20 for row in rows)


def test_vf_validate(tmp_path):
    """An episode can be played, and one that nobody has played is no success."""
    run(["vf-validate", ID, "--runtime.type", "subprocess", "-n", "2", "--no-rich"], tmp_path)
    [file] = tmp_path.glob("outputs/*/results.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 2 and all(row["valid"] and row["gold"]["valid"] and row["noop"]["reward"] == 0 for row in rows), rows


def test_vf_eval_exits_with_0_even_if_all_fails(serve, tmp_path):
    """So that nobody reads anything into the exit status."""
    run(["vf-eval", ID, "-m", "scripted", "--client.base-url", serve("greedy", "--require-key", "other"), "--client.api-key-var", "NO_KEY", "-n", "2",
         "--no-push", "--no-rich"],
        tmp_path)
    episodes = outputs(tmp_path)
    assert len(episodes) == 2 and not any(e["ok"] or e["traces"][0]["rewards"] for e in episodes)
