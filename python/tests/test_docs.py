"""The examples of docs/python.md, docs/language-models.md, docs/abi.md and README.md run as they stand."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kvgym import _lib

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"torchrl": "test-python", "stable_baselines3": "test-python", "sb3_contrib": "test-python", "torch": "test-python", "matplotlib": "test-python",
         "ray": "test-rllib", "pufferlib": "test-puffer"}


def examples(file):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / file).read_text(), re.M | re.S)


EXAMPLES = [(file, i, text) for file in ("docs/python.md", "docs/language-models.md", "README.md") for i, text in enumerate(examples(file))]


def test_there_are_examples():
    assert len(EXAMPLES) >= 10 and all("kvgym" in text for _, _, text in EXAMPLES)
    for module in ("torchrl", "sb3", "rllib", "puffer"):
        assert any(f"kvgym.{module} import" in text or f"from kvgym import {module}" in text for _, _, text in EXAMPLES), module


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("file", "i", "text"), EXAMPLES, ids=[f"{f}-{i}" for f, i, _ in EXAMPLES])
def test_example(file, i, text, tmp_path, monkeypatch):
    for module in re.findall(r"^(?:import|from) (\w+)", text, re.M):
        if module in NEEDS and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: make {NEEDS[module]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    text = text.replace("range(30):\n    model.learn", "range(2):\n    model.learn")  # training is cut short
    exec(compile(text, f"{file}-{i}", "exec"), {"__name__": "__main__"})  # here, where the training libraries are loaded already


def test_the_example_in_c(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler: apt-get install gcc")
    text = re.search(r"^```c\n(.*?)^```", (ROOT / "docs" / "abi.md").read_text(), re.M | re.S)[1]
    include, body = text.split("\n", 1)
    source = tmp_path / "example.c"
    source.write_text(f'{include}\n#include <stdio.h>\nstatic void choose(const float *obs, uint8_t *ops) {{ ops[0] = obs[0] > 0.9f; }}\n'
                      f'int main(void) {{\n{body}\nprintf("%g\\n", obs[0]);\nreturn err[0] != 0;\n}}\n'.replace("char err[256];", "char err[256] = {0};"))
    library = _lib.path().resolve()
    subprocess.run([compiler, "-Wall", "-Werror", f"-I{ROOT / 'cmd' / 'libkvgym'}", str(source), str(library), "-o", str(tmp_path / "example"),
                    f"-Wl,-rpath,{library.parent}"], check=True, timeout=100)
    out = subprocess.run([str(tmp_path / "example")], capture_output=True, text=True, timeout=100, check=True).stdout
    assert float(out) > 0
