#!/usr/bin/env python3
"""PPO for kvgym in one file: warm start by imitation, training, evaluation, learning curve, ONNX.

    python examples/ppo.py --profile serving --out out/ppo                 # some ten minutes on two cores
    python examples/ppo.py --profile serving --out out/ppo --resume        # goes on where it was stopped
    python examples/ppo.py --out out/ppo --evaluate-only                   # plays held-out episodes with OUT/policy.pt again
    kvgym rollout --profile serving --policy onnx:out/ppo/policy.onnx,tiered --out out/played

OUT gets checkpoint.pt (for --resume), policy.pt and policy.onnx (the network), evaluation.json, curve.png and TensorBoard's logs.
docs/training.md says what was measured with it.

Names of sizes in comments: n environments or states, s slots (64), m live slots of all n states together, h width of the network.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from kvgym.batch import Batch, describe

OPS = ("keep", "evict", "compress", "swap")
GLOBALS, FEATURES, PREFIXES = 16, 12, 8  # observation: global values, values a slot, prefix numbers (0: none)
PREFIX_AT = 10  # slot value that tells the prefix, as number / 8
EVICT = 1  # its mask says which slots are live
SLOT_INPUTS = FEATURES + 2  # and whether compress and swap are possible
SETS = ("easy", "medium", "hard", "all")
REFERENCE = "search"  # knows the future, so it is no baseline
REWARD_SCALE = 10.0  # an episode's score is below 1; values near 1 suit the optimiser better
NEVER = -1e9  # logit of an operation that is not possible

# Episodes are named by seeds. Training, validation and evaluation never share one.
EVALUATION_SEEDS, VALIDATION_SEEDS, TRAINING_SEEDS = 3 * 10**9, 2 * 10**9, 2**40
VALIDATION_EPISODES = 512


# ---------------------------------------------------------------------------------------------------------------- settings


@dataclass
class Settings:
    """Everything that a run depends on besides the program; kept in its checkpoint."""

    profile: str = "serving"
    preset: str | None = None
    difficulty: str = "all"
    slots: int = 64
    steps: int = 15
    seed: int = 1
    env_steps: int = 2_000_000
    envs: int = 256
    twins: int = 8
    hidden: int = 64
    learning_rate: float = 1e-3
    epochs: int = 3
    minibatches: int = 4
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.002
    value_weight: float = 0.5
    grad_norm: float = 1.0
    target_kl: float = 0.03
    average: float = 0.98
    warm_start: str = "search"
    warm_rounds: int = 100
    warm_epochs: float = 2.0
    smoothing: float = 0.02


HELP = {
    "profile": "rules to learn: seed or serving",
    "preset": "server of the serving profile",
    "difficulty": "easy, medium, hard or all (mixed)",
    "slots": "places for sequences",
    "steps": "length of an episode",
    "seed": "of weights, sampling and the order of training episodes",
    "env_steps": "environment steps of PPO",
    "envs": "environments stepped together",
    "twins": "environments that play the same episode, to compare moves on equal traffic",
    "hidden": "width of the network",
    "learning_rate": "at the start; falls linearly to a twentieth",
    "epochs": "passes over an iteration's steps",
    "minibatches": "updates a pass",
    "gamma": "discount; 1 suits episodes of 15 steps",
    "gae_lambda": "of generalised advantage estimation",
    "clip": "bound of the probability ratio's change",
    "entropy": "weight of the entropy bonus at the start; falls linearly to 0",
    "value_weight": "weight of the value's loss",
    "grad_norm": "bound of the gradient's norm",
    "target_kl": "an iteration's updates end beyond this KL divergence a step",
    "average": "decay of the weights' running mean, which is what is evaluated; 0: none",
    "warm_start": "policy to imitate first: search, tiered, ... or none",
    "warm_rounds": "rounds of imitation, an episode of every environment each",
    "warm_epochs": "passes a round over as many steps as a round has, drawn from the last 16 rounds",
    "smoothing": "probability that imitation leaves to the operations that the teacher did not choose, so that PPO still tries them",
}


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the names of the settings that it gives."""
    about, examples = __doc__.split("\n\n")[:2]
    p = argparse.ArgumentParser(description=about, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("out/ppo"), help="folder to write to (out/ppo)")
    p.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt; its settings hold, --env-steps may grow")
    p.add_argument("--evaluate-only", action="store_true", help="no training: evaluate OUT/policy.pt")
    p.add_argument("--eval-episodes", type=int, default=4096, help="held-out episodes for each policy and difficulty (4096)")
    p.add_argument("--search-episodes", type=int, default=1024, help="of these, how many the slow search plays (1024)")
    p.add_argument("--checkpoint-every", type=int, default=25, help="iterations between checkpoints and validations (25)")
    p.add_argument("--stop-after", type=int, default=0, help="stop after so many iterations, for --resume to go on; 0: never (0)")
    p.add_argument("--device", default="auto", help="cpu, cuda or auto: cuda where there is one (auto)")
    p.add_argument("--threads", type=int, default=1, help="of PyTorch, 0: as many as cores; several are slow beside other programs (1)")
    for f in fields(Settings):
        kind = str if f.name in ("profile", "preset", "difficulty", "warm_start") else type(f.default)
        p.add_argument("--" + f.name.replace("_", "-"), type=kind, default=argparse.SUPPRESS, help=f"{HELP[f.name]} ({f.default})")
    args = p.parse_args(argv)
    given = [f.name for f in fields(Settings) if hasattr(args, f.name)]
    s = Settings(**{name: getattr(args, name) for name in given})
    if s.twins < 1 or s.envs % s.twins:
        p.error(f"--envs: {s.envs}: allowed multiples of --twins, {s.twins}")
    if s.envs * s.steps < s.minibatches or s.minibatches < 1:
        p.error(f"--minibatches: {s.minibatches}: allowed 1 to envs * steps, {s.envs * s.steps}")
    if s.warm_start not in ("none", *describe({"envs": 1})["policies"]):
        p.error(f"--warm-start: {s.warm_start}: allowed none, {', '.join(describe({'envs': 1})['policies'])}")
    return args, given


