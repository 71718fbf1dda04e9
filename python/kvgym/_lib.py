"""The shared library, by ctypes. docs/abi.md describes what is called here."""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, Structure, c_char_p, c_int32, c_int64, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from kvgym.errors import BrokenError, BusyError, ClosedError, ForkedError, KvgymError, RefusedError

ABI = 1
ERRORS = {1: RefusedError, 2: ClosedError, 3: BusyError, 4: BrokenError, 5: ForkedError, 6: KvgymError}
ERROR_SIZE = 4096


class Tensors(Structure):
    """kvgym_tensors: where the tensors stand."""

    _fields_ = [(name, c_void_p) for name in (
        "obs", "final_obs", "obs_u8", "final_obs_u8", "reward", "terminated", "truncated", "mask", "components", "metrics")]


def path() -> Path:
    """Where the library is: the variable KVGYM_LIBRARY, else inside the package."""
    given = os.environ.get("KVGYM_LIBRARY")
    if given:
        return Path(given)
    name = "libkvgym.dylib" if sys.platform == "darwin" else "libkvgym.so"
    return Path(__file__).parent / "lib" / name


def _load() -> tuple[ctypes.CDLL, ctypes.PyDLL]:
    file = path()
    if not file.is_file():
        raise ImportError(f"kvgym: {file}: not found: install the package with pip install ./python, or set KVGYM_LIBRARY to the library")
    libraries = ctypes.CDLL(str(file)), ctypes.PyDLL(str(file))
    version = libraries[0].kvgym_abi()
    if version != ABI or not hasattr(libraries[0], "kvgym_tools"):
        raise ImportError(f"kvgym: {file}: interface version {version}: allowed {ABI}, as new as the package: install library and package together")
    for library in libraries:
        _declare(library)
    return libraries


def _declare(lib: ctypes.CDLL) -> None:
    err = [c_void_p, c_int64]
    for name, args in {
        "narrow": [c_void_p, c_int64, c_int64, c_void_p],
        "describe": [c_char_p, c_void_p, c_int64, POINTER(c_int64), *err],
        "open": [c_char_p, c_void_p, POINTER(c_int64), *err],
        "close": [c_int64, *err],
        "set_tensors": [c_int64, c_void_p, *err],
        "reset": [c_int64, c_void_p, c_void_p, c_void_p, *err],
        "step": [c_int64, c_void_p, c_void_p, c_int64, c_void_p, *err],
        "send": [c_int64, c_int64, c_void_p, c_void_p, c_int64, *err],
        "recv": [c_int64, c_int64, *err],
        "decide": [c_int64, c_char_p, c_void_p, *err],
        "identities": [c_int64, c_void_p, c_void_p, c_void_p, *err],
        "snapshot": [c_int64, c_int64, c_int64, c_void_p, c_int64, POINTER(c_int64), *err],
        "restore": [c_int64, c_char_p, c_int64, c_int64, *err],
        "fork": [c_int64, c_int64, c_int64, c_int64, *err],
        "tools": [c_void_p, *err],
        "episode_open": [c_char_p, POINTER(c_int64), *err],
        "episode_close": [c_int64, *err],
        "episode_prompts": [c_int64, c_void_p, c_void_p, *err],
        "episode_call": [c_int64, c_char_p, c_char_p, c_void_p, *err],
        "episode_step": [c_int64, c_void_p, POINTER(c_int32), *err],
        "episode_result": [c_int64, c_void_p, *err],
        "episode_suggest": [c_int64, c_char_p, c_void_p, *err],
        "wake": [c_void_p, c_uint32, c_void_p],
        "wait": [c_void_p, c_uint32, c_void_p, c_int64, c_int64],
    }.items():
        f = getattr(lib, "kvgym_" + name)
        f.argtypes, f.restype = args, c_int32
    lib.kvgym_alloc.argtypes, lib.kvgym_alloc.restype = [c_int64], c_void_p
    lib.kvgym_free.argtypes, lib.kvgym_free.restype = [c_void_p], None


# The same library twice: lib releases the interpreter's lock for a call; brief does not, for calls of microseconds, after which the lock might be
# another thread's for milliseconds.
lib, brief = _load()


class Call:
    """Calls with a message buffer of its own: one for every object that calls, since threads must not share one."""

    __slots__ = ("_buffer", "at")

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(ERROR_SIZE)
        self.at = ctypes.addressof(self._buffer)

    def check(self, code: int) -> None:
        """Raises what a code and the message say."""
        if code:
            raise ERRORS.get(code, KvgymError)(self._buffer.value.decode(errors="replace"))


class Memory:
    """Library memory as an object that numpy arrays keep alive; freed with the last of them."""

    def __init__(self, shape: tuple[int, ...], typestr: str) -> None:
        size = int(typestr[2:])
        for n in shape:
            size *= n
        self._free = lib.kvgym_free
        self._at = lib.kvgym_alloc(max(1, size))
        if not self._at:
            raise MemoryError(f"kvgym: {size} bytes: not available")
        self.__array_interface__ = {"data": (self._at, False), "shape": shape, "typestr": typestr, "version": 3}

    def __reduce__(self) -> Any:
        raise TypeError("kvgym: memory of the library cannot be copied as an object: copy the array")

    def __del__(self) -> None:
        if getattr(self, "_at", None):
            self._free(self._at)
            self._at = None
