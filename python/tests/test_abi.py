"""The C interface as a foreign caller meets it: null pointers, bad handles, short buffers; and that docs/abi.md tells of everything."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from test_process import python

import kvgym
from kvgym import _lib
from kvgym.batch import Config
from kvgym.lanes import MAX_SEED

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "cmd" / "libkvgym" / "kvgym.h").read_text()
FUNCTIONS = re.findall(r"^\w[\w ]*[ *](kvgym_\w+)\(", HEADER, re.M)
CODES = re.findall(r"^\t(KVGYM_[A-Z]+) = (\d)", HEADER, re.M)
FIELDS = re.findall(r"[*, ](\w+)(?=[;,][^()]*?/\*|, \*)", HEADER[HEADER.index("typedef struct"):HEADER.index("} kvgym_tensors")])


def test_the_header_was_read():
    assert len(FUNCTIONS) == 27 and "kvgym_alloc" in FUNCTIONS and "kvgym_fork" in FUNCTIONS
    assert [c for c, _ in CODES] == ["KVGYM_OK", "KVGYM_REFUSED", "KVGYM_CLOSED", "KVGYM_BUSY", "KVGYM_BROKEN", "KVGYM_FORKED", "KVGYM_INTERNAL"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_exported_and_documented(name):
    assert getattr(_lib.lib, name)
    assert f"`{name}" in (ROOT / "docs" / "abi.md").read_text()


def test_nothing_else_is_bound():
    bound = set(re.findall(r'"(\w+)": \[', (ROOT / "python" / "kvgym" / "_lib.py").read_text())) | {"abi", "alloc", "free"}
    bound |= set(re.findall(r"lib\.kvgym_(\w+)", (ROOT / "python" / "kvgym" / "shm.py").read_text()))
    assert {"kvgym_" + name for name in bound} == set(FUNCTIONS)


def test_docs_name_every_code_tensor_and_field():
    docs = (ROOT / "docs" / "abi.md").read_text()
    words = set(re.findall(r"`([^`\s]+)`", docs))
    for code, value in CODES:
        assert re.search(rf"\| {value} \| `{code}` \|", docs), code
    for name, _ in _lib.Tensors._fields_:
        assert name in words and re.search(rf"\*{name}[,;]", HEADER), name
    spec = (ROOT / "export" / "spec.go").read_text()
    fields = re.findall(r'`json:"(\w+)', spec)
    assert len(fields) == 27 and "skip_bad_lines" in fields
    for field in fields:
        assert field in words, field
    described = re.findall(r'`json:"(\w+)', (ROOT / "export" / "describe.go").read_text())
    for key in described:
        assert key in words, key


def test_docs_name_every_argument_and_export():
    docs = (ROOT / "docs" / "python.md").read_text()
    words = set(re.findall(r"`([^`\s]+)`", docs)) | set(re.findall(r"kvgym\.(\w+)", docs))
    import inspect

    for of in (kvgym.Batch, kvgym.KVCacheVectorEnv, kvgym.KVCacheEnv):
        for name, parameter in inspect.signature(of.__init__).parameters.items():
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                assert name in words, f"{of.__name__}: {name}"
    for name in kvgym.__all__:
        assert name in words, name
    for name, method in inspect.getmembers(kvgym.Batch):
        if not name.startswith("_") and callable(method):
            assert name in words or re.search(rf"`(batch\.)?{name}\(", docs), name


def test_adapters_take_the_arguments_of_a_batch():
    import inspect

    arguments = set(inspect.signature(kvgym.Batch.__init__).parameters) - {"self"}
    assert set(Config.__annotations__) == arguments - {"num_envs", "autoreset", "outputs", "groups", "blocks", "buffers"}  # which adapters set


def test_a_connection_has_what_a_batch_has():
    def public(of):
        return {name for name in dir(of) if not name.startswith("_")}

    assert public(kvgym.Batch) <= public(kvgym.Connection)


def test_null_pointers_and_bad_handles_never_abort():
    """In a process of its own, so that an abort is a failure and not the end of all tests."""
    out, _ = python("""
