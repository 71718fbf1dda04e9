"""Build hook: compiles the Go library into the wheel, which is then of this platform."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAMES = {"linux": "libkvgym.so", "macosx": "libkvgym.dylib"}


class CustomBuildHook(BuildHookInterface):
    """Builds cmd/libkvgym of the repository that this folder stands in."""

    def initialize(self, version: str, build_data: dict) -> None:
        root = Path(self.root).resolve().parent
        if not (root / "go.mod").is_file() or not (root / "cmd" / "libkvgym").is_dir():
            raise RuntimeError(f"kvgym: {root}: no Go module there: build the package from its folder in the repository")
        go = shutil.which(os.environ.get("GO", "go"))
        if go is None:
            raise RuntimeError("kvgym: go: not found: building the package needs Go 1.26 or newer and a C compiler")
        platform = sysconfig.get_platform()
        name = NAMES.get(platform.split("-")[0])
        if name is None:
            raise RuntimeError(f"kvgym: {platform}: allowed linux, macosx")
        out = Path(self.root) / "kvgym" / "lib" / name
        out.parent.mkdir(exist_ok=True)
        # Without the state of git, which go could not ask for in a folder of another user, as in many containers.
        subprocess.run([go, "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-o", str(out), "./cmd/libkvgym"], cwd=root, check=True,
                       env={**os.environ, "CGO_ENABLED": "1"})
        out.with_suffix(".h").unlink(missing_ok=True)  # which the Go command writes, and kvgym.h is the one to use
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + platform.replace("-", "_").replace(".", "_")
        build_data["artifacts"].append(f"kvgym/lib/{name}")
