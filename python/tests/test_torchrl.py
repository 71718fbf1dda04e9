"""The adapter for TorchRL, on TorchRL."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same, deep_copy, need, random_ops

need("torchrl", "test-python")

import torch  # noqa: E402
from tensordict.nn import TensorDictModule  # noqa: E402
from torchrl.collectors import Collector  # noqa: E402
from torchrl.envs import GymWrapper, TransformedEnv  # noqa: E402
from torchrl.envs.transforms import ActionMask, RewardSum  # noqa: E402
from torchrl.envs.utils import check_env_specs  # noqa: E402
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator  # noqa: E402
from torchrl.objectives import ClipPPOLoss  # noqa: E402
from torchrl.objectives.value import GAE  # noqa: E402

import kvgym  # noqa: E402
from kvgym.torchrl import TorchRLEnv  # noqa: E402


@pytest.mark.parametrize("config", [{}, {"profile": "serving", "truncate": True}, {"obs_dtype": "uint8"},
                                    {"slots": 32, "obs_order": "feature-major"}], ids=str)
def test_check_env_specs(config):
    check_env_specs(TorchRLEnv(5, **config), break_when_any_done="both")


def test_observations_are_within_their_specs():
    env = TorchRLEnv(16)
    rollout = env.rollout(30, break_when_any_done=False)
    for t in range(30):
        assert env.observation_spec.is_in(rollout[:, t].select("observation", "action_mask"))


def test_equals_the_vector_env():
    env, vec = TorchRLEnv(6), kvgym.make_vec(6, autoreset="disabled")
    rng = np.random.default_rng(1)
    env.set_seed(77)
    td = env.reset()
    obs, infos = vec.reset(seed=77)
    for t in range(100):
        assert_same(td["observation"].numpy().copy(), obs.copy(), f"step {t}")
        if t % 15:
            assert_same(td["action_mask"].numpy().copy(), infos["action_mask"].reshape(6, -1).copy(), f"step {t}")
        ops = random_ops(rng, 6)
        td["action"] = torch.from_numpy(ops)
        out, td = env.step_and_maybe_reset(td)
        obs, reward, te, tr, infos = vec.step(ops)
        assert_same(out["next", "observation"].numpy().copy(), obs.copy())
        assert_same(out["next", "reward"].numpy()[:, 0].astype(np.float64), reward)
        assert_same(out["next", "terminated"].numpy()[:, 0].copy(), te.copy())
        assert_same(out["next", "done"].numpy()[:, 0].copy(), te | tr)
        if te.any():
            obs, infos = vec.reset(options={"reset_mask": te.copy()})


def test_a_servers_environments(serve):
    """The same as in process, kept or not; TorchRL's own checks."""
    serve("t", "--autoreset", "disabled", "--truncate", envs=12, clients=3)
    check_env_specs(TorchRLEnv(connect={"name": "t", "range": 0}), break_when_any_done="both")
    a, b = TorchRLEnv(connect={"name": "t", "range": 1}), TorchRLEnv(4, first_env=4, truncate=True)
    for env in (a, b):
        env.set_seed(5)
    generator, kept, copies = np.random.default_rng(1), [], []
    x, y = a.reset(), b.reset()
    for t in range(100):
        ops = torch.from_numpy(random_ops(generator, 4))
        got, x = a.step_and_maybe_reset(x.set("action", ops))
        want, y = b.step_and_maybe_reset(y.set("action", ops.clone()))
        for p, q in ((got, want), (x, y)):
            assert (p == q).all(), t
        if t % 3:
            kept.append({k: v.numpy() for k, v in got["next"].items()} | {"reset": x["observation"].numpy()})
            copies.append(deep_copy(kept[-1]))
    assert_same(kept, copies)
    rollouts = []
    for env in (TransformedEnv(TorchRLEnv(connect={"name": "t", "range": 2}), ActionMask()), TransformedEnv(TorchRLEnv(4, first_env=8, truncate=True), ActionMask())):
        torch.manual_seed(3)
        rollouts.append(env.rollout(40, break_when_any_done=False))
    assert (rollouts[0] == rollouts[1]).all()


def test_a_server_that_does_not_fit(serve):
    serve("t")
    with pytest.raises(kvgym.RefusedError, match="connect: t: served with autoreset next-step: allowed autoreset disabled: kvgym serve has flags for them"):
        TorchRLEnv(connect="t")


def test_partial_reset_and_pending_seeds():
    env, vec = TorchRLEnv(4), kvgym.make_vec(4, autoreset="disabled")
    env.reset(), vec.reset()
    env.set_seed(5)
    mask = np.array([True, False, False, True])
    td = env.fake_tensordict().select().set("_reset", torch.from_numpy(mask[:, None].copy()))
    got = env._reset(td)["observation"].numpy().copy()
    assert_same(got, vec.reset(seed=5, options={"reset_mask": mask})[0].copy())
    # the other environments' seeds are still to come
    assert_same(env._reset()["observation"].numpy().copy(), vec.reset(seed=[None, 6, 7, None])[0].copy())
    assert_same(env._reset()["observation"].numpy().copy(), vec.reset()[0].copy())


