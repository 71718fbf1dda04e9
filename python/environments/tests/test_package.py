"""The package itself, under any verifiers."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import kv_cache_eviction
import pytest
from conftest import ENVIRONMENT, KVGYM, PAIRS, SCRIPT, expected, played
from kv_cache_eviction import core

import kvgym


def test_the_script_of_the_tests_is_one():
    """It plays what PAIRS says, makes every mistake that a call can contain, and scores otherwise than doing nothing."""
    answers, result = played()
    assert len(SCRIPT) == 15 == len(answers) and result["turns"] == 15
    want = expected()
    want.check(result, want.reward)
    assert want.score != expected([]).score and want.score != expected(PAIRS[:14]).score
    assert result["faults"].keys() >= {"bad_json", "unknown_tool", "coerced_id", "not_an_object", "wrong_type", "missing_argument", "out_of_range", "extra_argument",
                                       "no_call", "not_in_cache", "repeated"}


def test_importing_it_imports_no_verifiers():
    code = "import sys, kv_cache_eviction; assert not [m for m in sys.modules if m.startswith(('verifiers', 'kvgym'))]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_verifiers_finds_the_defaults_beside_the_module():
    beside = Path(kv_cache_eviction.__file__).parent / "pyproject.toml"
    assert tomllib.loads(beside.read_text())["tool"]["verifiers"]["eval"] == {"num_examples": 5, "rollouts_per_example": 1}
    assert beside.read_text() == (ENVIRONMENT / "pyproject.toml").read_text()


def test_the_name_is_the_id():
    assert version("kv-cache-eviction") == tomllib.loads((ENVIRONMENT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(("args", "message"), [
    ({"difficulty": "impossible"}, "difficulty"), ({"num_examples": 0}, "num_examples: 0: allowed -1"), ({"num_examples": -2}, "num_examples"),
    ({"num_examples": 2.0}, "num_examples"), ({"num_examples": True}, "num_examples"), ({"seed": -1}, "seed"), ({"steps": 0}, "steps"), ({"slots": 65}, "slots"),
    ({"profile": "none"}, "profile"), ({"profile": "serving", "preset": "none"}, "preset"), ({"trace": "/no/such/file"}, "/no/such/file"),
    ({"max_turns": 3}, "max_turns: unknown: allowed difficulty, num_examples, seed, profile"), ({"env": 3}, "env: unknown")])
def test_what_is_not_allowed_is_refused_at_once(args, message):
    with pytest.raises((kvgym.KvgymError, OverflowError), match=message):
        core.scenarios(**{"difficulty": "all", "num_examples": -1, "seed": 42, **args})


def test_examples():
    got = core.scenarios("hard", -1, 7, profile="serving", preset=None)
    assert len(got) == core.ALL == 300 and got[299] == {"difficulty": "hard", "seed": 7, "profile": "serving", "env": 299}
    assert len(core.scenarios("all", 1000, 7)) == 1000
    assert sum(core.weights().values()) == pytest.approx(1) and len(core.weights()) == 7 and next(iter(core.weights("serving"))) == "goodput"
    assert core.opening(got[0])[0] == core.opening(got[1])[0] and core.opening(got[0])[1] != core.opening(got[1])[1]


def test_kvgym_eval_gives_the_same(serve, tmp_path):
    subprocess.run([KVGYM, "eval", "-m", "scripted", "-b", serve(SCRIPT), "-n", "3", "--env-args", '{"difficulty": "hard", "seed": 5}',
                    "--out", tmp_path / "out", "--quiet"],
                   check=True, timeout=60)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert sorted(row["example"] for row in rows) == [0, 1, 2]
    for row in rows:
        want, (_, result) = expected(env=row["example"]), played(env=row["example"])
        assert row["error"] is None and row["score"] == want.score == result["score"] and row["components"] == want.components == result["components"]
        assert all(row[name] == result[name] for name in ("metrics", "calls", "faults", "turns", "difficulty"))
