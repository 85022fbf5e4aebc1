"""Trials: returns by episode, what policies are told, and what is recorded."""

from typing import NamedTuple

import gymnasium
import pytest
import torch
from torch import Tensor

from sklmeta.rl import BernoulliBandits, EnvTask, PointGoals, _trials
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._online import Decision
from sklmeta.rl._trials import run_trials

CPU = torch.device("cpu")


class State(NamedTuple):
    n_steps: Tensor
    n_episodes: Tensor
    reward: Tensor


class CountingPolicy:
    """Knows how often it was told something; always takes action 1."""

    def initial(self, n_trials, device):
        zeros = torch.zeros(n_trials)
        return State(zeros, zeros, zeros)

    def act(self, state, observation, generator, deterministic=False):
        action = torch.ones(len(observation), dtype=torch.long)
        return Decision(action, state, {"seen": state.n_steps})

    def observe(self, state, experience):
        return State(
            state.n_steps + 1, state.n_episodes, state.reward + experience.reward
        )

    def begin_episode(self, state, mask, generator):
        return state._replace(n_episodes=state.n_episodes + mask)


def env_of_length(length, terminates=True):
    class Env(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return self.observation_space.low, {}

        def step(self, action):
            self.t += 1
            over = self.t == length
            flags = over and terminates, over and not terminates
            return self.observation_space.low, float(action), *flags, {}

    return Env


@pytest.fixture
def ragged():
    """Trials of two episodes of 1, 3 and 2 steps."""
    tasks = [EnvTask(env_of_length(n), name=n) for n in (1, 3, 2)]
    with EnvPool("sync", None) as pool:
        envs = pool.batched(tasks, 0, CPU)
        generator = torch.Generator().manual_seed(0)
        yield run_trials(CountingPolicy(), envs, 2, generator, record=True)


def test_returns_and_lengths_are_those_of_each_episode(ragged):
    assert ragged.returns.tolist() == [[1, 1], [3, 3], [2, 2]]
    assert ragged.lengths.tolist() == [[1, 1], [3, 3], [2, 2]]
    assert ragged.n_steps == 12


def test_a_policy_is_told_of_its_own_steps_only(ragged):
    assert ragged.state.n_steps.tolist() == [2, 6, 4]
    assert ragged.state.reward.tolist() == [2, 6, 4]
    assert ragged.state.n_episodes.tolist() == [1, 1, 1]


def test_what_is_recorded(ragged):
    rollout = ragged.rollout
    assert rollout.valid.sum(0).tolist() == [2, 6, 4]
    assert rollout.ended.sum(0).tolist() == [2, 2, 2]
    assert rollout.ended[:, 1].nonzero().flatten().tolist() == [2, 5]
    assert rollout.episode[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert rollout.recorded["seen"][:, 1].tolist() == [0, 1, 2, 3, 4, 5]
    assert not rollout.truncated.any()


def test_truncation_and_termination_are_told_apart():
    tasks = [
        EnvTask(env_of_length(2), name="ends"),
        EnvTask(env_of_length(9), name="is cut", max_episode_steps=2),
    ]
    with EnvPool("sync", None) as pool:
        envs = pool.batched(tasks, 0, CPU)
        generator = torch.Generator()
        rollout = run_trials(CountingPolicy(), envs, 1, generator, record=True).rollout
    assert rollout.terminated[-1].tolist() == [True, False]
    assert rollout.truncated[-1].tolist() == [False, True]


def test_success_is_that_of_any_step_of_an_episode():
    goal = PointGoals().sample(1, random_state=0)[0]
    near = EnvTask(goal.env_fn, {"goal": [0.0, 0.0]}, max_episode_steps=3)
    far = EnvTask(goal.env_fn, {"goal": [0.5, 0.5]}, max_episode_steps=3)

    class Still(CountingPolicy):
        def act(self, state, observation, generator, deterministic=False):
            return Decision(torch.zeros(len(observation), 2), state, {})

    with EnvPool("sync", None) as pool:
        envs = pool.batched([near, far], 0, CPU)
        trials = run_trials(Still(), envs, 1, torch.Generator())
    assert trials.success.tolist() == [[1.0], [0.0]]
    assert trials.lengths.tolist() == [[1], [3]]


def test_success_that_no_environment_tells_of_is_nan():
    with EnvPool("sync", None) as pool:
        envs = pool.batched(BernoulliBandits(2).sample(3, random_state=0), 0, CPU)
        trials = run_trials(CountingPolicy(), envs, 2, torch.Generator())
    assert trials.success.isnan().all()


def test_an_episode_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(_trials, "LONGEST_EPISODE", 20)
    with EnvPool("sync", None) as pool:
        envs = pool.batched([EnvTask(env_of_length(10**9), name="endless")], 0, CPU)
        with pytest.raises(ValueError, match="did not end within 20 steps"):
            run_trials(CountingPolicy(), envs, 1, torch.Generator())
