"""The environment for verifiers.v1 (from verifiers 0.3 on): a taskset, the harness that plays it in this process, and their env."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Literal, Self

import anyio.from_thread
import httpcore  # noqa: F401
import httpx
import openai
import verifiers.v1 as vf
from pydantic import Field, model_validator

from kv_cache_eviction import core
from kvgym import tools

# Every rollout has a client of its own. What takes a client longer than the event loop may be blocked for is done here: reading the certificates, and
# what httpx imports with its first request.
_CERTIFICATES = ssl.create_default_context()
with anyio.from_thread.start_blocking_portal():
    pass
_JSON_HEADERS: Any = {"headers": {"Content-Type": "application/json"}}


class KVCacheData(vf.TaskData):
    """An example: the arguments of kvgym.tools.Episode beside its prompts."""

    scenario: dict[str, Any]


_TERMS = {profile: core.weights(profile) for profile in ("seed", "serving")}


class KVCacheTask(vf.Task[KVCacheData, vf.State, vf.TaskConfig]):
    """Scores a trace by the summary that the harness leaves in trace.info, so that replayed traces have their scores, too."""

    def summary(self, trace: vf.Trace) -> dict[str, dict[str, float]]:
        """What the harness left; zeros where no model has played, as in the untouched traces of vf-validate."""
        summary = trace.info.get("summary")
        if summary is None and trace.num_turns:
            raise ValueError("trace.info: summary: none: this taskset scores what its own harness plays, allowed --env.agent.harness.id kv-cache-eviction")
        terms = _TERMS[self.data.scenario.get("profile", "seed")]
        return summary or {"components": dict.fromkeys(terms, 0.0), "metrics": dict.fromkeys(core.METRICS, 0.0)}

    @vf.metric
    async def totals(self, trace: vf.Trace) -> dict[str, float]:
        """The metrics of the episode, by their names."""
        metrics = self.summary(trace)["metrics"]
        return {name: metrics[name] for name in core.METRICS}

    async def validate(self, runtime: vf.Runtime) -> bool:
        """Whether the episode can be played: the policy greedy plays it, and no call of its is refused."""
        with closing(await core.start(self.data.scenario)) as episode:
            await asyncio.to_thread(core.play_out, episode, "greedy")
            faults = episode.result()["faults"]
        return not faults.keys() - {"no_call"}


def _reward(name: str, weight: float, priority: int) -> Callable[..., Any]:
    """A term of the score. A profile that does not have it has no such reward. Priorities put them in the order of the weights, in which v0 adds them up."""

    async def value(self: KVCacheTask, trace: vf.Trace) -> dict[str, float]:
        terms = self.summary(trace)["components"]
        return {name: terms[name]} if name in terms else {}

    value.__name__ = name
    return vf.reward(weight=weight, priority=priority)(value)


for _place, (_name, _weight) in enumerate([*_TERMS["seed"].items(), *_TERMS["serving"].items()]):
    setattr(KVCacheTask, _name, _reward(_name, _weight, -_place))


class KVCacheConfig(vf.TasksetConfig):
    """The arguments of load_environment."""

    difficulty: Literal["easy", "medium", "hard", "all"] = "all"
    num_examples: int = -1
    """Examples, -1 for all 300."""
    seed: int = 42
    profile: Literal["seed", "serving"] = "seed"
    preset: str | None = None
    """The server of the serving profile: a name, or a .toml or .json file."""
    steps: int = 15
    slots: int = 64
    max_wait: int = 5
    trace: str | dict[str, Any] | None = None
    """A file of requests instead of synthetic ones, or the trace fields of kvgym's configuration."""

    def scenarios(self) -> list[dict[str, Any]]:
        """The examples."""
        return core.scenarios(self.difficulty, self.num_examples, self.seed, **{name: getattr(self, name) for name in core.RULES})


