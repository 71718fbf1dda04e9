"""What shared memory costs: the rate of a Python client of kvgym serve against the same batch in a Go process, in turns, and the time of an empty
step call. Let nothing else run.

    go build -o build/kvgym ./cmd/kvgym && go test -c -pgo=$PWD/cmd/kvgym/default.pgo -o build/shm.test ./export/shm
    KVGYM_LIBRARY=build/libkvgym.so PYTHONPATH=python python python/tests/shm_rate.py [ROUNDS]
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import kvgym

BUILD = Path(__file__).parents[2] / "build"


def quantiles(times: list[float]) -> tuple[float, float]:
    """Of a step's time: the least tenth, which tells what it costs while nothing else runs, and the median."""
    times.sort()
    return times[len(times) // 10], times[len(times) // 2]


def in_process(envs: int) -> tuple[float, float]:
    """Microseconds a step of a batch in a Go process, one worker."""
    out = subprocess.run([BUILD / "shm.test", "-test.run", "^$", "-test.bench", f"InProcess/envs={envs}$", "-test.benchtime", "0.3s"],
                         capture_output=True, text=True, check=True).stdout
    p10, p50 = (float(re.search(rf"([0-9.e+]+) {q}-ns", out)[1]) / 1000 for q in ("p10", "p50"))
    return p10, p50


def times(env, seconds: float = 0.3) -> tuple[float, float]:
    """Microseconds a step of something with step()."""
    took, begin, step, now = [], time.perf_counter_ns(), env.step, time.perf_counter_ns
    last = begin
    while last - begin < seconds * 1e9:
        step()
        t = now()
        took.append((t - last) / 1000)
        last = t
    return quantiles(took)


def served(envs: int):
    process = subprocess.Popen([BUILD / "kvgym", "serve", "--name", f"rate-{os.getpid()}-{envs}", "--envs", str(envs), "--workers", "1", "--quiet"])
    env = kvgym.connect(f"rate-{os.getpid()}-{envs}")
    env.reset()
    return process, env


def main(rounds: int) -> None:
    (p1, small), (p2, large) = served(1), served(4096)
    batch, batch1 = kvgym.Batch(4096, workers=1), kvgym.Batch(1, workers=1)
    batch.reset(), batch1.reset()
    what = {"Go in process, 4,096 envs": lambda: in_process(4096), "kvgym.Batch, 4,096 envs": lambda: times(batch),
            "shared memory, 4,096 envs": lambda: times(large), "kvgym.Batch, 1 env": lambda: times(batch1), "shared memory, 1 env": lambda: times(small)}
    got: dict[str, list[tuple[float, float]]] = {name: [] for name in what}
    for _ in range(rounds):
        for name, f in what.items():
            got[name].append(f())
    print("microseconds a step, one worker, ops keep everything; median of the rounds (least) of a round's tenth and median step")
    for name, values in got.items():
        tenth, mid = ([v[i] for v in values] for i in (0, 1))
        print(f"{name:28} tenth {statistics.median(tenth):9.2f} ({min(tenth):.2f})   median {statistics.median(mid):9.2f} ({min(mid):.2f})")
    for name in ("kvgym.Batch, 4,096 envs", "shared memory, 4,096 envs"):
        for i, q in enumerate(("tenth", "median")):
            r = [g[i] / s[i] for g, s in zip(got["Go in process, 4,096 envs"], got[name], strict=True)]
            best = min(g[i] for g in got["Go in process, 4,096 envs"]) / min(s[i] for s in got[name])
            print(f"rate of {name} to Go in process, by the {q} step: median {statistics.median(r):.3f} of {min(r):.3f} to {max(r):.3f}; of the best rounds {best:.3f}")
    print(f"{rounds} rounds; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for p in (p1, p2):
        p.send_signal(signal.SIGTERM)
        p.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
