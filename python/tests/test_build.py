"""The build of the package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hook(tmp_path, monkeypatch):
    """The build hook in a copy of the repository. Its interface is hatchling's, which is there in builds only."""
    shutil.copytree(ROOT, tmp_path / "kvgym", ignore=shutil.ignore_patterns(".*", "build", "out", "tests", "lib", "*.onnx"))
    module = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    module.BuildHookInterface = object
    for name in ("hatchling", "hatchling.builders", "hatchling.builders.hooks", "hatchling.builders.hooks.plugin", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "python" / "hatch_build.py")
    hatch_build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hatch_build)
    made = hatch_build.CustomBuildHook()
    made.root = tmp_path / "kvgym" / "python"
    return made


def test_builds_where_git_refuses(hook, tmp_path, monkeypatch):
    """As it does in a repository that belongs to another user."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed: https://go.dev/dl")
    (tmp_path / "git").write_text("#!/bin/sh\nexit 128\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("GOFLAGS", f"{os.environ.get('GOFLAGS', '')} -buildvcs=auto")  # go's default
    (tmp_path / "kvgym" / ".git").mkdir()
    data = {"artifacts": []}
    hook.initialize("standard", data)
    assert data["tag"].startswith("py3-none-") and (tmp_path / "kvgym" / "python" / data["artifacts"][0]).stat().st_size > 1 << 20


def test_says_what_a_build_needs(hook, monkeypatch):
    monkeypatch.setenv("GO", "no-such-go")
    with pytest.raises(RuntimeError, match=r"kvgym: go: not found: building the package needs Go 1.26 or newer and a C compiler"):
        hook.initialize("standard", {})
