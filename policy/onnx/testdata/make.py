"""Writes tiny.onnx and tiny.json: a small network of examples/ppo.py with random weights, observations of played episodes, and what PyTorch
makes of them. From the repository's root: PYTHONPATH=python:examples python policy/onnx/testdata/make.py
"""

import json
from pathlib import Path

import numpy as np
import ppo
import torch

from kvgym.batch import Batch

SLOTS, HIDDEN = 16, 8


def states() -> list[tuple[np.ndarray, np.ndarray]]:
    """Four states, two of each profile: one after the reset, and one in which sequences are compressed and swapped."""
    out = []
    for profile in ("seed", "serving"):
        with Batch(1, profile=profile, difficulty="hard", slots=SLOTS, seed=11) as batch:
            block = batch.reset()
            out.append((block.obs.copy(), block.mask.copy()))
            for _ in range(3):
                block = batch.step(pairs=batch.decide("random"))
            out.append((block.obs.copy(), block.mask.copy()))
    return out


def main() -> None:
    torch.manual_seed(1)
    net = ppo.Network(SLOTS, HIDDEN)
    with torch.no_grad():
        net.ops.weight.normal_()  # the initial one is too small to tell operations apart
        for layer in (net.slot, net.state, net.own, net.ops):
            layer.bias.normal_(std=0.3)
    here = Path(__file__).parent
    ppo.export_onnx(net, here / "tiny.onnx")
    cases = []
    for obs, mask in states():
        with torch.no_grad():
            logits, _ = net(torch.from_numpy(obs), torch.from_numpy(mask))
        cases.append({"obs": obs[0].tolist(), "mask": mask[0].flatten().astype(int).tolist(),
                      "logits": [float(f"{x:.9g}") for x in logits.flatten().tolist()]})
    (here / "tiny.json").write_text("\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n")


if __name__ == "__main__":
    main()