import ctypes, json, itertools
from kvgym import _lib
lib, size = _lib.lib, 4096
err = ctypes.create_string_buffer(size)
at = ctypes.addressof(err)
memory = lib.kvgym_alloc(1 << 22)
number = ctypes.c_int64()
config = json.dumps({"envs": 3, "outputs": ["obs", "mask", "components", "metrics"]}).encode()
assert lib.kvgym_open(config, None, ctypes.byref(number), at, size) == 0
good = number.value
assert lib.kvgym_reset(good, None, None, None, at, size) == 0
empty = _lib.Tensors()
choices = {ctypes.c_int64: [0, -1, 1, 2**62, -2**63], ctypes.c_void_p: [None], ctypes.c_char_p: [None, b"", b"{}", b"\\xff", b"[" * 5000]}
handles = {"close", "set_tensors", "reset", "step", "send", "recv", "decide", "identities", "snapshot", "restore", "fork"}
calls = 0
for name in ("describe", "open", "close", "set_tensors", "reset", "step", "send", "recv", "decide", "identities", "snapshot", "restore", "fork"):
    f = getattr(lib, "kvgym_" + name)
    plain = f.argtypes[:-2]
    options = [choices.get(t, [None]) for t in plain]
    if name in handles:
        options[0] = [0, -1, 2**63 - 1, good] if name != "close" else [0, -1, 2**63 - 1]
    if name == "set_tensors":
        options[1] = [None, ctypes.addressof(empty)]
    if name == "restore":
        options[1] = [None, b"", b"some bytes" * 100]
        options[2] = [0, -1, 5, 1000]
    if name == "snapshot":
        options[3], options[4] = [None, memory], [0, -1, 5]
    if name in ("step", "send"):
        options[-2], options[-1] = [None, memory], [0, 1, -1, 2**62]
        if name == "step": options = options[:1] + [[None, memory], [None, memory], [0, 1, -1, 2**62, 100], [None, ctypes.addressof(empty)]]
    for args in itertools.product(*options):
        for e, n in ((None, 0), (at, 0), (at, -1), (None, size), (at, 1), (at, size)):
            code = f(*args, e, n)
            calls += 1
            assert code in (0, 1, 2), (name, args, code, err.value)
            if code and e and n == size:
                assert err.value, (name, args)
        if name == "send": [lib.kvgym_recv(good, g, None, 0) for g in (0, 1)]
        if name == "open" and number.value: pass
for args in itertools.product([None, memory], [0, 1, 2, 3, 4, 8, -1], [0, 1, -1, 5], [None, memory]):
    assert lib.kvgym_narrow(*args) in (0, 1); calls += 1
    assert (lib.kvgym_narrow(*args) == 0) == (args[2] == 0 or (None not in args and args[1] in (1, 2, 4, 8) and args[2] > 0)), args
for n in (0, -1, -2**63, 2**63 - 1): assert lib.kvgym_alloc(n) is None
lib.kvgym_free(None)
assert lib.kvgym_step(good, None, None, 0, None, at, size) == 0, err.value
assert lib.kvgym_close(good, at, size) == 0 and lib.kvgym_close(good, at, size) == 2
print("calls", calls)
""")
    assert int(out.split()[-1]) > 1000


def test_a_panic_is_a_code():
    """An address that nobody can read panics in Go, and on purpose: every function that reads or writes through a pointer tells so and lives on."""
    out, _ = python("""
import ctypes, json
from kvgym import _lib
lib, size = _lib.lib, 4096
err = ctypes.create_string_buffer(size)
at, number, bad = ctypes.addressof(err), ctypes.c_int64(), 8
text = ctypes.cast(bad, ctypes.c_char_p)
config = json.dumps({"envs": 3, "groups": 3}).encode()

def fresh():
    assert lib.kvgym_open(config, None, ctypes.byref(number), at, size) == 0
    assert lib.kvgym_reset(number.value, None, None, None, at, size) == 0
    return number.value

h = fresh()
for name, args in {
    "describe": (text, None, 0, None), "open": (text, None, ctypes.byref(number)), "set_tensors": (h, bad), "reset": (h, bad, None, None),
    "decide": (h, text, at), "identities": (h, bad, None, None), "snapshot": (h, 0, 3, bad, 1 << 20, None), "restore": (h, text, 1000, 0),
}.items():
    err.value = b""
    print(name, getattr(lib, "kvgym_" + name)(*args, at, size), err.value[:12].decode())
assert lib.kvgym_step(h, None, None, 0, None, at, size) == 0, "the handle lives on"
print("step", lib.kvgym_step(fresh(), bad, None, 0, None, at, size), err.value[:12].decode())
h = fresh()
assert lib.kvgym_send(h, 1, bad, None, 0, at, size) == 0
print("recv", lib.kvgym_recv(h, 1, at, size), lib.kvgym_step(h, None, None, 0, None, at, size), lib.kvgym_close(h, at, size))
""")
    lines = out.splitlines()
    assert lines[:-2] == [f"{name} 6 kvgym: panic" for name in ("describe", "open", "set_tensors", "reset", "decide", "identities", "snapshot", "restore")]
    assert lines[-2:] == ["step 4 vecenv: step", "recv 4 4 0"]


def test_episodes_never_abort():
    """Null pointers, handles of nothing and of a batch, and addresses that nobody can read: a code, a message, and the episode lives on."""
    out, _ = python("""
