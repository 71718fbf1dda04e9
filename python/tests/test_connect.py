"""Gymnasium's interfaces over a server's environments: what they give in process, to the bit. Those of the training libraries are in their own files."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from helpers import assert_same, deep_copy, random_ops
from test_vector import ALL_INFOS, MODES, drive

import kvgym
from kvgym.vector import MODES as WORDS

WORD = {mode: word for word, mode in WORDS.items()}
ALL = ["--outputs", "obs,mask,components,metrics"]
BLOCKS = [1, 2, 3]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("infos", [ALL_INFOS, ("action_mask",), ()], ids=["all", "mask", "none"])
def test_equals_in_process(serve, mode, blocks, infos):
    serve("t", "--autoreset", WORD[mode], "--blocks", str(blocks), *ALL, envs=10)
    ours, theirs = kvgym.make_vec(connect="t", infos=infos), kvgym.make_vec(10, autoreset=mode, infos=infos)
    assert (ours.num_envs, ours.metadata, ours.observation_space, ours.action_space) == (10, theirs.metadata, theirs.observation_space, theirs.action_space)
    assert drive(ours, theirs, np.random.default_rng(1), 400) > 100
    ours.close()
    theirs.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("flags", "config"), [
    (["--profile", "serving", "--difficulty", "hard", "--seed", "7"], {"profile": "serving", "difficulty": "hard", "seed": 7}),
    (["--obs-dtype", "uint8", "--obs-order", "feature-major", "--slots", "32"], {"obs_dtype": "uint8", "obs_order": "feature-major", "slots": 32}),
    (["--truncate", "--steps", "4"], {"truncate": True, "steps": 4}),
], ids=["serving", "bytes", "truncated"])
def test_equals_in_process_configured(serve, mode, flags, config):
    """Of two ranges the second."""
    serve("t", "--autoreset", WORD[mode], *flags, *ALL, envs=10, clients=2)
    told = {name: config[name] for name in ("profile", "obs_dtype", "obs_order", "slots", "steps") if name in config}
    ours = kvgym.make_vec(5, connect={"name": "t", "range": 1}, autoreset=mode, infos=ALL_INFOS, **told)
    theirs = kvgym.make_vec(5, first_env=5, autoreset=mode, infos=ALL_INFOS, **config)
    assert drive(ours, theirs, np.random.default_rng(2), 300) > 50
    for got, want in zip(ours.batch.identities(), theirs.batch.identities(), strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_what_was_returned_never_changes(serve, mode, blocks):
    """Not by forty steps, masked resets, the end of the server, or what the caller writes; and rows that a reset leaves alone are as the caller left them."""
    server = serve("t", "--autoreset", WORD[mode], "--blocks", str(blocks), *ALL, envs=4)
    ours, theirs = kvgym.make_vec(connect="t", infos=ALL_INFOS), kvgym.make_vec(4, autoreset=mode, infos=ALL_INFOS)
    rng, kept, copies = np.random.default_rng(5), [ours.reset()], []
    copies.append(deep_copy(kept[0]))
    theirs.reset()
    for t in range(40):
        ops = random_ops(rng, 4)
        got, want = ours.step(ops), theirs.step(ops)
        ended = got[2] | got[3]
        if t % 3 == 0:
            got[0][:, :5] = want[0][:, :5] = t
        if t % 5:
            kept.append(got)
            copies.append(deep_copy(got))
        if ended.any() or t % 7 == 6:
            options = {"reset_mask": ended | (np.arange(4) == t % 4)}
            kept.append(ours.reset(options=options))
            copies.append(deep_copy(kept[-1]))
            assert_same(kept[-1], theirs.reset(options=options))
        del got, want
    server.end(signal.SIGKILL)
    with pytest.raises(kvgym.ServerGoneError):
        ours.step(ops)
    ours.close()
    assert_same(kept, copies)


@pytest.mark.parametrize("part", ["obs", "rewards", "terminations", "truncations", "action_mask", "metrics"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_each_part_alone_never_changes(serve, part, blocks):
    serve("t", "--blocks", str(blocks), *ALL, envs=3)
    env, kept, copies = kvgym.make_vec(connect="t", infos=ALL_INFOS), [], []
    env.reset()
    for t in range(34):
        *arrays, infos = env.step(np.full((3, 64), t % 4))
        one = {**infos, **dict(zip(("obs", "rewards", "terminations", "truncations"), arrays, strict=True))}.get(part)
        if one is not None:  # metrics are not there where all environments have just been reset
            kept.append(one)
            copies.append(one.copy())
        del arrays, infos, one
    assert len(kept) > 30
    assert_same(kept, copies)


def test_a_loop_copies_nothing(serve):
    """With a server's three blocks as they are by default, a loop that keeps the last results alternates between two of them."""
    serve("t")
    env = kvgym.make_vec(connect="t")
    shared = [b.obs.__array_interface__["data"][0] for b in env.batch.blocks]
    obs, infos = env.reset()
    seen = []
    for _ in range(50):
        obs, _, _, _, infos = env.step(np.zeros((32, 64), np.int64))
        seen.append(obs.__array_interface__["data"][0])
    assert set(seen) == set(shared[1:]) and infos
    many = [env.step(np.zeros((32, 64), np.int64)) for _ in range(40)]  # whoever keeps all gets memory of this process
    assert not {m[0].__array_interface__["data"][0] for m in many[2:]} & set(shared)
    del many, obs, infos
    obs = env.step(np.zeros((32, 64), np.int64))[0]
    assert obs.__array_interface__["data"][0] in shared[1:]


