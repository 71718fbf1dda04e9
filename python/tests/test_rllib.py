"""The adapter for RLlib, on RLlib."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from helpers import need

need("ray", "test-rllib")
need("torch", "test-rllib")

import ray  # noqa: E402
from gymnasium.vector import AutoresetMode  # noqa: E402
from ray.rllib.algorithms.ppo import PPOConfig  # noqa: E402
from ray.rllib.env.env_context import EnvContext  # noqa: E402

import kvgym  # noqa: E402
from kvgym import rllib  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """Ray in this process's children."""
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.timeout(280)
def test_one_iteration(cluster):
    config = (PPOConfig().environment(rllib.register(), env_config={"difficulty": "hard"})
              .env_runners(num_env_runners=0, num_envs_per_env_runner=8, gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT)
              .training(train_batch_size_per_learner=240, minibatch_size=120, num_epochs=1))
    algorithm = config.build_algo()
    try:
        result = algorithm.train()["env_runners"]
        # 8 environments of 30 steps: an episode takes 15 of them and the reset one more, so one has ended in each
        assert result["num_env_steps_sampled"] >= 240
        assert result["episode_len_mean"] == 15 and result["num_episodes"] >= 8
        assert -2 < result["episode_return_mean"] < 1
    finally:
        algorithm.stop()


@pytest.mark.timeout(280)
def test_one_iteration_on_a_server(cluster, serve):
    """The one runner holds the server's one range, and plays what it would play in process."""
    serve("t", "--difficulty", "hard", envs=8)
    returns = []
    for env_config in ({"connect": "t"}, {"difficulty": "hard"}):
        config = (PPOConfig().environment(rllib.register(), env_config=env_config).debugging(seed=1)
                  .env_runners(num_env_runners=0, num_envs_per_env_runner=8, gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT)
                  .training(train_batch_size_per_learner=240, minibatch_size=120, num_epochs=1))
        algorithm = config.build_algo()
        try:
            result = algorithm.train()["env_runners"]
            assert result["episode_len_mean"] == 15 and result["num_episodes"] >= 8
            returns.append(result["episode_return_mean"])
        finally:
            algorithm.stop()
    assert returns[0] == returns[1]


def test_a_servers_environments(serve):
    serve("t", envs=8, clients=2)
    first, second = (rllib.vector_env(EnvContext({"num_envs": 4, "connect": "t"}, worker_index=w)) for w in (1, 2))
    assert np.concatenate([e.reset()[0] for e in (first, second)]).tobytes() == kvgym.make_vec(8).reset()[0].tobytes()
    first.close()
    with pytest.raises(kvgym.RefusedError, match="served with num_envs 4: allowed num_envs 3"):
        rllib.vector_env({"num_envs": 3, "connect": "t"})


def test_a_server_that_does_not_fit(serve):
    serve("t", "--autoreset", "same-step")
    with pytest.raises(kvgym.RefusedError, match="connect: t: served with autoreset same-step: allowed autoreset next-step"):
        rllib.vector_env({"num_envs": 32, "connect": "t"})


def test_runners_play_different_streams():
    runners = [rllib.vector_env(EnvContext({"num_envs": 4}, worker_index=w)) for w in range(3)]
    for env in runners:
        env.reset()
    assert np.concatenate([env.batch.identities()[1] for env in runners]).tolist() == list(range(12))
    assert rllib.vector_env(EnvContext({"num_envs": 4, "first_env": 7}, worker_index=2)).batch.config["first_env"] == 7


@pytest.mark.parametrize("mode", ["same-step", "disabled", AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_other_modes_are_refused(mode):
    with pytest.raises(kvgym.RefusedError, match="next-step"):
        rllib.vector_env({"num_envs": 2, "autoreset": mode})
    assert rllib.vector_env({"num_envs": 2, "autoreset": "next-step"}).num_envs == 2
