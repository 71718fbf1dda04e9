"""A language model manages the KV cache of an LLM server: an environment for verifiers, for both of its interfaces.

load_environment is what verifiers below 0.4 calls; the classes are what verifiers.v1 looks up. Neither is imported before it is asked for, since
no version of verifiers has both in the form that stands here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["KVCacheEnv", "KVCacheHarness", "KVCacheTaskset"]  # a harness in this list plays the taskset unless another is named


def load_environment(difficulty: str = "all", num_examples: int = -1, seed: int = 42, **rules: Any) -> Any:
    """The environment for verifiers below 0.4; rules are profile, preset, steps, slots, max_wait and trace, as everywhere in kvgym."""
    try:
        from kv_cache_eviction import v0
    except (AttributeError, ImportError) as e:
        raise ImportError(f"kv_cache_eviction: load_environment: not for this verifiers: allowed verifiers<0.4, or its vf-eval ({e})") from e
    return v0.load(difficulty, num_examples, seed, **rules)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"kv_cache_eviction: {name}: allowed load_environment, {', '.join(__all__)}")
    try:
        from kv_cache_eviction import v1
    except AttributeError as e:  # which verifiers would take for a package without a taskset
        raise ImportError(f"kv_cache_eviction: {name}: this verifiers has an older verifiers.v1: allowed verifiers>=0.3 ({e})") from e
    return getattr(v1, name)
