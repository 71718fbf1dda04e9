"""The environment for verifiers below 0.4: a StatefulToolEnv."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import verifiers as vf
from datasets import Dataset

from kv_cache_eviction import core
from kvgym import tools


class EngineError(vf.Error):
    """The simulator failed, or refused what it was asked. The rollout ends with this error and is no result."""


def load(difficulty: str, num_examples: int, seed: int, **rules: Any) -> KVCacheToolEnv:
    """What load_environment gives."""
    scenarios = core.scenarios(difficulty, num_examples, seed, **rules)
    weights = core.weights(rules.get("profile") or "seed")
    funcs = [_value("components", name) for name in weights] + [_value("metrics", name) for name in core.METRICS]
    rubric = vf.Rubric(funcs=funcs, weights=[*weights.values(), *[0.0] * len(core.METRICS)])
    return KVCacheToolEnv(dataset=lambda: _dataset(scenarios), rubric=rubric)


def _dataset(scenarios: list[dict[str, Any]]) -> Dataset:
    """A row an example. The scenario is text: a dict would get nulls for the keys that others have."""
    rows = []
    for scenario in scenarios:
        system, user = core.opening(scenario)
        rows.append({"prompt": [{"role": "system", "content": system}, {"role": "user", "content": user}], "info": json.dumps(scenario)})
    return Dataset.from_list(rows)


def _value(kind: str, name: str) -> Callable[[dict[str, Any]], float]:
    """A reward function or metric: a value of the finished episode. Without one, after an error, it is 0, since verifiers must have a number."""

    def value(state: dict[str, Any]) -> float:
        return state["summary"][kind][name] if "summary" in state else 0.0

    value.__name__ = name
    return value


class KVCacheToolEnv(vf.StatefulToolEnv):
    """An episode for each rollout: state["episode"] while it is played, state["summary"] (a dict, for --state-columns) after its end.

    Calls go to the engine as the model wrote them, unknown tools and broken arguments too, so that every mistake has the engine's own answer and is
    counted there. A message without calls is a turn in which everything is kept. The engine ends an episode, hence no max_turns: verifiers would count a
    turn whose step is still to be done.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tools=[], max_turns=-1, **kwargs)
        for schema in tools.schemas():
            self.tool_defs.append(vf.Tool(**schema["function"]))
            self.tool_monitor_rubric.add_tool_metric(schema["function"]["name"])

    async def setup_state(self, state: vf.State) -> None:
        with _engine_errors():
            state["episode"] = await core.start(state["info"])

    async def no_tools_called(self, state: vf.State) -> bool:
        """Never ends a rollout: the base class's stop condition is not one any more without its decorator."""
        return False

    def update_tool_args(self, tool_name: str, tool_args: dict[str, Any], messages: vf.Messages, state: vf.State, **kwargs: Any) -> dict[str, Any]:
        """Must be there, but has nothing to do: env_response does not take arguments apart."""
        return tool_args

    async def env_response(self, messages: vf.Messages, state: vf.State, **kwargs: Any) -> vf.Messages:
        calls = messages[-1].tool_calls or []
        with _engine_errors():
            answers, message = core.turn(state["episode"], [(c.name, c.arguments) for c in calls])
        out = [vf.ToolMessage(content=a, tool_call_id=c.id) for c, a in zip(calls, answers, strict=True)] + [vf.UserMessage(content=message)]
        if state["episode"].done:
            state["final_env_response"] = out
        return out

    @vf.cleanup
    async def end_episode(self, state: vf.State) -> None:
        """Takes the result, after a timeout too, and closes the episode. Runs before scoring, and must not raise: that would end the whole evaluation."""
        if "episode" not in state:
            return
        try:
            with _engine_errors(), closing(state["episode"]) as episode:
                result = await core.finish(episode)
        except EngineError as e:
            state["error"] = state.get("error") or e
        if state.get("error") is None:
            state["summary"] = result


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Makes every exception one of verifiers' own: any other would end not this rollout but the whole evaluation."""
    try:
        yield
    except Exception as e:
        raise EngineError(str(e)) from e
