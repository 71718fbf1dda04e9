"""After `prime env install` from the local folder, in prime's own virtual environment: make test-prime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import kv_cache_eviction
import pytest
from conftest import ENVIRONMENT, ID, commands, expected, pairs_of, run

try:
    PRIME = tuple(map(int, version("prime").split(".")))
except PackageNotFoundError:
    pytest.skip("prime is not installed: make test-prime", allow_module_level=True)

hosted = pytest.mark.skipif(PRIME >= (0, 8), reason="this prime evaluates on its own servers only")
local = pytest.mark.skipif(PRIME < (0, 8), reason="for the prime of today")


def test_installed_from_the_folder():
    assert Path(kv_cache_eviction.__file__).parents[1] == ENVIRONMENT
    where = json.loads(distribution(ID).read_text("direct_url.json"))
    assert where["dir_info"]["editable"] and where["url"].endswith("/python/environments/kv_cache_eviction")
    assert json.loads(distribution("kvgym").read_text("direct_url.json"))["url"].endswith("/python"), "built from this repository"
    subprocess.run([sys.executable, "-c", "from kvgym import tools; tools.Episode()"], check=True, timeout=60)


def test_prime_keeps_its_verifiers():
    assert version("verifiers") == {True: "0.2.0", False: "0.4.0"}[PRIME < (0, 8)]


@hosted
def test_the_command_line_of_the_seed(serve, tmp_path):
    [line] = commands("docs/verifiers.md", "prime eval run", serve("greedy"))
    assert line[3:-2] == ["kv_cache_eviction", "-m", "scripted", "-b", line[7], "-k", "NO_KEY", "-n", "5", "-r", "1", "--max-concurrent", "1", "--env-args",
                          '{"difficulty": "hard"}']
    run(line, tmp_path, HOME=str(tmp_path), PRIME_API_KEY="none")
    [file] = tmp_path.glob("outputs/evals/kv_cache_eviction--scripted/*/results.jsonl")
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(row["example_id"] for row in rows) == [0, 1, 2, 3, 4]
    for row in rows:
        want = expected(pairs_of(row["completion"]), env=row["example_id"], seed=42)
        assert row["error"] is None and row["stop_condition"] == "has_final_env_response" and row["num_turns"] == 15 and row["reward"] == want.reward
        assert {name: row["metrics"][name] for name in want.components} == want.components
        assert {name: row["metrics"][name] for name in want.metrics} == want.metrics


@local
def test_the_verifiers_that_comes_with_it(serve, tmp_path):
    run(["vf-eval", ID, "-m", "scripted", "--client.base-url", serve("greedy"), "--client.api-key-var", "NO_KEY", "-n", "5", "-r", "1",
         "--env.taskset.difficulty", "hard", "--no-push", "--no-rich"], tmp_path, HOME=str(tmp_path))
    [file] = tmp_path.glob("outputs/*/traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    assert Counter(e["traces"][0]["task"]["data"]["idx"] for e in episodes) == dict.fromkeys(range(5), 1)
    for episode in episodes:
        [trace] = episode["traces"]
        want = expected(pairs_of([node["message"] for node in trace["nodes"]]), env=trace["task"]["data"]["idx"], seed=42)
        assert episode["ok"] and trace["ok"]
        want.check(trace["info"]["summary"], sum(r["score"] * r["weight"] for r in trace["rewards"].values()))
