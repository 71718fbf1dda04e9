"""kvgym: a vectorised environment for KV-cache eviction policies in LLM serving."""

from kvgym.batch import Batch, Block, describe
from kvgym.errors import BrokenError, BusyError, ClosedError, ForkedError, KvgymError, RefusedError, ServerError, ServerGoneError, ServerTimeoutError
from kvgym.shm import Connection, connect

__version__ = "0.1.0"
__all__ = ["Batch", "Block", "BrokenError", "BusyError", "ClosedError", "Connection", "ForkedError", "KvgymError", "RefusedError",
           "ServerError", "ServerGoneError", "ServerTimeoutError", "__version__", "connect", "describe"]
