"""Environments that a server in another process steps, through shared memory. docs/shared-memory.md is the protocol."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import socket
import stat
import struct
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from kvgym._lib import lib
from kvgym.batch import Batch, Block
from kvgym.errors import BrokenError, BusyError, ClosedError, ForkedError, KvgymError, RefusedError, ServerError, ServerGoneError, ServerTimeoutError

VERSION = 2
MAGIC = b"kvgymshm"
MAX_WELCOME = 65536
POLL_NS = 50_000_000  # between looks whether the server is still there

# Offsets in a segment.
_VERSION, _HASH, _SIZE, _REQUEST, _CLIENT_SLEEPS, _COMMAND, _DONE, _SERVER_SLEEPS, _STATUS, _TURN, _TEXT, _TEXT_BYTES = (
    8, 16, 48, 128, 132, 136, 256, 260, 264, 268, 512, 512)
_STEP, _PAIRS, _RESET, _IDENTITIES, _WITH_MASK, _WITH_SEEDS = 1, 2, 3, 4, 1 << 8, 2 << 8
_BLOCK_SHIFT = 16
_STATUS_ERRORS = {1: RefusedError, 2: BrokenError, 3: ServerError}
_SEALS = 2 | 4  # F_SEAL_SHRINK, F_SEAL_GROW
_POPULATE_WRITE = 23  # of madvise: pages are there before the first step

_wake, _wait = lib.kvgym_wake, lib.kvgym_wait


def runtime_dir() -> str:
    """Where the sockets of servers stand: kvgym in $XDG_RUNTIME_DIR if that is set, else /tmp/kvgym-UID."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(base, "kvgym") if os.path.isabs(base) else f"/tmp/kvgym-{os.getuid()}"


def connect(name: str, *, range: int | None = None, layout: str | None = None, timeout: float = 10.0, step_timeout: float = 60.0) -> Connection:
    """Connects to the server that kvgym serve --name NAME has started, or is starting.

    range         which range of environments, 0 to one less than the server's --clients; None is a free one
    layout        refuse a server whose tensors, features or names are not those of this hash, which Connection.layout and kvgym serve show
    timeout       seconds to wait for the server to be there and to answer
    step_timeout  seconds to wait for a step or reset
    """
    return Connection(name, range=range, layout=layout, timeout=timeout, step_timeout=step_timeout)