import ctypes, itertools, json
from kvgym import _lib
lib, size = _lib.lib, 4096
err = ctypes.create_string_buffer(size)
at, number, text, bad = ctypes.addressof(err), ctypes.c_int64(), ctypes.c_void_p(), 8
out, unreadable = ctypes.addressof(text), ctypes.cast(bad, ctypes.c_char_p)
unwritable = {ctypes.c_void_p: bad, ctypes.POINTER(ctypes.c_int64): ctypes.cast(bad, ctypes.POINTER(ctypes.c_int64)), ctypes.POINTER(ctypes.c_int32): None}

def fresh(call):
    assert call(b'{"envs":1}', *([None] if call is lib.kvgym_open else []), ctypes.byref(number), at, size) == 0, err.value
    return number.value

batch, good, calls = fresh(lib.kvgym_open), fresh(lib.kvgym_episode_open), 0
names = ["tools"] + ["episode_" + n for n in ("open", "close", "prompts", "call", "step", "result", "suggest")]
for name in names:
    f = getattr(lib, "kvgym_" + name)
    plain = f.argtypes[:-2]
    options = [{ctypes.c_char_p: [None, b"", b"{}", b"\\xff", b"[" * 5000], ctypes.c_void_p: [None, out],
                ctypes.c_int64: [0, -1, batch, 2**63 - 1]}.get(t, [None]) for t in plain]
    if name not in ("tools", "episode_open", "episode_close"):
        options[0].append(good)
    for args in itertools.product(*options):
        for e, n in ((None, 0), (at, 0), (at, -1), (at, 1), (at, size)):
            code = f(*args, e, n)
            calls += 1
            assert code == (2 if plain[0] is ctypes.c_int64 and args[0] != good else code) and code in (0, 1, 2), (name, args, code, err.value)
            if code and e and n == size:
                assert err.value, (name, args)
    refused = [unreadable if t is ctypes.c_char_p else unwritable.get(t, good) for t in plain]
    if name not in ("episode_close",):
        err.value = b""
        print(name, f(*refused, at, size), err.value[:12].decode())
for _ in range(3): assert lib.kvgym_fork(good, 0, batch, 0, at, size) == 2 and lib.kvgym_close(good, at, size) == 2
assert lib.kvgym_episode_result(good, out, at, size) == 0 and json.loads(ctypes.string_at(text.value))["turns"] == 11  # the one whose message could not be written, too
assert lib.kvgym_episode_close(good, at, size) == 0 and lib.kvgym_episode_close(good, at, size) == 2
for config, word in ((b'{"envs":2}', b"Envs: 2"), (b'{"simd":"generic"}', b"simd"), (b'{"first_env":4294967296}', b"first_env"),
                             (b'{"max_wait":-1}', b"config: max_wait: -1")):
    assert lib.kvgym_episode_open(config, ctypes.byref(number), at, size) == 1 and word in err.value, err.value
print("calls", calls)
""")
    lines = out.splitlines()
    assert lines[:-1] == [f"{name} 6 kvgym: panic" for name in ("tools", "episode_open", "episode_prompts", "episode_call", "episode_step", "episode_result",
                                                                "episode_suggest")], lines
    assert int(lines[-1].split()[-1]) > 500


def test_messages_are_cut_to_their_room():
    import ctypes

    for room in (1, 2, 10, 60):
        text = ctypes.create_string_buffer(b"\xee" * 80, 80)
        assert _lib.lib.kvgym_close(-5, ctypes.addressof(text), room) == 2
        assert len(text.value) == room - 1 and text.raw[room:] == b"\xee" * (80 - room)


def test_memory_is_zero_and_on_cache_lines():
    import ctypes

    for size in (1, 63, 64, 65, 5000, 3 << 20):
        at = _lib.lib.kvgym_alloc(size)
        assert at % 64 == 0 and ctypes.string_at(at, size) == bytes(size)
        _lib.lib.kvgym_free(at)


def test_handles_are_not_reused():
    a = kvgym.Batch(1)
    first = a._handle
    a.close()
    assert kvgym.Batch(1)._handle > first


def test_largest_seed():
    env = kvgym.make_vec(1)
    env.reset(seed=MAX_SEED)
    assert env.batch.identities()[0].dtype == np.uint64 and int(env.batch.identities()[0][0]) == MAX_SEED
