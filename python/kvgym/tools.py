"""One episode played by tool calls: the face of kvgym for language models. docs/language-models.md describes what a model sees.

    from kvgym.tools import Episode, schemas

    with Episode(difficulty="hard", seed=42, env=0) as episode:
        messages = [{"role": "system", "content": episode.system}, {"role": "user", "content": episode.prompt}]
        while not episode.done:
            answer = episode.call("compress", '{"seq_id": 7}')      # as often as the model calls, then one step
            message = episode.step()
        print(episode.result()["score"])
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Mapping
from operator import index
from typing import Any, Self

from kvgym._lib import ERROR_SIZE, Call, brief, lib
from kvgym.errors import ClosedError, RefusedError

__all__ = ["Episode", "schemas"]


def schemas() -> list[dict[str, Any]]:
    """The tools, as the "tools" of an OpenAI-compatible request: evict, compress and swap_to_cpu with an integer seq_id, keep."""
    call, out = Call(), ctypes.c_void_p()
    call.check(brief.kvgym_tools(ctypes.addressof(out), call.at, ERROR_SIZE))
    tools: list[dict[str, Any]] = json.loads(_text(out))
    return tools


class Episode:
    """The episode that environment `env` of a kvgym.Batch with this seed plays first: the same operations give the same bits.

    difficulty   "easy", "medium", "hard", or "all": drawn from the three
    profile      "seed" or "serving" (operations at the prices of a real engine), with preset naming its server
    trace        a file of requests, or a dict of docs/abi.md's trace fields, instead of synthetic traffic; episodes of one file read it once
    steps, slots, max_wait   as in kvgym.Batch

    system and prompt are the first two messages, done tells that the last step is done. Calls and steps take microseconds and hold the interpreter's
    lock meanwhile: call them from an event loop as they are. Making an Episode reads its trace, if no other has; suggest("search") plays
    ahead: those two release the lock and belong in a thread. An Episode may be called from any thread; calls that meet wait for each other.
    """

    def __init__(self, *, difficulty: str = "all", seed: int = 42, env: int = 0, profile: str = "seed", preset: str | None = None, steps: int = 15,
                 slots: int = 64, max_wait: int = 5, trace: str | Mapping[str, Any] | None = None) -> None:
        self._handle: int | None = None
        self._lock = threading.Lock()
        config: dict[str, Any] = {"envs": 1, "difficulty": difficulty, "seed": index(seed), "first_env": index(env), "profile": profile,
                                  "steps": index(steps), "slots": index(slots), "max_wait": index(max_wait)}
        for name in ("steps", "slots", "max_wait"):
            if config[name] == 0:  # which the library takes for its default
                raise RefusedError(f"{name}: 0: allowed 1 or more")
        if preset is not None:
            config["preset"] = str(preset)
        if trace is not None:
            config["trace"] = dict(trace) if isinstance(trace, Mapping) else {"path": str(trace)}
        self._messages = Call()
        self._err = self._messages.at
        self._out, self._over, handle = ctypes.c_void_p(), ctypes.c_int32(), ctypes.c_int64()
        self._out_at = ctypes.addressof(self._out)
        library = brief if trace is None else lib
        self._messages.check(library.kvgym_episode_open(json.dumps(config).encode(), ctypes.byref(handle), self._err, ERROR_SIZE))
        self._handle = handle.value
        prompt = ctypes.c_void_p()
        self._messages.check(brief.kvgym_episode_prompts(self._handle, self._out_at, ctypes.addressof(prompt), self._err, ERROR_SIZE))
        self.system: str = _text(self._out)
        self.prompt: str = _text(prompt)

    @property
    def done(self) -> bool:
        """Whether the last step is done."""
        return self._over.value != 0

    def call(self, name: str, arguments: str | Mapping[str, Any] = "") -> str:
        """One tool call of the present turn: the answer for the model. Arguments are the JSON text that the model sent, or what it says.

        What cannot be done is answered, counted and never an error. Nothing is done before step.
        """
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, default=repr)
        with self._lock:
            self._messages.check(brief.kvgym_episode_call(self._open(), _bytes(name), _bytes(text), self._out_at, self._err, ERROR_SIZE))
            return _text(self._out)

    def step(self) -> str:
        """Ends the turn: applies its calls in their order and returns the next user message, after the last step a closing line."""
        with self._lock:
            self._messages.check(brief.kvgym_episode_step(self._open(), self._out_at, self._over, self._err, ERROR_SIZE))
            return _text(self._out)

    def result(self) -> dict[str, Any]:
        """What the episode has come to so far: difficulty, turns, done, score, components, weights, metrics, calls by tool, faults by kind."""
        with self._lock:
            self._messages.check(brief.kvgym_episode_result(self._open(), self._out_at, self._err, ERROR_SIZE))
            result: dict[str, Any] = json.loads(_text(self._out))
        result["score"] = float(result["score"])  # JSON has one kind of number
        for name in ("components", "weights", "metrics"):
            result[name] = {k: float(x) for k, x in result[name].items()}
        return result

    def suggest(self, policy: str) -> list[tuple[str, dict[str, Any]]]:
        """What a built-in policy would call now. It sees the whole state."""
        with self._lock:
            self._messages.check(lib.kvgym_episode_suggest(self._open(), policy.encode(), self._out_at, self._err, ERROR_SIZE))
            return [(c["name"], json.loads(c["arguments"])) for c in json.loads(_text(self._out))]

    def close(self) -> None:
        """Frees the episode; a second call does nothing. It waits for a call of another thread that is under way."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                self._messages.check(brief.kvgym_episode_close(handle, self._err, ERROR_SIZE))

    def _open(self) -> int:
        if self._handle is None:
            raise ClosedError("episode: closed")
        return self._handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("kvgym: an Episode cannot be copied or pickled: make it anew from its arguments")

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            brief.kvgym_episode_close(self._handle, None, 0)


def _text(out: ctypes.c_void_p) -> str:
    """A string that the library gave, which gets it back."""
    text = ctypes.string_at(out).decode()
    brief.kvgym_free(out)
    return text


def _bytes(text: str) -> bytes:
    """Text as C takes it; what UTF-8 or C cannot hold is marked."""
    return text.replace("\0", "\ufffd").encode(errors="replace")
