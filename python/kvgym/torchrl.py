"""kvgym for TorchRL: an EnvBase over a batch, without GymWrapper and without copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from kvgym._extra import missing

try:
    from torchrl.data import Binary, Bounded, Composite, MultiCategorical, Unbounded
    from torchrl.envs import EnvBase
except ImportError as e:
    raise missing("torchrl", "torchrl", "pip install 'kvgym[torchrl]'") from e

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from kvgym.batch import Config
from kvgym.lanes import Lanes, lane_seeds
from kvgym.spaces import OPS, bounds


class TorchRLEnv(EnvBase):
    """num_envs servers as one environment of batch size [num_envs].

    observation float32 [num_envs, 784]; action_mask bool [num_envs, slots * 4], as transforms.ActionMask wants it; action int64 [num_envs, slots];
    reward float32 and done, terminated, truncated bool, each [num_envs, 1]. Ended environments wait for a reset, which TorchRL's rollouts and
    collectors give them; a partial reset ("_reset") returns all rows. Tensors are the caller's and never change again.

    set_seed(s) takes effect with the next reset of each environment, which then plays episode 0 of seed s + i. config is that of kvgym.Batch;
    connect is as in KVCacheVectorEnv: a server's environments, with autoreset disabled.
    """

    def __init__(self, num_envs: int | None = None, *, connect: str | Mapping[str, Any] | None = None, device: Any = "cpu", **config: Unpack[Config]) -> None:
        lanes = Lanes(num_envs, connect, "disabled", ("obs", "mask"), config)
        num_envs = lanes.num_envs
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self._lanes = lanes
        self._unseeded = np.zeros(num_envs, np.bool_)  # environments that the last set_seed has yet to reach
        self._seeds: Any = np.zeros(num_envs, np.uint64)
        self._make_specs(self._lanes.batch.description, num_envs)

    @property
    def batch(self) -> Any:
        """The kvgym.Batch below, or with connect the kvgym.Connection."""
        return self._lanes.batch

    def _make_specs(self, description: dict[str, Any], n: int) -> None:
        low, high = (torch.from_numpy(x).to(self.device).expand(n, -1).clone() for x in bounds(description["obs"]))
        slots = description["slots"]
        self.observation_spec = Composite(observation=Bounded(low, high, shape=low.shape, dtype=low.dtype, device=self.device),
                                          action_mask=Binary(n=slots * OPS, shape=(n, slots * OPS), dtype=torch.bool, device=self.device), shape=(n,))
        self.action_spec = MultiCategorical([OPS] * slots, shape=(n, slots), dtype=torch.int64, device=self.device)
        self.reward_spec = Unbounded(shape=(n, 1), dtype=torch.float32, device=self.device)
        self.full_done_spec = Composite({key: Binary(n=1, shape=(n, 1), dtype=torch.bool, device=self.device)
                                         for key in ("done", "terminated", "truncated")}, shape=(n,))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def _view(self, block: Any) -> dict[str, torch.Tensor]:
        return {"observation": self._tensor(block.obs[:]), "action_mask": self._tensor(block.mask.reshape(self.num_envs, -1))}

    @property
    def num_envs(self) -> int:
        """Environments in the batch."""
        return self._lanes.num_envs

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        given = None if tensordict is None else tensordict.get("_reset", None)
        mask = None if given is None else given.reshape(-1).cpu().numpy()
        if mask is not None and not mask.any():
            block = self._lanes.batch.block
        else:
            block = self._start(mask)
        done = self._tensor((block.terminated | block.truncated)[:, None])
        out = {**self._view(block), "done": done, "terminated": self._tensor(block.terminated[:, None].copy()),
               "truncated": self._tensor(block.truncated[:, None].copy())}
        return TensorDict(out, batch_size=self.batch_size, device=self.device)

    def _start(self, mask: np.ndarray | None) -> Any:
        """Resets the environments of a mask, with the seeds that set_seed has left for them."""
        chosen = np.ones(self.num_envs, np.bool_) if mask is None else mask
        seeded = chosen & self._unseeded
        if not seeded.any():
            return self._lanes.reset(mask)
        self._unseeded &= ~chosen
        return self._lanes.reset(mask, [int(s) if given else None for s, given in zip(self._seeds, seeded, strict=True)])

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get("action")
        block = self._lanes.step(action.detach().cpu().numpy())
        terminated, truncated = block.terminated[:, None], block.truncated[:, None]
        out = {**self._view(block), "reward": self._tensor(block.reward[:, None]), "terminated": self._tensor(terminated),
               "truncated": self._tensor(truncated), "done": self._tensor(terminated | truncated)}
        return TensorDict(out, batch_size=self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._seeds = lane_seeds(seed, self.num_envs)
            self._unseeded[:] = True

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Stops the threads; what was returned stays valid."""
        super().close(*args, **kwargs)
        self._lanes.close()
