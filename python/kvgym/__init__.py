"""kvgym: a vectorised environment for KV-cache eviction policies in LLM serving."""

import gymnasium

from kvgym.batch import Batch, Block, describe
from kvgym.errors import BrokenError, BusyError, ClosedError, ForkedError, KvgymError, RefusedError, RefusedTypeError, ServerError, ServerGoneError, ServerTimeoutError
from kvgym.shm import Connection, connect
from kvgym.single import KVCacheEnv
from kvgym.vector import KVCacheVectorEnv, make_vec

__version__ = "0.1.0"
__all__ = ["ENV_ID", "Batch", "Block", "BrokenError", "BusyError", "ClosedError", "Connection", "ForkedError", "KVCacheEnv", "KVCacheVectorEnv", "KvgymError",
           "RefusedError", "RefusedTypeError", "ServerError", "ServerGoneError", "ServerTimeoutError", "__version__", "connect", "describe", "make_vec"]

ENV_ID = "kvgym/KVCache-v0"

# Without max_episode_steps: Gymnasium would wrap single environments in a TimeLimit, which truncates in the step that terminates anyway.
if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point="kvgym.single:KVCacheEnv", vector_entry_point="kvgym.vector:KVCacheVectorEnv")
