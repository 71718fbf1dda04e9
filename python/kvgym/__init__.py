"""kvgym: a vectorised environment for KV-cache eviction policies in LLM serving."""

from kvgym.batch import Batch, Block, describe
from kvgym.errors import BrokenError, BusyError, ClosedError, ForkedError, KvgymError, RefusedError

__version__ = "0.1.0"
__all__ = ["Batch", "Block", "BrokenError", "BusyError", "ClosedError", "ForkedError", "KvgymError", "RefusedError", "__version__", "describe"]
