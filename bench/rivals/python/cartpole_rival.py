"""CartPole as others simulate it in batches, for a comparison of step rates. Driven by lines as gymnasium_rival.py:

    init kind=envpool envs=4096 batch=4096 threads=1 steps=256   -> ok
    init kind=gymnasium-vector envs=4096 steps=256               -> ok
    run ROUNDS                                                   -> ns TOTAL STEPS
    quit

A round is `steps` batches; with EnvPool a batch is `batch` environments. STEPS counts environment steps, those that only
reset an environment included. Actions are drawn before the clock runs.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time

import numpy as np
from gymnasium_rival import serve

DRAWN = 64  # different batches of actions; they repeat


class EnvPool:
    def __init__(self, envs, batch, threads):
        import envpool

        self.sync = batch == envs
        self.pool = envpool.make_gymnasium("CartPole-v1", num_envs=envs, batch_size=batch, num_threads=threads, seed=1)
        self.batch = batch
        self.actions = np.random.default_rng(1).integers(0, 2, (DRAWN, batch)).astype(np.int32)
        if self.sync:
            self.pool.reset()
        else:
            self.pool.async_reset()

    def run(self, steps):
        pool, actions = self.pool, self.actions
        start = time.perf_counter_ns()
        if self.sync:
            for k in range(steps):
                pool.step(actions[k % DRAWN])
        else:
            for k in range(steps):
                info = pool.recv()[4]
                pool.send(actions[k % DRAWN], info["env_id"])
        return time.perf_counter_ns() - start


class GymnasiumVector:
    def __init__(self, envs):
        import gymnasium

        self.batch = envs
        self.venv = gymnasium.make_vec("CartPole-v1", num_envs=envs, vectorization_mode="vector_entry_point")
        self.actions = np.random.default_rng(1).integers(0, 2, (DRAWN, envs))
        self.venv.reset(seed=1)

    def run(self, steps):
        step, actions = self.venv.step, self.actions
        start = time.perf_counter_ns()
        for k in range(steps):
            step(actions[k % DRAWN])
        return time.perf_counter_ns() - start


class Rival:
    def __init__(self):
        self.sim = None

    def answer(self, command, *args):
        if command == "init":
            self.init(**dict(a.split("=", 1) for a in args))
            return "ok"
        if command == "run":
            if self.sim is None:
                raise ValueError("run: init first")
            rounds = int(args[0])
            total = sum(self.sim.run(self.steps) for _ in range(rounds))
            return f"ns {total} {rounds * self.steps * self.sim.batch}"
        raise ValueError(f"command: {command}: allowed init, run, quit")

    def init(self, *, kind, envs, steps, batch="", threads="1"):
        self.steps = int(steps)
        if kind == "envpool":
            self.sim = EnvPool(int(envs), int(batch or envs), int(threads))
        elif kind == "gymnasium-vector":
            self.sim = GymnasiumVector(int(envs))
        else:
            raise ValueError(f"kind: {kind}: allowed envpool, gymnasium-vector")


if __name__ == "__main__":
    serve(Rival().answer)