def test_single_environment(serve):
    serve("t", "--autoreset", "disabled", *ALL, envs=2, clients=2)
    check_env(kvgym.KVCacheEnv(connect={"name": "t", "range": 0}))
    env, alone = kvgym.KVCacheEnv(connect={"name": "t", "range": 1}, infos=ALL_INFOS), kvgym.KVCacheEnv(first_env=1, infos=ALL_INFOS)
    for t in range(120):
        if t % 15 == 0:
            seed = [None, t][t // 15 % 2]
            assert_same(deep_copy(env.reset(seed=seed)), deep_copy(alone.reset(seed=seed)))
            assert_same(env.action_masks(), alone.action_masks())
        ops = random_ops(np.random.default_rng(t), 1)[0]
        assert_same(deep_copy(env.step(ops)), deep_copy(alone.step(ops)))


FORKED = """
import gymnasium, kvgym, numpy as np
kvgym.make_vec(2).reset()  # Go runs in the parent
env = gymnasium.vector.AsyncVectorEnv([lambda i=i: kvgym.KVCacheEnv(connect={"name": "t", "range": i}) for i in range(2)], context="fork")
twin = kvgym.make_vec(2)
assert np.array_equal(env.reset()[0], twin.reset()[0])
for _ in range(40):
    got, want = env.step(np.ones((2, 64), int)), twin.step(np.ones((2, 64), int))
    assert all(np.array_equal(a, b) for a, b in zip(got[:4], want[:4]))
env.close()
print("equal")
"""


def test_forked_children_connect(serve):
    """Which cannot have a batch of their own: Go does not survive a fork."""
    serve("t", "--autoreset", "disabled", envs=2, clients=2)
    got = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=100)
    assert got.stdout == "equal\n", got.stderr


@pytest.mark.parametrize(("flags", "config", "says"), [
    ([], {"num_envs": 8}, "connect: t: served with num_envs 32: allowed num_envs 8: kvgym serve has flags for them"),
    ([], {"autoreset": "same-step"}, "connect: t: served with autoreset next-step: allowed autoreset same-step:"),
    ([], {"slots": 32, "obs_dtype": "uint8"}, "served with slots 64, obs_dtype float32: allowed slots 32, obs_dtype uint8:"),
    ([], {"infos": ("metrics",)}, "served with outputs obs,mask: allowed outputs obs,mask,metrics:"),
    (["--outputs", "none"], {"autoreset": AutoresetMode.DISABLED},
     "served with autoreset next-step, outputs none: allowed autoreset disabled, outputs obs,mask:"),
    ([], {"seed": 3}, "seed: with connect: allowed as a flag of kvgym serve, which makes the environments"),
    ([], {"difficulty": "hard", "trace": None}, "difficulty: with connect"),
    ([], {"connect": {"name": "t", "rnage": 1}}, "connect: name, rnage: allowed a server's name, or a dict of name and, if need be, range, layout, timeout,"),
    ([], {"connect": {"range": 1}}, "connect: range: allowed a server's name"),
    ([], {"connect": "t/"}, "connect: name: 't/': allowed 1 to 64 letters"),
    ([], {"connect": {"name": "t", "layout": "0" * 16}}, "connect: t: layout: 0000000000000000: allowed "),
    ([], {"sede": 3}, "sede: unknown: allowed profile, preset,"),
])
def test_a_server_that_does_not_fit(serve, flags, config, says):
    serve("t", *flags)
    for _ in range(2):  # the range is free again
        with pytest.raises(kvgym.KvgymError, match=f"^{says}" if says.startswith("connect") else says) as e:
            kvgym.make_vec(**{"connect": "t", **config})
        assert "\n" not in str(e.value)
    with pytest.raises(kvgym.ServerGoneError, match="no server at"):
        kvgym.make_vec(connect={"name": "nobody", "timeout": 0.05})


def test_what_is_not_served(serve):
    serve("t")
    env = kvgym.make_vec(connect="t")
    env.reset()
    for call in (lambda: env.batch.decide("greedy"), lambda: env.batch.snapshot(), lambda: env.batch.restore(b""), lambda: env.batch.fork(0, 1)):
        with pytest.raises(kvgym.RefusedError, match=r"server t: decide, snapshot, restore and fork: not served: allowed with a kvgym.Batch"):
            call()
    env.close()
    for call in (env.reset, lambda: env.step(np.zeros((32, 64), int)), env.batch.identities):
        with pytest.raises(kvgym.ClosedError):
            call()
