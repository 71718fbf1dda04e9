"""Fixtures. Small models train faster on one thread than on cores that others use, which numpy and torch must know before they are imported."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests in the background may have it ignored

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


@pytest.fixture
def directory(monkeypatch):
    """A directory of its own for the sockets of servers."""
    path = tempfile.mkdtemp(prefix="kvs", dir="/tmp")  # a socket's path must be short
    monkeypatch.setenv("XDG_RUNTIME_DIR", path)
    yield Path(path) / "kvgym"
    shutil.rmtree(path)


@pytest.fixture
def serve(directory):
    """Starts kvgym serve processes, which end with the test."""
    from helpers import BINARY, Server

    if sys.platform != "linux":
        pytest.skip("shared memory is for Linux")
    if not BINARY.is_file():
        pytest.skip(f"{BINARY}: not found: make build")
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for s in servers:
        if s.process.poll() is None:
            s.end(signal.SIGKILL)
