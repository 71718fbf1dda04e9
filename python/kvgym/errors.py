"""What can go wrong."""

from __future__ import annotations


class KvgymError(Exception):
    """The base of all errors of kvgym."""


class RefusedError(KvgymError, ValueError):
    """An argument is not allowed; the message names it, its value and what is allowed."""


class RefusedTypeError(KvgymError, TypeError):
    """An argument is of a type that is not allowed; the message names it."""


class ClosedError(KvgymError):
    """The batch is closed."""


class BusyError(KvgymError):
    """Another thread is in a call with the same batch."""


class BrokenError(KvgymError):
    """A step has panicked; the batch cannot go on."""


class ForkedError(KvgymError):
    """This process is a fork of the one that loaded kvgym: Go cannot run in it."""


class ServerError(KvgymError):
    """A server of kvgym serve refused, or did not answer; the message names it."""


class ServerGoneError(ServerError, ConnectionError):
    """A server of kvgym serve is not there, or has ended the connection; the message names it."""


class ServerTimeoutError(ServerError, TimeoutError):
    """A server of kvgym serve did not answer in time; the connection is closed."""
