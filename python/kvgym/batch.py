"""A batch of environments: the whole of kvgym for Python, on which every other interface stands."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from kvgym._lib import ERROR_SIZE, Call, Memory, Tensors, lib
from kvgym.errors import RefusedError

if TYPE_CHECKING:
    import torch

OUTPUTS = ("obs", "mask", "components", "metrics")
TENSORS = ("obs", "final_obs", "reward", "terminated", "truncated", "mask", "components", "metrics")
_FLAGS = ("terminated", "truncated", "mask")  # bytes 0 and 1, which Python sees as bool


class Config(TypedDict, total=False):
    """The arguments of Batch that every interface takes; their defaults are there."""

    profile: str
    preset: str | None
    difficulty: str
    trace: str | Mapping[str, Any] | None
    seed: int
    first_env: int
    slots: int
    steps: int
    max_wait: int
    truncate: bool
    obs_dtype: str
    obs_order: str
    stores: str
    workers: int
    pin: bool
    simd: str


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a batch of this configuration would be: shapes, layout, names. docs/abi.md lists the keys of both."""
    call, needed, text = Call(), ctypes.c_int64(), json.dumps(dict(config)).encode()
    call.check(lib.kvgym_describe(text, None, 0, ctypes.byref(needed), call.at, ERROR_SIZE))
    out = ctypes.create_string_buffer(needed.value)
    call.check(lib.kvgym_describe(text, ctypes.addressof(out), needed.value, None, call.at, ERROR_SIZE))
    return json.loads(out.value)


class Block:
    """One set of tensors that a batch writes: row i is environment i.

    obs         float32 or uint8 [envs, length]
    final_obs   the same, autoreset "same-step" only: rows of environments whose episode has just ended
    reward      float32 [envs], the increase of the score; an episode's rewards sum to its score
    terminated, truncated   bool [envs]
    mask        bool [envs, slots, 4]: which of keep, evict, compress, swap is possible
    components  float32 [envs, 11], metrics float32 [envs, 19]: totals of the episode so far

    A tensor that the batch does not write is None. room is memory for them all, and by name where each begins in it.
    """

    __slots__ = ("_alone", "_slab", "_torch", "at", "components", "final_obs", "mask", "metrics", "obs", "owner", "pointers", "reward", "terminated",
                 "truncated")

    obs: Any
    final_obs: Any
    reward: Any
    terminated: Any
    truncated: Any
    mask: Any
    components: Any
    metrics: Any

    def __init__(self, tensors: Sequence[Mapping[str, Any]], given: Mapping[str, Any], owner: object = None,
                 room: tuple[Any, Mapping[str, int]] | None = None) -> None:
        self.obs = self.final_obs = self.reward = self.terminated = self.truncated = self.mask = self.components = self.metrics = None
        self._torch: dict[str, Any] = {}
        self.pointers = Tensors()
        self.owner = owner
        names = [t["name"] for t in tensors]
        for name in given:
            if name not in names:
                raise RefusedError(f"buffers: {name}: allowed {', '.join(names)}")
        ours = [t for t in tensors if t["name"] not in given]
        self._slab: np.ndarray
        self._slab, at = _allocate(ours) if room is None else (np.frombuffer(room[0], np.uint8), room[1])
        arrays = {t["name"]: self._slab[at[t["name"]]:][:_size(t)].view(t["dtype"]).reshape(t["shape"]) for t in ours}
        for t in tensors:
            name, shape, dtype = t["name"], tuple(t["shape"]), np.dtype(t["dtype"])
            array = _adopt(name, given[name], shape, dtype) if name in given else arrays[name]
            field = name + "_u8" if name in ("obs", "final_obs") and dtype == np.uint8 else name
            setattr(self.pointers, field, array.__array_interface__["data"][0])
            setattr(self, name, array.view(np.bool_) if name in _FLAGS else array)
        self.at: int = ctypes.addressof(self.pointers)
        del arrays, array
        self._alone = sys.getrefcount(self._slab)

    def lent(self) -> bool:
        """Whether anybody holds a view of this block's arrays: each view, and each torch tensor on one, holds the memory below them.

        Only views count, such as block.obs[:], not block.obs itself; and buffers of the caller do not count.
        """
        return sys.getrefcount(self._slab) > self._alone

    def copy_from(self, other: Block, rows: np.ndarray | None = None) -> None:
        """Copies every tensor of another block of the same batch, or the rows of a mask of each."""
        for name in TENSORS:
            to = getattr(self, name)
            if to is not None:
                if rows is None:
                    np.copyto(to, getattr(other, name))
                else:
                    to[rows] = getattr(other, name)[rows]

    def torch(self, name: str = "obs") -> torch.Tensor:
        """The tensor of that name as a torch tensor on the same memory, without a copy."""
        if name not in self._torch:
            import torch

            array = getattr(self, name)
            if array is None:
                raise RefusedError(f"torch: {name}: not written by this batch: allowed what outputs name")
            self._torch[name] = torch.from_numpy(array)
        return self._torch[name]


