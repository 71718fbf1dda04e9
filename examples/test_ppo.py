"""Tests of examples/ppo.py: pytest examples (make test-train). Small networks, few steps, under a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import ppo

from kvgym.batch import Batch

SMALL = ["--envs", "16", "--twins", "4", "--hidden", "16", "--minibatches", "2", "--warm-rounds", "3", "--checkpoint-every", "2",
         "--threads", "1", "--device", "cpu"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation on few episodes: a small number of them tells nothing worse here."""
    monkeypatch.setattr(ppo, "VALIDATION_EPISODES", 8)


def run(out: Path, *more: str) -> None:
    assert ppo.main([*SMALL, "--out", str(out), "--eval-episodes", "0", *more]) == 0


def checkpoint(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def network(slots: int = 64, hidden: int = 16) -> ppo.Network:
    """A network whose logits differ enough that all operations are chosen."""
    torch.manual_seed(3)
    net = ppo.Network(slots, hidden)
    torch.nn.init.normal_(net.ops.weight)
    return net


@pytest.fixture(scope="module")
def states() -> tuple[torch.Tensor, torch.Tensor]:
    """Observations [n, 784] and masks [n, 64, 4] of both profiles, after steps that compress, evict and swap."""
    obs, mask = [], []
    for profile in ("seed", "serving"):
        with Batch(24, profile=profile, seed=9) as batch:
            batch.reset()
            for _ in range(4):
                block = batch.step(pairs=batch.decide("random"))
                obs.append(torch.from_numpy(block.obs.copy()))
                mask.append(torch.from_numpy(block.mask.copy()))
    return torch.cat(obs), torch.cat(mask)


def test_tiny_budget_end_to_end(tmp_path: Path) -> None:
    run(tmp_path, "--env-steps", "960", "--profile", "serving", "--warm-start", "tiered", "--eval-episodes", "8", "--search-episodes", "2")
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(found["sets"]) == {"easy", "medium", "hard", "all"}
    for at in found["sets"].values():
        assert {"ppo", "noop", "tiered", "compress-all", "search"} <= set(at["policies"])
        best = at["best_baseline"]
        assert at["policies"][best]["mean"] == max(x["mean"] for p, x in at["policies"].items() if p not in ("ppo", "search"))
        assert at["ppo_minus"][best]["mean"] == pytest.approx(at["policies"]["ppo"]["mean"] - at["policies"][best]["mean"])
    assert found["training"]["iterations"] == 4
    assert 0 < found["training"]["environment_share"] < 1
    assert "ppo - best baseline, paired" in ppo.table(found)
    for name in ("curve.png", "policy.onnx", "policy.pt", "checkpoint.pt"):
        assert (tmp_path / name).stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())


def test_resume_ends_in_the_same_state(tmp_path: Path) -> None:
    run(tmp_path / "whole", "--env-steps", "960", "--warm-start", "greedy")
    run(tmp_path / "parts", "--env-steps", "960", "--warm-start", "greedy", "--stop-after", "2")
    assert checkpoint(tmp_path / "parts")["iteration"] == 2
    run(tmp_path / "parts", "--resume")
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert whole["iteration"] == parts["iteration"] == 4
    assert whole["played"] == parts["played"]
    for name in ("net", "mean"):
        for key, value in whole[name].items():
            assert torch.equal(value, parts[name][key]), f"{name}.{key}"
    for a, b in zip(whole["optimiser"]["state"].values(), parts["optimiser"]["state"].values(), strict=True):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    assert torch.equal(whole["rng"], parts["rng"])
    run(tmp_path / "other", "--env-steps", "960", "--warm-start", "greedy", "--seed", "2")
    assert not torch.equal(whole["net"]["ops.weight"], checkpoint(tmp_path / "other")["net"]["ops.weight"])


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--envs", "10", "--twins", "4"], ["--warm-start", "nobody"], ["--minibatches", "0"]):
        with pytest.raises(SystemExit) as stopped:
            ppo.main([*wrong, "--out", str(tmp_path)])
        assert stopped.value.code == 2
    assert ppo.main(["--resume", "--out", str(tmp_path / "absent")]) == 2
    assert "not found" in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["seed", "serving"])
@pytest.mark.parametrize("sample", [True, False])
def test_mask_is_respected(profile: str, sample: bool) -> None:
    """No operation is counted as invalid, sampled (of a new network, so nearly uniformly) or likeliest.

    In the serving profile swaps are left out: each is possible by itself, but the CPU's memory may have no room for all.
    """
    s, net = ppo.Settings(profile=profile, envs=32), ppo.Network(64, 16) if sample else network()
    server = ppo.Server(s, s.envs, "hard", CPU)
    obs, mask = server.reset(np.arange(32, dtype=np.uint64))
    done = 0
    for _ in range(s.steps):
        ops, logp, _ = net.act(obs, mask, sample=sample)
        assert mask.gather(2, ops.long()[:, :, None]).all()
        assert torch.isfinite(logp).all()
        if profile == "serving":
            ops[ops == OP_SWAP] = 0
        done += int((ops != 0).sum())
        (obs, mask), _ = server.step(ops)
    invalid = server.batch.description["metrics"].index("invalid_actions")
    assert server.batch.block.metrics[:, invalid].sum() == 0
    assert done > (1000 if sample else 50)


