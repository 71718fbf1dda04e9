"""Processes: forks are refused at once, spawned processes work, Ctrl-C arrives."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def python(script, limit=60, expect=0):
    """Runs a script in a process group of its own, which is ended whatever happens; gives its output and how long it took."""
    begin = time.monotonic()
    p = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        out, _ = p.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
        pytest.fail(f"hangs: {out[-2000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGKILL)
    assert p.returncode == expect, out[-4000:]
    return out, time.monotonic() - begin


@needs_fork
def test_a_fork_is_refused_at_once():
    out, _ = python("""
import os, time, numpy as np, kvgym
batch = kvgym.Batch(256, workers=2); batch.reset(); batch.step()
calls = {"step": batch.step, "reset": batch.reset, "open": lambda: kvgym.Batch(1), "make_vec": lambda: kvgym.make_vec(1), "close": batch.close,
         "describe": lambda: kvgym.describe({"envs": 1}), "snapshot": batch.snapshot, "send": lambda: batch.send(0), "decide": lambda: batch.decide("noop")}
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    begin = time.monotonic()
    for name, call in calls.items():
        try:
            call()
        except kvgym.ForkedError as e:
            os.write(write, f"{name} refused\\n".encode())
    os.write(write, f"{time.monotonic() - begin < 0.5} {batch.block.obs.shape}\\n".encode())
    del batch
    os._exit(0)
os.close(write)
status = os.waitpid(pid, 0)[1]
print(os.read(read, 9999).decode(), status)
batch.step(); print("parent goes on")
""")
    for name in ("step", "reset", "open", "make_vec", "close", "describe", "snapshot", "send", "decide"):
        assert f"{name} refused" in out
    assert "True (256, 784)" in out and "parent goes on" in out and " 0\n" in out


@needs_fork
def test_async_vector_env_on_fork_errors_instead_of_hanging():
    out, seconds = python("""
import os, kvgym
from gymnasium.vector import AsyncVectorEnv
try:
    AsyncVectorEnv([kvgym.KVCacheEnv] * 2, context="fork")
except Exception as e:
    os.write(1, f"\\nparent: {type(e).__name__}\\n".encode())  # in one piece, between what the children write
""", limit=60)
    assert re.search("parent: [A-Z]", out) and "spawn or forkserver" in out, out
    assert seconds < 30


def test_async_vector_env_in_the_default_context_never_hangs():
    out, _ = python("""
import multiprocessing, kvgym
from gymnasium.vector import AsyncVectorEnv
if __name__ == "__main__":
    try:
        env = AsyncVectorEnv([kvgym.KVCacheEnv] * 2)
        env.reset(); env.close(); print("works")
    except Exception as e:
        print("errors:", type(e).__name__)
""")
    assert "works" in out or "errors: " in out


@needs_fork
def test_loading_in_the_child_only_works():
    python("""
import os
pid = os.fork()
if pid == 0:
    import kvgym
    env = kvgym.make_vec(300, workers=2); env.reset(); env.close()
    os._exit(7)
assert os.waitpid(pid, 0)[1] >> 8 == 7
""")


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_other_contexts_work(context, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(f"""
import kvgym
from gymnasium.vector import AsyncVectorEnv
if __name__ == "__main__":
    env = AsyncVectorEnv([kvgym.KVCacheEnv] * 2, context="{context}")
    obs, _ = env.reset(seed=1)
    assert (obs == kvgym.make_vec(2).reset(seed=1)[0]).all()
    env.close()
    print("works")
""")
    out, _ = python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    assert "works" in out


def test_interrupted():
    """Ctrl-C is seen between two calls."""
    out, _ = python("""
import os, signal, threading, numpy as np, kvgym
env = kvgym.make_vec(512); env.reset(); ops = np.zeros((512, 64), np.int64)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True: env.step(ops)
except KeyboardInterrupt:
    env.step(ops); print("interrupted")
""")
    assert "interrupted" in out


def test_exit_with_everything_open():
    python("""
import kvgym, threading
env = kvgym.make_vec(512, workers=2); obs, _ = env.reset()
batch = kvgym.Batch(512, groups=2, workers=2); batch.reset(); batch.send(0)
""")


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("KVGYM_LIBRARY", "/no/such/libkvgym.so")
    out, _ = python("import kvgym", expect=1)
    assert "/no/such/libkvgym.so: not found" in out and "pip install" in out


def test_imports_no_optional_package():
    python("""
import sys, kvgym
kvgym.make_vec(2).reset()
loaded = {"torch", "torchrl", "stable_baselines3", "ray", "pufferlib", "tensordict"} & set(sys.modules)
assert not loaded, loaded
""")


@pytest.mark.parametrize(("module", "blocked", "extra"), [("torchrl", "torchrl", "kvgym[torchrl]"), ("sb3", "stable_baselines3", "kvgym[sb3]"),
                                                          ("rllib", "ray", "kvgym[ray]"), ("puffer", "pufferlib", "docs/python.md")])
def test_an_adapter_without_its_package_names_what_to_install(module, blocked, extra):
    out, _ = python(f"import sys; sys.modules[{blocked!r}] = None\nimport kvgym.{module}", expect=1)
    last = out.strip().splitlines()[-1]
    assert last.startswith("ImportError: kvgym") and extra in last, out
