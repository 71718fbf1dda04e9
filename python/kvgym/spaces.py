"""Gymnasium spaces of one environment, from a batch's description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete

OPS = 4


def bounds(obs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value of each place of an observation row, as description["obs"] tells them: two arrays [length]."""
    if obs["dtype"] == "uint8":
        return np.zeros(obs["length"], np.uint8), np.full(obs["length"], 255, np.uint8)

    def row(key: str) -> np.ndarray:
        slot = np.array([f[key] for f in obs["slot"]], np.float32)
        slots = np.tile(slot, obs["slots"]) if obs["order"] == "slot-major" else np.repeat(slot, obs["slots"])
        return np.concatenate([np.array([f[key] for f in obs["globals"]], np.float32), slots])

    return row("low"), row("high")


def observation_space(description: Mapping[str, Any]) -> Box:
    """Box [length], float32 or uint8, with the bounds of every value."""
    low, high = bounds(description["obs"])
    return Box(low, high, dtype=low.dtype)


def action_space(description: Mapping[str, Any]) -> MultiDiscrete:
    """MultiDiscrete [slots], int64: one of keep 0, evict 1, compress 2, swap 3 a slot."""
    return MultiDiscrete(np.full(description["slots"], OPS, np.int64), dtype=np.int64)


def feature_names(description: Mapping[str, Any]) -> list[str]:
    """The name of each place of an observation row: usage, budget, ..., slot_0_quant, ..."""
    obs = description["obs"]
    slots, features = range(obs["slots"]), [f["name"] for f in obs["slot"]]
    if obs["order"] == "slot-major":
        names = [f"slot_{s}_{f}" for s in slots for f in features]
    else:
        names = [f"slot_{s}_{f}" for f in features for s in slots]
    return [f["name"] for f in obs["globals"]] + names