OP_SWAP = ppo.OPS.index("swap")


def test_renumbering_slots_renumbers_logits(states: tuple[torch.Tensor, torch.Tensor]) -> None:
    obs, mask = states
    net, order = network(), torch.randperm(64, generator=torch.Generator().manual_seed(1))
    moved = torch.cat((obs[:, :16], obs[:, 16:].view(-1, 64, 12)[:, order].flatten(1)), 1)
    logits, value = net(obs, mask)
    moved_logits, moved_value = net(moved, mask[:, order])
    torch.testing.assert_close(moved_logits, logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved_value, value, rtol=1e-4, atol=1e-4)
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 0.1  # that it is not the same for all slots


def test_live_slots_only(states: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Gathering live slots computes what all slots would: whatever stands in an empty one is of no effect."""
    obs, mask = states
    net = network()
    rows, state, slot, _ = net.live(obs, mask)
    assert len(rows) == int(mask[:, :, ppo.EVICT].sum()) < mask.shape[0] * 40
    noisy = obs.clone()
    noisy[:, 16:].view(-1, 64, 12)[~mask[:, :, ppo.EVICT]] = 0.5
    torch.testing.assert_close(net.live(noisy, mask)[0], rows)
    assert torch.equal(net(obs, mask)[0][state, slot], rows)
    assert (net(obs, mask)[0][~mask] == ppo.NEVER).all()


def test_twins_play_the_same_traffic() -> None:
    s = ppo.Settings(envs=16, twins=4)
    seeds = ppo.Learner(s, CPU).seeds(s.twins)
    assert len(set(seeds.tolist())) == 4
    server = ppo.Server(s, s.envs, "all", CPU)
    obs, _ = server.reset(seeds)
    assert torch.equal(obs[0], obs[3])
    assert not torch.equal(obs[3], obs[4])


def test_advantages_are_of_moves_not_of_luck() -> None:
    s = ppo.Settings(envs=8, twins=4, steps=3, slots=16)
    e = ppo.Episodes.room(s, 208, CPU)
    torch.manual_seed(0)
    e.value.normal_()
    e.reward.normal_()
    before, returns = ppo.advantages(e, s)
    e.reward[:, 4:] += 5  # all twins of the second episode are lucky
    after, _ = ppo.advantages(e, s)
    torch.testing.assert_close(before, after)
    s.twins, s.gae_lambda = 1, 1.0
    torch.testing.assert_close(ppo.advantages(e, s)[1], e.reward.flip(0).cumsum(0).flip(0))
    assert returns.shape == (3, 8)


def test_onnx_is_torch(tmp_path: Path, states: tuple[torch.Tensor, torch.Tensor]) -> None:
    reference = pytest.importorskip("onnx.reference")
    obs, mask = states
    net = network()
    ppo.export_onnx(net, tmp_path / "policy.onnx")
    runtime = reference.ReferenceEvaluator(str(tmp_path / "policy.onnx"))
    logits, ops = runtime.run(["logits", "ops"], {"obs": obs.numpy(), "mask": mask.numpy()})
    with torch.no_grad():
        wanted, _ = net(obs, mask)
    np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert (ops == wanted.argmax(2).numpy()).mean() > 0.999
    assert {0, 1, 2, 3} == set(np.unique(ops))


def test_go_plays_the_same(tmp_path: Path) -> None:
    """The library's forward pass of the exported file decides as PyTorch does, over whole episodes."""
    s, net = ppo.Settings(profile="serving"), network()
    ppo.export_onnx(net, tmp_path / "policy.onnx")
    seeds = np.arange(16, dtype=np.uint64)
    mine = ppo.play_score(s, net, "all", seeds, CPU)
    go = ppo.play_score(s, f"onnx:{tmp_path / 'policy.onnx'}", "all", seeds, CPU)
    assert (mine == go).mean() >= 15 / 16  # rounding may tip a near tie
    np.testing.assert_allclose(mine.mean(), go.mean(), atol=1e-3)


def test_command_line_without_a_terminal(tmp_path: Path) -> None:
    """As a program: help names every setting, and a run prints no progress bar into a pipe."""
    file = Path(ppo.__file__)
    text = subprocess.run([sys.executable, str(file), "--help"], check=True, capture_output=True, text=True).stdout
    for name in ppo.HELP:
        assert "--" + name.replace("_", "-") in text
    more = ["--out", str(tmp_path), "--warm-start", "none", "--env-steps", "240", "--eval-episodes", "0"]
    done = subprocess.run([sys.executable, str(file), *SMALL, *more], check=True, capture_output=True, text=True)
    assert "\r" not in done.stderr
