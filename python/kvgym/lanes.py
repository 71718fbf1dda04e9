"""A batch whose results belong to whoever gets them, without a copy: what the adapters stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvgym.batch import Batch, Block, Config
from kvgym.errors import RefusedError, RefusedTypeError
from kvgym.served import served
from kvgym.shm import Connection

KEPT = 16  # new blocks that are looked after; older ones belong to their holders alone
MAX_SEED = 2**64 - 1


def open_batch(num_envs: int | None, connect: str | Mapping[str, Any] | None, autoreset: str | None, outputs: Sequence[str], config: Mapping[str, Any],
               **more: Any) -> Batch | Connection:
    """What an adapter steps: a Batch of this process, or with connect a server's environments. config is the caller's, more for a Batch."""
    for name in config:
        if name not in Config.__annotations__:
            raise RefusedTypeError(f"{name}: unknown: allowed {', '.join(Config.__annotations__)}")
    if connect is not None:
        return served(connect, num_envs, autoreset, outputs, config)
    return Batch(1 if num_envs is None else num_envs, autoreset=autoreset or "next-step", outputs=outputs, **{**more, **config})


class Lanes:
    """Steps and resets a batch into blocks of which nobody holds a view, so that what was returned earlier never changes.

    The caller hands out views (block.obs[:], never block.obs itself). A loop that keeps the last results only makes two blocks alternate; one
    that keeps all of them gets new memory for each step, as a copy would.

    Of a server's blocks one is never handed out, so that the server always has one to write. Results that find no other are copied from there.
    """

    def __init__(self, num_envs: int | None, connect: str | Mapping[str, Any] | None, autoreset: str | None, outputs: Sequence[str],
                 config: Mapping[str, Any], **more: Any) -> None:
        self.batch = open_batch(num_envs, connect, autoreset, outputs, config, blocks=1, **more)
        self.num_envs = self.batch.num_envs
        self._blocks = self.batch.blocks[1:] if isinstance(self.batch, Connection) else [self.batch.block]
        self._first_new = len(self._blocks)

    def _free(self) -> Block:
        for block in self._blocks:
            if not block.lent():
                return block
        if len(self._blocks) - self._first_new == KEPT:
            del self._blocks[self._first_new]
        self._blocks.append(self.batch.new_block())
        return self._blocks[-1]

    def step(self, ops: Any) -> Block:
        """One step; ops is an integer array [envs, slots]."""
        if ops is None:
            raise RefusedError(f"step: ops: None: allowed integers [{self.num_envs}, {self.batch.slots}]")
        return self.batch.step(ops, into=self._free())

    def reset(self, mask: np.ndarray | None = None, seeds: Sequence[int | None] | np.ndarray | None = None) -> Block:
        """Starts episodes in the environments of a mask, or in all: episode 0 of a seed, or the next one where it is None."""
        block = self.batch.block
        if mask is None or block.lent() or block not in self._blocks:
            block = self._free()
        if seeds is None or isinstance(seeds, np.ndarray):
            return self.batch.reset(mask, seeds, into=block)
        chosen = np.ones(self.num_envs, np.bool_) if mask is None else mask
        seeded = np.array([s is not None for s in seeds], np.bool_)
        values = np.array([0 if s is None else s for s in seeds], np.uint64)
        for part, given in ((chosen & seeded, values), (chosen & ~seeded, None)):
            if part.any():
                self.batch.reset(part, given, into=block)
        return block

    def close(self) -> None:
        """Stops the threads; what was returned stays valid."""
        self.batch.close()


def lane_seeds(seed: Any, num_envs: int) -> list[int | None] | np.ndarray | None:
    """The seed of each environment: s + i of an integer s, or what a sequence gives, in which None leaves an environment's stream alone."""
    if seed is None:
        return None
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        first = one_seed(seed)
        if first > MAX_SEED - num_envs + 1:
            raise RefusedError(f"seed: {first}: allowed 0 to {MAX_SEED - num_envs + 1} for {num_envs} environments")
        return np.arange(num_envs, dtype=np.uint64) + np.uint64(first)
    if not isinstance(seed, list | tuple | np.ndarray):
        raise RefusedTypeError(f"seed: {type(seed).__name__}: allowed an integer, a list of integers and None, or None")
    if len(seed) != num_envs:
        raise RefusedError(f"seed: {len(seed)} values: allowed {num_envs}, one an environment")
    return [None if s is None else one_seed(s) for s in seed]


def one_seed(seed: Any) -> int:
    """An integer of Python or numpy as a seed."""
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise RefusedTypeError(f"seed: {seed!r}: allowed an integer of at least 0")
    if not 0 <= seed <= MAX_SEED:
        raise RefusedError(f"seed: {seed}: allowed 0 to {MAX_SEED}")
    return int(seed)


def reset_mask(options: dict[str, Any] | None, num_envs: int) -> np.ndarray | None:
    """The mask among reset options, a bool array with an environment to reset; options that are not known are refused. Reads only."""
    for name in options or {}:
        if name != "reset_mask":
            raise RefusedError(f"reset: options: {name!r}: allowed 'reset_mask'")
    if not options:
        return None
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray):
        raise RefusedTypeError(f"reset: reset_mask: {type(mask).__name__}: allowed a numpy array")
    if mask.shape != (num_envs,):
        raise RefusedError(f"reset: reset_mask: shape {mask.shape}: allowed ({num_envs},), one an environment")
    if mask.dtype != np.bool_:
        raise RefusedTypeError(f"reset: reset_mask: {mask.dtype}: allowed bool")
    if not mask.any():
        raise RefusedError("reset: reset_mask: selects no environment: allowed at least one True")
    return mask
