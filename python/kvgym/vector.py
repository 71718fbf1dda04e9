"""Many environments as one gymnasium.vector.VectorEnv, without Python work for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from kvgym.batch import Config
from kvgym.errors import RefusedError
from kvgym.lanes import Lanes, lane_seeds, reset_mask
from kvgym.spaces import OPS, action_space, observation_space

TOTALS = ("components", "metrics")  # which infos may hold beside the mask
MODES = {"next-step": AutoresetMode.NEXT_STEP, "same-step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}
KEEP_ONLY = np.eye(1, OPS, dtype=np.bool_)[0]  # the mask of a slot after the episode's end


def mode_of(autoreset: str | AutoresetMode) -> tuple[str, AutoresetMode]:
    """An autoreset mode as kvgym names it and as Gymnasium does, from either."""
    for word, mode in MODES.items():
        if autoreset in (word, mode, mode.value):
            return word, mode
    raise RefusedError(f"autoreset: {autoreset!r}: allowed {', '.join(MODES)}, or a gymnasium.vector.AutoresetMode")


def outputs_of(infos: Sequence[str]) -> tuple[str, ...]:
    """The outputs of a batch that give these infos and the observation."""
    for name in infos:
        if name not in ("action_mask", *TOTALS):
            raise RefusedError(f"infos: {name!r}: allowed action_mask, {', '.join(TOTALS)}")
    return ("obs", *("mask" if name == "action_mask" else name for name in infos))


class KVCacheVectorEnv(VectorEnv):
    """num_envs servers, each an environment, as SyncVectorEnv over KVCacheEnv gives them bit for bit.

    Observations are float32 [num_envs, 784] (uint8 by obs_dtype, 16 + 12 * slots values in general), actions any integers [num_envs, 64],
    rewards float64, terminations and truncations bool [num_envs]. Every array that reset and step return is the caller's and never changes again.

    infos["action_mask"] is bool [num_envs, slots, 4]: which of keep, evict, compress, swap would do something; keep alone after an episode's end.
    infos names what infos hold: "action_mask" and, in steps, "components" (float32 [num_envs, 11]) and "metrics" (float32 [num_envs, 19]).

    autoreset is "next-step" (the default), "same-step", "disabled" or a gymnasium.vector.AutoresetMode. config is that of kvgym.Batch.

    connect is the name of a server (kvgym serve) whose environments these are, or a dict of the arguments of kvgym.connect. The server's flags
    then configure them: without num_envs and autoreset the server's are taken, and another server than what is asked for is refused.
    """

    def __init__(self, num_envs: int | None = None, *, connect: str | Mapping[str, Any] | None = None, autoreset: str | AutoresetMode | None = None,
                 infos: Sequence[str] = ("action_mask",), **config: Unpack[Config]) -> None:
        word = None if autoreset is None else mode_of(autoreset)[0]
        self._lanes = Lanes(num_envs, connect, word, outputs_of(infos), config)
        mode = MODES[self.description["autoreset"]]
        self.num_envs = self._lanes.num_envs
        self.autoreset_mode = mode
        self.metadata = {"autoreset_mode": mode, "render_modes": []}
        self.render_mode = None
        self.single_observation_space = observation_space(self.description)
        self.single_action_space = action_space(self.description)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._masked = "action_mask" in infos
        self._totals = tuple(name for name in TOTALS if name in infos)
        self._all = np.ones(self.num_envs, np.bool_)
        self._ended: np.ndarray | None = None  # environments that the next step resets, where infos depend on it

    @property
    def batch(self) -> Any:
        """The kvgym.Batch below, or with connect the kvgym.Connection. A restore writes into the arrays that were returned last."""
        return self._lanes.batch

    @property
    def description(self) -> dict[str, Any]:
        """Layout of the observation, names of components and metrics, and more: see docs/python.md."""
        return self._lanes.batch.description

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode everywhere, or where the bool array options["reset_mask"] says so.

        An integer seed s gives environment i the seed s + i, a list gives each its own; it then plays episode 0 of that seed. Without a seed the
        next episode of its stream follows. Wrong types raise RefusedTypeError (a TypeError), wrong values RefusedError (a ValueError).
        """
        mask = reset_mask(options, self.num_envs)
        block = self._lanes.reset(mask, lane_seeds(seed, self.num_envs))
        if mask is None:
            self._ended = None
        elif self._ended is not None:
            self._ended &= ~mask
        infos: dict[str, Any] = {}
        if self._masked:
            self._put(infos, "action_mask", block.mask, mask)
        return block.obs[:], infos

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all environments: observations, rewards, terminations, truncations, infos; actions are integers [num_envs, slots]."""
        block = self._lanes.step(actions)
        infos: dict[str, Any] = {}
        ends = block.terminated | block.truncated
        ended = ends if np.count_nonzero(ends) else None
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        if ended is not None and same_step:
            self._final(infos, block, ended)
        if self._masked:
            if ended is not None and not same_step:
                block.mask[ended] = KEEP_ONLY
            infos["action_mask"], infos["_action_mask"] = block.mask[:], self._all.copy()
        if self._totals:
            self._add_totals(infos, block, ended)
        return block.obs[:], block.reward.astype(np.float64), block.terminated[:], block.truncated[:], infos

    def _put(self, infos: dict[str, Any], name: str, values: np.ndarray, lanes: np.ndarray | None) -> None:
        """Adds an info that only some environments have, or all; others show zeros."""
        if lanes is None:
            infos[name], infos["_" + name] = values[:], self._all.copy()
        elif lanes.any():
            infos[name] = np.zeros_like(values)
            infos[name][lanes] = values[lanes]
            infos["_" + name] = lanes.copy()

    def _add_totals(self, infos: dict[str, Any], block: Any, ended: np.ndarray | None) -> None:
        """Components and metrics of the environments that have been stepped and not reset."""
        lanes = None
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            lanes = None if ended is None else ~ended
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            lanes = None if self._ended is None else ~self._ended
            self._ended = None if ended is None else ended.copy()
        for name in self._totals:
            self._put(infos, name, getattr(block, name), lanes)

    def _final(self, infos: dict[str, Any], block: Any, ended: np.ndarray) -> None:
        """What ended environments have shown last: rows of objects, as Gymnasium has them."""
        lanes = np.flatnonzero(ended)
        rows = block.final_obs[lanes]
        infos["final_obs"] = last = np.full(self.num_envs, None, object)
        for lane, row in zip(lanes.tolist(), rows, strict=True):
            last[lane] = row
        final: dict[str, Any] = {}
        if self._masked:
            final["action_mask"] = np.zeros(block.mask.shape, np.bool_)
            final["action_mask"][lanes] = KEEP_ONLY
            final["_action_mask"] = ended.copy()
        for name in self._totals:
            self._put(final, name, getattr(block, name), ended)
        infos["final_info"] = final
        infos["_final_obs"], infos["_final_info"] = ended.copy(), ended.copy()

    def close_extras(self, **kwargs: Any) -> None:
        """Stops the threads; what was returned stays valid."""
        if hasattr(self, "_lanes"):  # older Gymnasium closes what was never opened
            self._lanes.close()


def make_vec(num_envs: int | None = None, **config: Any) -> KVCacheVectorEnv:
    """num_envs environments as a gymnasium.vector.VectorEnv: kvgym.make_vec(4096, profile="serving"), or kvgym.make_vec(connect="train").

    Arguments, shapes and errors are those of KVCacheVectorEnv.
    """
    return KVCacheVectorEnv(num_envs, **config)