def _size(tensor: Mapping[str, Any]) -> int:
    """Bytes of a described tensor."""
    return int(np.prod(tensor["shape"])) * np.dtype(tensor["dtype"]).itemsize


def _allocate(tensors: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, dict[str, int]]:
    """Memory of the library for some tensors, each on a cache line: the whole as bytes, and by name where each begins."""
    starts, end = {}, 0
    for t in tensors:
        starts[t["name"]] = end
        end += (_size(t) + 63) & ~63
    return np.asarray(Memory((max(1, end),), "|u1")), starts


def _adopt(name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory of the caller, numpy or a torch tensor on the CPU, as an array on the same memory."""
    array = given.numpy() if hasattr(given, "data_ptr") else np.asarray(given)
    if array.dtype == np.bool_ and dtype == np.uint8:
        array = array.view(np.uint8)
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous or not array.flags.writeable:
        order = "contiguous" if array.flags.c_contiguous else "strided"
        raise RefusedError(f"buffers: {name}: {array.dtype} {list(array.shape)}, {order}: allowed {dtype} {list(shape)}, contiguous, writable")
    return array


class Batch:
    """num_envs simulated inference servers that step together.

    The arguments mean what they mean in every command of kvgym:

    profile      "seed" or "serving" (operations at the prices of a real engine), with preset naming its server
    difficulty   "easy", "medium", "hard" or "all"; trace: a file of requests, or a dict of docs/abi.md's trace fields, instead of synthetic traffic
    seed         of all random streams; environment i plays the episodes of (seed, first_env + i)
    autoreset    "next-step", "same-step" or "disabled"
    outputs      which of obs, mask, components, metrics are written
    obs_dtype    "float32" or "uint8"; obs_order "slot-major" or "feature-major"
    workers      threads that step, 0 for all cores; simd a level to lower to
    blocks       how many sets of tensors take turns: what a step returned stays as it is for blocks - 1 more steps. With buffers (name to
                 array or tensor: write there) it is 1, and every step overwrites the last one's results.
    groups       contiguous groups of environments for send and recv

    One thread at a time may call a batch. The interpreter lock is released while it steps.
    """

    def __init__(self, num_envs: int, *, profile: str = "seed", preset: str | None = None, difficulty: str = "all",
                 trace: str | Mapping[str, Any] | None = None, seed: int = 42, first_env: int = 0, slots: int = 64, steps: int = 15, max_wait: int = 5,
                 autoreset: str = "next-step", truncate: bool = False, outputs: Sequence[str] = ("obs", "mask"), obs_dtype: str = "float32",
                 obs_order: str = "slot-major", stores: str = "auto", workers: int = 0, pin: bool = False, groups: int = 1, simd: str = "auto",
                 blocks: int = 2, buffers: Mapping[str, Any] | None = None) -> None:
        self._handle: int | None = None
        self._token = object()  # which its blocks carry
        config: dict[str, Any] = {
            "envs": num_envs, "profile": profile, "difficulty": difficulty, "seed": seed, "first_env": first_env, "slots": slots, "steps": steps,
            "max_wait": max_wait, "autoreset": autoreset, "truncate": truncate, "outputs": list(outputs), "obs_dtype": obs_dtype,
            "obs_order": obs_order, "stores": stores, "workers": workers, "pin": pin, "groups": groups, "simd": simd}
        if preset is not None:
            config["preset"] = str(preset)
        if trace is not None:
            config["trace"] = dict(trace) if isinstance(trace, Mapping) else {"path": str(trace)}
        for name in ("slots", "steps", "max_wait"):
            if config[name] == 0:  # which the library takes for its default
                raise RefusedError(f"{name}: 0: allowed 1 or more")
        if not 1 <= blocks <= 1024:
            raise RefusedError(f"blocks: {blocks}: allowed 1 to 1024")
        if groups != 1 or buffers:  # rows then belong to the caller group by group, or memory is the caller's
            blocks = 1
        self.config = config
        self.description = describe(config)
        self.num_envs, self.slots, self.steps = num_envs, self.description["slots"], self.description["steps"]
        self.obs_length: int = self.description["obs"]["length"]
        self.groups = [tuple(g) for g in self.description["groups"]]
        self.blocks = [self.new_block(buffers) for _ in range(blocks)]
        self._turn, self._block = 0, self.blocks[0]
        self.ops = np.asarray(Memory((num_envs, self.slots), "|u1"))
        self._ops_at: int = self.ops.__array_interface__["data"][0]
        self._call = Call()
        self._err = self._call.at
        handle = ctypes.c_int64()
        self._call.check(lib.kvgym_open(json.dumps(config).encode(), self._block.at, ctypes.byref(handle), self._err, ERROR_SIZE))
        self._handle = handle.value
        self._step = lib.kvgym_step

    @property
    def block(self) -> Block:
        """The tensors that the last call wrote."""
        return self._block

    def new_block(self, buffers: Mapping[str, Any] | None = None) -> Block:
        """Another set of tensors for reset and step to write into, in memory of the library or, by name, of the caller."""
        return Block(self.description["tensors"], buffers or {}, self._token)

    def _next(self, into: Block | None) -> Block:
        """The block to write: the one that the caller names, else the next in turn."""
        if into is not None:
            if into.owner is not self._token:
                raise RefusedError("into: a block of another batch: allowed what new_block of this one gave")
            return into
        turn = self._turn + 1
        return self.blocks[turn if turn < len(self.blocks) else 0]

    def _wrote(self, block: Block, into: Block | None) -> Block:
        self._block = block  # which also keeps it alive: the library knows its address
        if into is None:
            self._turn = (self._turn + 1) % len(self.blocks)
        return block

    def reset(self, mask: np.ndarray | None = None, seeds: Sequence[int] | np.ndarray | None = None, into: Block | None = None) -> Block:
        """Starts episodes: the next ones, or episode 0 of each environment's seed. A mask chooses environments; the rows of the others stay.

        mask is bool [envs], seeds are integers of at least 0 [envs]; into is a block of new_block to write instead of the next in turn.
        """
        m = self._per_env("mask", mask, np.bool_)
        s = self._per_env("seeds", seeds, np.uint64)
        block = self._next(into)
        if m is not None and block is not self._block:
            block.copy_from(self._block)
        self._call.check(lib.kvgym_reset(self._handle or 0, _at(m), _at(s), block.at, self._err, ERROR_SIZE))
        return self._wrote(block, into)

    def _per_env(self: Any, name: str, values: Any, dtype: Any) -> np.ndarray | None:
        if values is None:
            return None
        given = np.asarray(values)
        if given.shape != (self.num_envs,):
            raise RefusedError(f"reset: {name}: shape {given.shape}: allowed ({self.num_envs},), one an environment")
        if dtype is np.bool_ and given.dtype != np.bool_:
            raise RefusedError(f"reset: {name}: {given.dtype}: allowed bool")
        if dtype is np.uint64 and (given.dtype.kind not in "iu" or (given.dtype.kind == "i" and (given < 0).any())):
            raise RefusedError(f"reset: {name}: {given.dtype}, least {given.min()}: allowed integers of at least 0")
        return np.ascontiguousarray(given, dtype)

    def step(self, ops: np.ndarray | None = None, pairs: np.ndarray | None = None, into: Block | None = None) -> Block:
        """One step of all environments.

        ops is an integer array [envs, slots] (0 keep, 1 evict, 2 compress, 3 swap; what is none of these counts as invalid), or None for
        the array self.ops, which a caller may fill in place. pairs is instead an int32 array [envs, k, 2] of (op, slot), applied in order.
        into is a block of new_block to write instead of the next in turn.
        """
        block = self._next(into)
        if pairs is not None:
            listed = self._pairs(pairs, self.num_envs)
            code = self._step(self._handle or 0, None, _at(listed), listed.shape[1], block.at, self._err, ERROR_SIZE)
        else:
            if ops is not None and ops is not self.ops:
                self._narrow(ops, 0, self.num_envs)
            code = self._step(self._handle or 0, self._ops_at, None, 0, block.at, self._err, ERROR_SIZE)
        if code:
            self._call.check(code)
        return self._wrote(block, into)

    def _narrow(self: Any, ops: Any, first: int, end: int) -> None:
        """Copies operations of whatever integers into the bytes that the library reads."""
        a = ops.detach().numpy() if hasattr(ops, "data_ptr") else np.asarray(ops)
        if a.shape != (end - first, self.slots) or a.dtype.kind not in "iub":
            raise RefusedError(f"step: ops: {a.dtype} {list(a.shape)}: allowed integers [{end - first}, {self.slots}]")
        a = np.ascontiguousarray(a)
        lib.kvgym_narrow(a.__array_interface__["data"][0], a.itemsize, a.size, self._ops_at + first * self.slots)

    def _pairs(self: Any, pairs: Any, envs: int) -> np.ndarray:
        a = np.asarray(pairs)
        if a.ndim != 3 or a.shape[0] != envs or a.shape[2] != 2 or a.dtype.kind not in "iu":
            raise RefusedError(f"step: pairs: {a.dtype} {list(a.shape)}: allowed integers [{envs}, k, 2]")
        return np.ascontiguousarray(a, np.int32)

    def send(self, group: int, ops: np.ndarray | None = None) -> None:
        """Starts a step of one group; ops is as in step, for its environments only. Until recv its rows and actions are the library's."""
        if not 0 <= group < len(self.groups):
            raise RefusedError(f"send: group: {group}: allowed 0 to {len(self.groups) - 1}")
        first, end = self.groups[group]
        if ops is not None:
            self._narrow(ops, first, end)
        self._call.check(lib.kvgym_send(self._handle or 0, group, self._ops_at + first * self.slots, None, 0, self._err, ERROR_SIZE))

    def recv(self, group: int) -> tuple[slice, Block]:
        """Waits for the step that send started; the group's rows are then the caller's."""
        if not 0 <= group < len(self.groups):
            raise RefusedError(f"recv: group: {group}: allowed 0 to {len(self.groups) - 1}")
        self._call.check(lib.kvgym_recv(self._handle or 0, group, self._err, ERROR_SIZE))
        return slice(*self.groups[group]), self._block

    def decide(self, policy: str) -> np.ndarray:
        """The operations that a built-in policy chooses now, as pairs for step."""
        pairs = np.empty((self.num_envs, 2 * self.slots, 2), np.int32)
        self._call.check(lib.kvgym_decide(self._handle or 0, policy.encode(), _at(pairs), self._err, ERROR_SIZE))
        return pairs

    def identities(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which episode each environment plays: its seed, its number, and how many it has played before."""
        seeds, envs, episodes = np.empty(self.num_envs, np.uint64), np.empty(self.num_envs, np.uint32), np.empty(self.num_envs, np.uint32)
        self._call.check(lib.kvgym_identities(self._handle or 0, _at(seeds), _at(envs), _at(episodes), self._err, ERROR_SIZE))
        return seeds, envs, episodes

    def snapshot(self, first: int = 0, end: int | None = None) -> bytes:
        """The state of environments [first, end), for restore in any batch of the same rules."""
        needed, stop = ctypes.c_int64(), self.num_envs if end is None else end
        self._call.check(lib.kvgym_snapshot(self._handle or 0, first, stop, None, 0, ctypes.byref(needed), self._err, ERROR_SIZE))
        out = ctypes.create_string_buffer(needed.value)
        self._call.check(lib.kvgym_snapshot(self._handle or 0, first, stop, ctypes.addressof(out), needed.value, None, self._err, ERROR_SIZE))
        return out.raw

    def restore(self, snapshot: bytes, first: int = 0) -> Block:
        """Reads a snapshot into environments first, first + 1, ...; their observations and masks are written."""
        self._call.check(lib.kvgym_restore(self._handle or 0, snapshot, len(snapshot), first, self._err, ERROR_SIZE))
        return self.block

    def fork(self, source: int, target: int, into: Batch | None = None) -> None:
        """Copies environment source into environment target of this batch or another of the same rules."""
        other = self if into is None else into
        self._call.check(lib.kvgym_fork(self._handle or 0, source, other._handle or 0, target, self._err, ERROR_SIZE))

    def __reduce__(self) -> Any:
        raise TypeError("kvgym: a Batch cannot be copied or pickled: its snapshot can, and restore reads it in another batch")

    def close(self) -> None:
        """Stops the threads of the batch. Tensors stay valid."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._call.check(lib.kvgym_close(handle, self._err, ERROR_SIZE))

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            lib.kvgym_close(self._handle, None, 0)


def _at(array: np.ndarray | None) -> int | None:
    return None if array is None else array.__array_interface__["data"][0]
