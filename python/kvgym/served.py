"""Environments of kvgym serve for an adapter, in place of a Batch of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvgym.batch import OUTPUTS
from kvgym.errors import RefusedError, RefusedTypeError
from kvgym.shm import Connection, connect

ARGUMENTS = ("name", "range", "layout", "timeout", "step_timeout")  # of kvgym.connect
TOLD = ("num_envs", "slots", "steps", "profile", "autoreset", "obs_dtype", "obs_order")  # what a server tells of its environments


def served(to: str | Mapping[str, Any], num_envs: int | None, autoreset: str | None, outputs: Sequence[str], config: Mapping[str, Any]) -> Connection:
    """Connects to a server, and refuses one that does not serve what an adapter needs.

    to is the server's name, or a dict of the arguments of kvgym.connect. The server's flags have configured the environments: arguments that are
    given as well, those that are not None, must say the same; the ones that a server does not tell are refused.
    """
    arguments = dict(to) if isinstance(to, Mapping) else {"name": to}
    if "name" not in arguments or not arguments.keys() <= set(ARGUMENTS):
        raise RefusedTypeError(f"connect: {', '.join(arguments)}: allowed a server's name, or a dict of name and, if need be, {', '.join(ARGUMENTS[1:])}")
    for name, value in config.items():
        if value is not None and name not in TOLD:
            raise RefusedError(f"{name}: with connect: allowed as a flag of kvgym serve, which makes the environments")
    connection = connect(**arguments)
    try:
        _check(connection, {"num_envs": num_envs, "autoreset": autoreset, **config}, outputs)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: Connection, given: Mapping[str, Any], outputs: Sequence[str]) -> None:
    d = connection.description
    has = dict(zip(TOLD, (d["envs"], d["slots"], d["steps"], d["profile"], d["autoreset"], d["obs"]["dtype"], d["obs"]["order"]), strict=True))
    wrong = {name: (has[name], value) for name, value in given.items() if value is not None and value != has[name]}
    written = [t["name"] for t in d["tensors"]]
    if any(name not in written for name in outputs):
        has_outputs, needed = (",".join(o for o in OUTPUTS if o in names) or "none" for names in (written, [*written, *outputs]))
        wrong["outputs"] = has_outputs, needed
    if wrong:
        served_with, allowed = (", ".join(f"{name} {values[i]}" for name, values in wrong.items()) for i in (0, 1))
        raise RefusedError(f"connect: {connection.name}: served with {served_with}: allowed {allowed}: kvgym serve has flags for them")
