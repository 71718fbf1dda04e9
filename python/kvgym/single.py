"""One environment as a gymnasium.Env."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import gymnasium
import numpy as np

from kvgym.batch import Config
from kvgym.errors import RefusedError
from kvgym.lanes import Lanes, lane_seeds, one_seed, reset_mask
from kvgym.spaces import action_space, observation_space
from kvgym.vector import KEEP_ONLY, TOTALS, outputs_of


class KVCacheEnv(gymnasium.Env):
    """One simulated server: observation float32 [784], action integers [64] (0 keep, 1 evict, 2 compress, 3 swap a slot), episodes of 15 steps.

    An action that would do nothing is allowed and counted; infos["action_mask"], bool [64, 4], tells which would do something. After an
    episode's end it shows keep alone, and a step is refused until reset. infos names what step adds to it: "components" (float32 [11]), "metrics"
    (float32 [19]). Observations and infos are the caller's: each call returns memory that no later call touches.

    config is that of kvgym.Batch, workers 1. Without a seed, reset plays the episodes of (seed, first_env) in turn. connect is as in
    KVCacheVectorEnv: a server's environment, whose range must be of one, with autoreset disabled.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, *, connect: str | Mapping[str, Any] | None = None, infos: Sequence[str] = ("action_mask",), render_mode: None = None,
                 **config: Unpack[Config]) -> None:
        self._lanes = Lanes(1, connect, "disabled", outputs_of(infos), config, workers=1)
        self.metadata = dict(type(self).metadata)
        self.render_mode = render_mode
        self.observation_space = observation_space(self.description)
        self.action_space = action_space(self.description)
        self._masked = "action_mask" in infos
        self._totals = tuple(name for name in TOTALS if name in infos)

    @property
    def batch(self) -> Any:
        """The kvgym.Batch of one below, or with connect the kvgym.Connection. A restore writes into the arrays that were returned last."""
        return self._lanes.batch

    @property
    def description(self) -> dict[str, Any]:
        """Layout of the observation, names of components and metrics, and more: see docs/python.md."""
        return self._lanes.batch.description

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts the next episode, or episode 0 of a seed."""
        if seed is not None:
            seed = one_seed(seed)
        super().reset(seed=seed)
        reset_mask(options, 1)
        block = self._lanes.reset(None, lane_seeds(seed, 1))
        return block.obs[0], {"action_mask": block.mask[0]} if self._masked else {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step: observation, reward, terminated, truncated, infos."""
        block = self._lanes.step(np.asarray(action)[None])
        terminated, truncated = block.terminated.item(), block.truncated.item()
        infos: dict[str, Any] = {}
        if self._masked:
            if terminated or truncated:
                block.mask[0] = KEEP_ONLY
            infos["action_mask"] = block.mask[0]
        for name in self._totals:
            infos[name] = getattr(block, name)[0]
        return block.obs[0], block.reward.item(), terminated, truncated, infos

    def action_masks(self) -> np.ndarray:
        """Which operations would do something now, bool [slots * 4]: the form that sb3-contrib's MaskablePPO asks for."""
        if not self._masked:
            raise RefusedError("action_masks: infos without action_mask: allowed with it")
        return self._lanes.batch.block.mask[0].reshape(-1).copy()

    def close(self) -> None:
        """Stops the environment; what was returned stays valid."""
        self._lanes.close()
