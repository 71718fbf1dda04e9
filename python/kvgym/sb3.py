"""kvgym for Stable-Baselines3 and sb3-contrib: a VecEnv over a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Unpack

from kvgym._extra import missing

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as e:
    raise missing("sb3", "stable-baselines3", "pip install 'kvgym[sb3]'") from e

import numpy as np

from kvgym.batch import Config
from kvgym.errors import RefusedError
from kvgym.lanes import Lanes, lane_seeds
from kvgym.spaces import action_space, observation_space


class SB3VecEnv(VecEnv):
    """num_envs servers as a VecEnv, as DummyVecEnv over KVCacheEnv gives them.

    Observations float32 [num_envs, 784], rewards float32 and dones bool [num_envs], actions integers [num_envs, slots]. An environment whose
    episode ends starts the next one in the same step; its info then has terminal_observation, TimeLimit.truncated and, as Monitor writes it,
    episode (r, l, t). The infos of all others are one shared empty dict. Every array is the caller's and never changes again.

    action_masks() gives bool [num_envs, slots * 4], which MaskablePPO finds by itself. seed(s) takes effect with the next reset: environment i
    then plays episode 0 of seed s + i. config is that of kvgym.Batch; connect is as in KVCacheVectorEnv: a server's environments, with autoreset
    same-step.
    """

    def __init__(self, num_envs: int | None = None, *, connect: str | Mapping[str, Any] | None = None, **config: Unpack[Config]) -> None:
        self.render_mode = None
        self._lanes = Lanes(num_envs, connect, "same-step", ("obs", "mask"), config)
        num_envs = self._lanes.num_envs
        description = self._lanes.batch.description
        self._actions: Any = None
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._begin = time.monotonic()
        super().__init__(num_envs, observation_space(description), action_space(description))

    @property
    def batch(self) -> Any:
        """The kvgym.Batch below, or with connect the kvgym.Connection."""
        return self._lanes.batch

    def reset(self) -> np.ndarray:
        """Starts an episode everywhere: the next one, or episode 0 of what seed has set."""
        options = next((o for o in self._options if o), None)
        if options:
            raise RefusedError(f"reset: options: {options}: allowed none")
        seeds = None if all(s is None for s in self._seeds) else lane_seeds(list(self._seeds), self.num_envs)
        block = self._lanes.reset(None, seeds)
        self._returns[:], self._lengths[:] = 0, 0
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return block.obs[:]

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions for step_wait."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step: observations, rewards, dones, infos."""
        actions, self._actions = self._actions, None
        block = self._lanes.step(actions)
        dones = block.terminated | block.truncated
        self._returns += block.reward
        self._lengths += 1
        infos: list[dict[str, Any]] = [{}] * self.num_envs
        if np.count_nonzero(dones):
            self._finish(infos, block, dones)
        return block.obs[:], block.reward.copy(), dones, infos

    def _finish(self, infos: list[dict[str, Any]], block: Any, dones: np.ndarray) -> None:
        lanes = np.flatnonzero(dones)
        seconds = round(time.monotonic() - self._begin, 6)
        columns = (lanes.tolist(), block.final_obs[lanes], (block.truncated & ~block.terminated)[lanes].tolist(), self._returns[lanes].tolist(),
                   self._lengths[lanes].tolist())
        for lane, row, truncated, total, length in zip(*columns, strict=True):
            infos[lane] = {"terminal_observation": row, "TimeLimit.truncated": truncated, "episode": {"r": total, "l": length, "t": seconds}}
        self._returns[lanes], self._lengths[lanes] = 0, 0

    def action_masks(self) -> np.ndarray:
        """Which operations would do something now: bool [num_envs, slots * 4], a copy."""
        return self._lanes.batch.block.mask.reshape(self.num_envs, -1).copy()

    def close(self) -> None:
        """Stops the threads; what was returned stays valid."""
        self._lanes.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, which all environments share."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of all environments: they share it."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise RefusedError(f"set_attr: {attr_name} of some environments: allowed of all")
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """action_masks, a row for each environment; single environments, which would have other methods, do not exist here."""
        if method_name != "action_masks":
            raise RefusedError(f"env_method: {method_name!r}: allowed 'action_masks'")
        masks = self.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """False for each: there are no wrappers around environments. Episodes are in infos without Monitor."""
        return [False] * len(list(self._get_indices(indices)))