# ----------------------------------------------------------------------------------------------------------------- network


class Network(nn.Module):
    """Logits of the four operations for every slot, and the value of the state.

    A slot's layer sees its own values; sums of that layer over all live slots and over the slots with the same prefix are the context
    in which a second layer judges it. So renumbering slots renumbers logits and changes nothing else. Only live slots are computed.
    """

    def __init__(self, slots: int, hidden: int) -> None:
        super().__init__()
        self.slots, self.hidden = slots, hidden
        self.slot = nn.Linear(SLOT_INPUTS, hidden)
        self.state = nn.Linear(GLOBALS + hidden, hidden)
        self.own = nn.Linear(hidden, hidden)
        self.shared = nn.Linear(hidden, hidden, bias=False)
        self.around = nn.Linear(hidden, hidden, bias=False)
        self.ops = nn.Linear(hidden, len(OPS))
        worth, judge = nn.Linear(GLOBALS + 2 * hidden, hidden), nn.Linear(hidden, 1)
        self.value = nn.Sequential(worth, nn.ReLU(), judge)
        for layer in (self.slot, self.state, self.own, self.shared, self.around, worth):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
        nn.init.orthogonal_(self.ops.weight, 0.01)
        nn.init.orthogonal_(judge.weight, 1.0)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def live(self, obs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """obs [n, 784] float, mask [n, s, 4] bool -> masked logits [m, 4], state [m] and slot [m] of each row, values [n]."""
        n = obs.shape[0]
        glob, slots = obs[:, :GLOBALS], obs[:, GLOBALS:].view(n, self.slots, FEATURES)
        state, slot = torch.nonzero(mask[:, :, EVICT], as_tuple=True)
        mine, possible = slots[state, slot], mask[state, slot]
        group = state * PREFIXES + (mine[:, PREFIX_AT] * PREFIXES + 0.5).long()
        first = torch.relu(self.slot(torch.cat((mine, possible[:, 2:].to(mine.dtype)), 1)))  # [m, h]
        sums = first.new_zeros(n * PREFIXES, self.hidden).index_add(0, group, first).view(n, PREFIXES, self.hidden) / 16
        total = sums.sum(1)
        context = torch.relu(self.state(torch.cat((glob, total), 1)))  # [n, h]
        sharing = torch.cat((torch.zeros_like(sums[:, :1]), sums[:, 1:]), 1)  # those without a prefix share nothing
        around = self.shared(sharing) + self.around(context)[:, None]  # [n, 8, h]
        second = torch.relu(self.own(first) + around.view(n * PREFIXES, self.hidden)[group])
        logits = torch.where(possible, self.ops(second), NEVER)
        judged = second.new_zeros(n, self.hidden).index_add(0, state, second) / 16
        return logits, state, slot, self.value(torch.cat((glob, context, judged), 1)).squeeze(1)

    def forward(self, obs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """obs [n, 784], mask [n, s, 4] -> logits [n, s, 4], values [n]; an empty slot can only be kept."""
        rows, state, slot, value = self.live(obs, mask)
        logits = torch.where(mask, 0.0, NEVER).to(rows.dtype)
        return logits.index_put((state, slot), rows), value

    @torch.no_grad()
    def act(self, obs: Tensor, mask: Tensor, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Operations [n, s] (bytes), the log probability of each [n, s], and values [n]; without sample the likeliest operations."""
        rows, state, slot, value = self.live(obs, mask)
        ops = torch.zeros(mask.shape[:2], dtype=torch.uint8, device=obs.device)
        logp = torch.zeros(mask.shape[:2], device=obs.device)
        if sample:
            rows = torch.log_softmax(rows, 1)
            chosen = (rows - torch.log(-torch.log(torch.rand_like(rows).clamp_(1e-20, 1 - 1e-7)))).argmax(1)  # Gumbel's trick
            logp[state, slot] = rows.gather(1, chosen[:, None]).squeeze(1)
        else:
            chosen = rows.argmax(1)
        ops[state, slot] = chosen.to(torch.uint8)
        return ops, logp, value


# ------------------------------------------------------------------------------------------------------------ environments


class Server:
    """A batch whose observations and masks come as tensors on the device, from pinned memory if that is a GPU."""

    def __init__(self, s: Settings, envs: int, difficulty: str, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0
        buffers = {}
        if device.type == "cuda":
            length = describe({"envs": 1, "slots": s.slots})["obs"]["length"]
            buffers = {"obs": torch.empty(envs, length, pin_memory=True),
                       "mask": torch.empty(envs, s.slots, len(OPS), dtype=torch.bool, pin_memory=True)}
        self.batch = Batch(envs, profile=s.profile, preset=s.preset, difficulty=difficulty, slots=s.slots, steps=s.steps,
                           autoreset="disabled", outputs=("obs", "mask", "metrics"), blocks=1, buffers=buffers)

    def reset(self, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        began = time.perf_counter()
        self.batch.reset(seeds=seeds)
        self.seconds += time.perf_counter() - began
        return self._state()

    def step(self, ops: Tensor | np.ndarray) -> tuple[tuple[Tensor, Tensor], np.ndarray]:
        """Applies operations [n, s], or pairs [n, k, 2] -> the new observation and mask, rewards [n]."""
        host = ops.cpu().numpy() if isinstance(ops, Tensor) else ops
        began = time.perf_counter()
        block = self.batch.step(host) if host.ndim == 2 else self.batch.step(pairs=host)
        self.seconds += time.perf_counter() - began
        return self._state(), block.reward

    def _state(self) -> tuple[Tensor, Tensor]:
        b = self.batch.block
        return b.torch("obs").to(self.device, non_blocking=True), b.torch("mask").to(self.device, non_blocking=True)

    def advise(self, policy: str) -> np.ndarray:
        """What a built-in policy would do, as operations [n, s]: the first one where it gives a slot several."""
        pairs = self.batch.decide(policy)
        ops = np.zeros((self.batch.num_envs, self.batch.slots), np.uint8)
        env = np.broadcast_to(np.arange(len(pairs))[:, None], pairs.shape[:2])
        ops[env[:, ::-1], pairs[:, ::-1, 1]] = pairs[:, ::-1, 0]  # of repeated indices the last one counts
        return ops


@dataclass
class Episodes:
    """One episode of every environment; t steps."""

    obs: Tensor  # [t, n, 784]
    mask: Tensor  # [t, n, s, 4]
    ops: Tensor  # [t, n, s] bytes: what was done, or in imitation what should have been
    logp: Tensor  # [t, n, s]
    value: Tensor  # [t, n]
    reward: Tensor  # [t, n]

    @staticmethod
    def room(s: Settings, length: int, device: torch.device) -> Episodes:
        t, n, k = s.steps, s.envs, s.slots
        return Episodes(torch.empty(t, n, length, device=device), torch.empty(t, n, k, len(OPS), dtype=torch.bool, device=device),
                        torch.empty(t, n, k, dtype=torch.uint8, device=device), torch.empty(t, n, k, device=device),
                        torch.empty(t, n, device=device), torch.empty(t, n, device=device))

    def flat(self, name: str) -> Tensor:
        """A field with steps and environments as one axis."""
        return getattr(self, name).flatten(0, 1)


def play_training(server: Server, net: Network, seeds: np.ndarray, into: Episodes, teacher: str | None = None,
                  lead: np.ndarray | None = None) -> Episodes:
    """Plays one episode of each seed by sampling. With a teacher, records its advice instead; where lead [n] is true it also acts."""
    obs, mask = server.reset(seeds)
    for t in range(into.obs.shape[0]):
        into.obs[t], into.mask[t] = obs, mask
        ops, into.logp[t], into.value[t] = net.act(into.obs[t], into.mask[t], sample=True)
        into.ops[t] = ops
        if teacher is not None:
            into.ops[t] = torch.from_numpy(server.advise(teacher)).to(ops.device)
            if lead is not None:
                ops = torch.where(torch.from_numpy(lead).to(ops.device)[:, None], into.ops[t], ops)
        (obs, mask), reward = server.step(ops)
        into.reward[t] = torch.from_numpy(reward) * REWARD_SCALE
    return into


def play_score(s: Settings, policy: Network | str, difficulty: str, seeds: np.ndarray, device: torch.device) -> np.ndarray:
    """Scores [n] of one episode of each seed; a network takes its likeliest operations."""
    server = Server(s, len(seeds), difficulty, device)
    obs, mask = server.reset(seeds)
    score = np.zeros(len(seeds))
    for _ in range(s.steps):
        ops = server.batch.decide(policy) if isinstance(policy, str) else policy.act(obs, mask, sample=False)[0]
        (obs, mask), reward = server.step(ops)
        score += reward
    server.batch.close()
    return score


# ---------------------------------------------------------------------------------------------------------------- learning


def advantages(e: Episodes, s: Settings) -> tuple[Tensor, Tensor]:
    """Normalised advantages [t, n] and the returns that values should have had [t, n].

    Twins play the same traffic, and traffic does not depend on operations. What all twins gained in a step beyond its value is luck,
    so their mean is taken away: a comparison of moves, not of episodes. Every step of the episode is normalised by itself, since the
    last steps decide about little and would not be heard among the first.
    """
    gae, gains = torch.zeros_like(e.value[0]), torch.empty_like(e.value)
    after = torch.zeros_like(e.value[0])  # the episode is over: nothing is gained after the last step
    for t in reversed(range(len(e.value))):
        gae = e.reward[t] + s.gamma * after - e.value[t] + s.gamma * s.gae_lambda * gae
        gains[t], after = gae, e.value[t]
    returns = gains + e.value
    if s.twins > 1:
        by_episode = gains.view(len(gains), -1, s.twins)
        gains = (by_episode - by_episode.mean(2, keepdim=True)).view_as(gains)
    spread = gains.std(1, keepdim=True) + 0.1 * gains.std() + 1e-8
    return (gains - gains.mean(1, keepdim=True)) / spread, returns


class Learner:
    """The network, its optimiser, its running mean and what was logged: all that a checkpoint holds."""

    KEPT = ("iteration", "played", "warm", "seconds", "history")

    def __init__(self, s: Settings, device: torch.device) -> None:
        torch.manual_seed(s.seed)
        self.s, self.device = s, device
        self.net = Network(s.slots, s.hidden).to(device)
        self.mean = Network(s.slots, s.hidden).to(device)
        self.mean.load_state_dict(self.net.state_dict())
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=s.learning_rate, eps=1e-5)
        self.iteration, self.played, self.warm = 0, 0, False
        self.seconds = {"total": 0.0, "processor": 0.0, "environment": 0.0, "warm_start": 0.0}
        self.history: list[dict[str, float]] = []

    def iterations(self) -> int:
        return max(1, self.s.env_steps // (self.s.envs * self.s.steps))

    def seeds(self, twins: int) -> np.ndarray:
        """The next training episodes [n], each for as many environments as twins says."""
        fresh = self.s.envs // twins
        first = TRAINING_SEEDS + self.s.seed * 2**36 + self.played
        self.played += fresh
        return np.repeat(np.arange(first, first + fresh, dtype=np.uint64), twins)

    def update(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.s.grad_norm)
        self.optimiser.step()

    def follow(self, decay: float) -> None:
        """Moves the running mean of the weights."""
        with torch.no_grad():
            for m, p in zip(self.mean.parameters(), self.net.parameters(), strict=True):
                m.lerp_(p, 1 - decay)

    def imitate(self, recent: deque[tuple[Tensor, Tensor, Tensor, Tensor]], rng: torch.Generator) -> dict[str, float]:
        """Updates on a draw of recent rounds' states: the teacher's operations and the returns that followed."""
        s = self.s
        size = s.envs * s.steps // s.minibatches
        losses, agree = [], []
        for _ in range(max(1, round(s.warm_epochs * s.minibatches))):
            obs, mask, ops, returns = recent[int(torch.randint(len(recent), (1,), generator=rng))]
            at = torch.randint(len(obs), (size,), generator=rng).to(self.device)
            rows, state, slot, value = self.net.live(obs[at], mask[at])
            wanted = ops[at][state, slot].long()
            wanted = torch.where(mask[at][state, slot].gather(1, wanted[:, None]).squeeze(1), wanted, 0)
            possible = mask[at][state, slot].to(rows.dtype)
            target = s.smoothing * possible / possible.sum(1, keepdim=True)
            target.scatter_add_(1, wanted[:, None], torch.full_like(target[:, :1], 1 - s.smoothing))
            policy_loss = -(target * torch.log_softmax(rows, 1)).sum(1).mean()
            self.update(policy_loss + s.value_weight * 0.1 * (value - returns[at]).square().mean())
            losses.append(policy_loss.item())
            agree.append((rows.argmax(1) == wanted).float().mean().item())
        return {"warm/loss": float(np.mean(losses)), "warm/agreement": float(np.mean(agree))}

    def improve(self, e: Episodes) -> dict[str, float]:
        """PPO's updates on one iteration's episodes."""
        s, left = self.s, 1 - self.iteration / self.iterations()
        for group in self.optimiser.param_groups:
            group["lr"] = s.learning_rate * max(0.05, left)
        gain, returns = (x.flatten() for x in advantages(e, s))
        steps = (e.flat("obs"), e.flat("mask"), e.flat("ops"), e.flat("logp"), gain, returns)
        logs: dict[str, list[float]] = {k: [] for k in ("policy", "value", "entropy", "kl", "clipped")}
        for _ in range(s.epochs):
            order = torch.randperm(len(gain)).to(self.device)
            for at in order.chunk(s.minibatches):
                self._step(*(x[at] for x in steps), bonus=s.entropy * left, logs=logs)
            if np.mean(logs["kl"][-s.minibatches:]) > s.target_kl:
                break
        explained = 1 - (returns - e.value.flatten()).var() / (returns.var() + 1e-8)
        return {f"ppo/{k}": float(np.mean(v)) for k, v in logs.items()} | {"ppo/explained_variance": explained.item()}

    def _step(self, obs: Tensor, mask: Tensor, ops: Tensor, logp: Tensor, gain: Tensor, returns: Tensor, *, bonus: float,
              logs: dict[str, list[float]]) -> None:
        """One update on b states. Every slot's choice has its own clipped ratio; all of a state share its advantage."""
        rows, state, slot, value = self.net.live(obs, mask)
        rows = torch.log_softmax(rows, 1)
        change = rows.gather(1, ops[state, slot].long()[:, None]).squeeze(1) - logp[state, slot]  # [m]
        ratio, weight = change.exp(), gain[state]
        policy_loss = -torch.minimum(ratio * weight, ratio.clamp(1 - self.s.clip, 1 + self.s.clip) * weight).sum() / len(gain)
        value_loss = (value - returns).square().mean()
        entropy = -(rows.exp() * rows).sum() / len(gain)
        self.update(policy_loss + self.s.value_weight * value_loss - bonus * entropy)
        with torch.no_grad():
            kl, clipped = (ratio - 1 - change).sum() / len(gain), ((ratio - 1).abs() > self.s.clip).float().mean()
            for name, x in zip(logs, (policy_loss, value_loss, entropy, kl, clipped), strict=True):
                logs[name].append(x.item())

    def save(self, file: Path) -> None:
        """Writes a checkpoint; one that is cut short leaves the last one."""
        keep = {"settings": asdict(self.s), "net": self.net.state_dict(), "mean": self.mean.state_dict(),
                "optimiser": self.optimiser.state_dict(), "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []}
        keep |= {name: getattr(self, name) for name in Learner.KEPT}
        torch.save(keep, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)

    @staticmethod
    def load(file: Path, device: torch.device, env_steps: int | None) -> Learner:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        s = Settings(**kept["settings"])
        s.env_steps = env_steps or s.env_steps
        made = Learner(s, device)
        made.net.load_state_dict(kept["net"])
        made.mean.load_state_dict(kept["mean"])
        made.optimiser.load_state_dict(kept["optimiser"])
        for name in Learner.KEPT:
            setattr(made, name, kept[name])
        torch.set_rng_state(kept["rng"])
        if kept["cuda_rng"] and device.type == "cuda":
            torch.cuda.set_rng_state_all(kept["cuda_rng"])
        return made


def warm_start(learner: Learner, server: Server, room: Episodes) -> None:
    """Imitates a built-in policy on the states that the network itself comes to (DAgger); the teacher leads less and less often.

    The teacher `search` sees the future. The network does not, so it learns what is right on average over futures.
    """
    s, rng = learner.s, torch.Generator().manual_seed(learner.s.seed)
    recent: deque[tuple[Tensor, Tensor, Tensor, Tensor]] = deque(maxlen=16)
    bar = tqdm(range(s.warm_rounds), desc=f"imitating {s.warm_start}", disable=None)
    for r in bar:
        lead = torch.rand(s.envs, generator=rng).numpy() < 1 - 2 * r / s.warm_rounds
        e = play_training(server, learner.net, learner.seeds(1), room, s.warm_start, lead)
        returns = e.reward.flip(0).cumsum(0).flip(0).flatten()
        recent.append((e.flat("obs").clone(), e.flat("mask").clone(), e.flat("ops").clone(), returns))
        for group in learner.optimiser.param_groups:
            group["lr"] = 2 * s.learning_rate * (1 - 0.9 * r / s.warm_rounds)
        logs = learner.imitate(recent, rng)
        learner.follow(0.8)
        if (bar.disable and (r + 1) % 25 == 0) or r + 1 == s.warm_rounds:
            print(f"imitated {s.warm_start}, round {r + 1}/{s.warm_rounds}: {logs['warm/agreement']:.3f} of live slots as the teacher, "
                  f"loss {logs['warm/loss']:.4f}", flush=True)
    learner.net.load_state_dict(learner.mean.state_dict())
    learner.optimiser = torch.optim.Adam(learner.net.parameters(), lr=s.learning_rate, eps=1e-5)


def validate(learner: Learner) -> float:
    """Mean score of the running mean on episodes that are used for nothing else."""
    seeds = np.arange(VALIDATION_SEEDS, VALIDATION_SEEDS + VALIDATION_EPISODES, dtype=np.uint64)
    return float(play_score(learner.s, learner.mean, learner.s.difficulty, seeds, learner.device).mean())


def train(learner: Learner, out: Path, every: int, last: int) -> None:
    """Warm start and PPO up to the settings' number of steps, with checkpoints and logs."""
    from torch.utils.tensorboard import SummaryWriter

    s, file = learner.s, out / "checkpoint.pt"
    server = Server(s, s.envs, s.difficulty, learner.device)
    room = Episodes.room(s, server.batch.obs_length, learner.device)
    total = min(learner.iterations(), last or learner.iterations())
    with SummaryWriter(str(out / "tensorboard")) as board:
        if not learner.warm and s.warm_start != "none":
            began, used = time.perf_counter(), time.process_time()
            warm_start(learner, server, room)
            learner.seconds["warm_start"] = time.perf_counter() - began
            learner.seconds["processor"] += time.process_time() - used
            learner.seconds["total"] += learner.seconds["warm_start"]
            learner.seconds["environment"] += server.seconds
            server.seconds = 0.0
        if not learner.warm:
            learner.warm = True
            learner.history.append({"env_steps": 0, "seconds": learner.seconds["total"], "validation": validate(learner)})
            learner.save(file)
        with tqdm(total=total, initial=learner.iteration, desc="ppo", unit="iteration", disable=None) as bar:
            while learner.iteration < total:
                began, used, outside = time.perf_counter(), time.process_time(), server.seconds
                e = play_training(server, learner.net, learner.seeds(s.twins), room)
                logs = learner.improve(e)
                learner.follow(s.average)
                learner.iteration += 1
                seconds = time.perf_counter() - began
                learner.seconds["total"] += seconds
                learner.seconds["processor"] += time.process_time() - used
                learner.seconds["environment"] += server.seconds - outside
                record(learner, board, bar, e, logs, seconds)
                if learner.iteration % every == 0 or learner.iteration == total:
                    learner.history[-1]["validation"] = validate(learner)
                    board.add_scalar("score/validation", learner.history[-1]["validation"], learner.history[-1]["env_steps"])
                    learner.save(file)
    server.batch.close()


def record(learner: Learner, board, bar: tqdm, e: Episodes, logs: dict[str, float], seconds: float) -> None:
    """Logs one iteration."""
    score = e.reward.sum(0).mean().item() / REWARD_SCALE
    at = learner.iteration * learner.s.envs * learner.s.steps
    learner.history.append({"env_steps": at, "seconds": learner.seconds["total"], "training": score})
    rate = learner.s.envs * learner.s.steps / seconds
    for name, x in (logs | {"score/training": score, "time/env_steps_per_second": rate}).items():
        board.add_scalar(name, x, at)
    bar.set_postfix_str(f"score {score:.4f}, {rate:.0f} steps/s, entropy {logs['ppo/entropy']:.2f}, kl {logs['ppo/kl']:.4f}", refresh=False)
    bar.update()
    if bar.disable and learner.iteration % 25 == 0:
        print(f"iteration {learner.iteration}/{learner.iterations()}: score {score:.4f}, {rate:.0f} env-steps/s, "
              + ", ".join(f"{k.removeprefix('ppo/')} {x:.4f}" for k, x in logs.items()), flush=True)


# -------------------------------------------------------------------------------------------------------------- evaluation


def interval(x: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    return float(x.mean()), float(1.96 * x.std(ddof=1) / math.sqrt(len(x)))


def evaluate(s: Settings, net: Network, episodes: int, search_episodes: int, device: torch.device) -> dict:
    """Scores of the network, every baseline and the reference on the same held-out episodes, and differences episode by episode."""
    baselines = [p for p in describe({"envs": 1})["policies"] if p != REFERENCE]
    found: dict = {"profile": s.profile, "preset": s.preset, "episodes": episodes, "search_episodes": search_episodes, "sets": {}}
    plan = [(d, p) for d in SETS for p in ("ppo", *baselines, REFERENCE)]
    scores: dict[tuple[str, str], np.ndarray] = {}
    for d, p in tqdm(plan, desc="evaluating", disable=None):
        count = min(episodes, search_episodes) if p == REFERENCE else episodes
        seeds = np.arange(EVALUATION_SEEDS, EVALUATION_SEEDS + count, dtype=np.uint64)
        scores[d, p] = play_score(s, net if p == "ppo" else p, d, seeds, device)
    for d in SETS:
        best = max(baselines, key=lambda p: scores[d, p].mean())
        few = len(scores[d, REFERENCE])
        found["sets"][d] = {
            "policies": {p: dict(zip(("mean", "half_ci95"), interval(scores[d, p]), strict=True)) for p in ("ppo", *baselines, REFERENCE)},
            "best_baseline": best,
            "ppo_minus": {p: dict(zip(("mean", "half_ci95"), interval(scores[d, "ppo"] - scores[d, p]), strict=True)) for p in baselines},
            "ppo_minus_search": dict(zip(("mean", "half_ci95"), interval(scores[d, "ppo"][:few] - scores[d, REFERENCE]), strict=True)),
            "gap_closed": float((scores[d, "ppo"][:few].mean() - scores[d, best][:few].mean())
                                / (scores[d, REFERENCE].mean() - scores[d, best][:few].mean() + 1e-12)),
        }
    return found


def table(found: dict) -> str:
    """The evaluation as a Markdown table."""
    def row(name: str, cells: list[str]) -> str:
        return "| " + " | ".join([name.ljust(28), *(c.ljust(17) for c in cells)]) + " |"

    def cell(x: dict) -> str:
        return f"{x['mean']:.4f} ± {x['half_ci95']:.4f}"

    sets = [found["sets"][d] for d in SETS]
    lines = [row(f"{found['profile']}, score ± 95 %", list(SETS)), "|---" * (len(SETS) + 1) + "|"]
    lines += [row(p, [cell(x["policies"][p]) for x in sets]) for p in sets[0]["policies"]]
    lines.append(row("best baseline", [x["best_baseline"] for x in sets]))
    lines.append(row("ppo - best baseline, paired", [cell(x["ppo_minus"][x["best_baseline"]]) for x in sets]))
    lines.append(row("ppo - search, paired", [cell(x["ppo_minus_search"]) for x in sets]))
    lines.append(row("share of the gap to search", [f"{x['gap_closed']:.0%}" for x in sets]))
    return "\n".join(lines)


def plot(history: list[dict[str, float]], found: dict, difficulty: str, file: Path) -> None:
    """The learning curve: sampled training scores (smoothed) and validation, with the best baseline and search as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4))
    trained = np.array([(h["env_steps"], h["training"]) for h in history if "training" in h]).reshape(-1, 2)
    checked = np.array([(h["env_steps"], h["validation"]) for h in history if "validation" in h]).reshape(-1, 2)
    if len(trained):
        width = max(1, len(trained) // 50)
        smooth = np.convolve(trained[:, 1], np.ones(width) / width, "valid")
        ax.plot(trained[width - 1:, 0] / 1e6, smooth, color="tab:blue", alpha=0.5, label="training episodes, operations sampled")
    ax.plot(checked[:, 0] / 1e6, checked[:, 1], "o-", ms=3, color="tab:blue", label="validation episodes, likeliest operations")
    at = found["sets"][difficulty]
    for name, style in ((at["best_baseline"], "--"), (REFERENCE, ":")):
        label = name + (" (knows the future)" if name == REFERENCE else ", best baseline")
        ax.axhline(at["policies"][name]["mean"], color="black", ls=style, lw=1, label=label)
    ax.set(xlabel="million environment steps of PPO, after the warm start", ylabel="score",
           title=f"{found['profile']}, difficulty {difficulty}")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(file, dpi=90)
    plt.close(fig)


# -------------------------------------------------------------------------------------------------------------------- ONNX


def export_onnx(net: Network, file: Path) -> None:
    """Writes the policy as ONNX: obs [n, 784] float, mask [n, s, 4] bool -> logits [n, s, 4] float, ops [n, s] int64; for any s.

    The graph computes all slots and multiplies empty ones by zero. `kvgym rollout --policy onnx:FILE` knows its operators, and no others.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def const(x: np.ndarray | list[int] | float, dtype: type = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(x, dtype), f"c{len(constants)}"))
        return constants[-1].name

    def node(op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output or f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def linear(x: str, layer: nn.Linear) -> str:
        y = node("MatMul", x, const(layer.weight.detach().cpu().numpy().T))
        return y if layer.bias is None else node("Add", y, const(layer.bias.detach().cpu().numpy()))

    def cut(x: str, first: int, end: int, axis: int) -> str:
        return node("Slice", x, *(const([v], np.int64) for v in (first, end, axis)))

    def number(x: str) -> str:
        return node("Cast", x, to=TensorProto.FLOAT)

    glob = cut("obs", 0, GLOBALS, 1)
    slots = node("Reshape", cut("obs", GLOBALS, 2**63 - 1, 1), const([0, -1, FEATURES], np.int64))
    live = number(cut("mask", EVICT, EVICT + 1, 2))  # [n, s, 1]
    prefix = node("Equal", cut(slots, PREFIX_AT, PREFIX_AT + 1, 2), const(np.arange(PREFIXES).reshape(1, 1, -1) / PREFIXES))
    member = node("Mul", number(prefix), live)  # [n, s, 8]
    first = node("Relu", linear(node("Concat", slots, number(cut("mask", 2, 4, 2)), axis=2), net.slot))
    sums = node("Mul", node("MatMul", node("Transpose", member, perm=[0, 2, 1]), first), const(1 / 16))  # [n, 8, h]
    total = node("ReduceSum", sums, const([1], np.int64), keepdims=0)
    context = node("Relu", linear(node("Concat", glob, total, axis=1), net.state))
    sharing = node("Mul", sums, const((np.arange(PREFIXES) > 0).reshape(1, -1, 1)))
    around = node("Add", linear(sharing, net.shared), node("Reshape", linear(context, net.around), const([-1, 1, net.hidden], np.int64)))
    second = node("Relu", node("Add", linear(node("Mul", first, live), net.own), node("MatMul", member, around)))
    node("Where", "mask", node("Mul", linear(second, net.ops), live), const(NEVER), output="logits")
    node("ArgMax", "logits", axis=2, keepdims=0, output="ops")

    value = helper.make_tensor_value_info
    inputs = [value("obs", TensorProto.FLOAT, ["n", "length"]), value("mask", TensorProto.BOOL, ["n", "slots", len(OPS)])]
    outputs = [value("logits", TensorProto.FLOAT, ["n", "slots", len(OPS)]), value("ops", TensorProto.INT64, ["n", "slots"])]
    graph = helper.make_graph(nodes, "kvgym-policy", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="kvgym examples/ppo.py")
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


# -------------------------------------------------------------------------------------------------------------------- main


def choose_device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def main(argv: list[str] | None = None) -> int:
    args, given = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device, out = choose_device(args.device), args.out
    out.mkdir(parents=True, exist_ok=True)
    if args.resume or args.evaluate_only:
        file = out / "checkpoint.pt"
        if not file.is_file():
            print(f"ppo.py: {file}: not found: --resume and --evaluate-only go on from an earlier run", file=sys.stderr)
            return 2
        learner = Learner.load(file, device, getattr(args, "env_steps", None))
        given = [g for g in given if g != "env_steps"]
        if given:
            print(f"ppo.py: {', '.join(given)}: the checkpoint's settings hold instead", file=sys.stderr)
    else:
        learner = Learner(Settings(**{name: getattr(args, name) for name in given}), device)
    if not args.evaluate_only:
        train(learner, out, args.checkpoint_every, args.stop_after)
    finish(learner, args, out)
    return 0


def finish(learner: Learner, args: argparse.Namespace, out: Path) -> None:
    """Writes the network, the evaluation and the curve, and prints the table."""
    torch.save({"settings": asdict(learner.s), "net": learner.mean.state_dict()}, out / "policy.pt")
    export_onnx(learner.mean, out / "policy.onnx")
    if not args.eval_episodes:
        return
    found = evaluate(learner.s, learner.mean, args.eval_episodes, args.search_episodes, learner.device)
    spent = learner.seconds
    share = spent["environment"] / max(spent["total"], 1e-9)
    found["training"] = {"settings": asdict(learner.s), "seconds": spent, "iterations": learner.iteration, "environment_share": share,
                         "parameters": sum(p.numel() for p in learner.mean.parameters())}
    (out / "evaluation.json").write_text(json.dumps(found, indent=1))
    plot(learner.history, found, learner.s.difficulty, out / "curve.png")
    print(table(found))
    print(f"trained for {spent['total']:.0f} s ({spent['processor']:.0f} s of processor time), of which {spent['warm_start']:.0f} s warm "
          f"start; {share:.1%} of it in the environment")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("ppo.py: interrupted: --resume goes on from the last checkpoint")
