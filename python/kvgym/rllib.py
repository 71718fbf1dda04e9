"""kvgym for RLlib: a vector environment for tune.register_env."""

from __future__ import annotations

from typing import Any

from kvgym._extra import missing

try:
    from ray import tune
except ImportError as e:
    raise missing("rllib", "ray[rllib]", "pip install 'kvgym[ray]'") from e

from gymnasium.vector import AutoresetMode

from kvgym.errors import RefusedError
from kvgym.vector import KVCacheVectorEnv, mode_of

NAME = "kvgym"


def vector_env(config: dict[str, Any]) -> KVCacheVectorEnv:
    """The environment of an env runner; config is RLlib's env context: num_envs, and arguments of KVCacheVectorEnv.

    Runners play different streams: without first_env in config, that of runner w starts at w * num_envs, and with connect each has a range of its
    own. RLlib takes every vector environment for
    one that resets in the next step, so other modes of autoreset, on which it would train on wrong data, are refused.
    """
    given = dict(config)
    n = int(given.pop("num_envs", 1))
    mode = given.pop("autoreset", "next-step")
    if mode_of(mode)[1] is not AutoresetMode.NEXT_STEP:
        raise RefusedError(f"autoreset: {mode!r}: allowed next-step, the one that RLlib understands")
    if given.get("connect") is None:
        given.setdefault("first_env", n * int(getattr(config, "worker_index", 0) or 0))
    return KVCacheVectorEnv(n, autoreset=mode, **given)


def register(name: str = NAME) -> str:
    """Registers vector_env with RLlib and gives the name, for AlgorithmConfig.environment.

    The config also needs .env_runners(gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT).
    """
    tune.register_env(name, vector_env)
    return name
