"""kvgym for PufferLib 3: a PufferEnv that writes into PufferLib's buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvgym._extra import missing

try:
    import pufferlib
except ImportError as e:
    raise missing("puffer", "pufferlib", "see PufferLib in docs/python.md for how to install 3.0.0") from e

import numpy as np

from kvgym.batch import Batch
from kvgym.lanes import one_seed, open_batch
from kvgym.shm import Connection
from kvgym.spaces import action_space, observation_space


class PufferEnv(pufferlib.PufferEnv):
    """num_envs servers as one native environment with num_envs agents.

    The library writes observations (float32 [num_envs, 784]), rewards (float32), terminals and truncations (bool) straight into the arrays of
    buf, or into PufferLib's own if there is none: each call overwrites the last one's. actions are integers [num_envs, slots]. An episode's end
    starts the next one in the same step. infos has one dict in steps that end episodes: episode_return and episode_length, means over them.

    reset(seed) gives agent i the stream of a hash of (seed, i), so that workers with neighbouring seeds share none; without a seed episodes go on.
    action_mask is bool [num_envs, slots, 4]. config is that of kvgym.Batch, workers 1; connect is as in KVCacheVectorEnv: a server's environments,
    with autoreset same-step, whose results are copied to PufferLib's arrays.
    """

    def __init__(self, num_envs: int | None = None, *, connect: str | Mapping[str, Any] | None = None, buf: Mapping[str, Any] | None = None, seed: int = 0,
                 **config: Any) -> None:
        self._seed: int | None = one_seed(seed)
        self._batch = open_batch(num_envs, connect, "same-step", ("obs", "mask"), config, blocks=1, workers=1)
        self.single_observation_space = observation_space(self._batch.description)
        self.single_action_space = action_space(self._batch.description)
        num_envs = self.num_agents = self.agents_per_batch = self._batch.num_envs
        super().__init__(buf)
        self._block = self._batch.new_block({"obs": self.observations, "reward": self.rewards, "terminated": self.terminals, "truncated": self.truncations})
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    @property
    def batch(self) -> Batch | Connection:
        """The kvgym.Batch below, or with connect the kvgym.Connection."""
        return self._batch

    @property
    def action_mask(self) -> np.ndarray:
        """Which operations would do something now: bool [num_envs, slots, 4], overwritten by the next step."""
        return self._block.mask

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, list[dict[str, float]]]:
        """Starts an episode everywhere."""
        if seed is None:
            seed, self._seed = self._seed, None  # the constructor's, the first time
        else:
            self._seed = None
        self._batch.reset(None, None if seed is None else stream_seeds(one_seed(seed), self.num_agents), into=self._block)
        self._returns[:], self._lengths[:] = 0, 0
        self.infos: list[dict[str, float]] = []
        return self.observations, self.infos

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[dict[str, float]]]:
        """One step: observations, rewards, terminals, truncations, infos."""
        self._batch.step(actions, into=self._block)
        self._returns += self.rewards
        self._lengths += 1
        self.infos = []
        ended = self.terminals | self.truncations
        if np.count_nonzero(ended):
            self.infos.append({"episode_return": float(self._returns[ended].mean()), "episode_length": float(self._lengths[ended].mean())})
            self._returns[ended], self._lengths[ended] = 0, 0
        return self.observations, self.rewards, self.terminals, self.truncations, self.infos

    def close(self) -> None:
        """Stops the threads; the buffers stay."""
        self._batch.close()


def stream_seeds(seed: int, agents: int) -> np.ndarray:
    """A seed for each agent: splitmix64 over (seed, agent), uint64 [agents]."""
    return _mix(_mix(np.full(agents, seed, np.uint64)) ^ _mix(np.arange(agents, dtype=np.uint64) + np.uint64(1 << 63)))


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