def test_what_was_returned_never_changes():
    env = TorchRLEnv(3)
    td = env.reset()
    kept, copies = [], []
    for _ in range(40):
        td = env.rand_action(td)
        out, td = env.step_and_maybe_reset(td)
        kept.append({k: v.numpy() for k, v in out["next"].items()} | {"reset": td["observation"].numpy()})
        copies.append(deep_copy(kept[-1]))
    assert_same(kept, copies)


@pytest.mark.parametrize("part", ["observation", "action_mask", "reward", "done", "terminated", "truncated"])
def test_each_part_alone_never_changes(part):
    env, kept, copies = TorchRLEnv(3), [], []
    td = env.reset()
    for _ in range(34):
        out, td = env.step_and_maybe_reset(env.rand_action(td))
        kept.append(out["next", part])
        copies.append(kept[-1].clone())
        del out
    td = None
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_tensors_are_the_memory_that_was_written():
    env = TorchRLEnv(3)
    td = env.reset()
    assert td["observation"].data_ptr() == env.batch.block.obs.__array_interface__["data"][0]
    assert td["action_mask"].data_ptr() == env.batch.block.mask.__array_interface__["data"][0]


def test_rows_of_a_rollout_differ():
    rollout = TorchRLEnv(4).rollout(14)
    assert rollout.shape == (4, 14)
    assert not torch.equal(rollout["observation"][:, 3], rollout["observation"][:, 4])
    assert torch.equal(rollout["next", "observation"][:, 3], rollout["observation"][:, 4])


def test_masked_random_actions_are_legal():
    env = TransformedEnv(TorchRLEnv(8), ActionMask())
    rollout = env.rollout(50, break_when_any_done=False)
    mask = rollout["action_mask"].unflatten(-1, (64, 4))
    assert mask.gather(-1, rollout["action"].unsqueeze(-1)).all()
    assert (rollout["action"] != 0).any()
    plain = TorchRLEnv(8).rollout(50, break_when_any_done=False)
    assert not plain["action_mask"].unflatten(-1, (64, 4)).gather(-1, plain["action"].unsqueeze(-1)).all()


class Masked(torch.distributions.Independent):
    """One masked choice a slot, as one event: without Independent the loss would take log-probabilities slot by slot."""

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor) -> None:
        super().__init__(MaskedCategorical(logits=logits, mask=mask.unflatten(-1, logits.shape[-2:])), 1)

    @property
    def mode(self) -> torch.Tensor:
        return self.base_dist.mode

    @property
    def deterministic_sample(self) -> torch.Tensor:
        return self.base_dist.mode


def actor_and_critic():
    actor = ProbabilisticActor(TensorDictModule(torch.nn.Sequential(torch.nn.Linear(784, 64), torch.nn.Tanh(), torch.nn.Linear(64, 256),
                                                                    torch.nn.Unflatten(-1, (64, 4))), ["observation"], ["logits"]),
                               in_keys={"logits": "logits", "mask": "action_mask"}, out_keys=["action"], distribution_class=Masked, return_log_prob=True)
    return actor, ValueOperator(torch.nn.Sequential(torch.nn.Linear(784, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)), in_keys=["observation"])


def test_one_ppo_batch():
    torch.manual_seed(0)
    actor, critic = actor_and_critic()
    env = TransformedEnv(TorchRLEnv(8), RewardSum())
    collector = Collector(env, actor, frames_per_batch=240, total_frames=240)
    loss = ClipPPOLoss(actor, critic)
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    before = [p.detach().clone() for p in actor.parameters()]
    optimiser = torch.optim.Adam(loss.parameters(), 1e-3)
    for data in collector:
        assert data["action_log_prob"].shape == data.batch_size == (8, 30)
        assert data["next", "done"].sum() == 16
        assert data["action_mask"].unflatten(-1, (64, 4)).gather(-1, data["action"].unsqueeze(-1)).all()
        advantage(data)
        losses = loss(data.reshape(-1))
        total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
        assert total.isfinite()
        total.backward()
        optimiser.step()
    collector.shutdown()
    assert any(not torch.equal(a, b) for a, b in zip(before, actor.parameters(), strict=True))


@pytest.mark.parametrize("mode", ["disabled", "same-step"])
def test_gym_wrapper(mode):
    """Works as well, where masks and the categorical structure are not needed."""
    env = GymWrapper(kvgym.make_vec(4, autoreset=mode))
    if mode == "same-step":
        from torchrl.envs.transforms import VecGymEnvTransform

        env = TransformedEnv(env, VecGymEnvTransform())
    env.rollout(20, break_when_any_done=False)


def test_gym_wrapper_check_env_specs():
    check_env_specs(GymWrapper(kvgym.make_vec(4, autoreset="disabled")), break_when_any_done="both")


def test_errors():
    env = TorchRLEnv(2)
    td = env.reset()
    with pytest.raises(kvgym.RefusedError, match="ops"):
        env._step(td.clone().set("action", torch.zeros(2, 64)))
    with pytest.raises(ValueError):
        env.set_seed(-1)
    env.close()
    with pytest.raises(kvgym.ClosedError):
        env.reset()