class KVCacheTaskset(vf.Taskset[KVCacheTask, KVCacheConfig]):
    """Example i is environment i of the seed: all rollouts of it meet the same scenario."""

    def load(self) -> Iterator[KVCacheTask]:
        for scenario in self.config.scenarios():
            system, user = core.opening(scenario)
            yield KVCacheTask(KVCacheData(system_prompt=system, prompt=user, scenario=scenario), self.config.task)


class KVCacheHarnessConfig(vf.HarnessConfig):
    """The harness has one knob."""

    max_retries: int = Field(5, ge=0)
    """How often a model call that failed in a way that may pass (429, 5xx, no connection) is tried again, with back-off."""


class KVCacheHarness(vf.Harness[KVCacheHarnessConfig]):
    """Plays an episode by itself: model call, tool calls, step, until the episode is over. Needs no program, container or tool server."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = NEEDS_CONTAINER = SUPPORTS_MCP = False

    def __init__(self, config: KVCacheHarnessConfig) -> None:
        super().__init__(config)
        self.tools = tools.schemas()

    async def launch(self, ctx: vf.ModelContext, trace: vf.Trace, runtime: vf.Runtime, endpoint: str, secret: str, mcp_urls: dict[str, str],
                     data: KVCacheData) -> vf.ProgramResult:
        with closing(await core.start(data.scenario)) as episode:
            try:
                async with openai.AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=self.config.max_retries, timeout=None,
                                              http_client=httpx.AsyncClient(verify=_CERTIFICATES, trust_env=False, timeout=None)) as model:
                    await self._play(episode, ctx.model, model, data)
            except asyncio.CancelledError:  # a timeout: the trace is scored
                trace.info["summary"] = await core.finish(episode)
                raise
            except openai.APIStatusError:
                if trace.stop_condition is None:
                    raise
                # A cap of verifiers' has refused the call, and ends the rollout: the trace is scored.
            trace.info["summary"] = await core.finish(episode)
        return vf.ProgramResult(0, "", "")

    async def _play(self, episode: tools.Episode, name: str, model: openai.AsyncOpenAI, data: KVCacheData) -> None:
        system, user = self.resolve_prompt(data)
        # A request is the last one and what has come since: to write it anew every time would take longer with every turn.
        request = bytearray(_json({"model": name, "tools": self.tools})[:-1] + b',"messages":[' + _json({"role": "system", "content": system}))
        new: list[dict[str, Any]] = [{"role": "user", "content": user}]
        while not episode.done:
            request += b"".join(b"," + _json(message) for message in new)
            reply = await model.post("/chat/completions", cast_to=httpx.Response, content=bytes(request) + b"]}", options=_JSON_HEADERS)
            message = {k: v for k, v in reply.json()["choices"][0]["message"].items() if v is not None}
            calls = message.get("tool_calls") or []
            if not calls:
                message.setdefault("content", "")  # a message with neither is refused
            answers, observation = core.turn(episode, [_said(c) for c in calls])
            new = [message, *({"role": "tool", "tool_call_id": c["id"], "content": a} for c, a in zip(calls, answers, strict=True)),
                   {"role": "user", "content": observation}]


def _json(x: Any) -> bytes:
    return json.dumps(x, separators=(",", ":")).encode()


def _said(call: dict[str, Any]) -> tuple[str, str]:
    """Name and arguments of a tool call, of one that is no function's too: the engine has an answer to that."""
    function = call.get("function") or {}
    return function.get("name") or "", function.get("arguments") or ""


class KVCacheEnvConfig(vf.SingleAgentEnvConfig):
    """Without these defaults the runtime would be a remote sandbox, which this harness has no use for, and nothing would stop another harness."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig(), max_turns=64)

    @model_validator(mode="after")
    def _turns(self) -> Self:
        steps, most = getattr(self.taskset, "steps", 0), self.agent.max_turns
        if most is not None and steps > most:
            raise ValueError(f"agent.max_turns: {most}: allowed {steps} (taskset.steps) or more")
        return self


class KVCacheEnv(vf.SingleAgentEnv, vf.Env[KVCacheEnvConfig]):
    """One model plays one episode."""
