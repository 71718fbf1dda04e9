"""What both interfaces of verifiers stand on: the examples of a data set, and the course of an episode.

A call or a step takes some ten microseconds, so they are made on the event loop as they are (a thread would cost more, and hold the interpreter's lock
all the same). What can take longer, opening an episode and playing one out, is done on a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import kvgym
from kvgym import tools

ALL = 300  # examples of num_examples=-1
MOST = 100_000
RULES = ("profile", "preset", "steps", "slots", "max_wait", "trace")
METRICS = ("total_tokens_metric", "total_failures_metric", "total_latency_metric", "pressure_steps_metric")


def scenarios(difficulty: str, num_examples: int, seed: int, **rules: Any) -> list[dict[str, Any]]:
    """The arguments of kvgym.tools.Episode for every example: example i is environment i of the seed. What is not allowed raises kvgym.RefusedError."""
    for name in rules:
        if name not in RULES:
            raise kvgym.RefusedError(f"{name}: unknown: allowed difficulty, num_examples, seed, {', '.join(RULES)}")
    if type(num_examples) is not int or (num_examples != -1 and not 1 <= num_examples <= MOST):
        raise kvgym.RefusedError(f"num_examples: {num_examples!r}: allowed -1 (all {ALL}), or 1 to {MOST}")
    given = {"difficulty": difficulty, "seed": seed, **{k: v for k, v in rules.items() if v is not None}}
    opening(given)  # whose errors are better here than in every rollout
    return [{**given, "env": i} for i in range(ALL if num_examples == -1 else num_examples)]


def opening(scenario: dict[str, Any]) -> tuple[str, str]:
    """The system prompt and the first user message of an example."""
    with closing(tools.Episode(**scenario)) as episode:
        return episode.system, episode.prompt


def weights(profile: str = "seed") -> dict[str, float]:
    """The terms of a profile's score, in the order of their weights."""
    layout = kvgym.describe({"envs": 1, "profile": profile})
    return {name: weight for name, weight in zip(layout["components"], layout["weights"], strict=True) if weight}


async def start(scenario: dict[str, Any]) -> tools.Episode:
    """Opens an episode. If the caller is cancelled meanwhile, nobody has it, and it frees itself."""
    return await asyncio.to_thread(tools.Episode, **scenario)


def turn(episode: tools.Episode, calls: Iterable[tuple[str, Any]]) -> tuple[list[str], str]:
    """One turn: the calls of a model's message, as the model wrote them, and then the step. Gives the answers to the calls and the next user message."""
    return [episode.call(name, arguments) for name, arguments in calls], episode.step()


async def finish(episode: tools.Episode) -> dict[str, Any]:
    """The result. Whoever stops answering keeps everything: the steps that are left are played without calls, so that every result is one of a whole episode."""
    if not episode.done:
        await asyncio.to_thread(play_out, episode, "noop")
    return episode.result()


def play_out(episode: tools.Episode, policy: str) -> None:
    """Lets a built-in policy play the steps that are left."""
    while not episode.done:
        turn(episode, episode.suggest(policy))
