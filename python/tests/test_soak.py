"""The long run (make soak) in small: each of its paths works, and what grows is found."""

from __future__ import annotations

import itertools
import os

import pytest
import soak


@pytest.mark.parametrize("path", soak.PATHS)
def test_path(path, serve):
    if "connect" in path:
        serve("soak", "--autoreset", "same-step", "--outputs", ",".join(soak.EVERYTHING), envs=soak.ENVS)
    steps = soak.PATHS[path]()
    assert len(list(itertools.islice(steps, 350))) == 350
    steps.close()


def test_growth_is_found(tmp_path):
    (tmp_path / "trace").write_text("something else\ngc 7 @1.5s 0%: 0.1+0.5+0 ms clock, 0.2+0.1/0.3/0.6+0 ms cpu, 4->5->3 MB, 5 MB goal\n")
    memory = soak.Memory("this", os.getpid(), tmp_path / "trace")
    assert 10 < memory.sample() < 100_000 and memory.heap == "3 MB after collection 7"
    swing = [i * 37 % 30 for i in range(400)]
    memory.samples = [100.0 + s for s in swing]
    assert abs(memory.growth()) < 1
    memory.samples = [100 + s + i / 20 for i, s in enumerate(swing)]
    assert 9 < memory.growth() < 11


@pytest.mark.parametrize(("text", "is_"), [("90s", 90), ("3m", 180), ("1h", 3600)])
def test_times(text, is_):
    assert soak.seconds(text) == is_


@pytest.mark.parametrize("text", ["", "3", "0s", "59s", "3 m", "1d", "-3s"])
def test_wrong_times(text, capsys):
    with pytest.raises(SystemExit) as e:
        soak.seconds(text)
    assert e.value.code == 2
    assert capsys.readouterr().err == f"soak: time: {text}: allowed such as 90s, 3m, 1h, a minute at least\n"