class Connection:
    """A range of a server's environments, with the methods of Batch: the same calls give the same Block, bit for bit.

    Block's tensors and ops are shared memory, seen without a copy. They stay valid after close, and after the server's end: what the last
    call returned is never half overwritten. What a call returned stays as it is for len(blocks) - 1 more calls.

    One thread at a time may call a connection; the interpreter lock is released while it waits. A fork of this process cannot use it, and
    connects itself instead. Every wait has an end: a server that dies is noticed within a second (ServerGoneError).
    """

    def __init__(self, name: str, *, range: int | None = None, layout: str | None = None, timeout: float = 10.0, step_timeout: float = 60.0) -> None:
        self._socket: socket.socket | None = None
        if sys.platform != "linux":
            raise RefusedError(f"connect: {sys.platform}: allowed on Linux only")
        self._failed: KvgymError | None = None
        self.name = name
        path = _socket_path(name)
        deadline = time.monotonic() + timeout
        self._socket = _reach(name, path, deadline)
        try:
            welcome, fd = self._greet(range, layout, deadline)
        except BaseException:
            self._socket.close()
            raise
        try:
            self._map(welcome, fd)
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.close(fd)
        self._socket.setblocking(False)  # from now on it is only looked at
        self._step_timeout = step_timeout
        self._lock = threading.Lock()
        self._done, self._pending = 0, False
        self._block = self.blocks[0]
        self._spin = _spin_ns()
        _live.add(self)

    def _greet(self, range_: int | None, layout: str | None, deadline: float) -> tuple[dict[str, Any], int]:
        """Says hello and reads the answer, with the descriptor of the segment."""
        s = self._socket
        assert s is not None
        uid = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid != os.getuid():
            raise ServerError(f"connect: {self.name}: the server is user {uid}'s: allowed user {os.getuid()}'s")
        hello: dict[str, Any] = {"version": VERSION}
        if range_ is not None:
            hello["range"] = int(range_)
        if layout is not None:
            hello["layout"] = str(layout)
        s.settimeout(max(0.001, deadline - time.monotonic()))
        fds: list[int] = []
        try:
            s.send(json.dumps(hello).encode())
            data, fds, _, _ = socket.recv_fds(s, MAX_WELCOME, 4, socket.MSG_CMSG_CLOEXEC)
            return self._parse(data, fds, layout), fds.pop(0)
        except TimeoutError:
            raise ServerTimeoutError(f"connect: {self.name}: no answer: allowed one in the timeout given") from None
        except ConnectionError as e:
            raise ServerGoneError(f"connect: {self.name}: the server has closed the connection ({e.strerror}): it may be overloaded") from None
        finally:
            for fd in fds:
                os.close(fd)

    def _parse(self, data: bytes, fds: list[int], layout: str | None) -> dict[str, Any]:
        try:
            welcome = json.loads(data) if data else None
        except ValueError:
            welcome = None
        if data == b"":
            raise ServerGoneError(f"connect: {self.name}: the server has closed the connection: it may be overloaded")
        if not isinstance(welcome, dict):
            raise ServerError(f"connect: {self.name}: an answer that is no JSON object: is it a kvgym server?")
        if welcome.get("version") != VERSION:
            raise ServerError(f"connect: {self.name}: version {welcome.get('version')}: allowed {VERSION}: use a client and a server of the same release")
        if "error" in welcome:
            raise ServerError(f"connect: {self.name}: {welcome['error']}")
        if layout is not None and welcome["layout"] != layout:
            raise ServerError(f"connect: {self.name}: layout {welcome['layout']}: allowed {layout}")
        if len(fds) != 1:
            raise ServerError(f"connect: {self.name}: {len(fds)} descriptors: allowed 1")
        return welcome

    def _map(self, welcome: Mapping[str, Any], fd: int) -> None:
        """Maps the segment and finds everything in it."""
        import fcntl

        segment, self.description = welcome["segment"], welcome["description"]
        size = segment["size"]
        if os.fstat(fd).st_size != size or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ServerError(f"connect: {self.name}: segment of {os.fstat(fd).st_size} bytes: allowed {size}, sealed against resizing")
        memory = mmap.mmap(fd, size)
        for advice, length in ((getattr(mmap, "MADV_HUGEPAGE", 14), size), (_POPULATE_WRITE, segment["pairs"] & -mmap.PAGESIZE)):
            with suppress(OSError):  # where the system has not got it, memory is as good as before
                memory.madvise(advice, 0, length)
        header = struct.unpack_from("<8sI", memory)
        if header != (MAGIC, VERSION) or memory[_HASH:_HASH + 8].hex() != welcome["layout"] or struct.unpack_from("<Q", memory, _SIZE)[0] != size:
            raise ServerError(f"connect: {self.name}: segment {header}: allowed one of version {VERSION} and layout {welcome['layout']}")
        d = self.description
        self.layout, self.range, self.first_env, self.pid = welcome["layout"], welcome["range"], welcome["first_env"], welcome["pid"]
        self.num_envs, self.slots, self.steps, self.obs_length = d["envs"], d["slots"], d["steps"], d["obs"]["length"]
        self.groups = [(0, self.num_envs)]
        self._memory = memory
        self._words, self._commands = memoryview(memory).cast("I"), memoryview(memory).cast("Q")

        def array(offset: int, dtype: Any, *shape: int) -> np.ndarray:
            return np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)

        self._token = object()  # which its blocks carry
        self.blocks = [Block(d["tensors"], {}, self._token, (memory, at)) for at in segment["blocks"]]
        self.ops = array(segment["ops"], np.uint8, self.num_envs, self.slots)
        self._mask = array(segment["mask"], np.uint8, self.num_envs)
        self._seeds = array(segment["seeds"], np.uint64, self.num_envs)
        self._identities = (array(segment["identities"], np.uint64, self.num_envs), *array(segment["identities"] + 8 * self.num_envs, np.uint32, 2, self.num_envs))
        self._most_pairs = segment["pairs_per_env"]
        self._list = array(segment["pairs"], np.int32, self.num_envs * self._most_pairs * 2)
        self._ops_at: int = self.ops.__array_interface__["data"][0]
        base = self._ops_at - segment["ops"]
        self._request_at, self._client_sleeps_at = base + _REQUEST, base + _CLIENT_SLEEPS
        self._done_at, self._server_sleeps_at = base + _DONE, base + _SERVER_SLEEPS

    @property
    def block(self) -> Block:
        """The tensors that the last call wrote."""
        return self._block

    def new_block(self, buffers: Mapping[str, Any] | None = None) -> Block:
        """Another set of tensors, in memory of this process or, by name, of the caller, for reset and step to copy their results into."""
        return Block(self.description["tensors"], buffers or {}, self._token)

    def _choose(self, into: Block) -> int:
        """What a command says of the block that the server is to write: the one given, or for one of this process the next in turn.

        A block of which somebody holds a view is passed over then, if there is another.
        """
        if into.owner is not self._token:
            raise RefusedError("into: a block of something else: allowed one of blocks, or of new_block of this connection")
        turn = self._words[_TURN // 4] + 1
        order = self.blocks[turn:] + self.blocks[:turn]
        shared = into if into in order else next((b for b in order if not b.lent()), order[0])
        return (self.blocks.index(shared) + 1) << _BLOCK_SHIFT

    def _deliver(self, into: Block | None, before: Block, rows: np.ndarray | None = None) -> Block:
        """Brings the results into the block that was asked for. Rows that a reset has left alone are there as the caller has seen them last."""
        written = self._block
        if into is None:
            return written
        if into is not written:
            into.copy_from(written, rows)
        if rows is not None and into is not before:
            into.copy_from(before, ~rows)
        self._block = into
        return into

    def reset(self, mask: np.ndarray | None = None, seeds: Sequence[int] | np.ndarray | None = None, into: Block | None = None) -> Block:
        """Starts episodes, as Batch.reset does. into is one of blocks, which the server writes, or one of new_block, which costs a copy."""
        m, s = self._per_env("mask", mask, np.bool_), self._per_env("seeds", seeds, np.uint64)
        with self._alone():
            self._settle()
            before, command = self._block, _RESET if into is None else _RESET | self._choose(into)
            if m is not None:
                self._mask[:] = m
                command |= _WITH_MASK
            if s is not None:
                self._seeds[:] = s
                command |= _WITH_SEEDS
            self._publish(command)
            self._result()
            return self._deliver(into, before, m)

    def step(self, ops: np.ndarray | None = None, pairs: np.ndarray | None = None, into: Block | None = None) -> Block:
        """One step of all environments of the range, as Batch.step does. into is as in reset."""
        with self._alone():
            if self._pending:
                self._settle()
            before, command = self._block, 0 if into is None else self._choose(into)
            if pairs is not None:
                listed = self._pairs(pairs, self.num_envs)
                count = listed.shape[1]
                if count > self._most_pairs:
                    raise RefusedError(f"step: pairs: {count} an environment: allowed 0 to {self._most_pairs}")
                self._list[:listed.size] = listed.reshape(-1)
                self._publish(command | _PAIRS | count << 32)
            else:
                if ops is not None and ops is not self.ops:
                    self._narrow(ops, 0, self.num_envs)
                self._publish(command | _STEP)
            self._result()
            return self._deliver(into, before)

    def identities(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which episode each environment plays: its seed, its number, and how many it has played before."""
        with self._alone():
            self._settle()
            before = self._block
            self._publish(_IDENTITIES)
            self._result()
            self._block = before
            seeds, envs, episodes = (x.copy() for x in self._identities)
            return seeds, envs, episodes

    def send(self, group: int = 0, ops: np.ndarray | None = None) -> None:
        """Starts a step; recv waits for it. There is one group, 0. Until then ops and the block in turn are the server's."""
        self._check_group("send", group)
        with self._alone():
            if self._pending:
                raise RefusedError("send: group: 0: already in flight: allowed after recv")
            if ops is not None and ops is not self.ops:
                self._narrow(ops, 0, self.num_envs)
            self._publish(_STEP)

    def recv(self, group: int = 0) -> tuple[slice, Block]:
        """Waits for the step that send started."""
        self._check_group("recv", group)
        with self._alone():
            if not self._pending:
                raise RefusedError("recv: group: 0: not in flight: allowed after send")
            self._result()
            return slice(0, self.num_envs), self._block

    def _check_group(self, call: str, group: int) -> None:
        if group != 0:
            raise RefusedError(f"{call}: group: {group}: allowed 0")

    def _not_served(self, *_: Any, **__: Any) -> Any:
        raise RefusedError(f"server {self.name}: decide, snapshot, restore and fork: not served: allowed with a kvgym.Batch in this process")

    decide = snapshot = restore = fork = _not_served  # docs/shared-memory.md says why

    # What Batch does with arguments is right here, too.
    _narrow, _pairs, _per_env = Batch._narrow, Batch._pairs, Batch._per_env

    def _alone(self) -> _Alone:
        """The lock of a call, for a with statement."""
        if self._failed is not None:
            raise self._failed
        return _Alone(self._lock)

    def _publish(self, command: int) -> None:
        self._commands[_COMMAND // 8] = command
        self._pending = True
        _wake(self._request_at, (self._done + 1) & 0xFFFFFFFF, self._server_sleeps_at)

    def _settle(self) -> None:
        """Ends a step that an exception, such as KeyboardInterrupt, has taken us out of."""
        if self._pending:
            with suppress(RefusedError):
                self._result()

    def _result(self) -> None:
        """Waits for the request, and reads how it ended."""
        if _wait(self._done_at, self._done, self._client_sleeps_at, self._spin, POLL_NS):
            self._wait_long()
        self._pending = False
        self._done = (self._done + 1) & 0xFFFFFFFF
        status = self._words[_STATUS // 4]
        if status:
            self._raise(status)
        self._block = self.blocks[self._words[_TURN // 4]]

    def _wait_long(self) -> None:
        """Goes on waiting, and looks now and then whether the server is still there."""
        deadline = time.monotonic() + self._step_timeout
        while True:
            reason = self._gone()
            if reason is not None:
                self._fail(ServerGoneError(reason))
            if not _wait(self._done_at, self._done, self._client_sleeps_at, 0, POLL_NS):
                return
            if time.monotonic() > deadline:
                self._fail(ServerTimeoutError(f"server {self.name} (process {self.pid}): no answer in {self._step_timeout} s: allowed: step_timeout of connect"))

    def _gone(self) -> str | None:
        """Why the server is not there any more, if it is not."""
        assert self._socket is not None
        try:
            data = self._socket.recv(4096)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data = b""
        try:
            why = json.loads(data)["error"]
        except (ValueError, KeyError, TypeError):
            why = f"it has ended: start it again with kvgym serve --name {self.name}"
        return f"server {self.name} (process {self.pid}): {why}"

    def _raise(self, status: int) -> None:
        text = bytes(self._memory[_TEXT:_TEXT + _TEXT_BYTES]).split(b"\0")[0].decode(errors="replace")
        error = _STATUS_ERRORS.get(status, ServerError)
        if error is RefusedError:
            raise RefusedError(text)
        self._fail(error(f"server {self.name} (process {self.pid}): {text}"))

    def _fail(self, error: KvgymError) -> None:
        """Ends the connection, for ever with this error."""
        self._failed = error
        if self._socket is not None:
            self._socket.close()
        raise error

    def __reduce__(self) -> Any:
        raise TypeError("kvgym: a Connection cannot be copied or pickled: another process connects itself")

    def close(self) -> None:
        """Leaves the server, which frees the range. Tensors stay valid. A second call does nothing."""
        if self._failed is None:
            self._failed = ClosedError(f"server {self.name}: the connection is closed")
        if self._socket is not None:
            self._socket.close()

    def _forked(self) -> None:
        """In a child: the connection is the parent's, and its socket must close with the parent."""
        self._failed = ForkedError(f"server {self.name}: the connection belongs to the process that this one is a fork of: allowed: connect again here")
        if self._socket is not None:
            self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_socket", None) is not None:
            self.close()


class _Alone:
    """Refuses a second thread instead of letting it wait."""

    __slots__ = ("_lock",)

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(False):
            raise BusyError("another thread is in a call with this connection: allowed one at a time")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_live: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for c in list(_live):
        c._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _spin_ns() -> int:
    """How long to look at the word before sleeping: a wake-up costs some microseconds; with one processor the server needs it."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if n < 2 else 20_000 if n < 4 else 50_000


def _socket_path(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", str(name)):
        raise RefusedError(f"connect: name: {str(name)[:80]!r}: allowed 1 to 64 letters, digits, dots, dashes and underscores, no dot first")
    return os.path.join(runtime_dir(), name + ".sock")


def _reach(name: str, path: str, deadline: float) -> socket.socket:
    """Connects as soon as a server listens there."""
    while True:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            _check_dir(os.path.dirname(path))
            s.settimeout(max(0.001, deadline - time.monotonic()))
            s.connect(path)
            return s
        except OSError as e:
            s.close()
            if e.errno not in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
                raise ServerError(f"connect: {name}: {path}: {e}") from None
            if time.monotonic() >= deadline:
                raise ServerGoneError(f"connect: {name}: no server at {path}: start one with kvgym serve --name {name}") from None
        time.sleep(0.02)


def _check_dir(path: str) -> None:
    """One that others can write to would let them put their socket there."""
    s = os.lstat(path)
    if not stat.S_ISDIR(s.st_mode) or s.st_uid != os.getuid() or stat.S_IMODE(s.st_mode) != 0o700:
        raise ServerError(f"connect: {path}: mode {stat.S_IMODE(s.st_mode):#o} of user {s.st_uid}: allowed a directory of user {os.getuid()} with mode 0700")
