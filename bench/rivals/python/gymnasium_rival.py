"""Many KVEnv under Gymnasium's own vector environments, driven by lines on standard input:

    python gymnasium_rival.py sync|async

Commands, each answered by one line, `error TEXT` if it failed:

    init KEY=VALUE ...   -> ok             make the environments and read the operations of the cycle
    stagger              -> ok             make the start state: environments at all points of their episodes
    digest               -> digest HEX16   hash of everything that a cycle from the start state returns
    run ROUNDS           -> ns TOTAL       time of ROUNDS cycles from the start state; going back and the first warm steps are not timed
    quit                                   as the end of the input
"""

import os

# No environment uses BLAS; its idle threads would only cost memory in every worker. Must stand before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import functools
import multiprocessing
import sys
import time

import gymnasium
import numpy as np
from kvgym_env import KVEnv

STAGGER = 16


class StartStateEnv(KVEnv):
    """A KVEnv that remembers a state and can go back to it.

    A vector environment keeps by itself which environments it resets in the next step, and the start state has some that
    have just ended. So going back takes a reset, which clears that, and a step, which only repeats what the step before
    the start state returned.
    """

    start = None
    resuming = False

    def remember(self):
        self.start = self.get_state()

    def reset(self, *, seed=None, options=None):
        if options and options.get("resume"):
            self.set_state(self.start)
            self.resuming = True
            return self._observe(), {}
        self.resuming = False
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.resuming:
            self.resuming = False
            return self._observe(), 0.0, self.t == self.steps, False, {}
        return super().step(action)


class Rival:
    def __init__(self, mode):
        self.mode = mode
        self.venv = None

    def init(self, *, envs, slots="64", steps="15", max_wait="5", seed="0", first_env="0", difficulty="all", cycle="1", warm="0", ops, profile="seed", preset=""):
        if profile != "seed":
            raise ValueError(f"profile: {profile}: allowed seed")
        self.envs, self.slots, self.cycle, self.warm = int(envs), int(slots), int(cycle), int(warm)
        if not 0 <= self.warm < self.cycle:
            raise ValueError(f"warm: {warm}: allowed 0 to less than cycle, {cycle}")
        shape = (self.cycle, self.envs, self.slots)
        # int64 as the action space samples; made before the clock runs, as kvgym's op matrices are.
        data = np.fromfile(ops, np.uint8)
        if data.size != self.cycle * self.envs * self.slots:
            raise ValueError(f"ops: {data.size} bytes: allowed {self.cycle * self.envs * self.slots}")
        self.ops = data.reshape(shape).astype(np.int64)
        self.keep = np.zeros(shape[1:], np.int64)
        make = [
            functools.partial(StartStateEnv, int(seed), int(first_env) + i, self.slots, int(steps), int(max_wait), difficulty)
            for i in range(self.envs)
        ]
        self.close()
        self.staggered = False
        # copy=False returns the vector environment's own observation array instead of a copy: faster, and what kvgym does.
        if self.mode == "sync":
            self.venv = gymnasium.vector.SyncVectorEnv(make, copy=False)
        else:
            # A fork server that has imported everything forks workers in milliseconds.
            multiprocessing.set_forkserver_preload(["gymnasium", "numpy"])
            self.venv = gymnasium.vector.AsyncVectorEnv(make, shared_memory=True, copy=False, context="forkserver")

    def stagger(self):
        self.venv.reset()
        for k in range(STAGGER):
            mask = np.arange(self.envs) % STAGGER == k
            if mask.any():
                self.venv.reset(options={"reset_mask": mask})
            self.venv.step(self.keep)
        self.venv.call("remember")
        self.staggered = True

    def _back(self):
        self.venv.reset(options={"resume": True})
        self.venv.step(self.keep)

    def digest(self):
        self._back()
        h = 14695981039346656037
        for ops in self.ops:
            obs, reward, terminated, truncated, _ = self.venv.step(ops)
            words = [
                *obs.view(np.uint32).ravel().tolist(),
                *reward.astype(np.float32).view(np.uint32).tolist(),
                *terminated.tolist(),
                *truncated.tolist(),
            ]
            for w in words:
                h = (h ^ w) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
        return h

    def run(self, rounds):
        total = 0
        step = self.venv.step
        for _ in range(rounds):
            self._back()
            for ops in self.ops[: self.warm]:
                step(ops)
            start = time.perf_counter_ns()
            for ops in self.ops[self.warm :]:
                step(ops)
            total += time.perf_counter_ns() - start
        return total

    def close(self):
        if self.venv is not None:
            self.venv.close()
            self.venv = None

    def answer(self, command, *args):
        if command == "init":
            self.init(**dict(a.split("=", 1) for a in args))
            return "ok"
        if self.venv is None:
            raise ValueError(f"{command}: init first")
        if command == "stagger":
            self.stagger()
            return "ok"
        if command in ("digest", "run") and not self.staggered:
            raise ValueError(f"{command}: stagger first")
        if command == "digest":
            return f"digest {self.digest():016x}"
        if command == "run":
            rounds = int(args[0])
            if rounds < 1:
                raise ValueError(f"rounds: {rounds}: allowed at least 1")
            return f"ns {self.run(rounds)}"
        raise ValueError(f"command: {command}: allowed init, stagger, digest, run, quit")


def serve(answer):
    """One answer line for every command line, until quit or the end of the input."""
    for line in sys.stdin:
        words = line.split()
        if not words:
            continue
        if words[0] == "quit":
            break
        try:
            text = answer(*words)
        except Exception as e:  # whatever it is, the other side must hear of it
            text = " ".join(f"error {type(e).__name__}: {e}".split())
        print(text, flush=True)


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in ("sync", "async"):
        sys.exit("usage: python gymnasium_rival.py sync|async")
    rival = Rival(sys.argv[1])
    try:
        serve(rival.answer)
    finally:
        rival.close()


if __name__ == "__main__":
    main()
