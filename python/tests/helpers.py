"""What several tests need."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BINARY = Path(os.environ.get("KVGYM_BINARY") or Path(__file__).parents[2] / "build" / "kvgym")


def need(module: str, target: str) -> Any:
    """A module, or a skip that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        pytest.skip(f"{module} is not installed ({e}): make {target}", allow_module_level=True)


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the bit, types included: dicts, sequences, arrays (object arrays by element), scalars."""
    if isinstance(a, dict):
        assert isinstance(b, dict), where
        assert sorted(a) == sorted(b), f"{where}: {sorted(a)} against {sorted(b)}"
        for k in a:
            assert_same(a[k], b[k], f"{where}[{k!r}]")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape, f"{where}: {a!r} against {b!r}"
        if a.dtype == object:
            assert_same(list(a), list(b), where)
        else:
            assert a.tobytes() == b.tobytes(), f"{where}: differs at {np.argwhere(a != b)[:5].tolist()}"
    else:
        assert type(a) is type(b) and a == b, f"{where}: {a!r} against {b!r}"


def deep_copy(x: Any) -> Any:
    """A copy that shares no memory."""
    if isinstance(x, dict):
        return {k: deep_copy(v) for k, v in x.items()}
    if isinstance(x, tuple | list):
        return type(x)(deep_copy(v) for v in x)
    if isinstance(x, np.ndarray):
        if x.dtype == object:
            out = np.empty_like(x)
            for i, v in enumerate(x):
                out[i] = deep_copy(v)
            return out
        return x.copy()
    return x


def random_ops(rng: np.random.Generator, envs: int, slots: int = 64) -> np.ndarray:
    """Mostly keep, so that servers live: int64 [envs, slots]."""
    return np.where(rng.random((envs, slots)) < 0.1, rng.integers(0, 4, (envs, slots)), 0)


class Server:
    """A kvgym serve process."""

    def __init__(self, name: str = "t", *flags: str, envs: int = 32, clients: int = 1) -> None:
        self.process = subprocess.Popen([str(BINARY), "serve", "--name", name, "--envs", str(envs), "--clients", str(clients), "--json", *flags],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()  # type: ignore[union-attr]
        self.info = json.loads(line)

    def stop(self) -> None:
        """Stops it in its tracks, and waits until it stands: a signal takes a moment, in which it may still answer."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/task")
        while any(t.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] != "T" for t in stat.iterdir()):
            time.sleep(0.001)

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status, and what it has said on standard error."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        return self.process.wait(10), self.process.communicate()[1]
