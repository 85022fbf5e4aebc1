"""RL^2's memory: the same actions in batches, step by step, and in sequences."""

import numpy as np
import pytest
import torch

from sklmeta.rl import BernoulliBandits, PointGoals, RL2Agent, TabularMDPs
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._ppo import Sequences
from sklmeta.rl._trials import run_trials
from sklmeta.rl.rl2 import _cut

CPU = torch.device("cpu")
FAMILIES = {
    "bandits": BernoulliBandits(4),
    "processes": TabularMDPs(4, 3, horizon=3),
    "points": PointGoals(horizon=4),
}


@pytest.fixture(scope="module", params=FAMILIES)
def fitted(request):
    family = FAMILIES[request.param]
    agent = RL2Agent(
        n_episodes=3,
        hidden_size=16,
        max_iter=3,
        batch_size=10,
        deterministic=True,
        random_state=0,
    )
    return family, agent.fit(family)


@pytest.fixture(scope="module")
def trials(fitted):
    family, agent = fitted
    tasks = family.sample(5, random_state=1)
    with EnvPool("sync", None) as pool:
        envs = pool.batched(tasks, 0, CPU)
        generator = torch.Generator().manual_seed(0)
        return run_trials(
            agent.learner_.policy, envs, 3, generator, deterministic=True, record=True
        )


def replayed(agent, rollout, trial):
    """Return the actions of the control loop when a trial is replayed to it."""
    policy = agent.adapt()
    actions = []
    for t in range(int(rollout.valid[:, trial].sum())):
        starts = t == 0 or bool(rollout.ended[t - 1, trial])
        if starts:
            policy.begin_episode()
        actions.append(policy.act(rollout.observation[t, trial]))
        policy.observe(
            rollout.next_observation[t, trial],
            float(rollout.reward[t, trial]),
            bool(rollout.terminated[t, trial]),
            bool(rollout.truncated[t, trial]),
        )
    return np.array(actions)


def test_batches_and_single_steps_take_equal_actions(fitted, trials):
    _, agent = fitted
    for trial in range(5):
        steps = int(trials.rollout.valid[:, trial].sum())
        expected = trials.rollout.action[:steps, trial].numpy()
        if not agent._codes[1].is_discrete:
            expected = np.clip(expected, -0.1, 0.1)
        found = replayed(agent, trials.rollout, trial)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_training_reads_what_acting_did(fitted, trials):
    _, agent = fitted
    policy, recorded = agent.learner_.policy, trials.rollout.recorded
    with torch.no_grad():
        distribution, value = policy.sequences(
            recorded["inputs"], recorded["hidden"][0]
        )
    valid = trials.rollout.valid
    log_prob = distribution.log_prob(recorded["chosen"])
    torch.testing.assert_close(log_prob[valid], recorded["log_prob"][valid])
    torch.testing.assert_close(value[valid], recorded["value"][valid])


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_cut_sequences_say_the_same(fitted, trials, length):
    _, agent = fitted
    recorded, valid = trials.rollout.recorded, trials.rollout.valid
    zeros = torch.zeros_like(recorded["value"])
    whole = Sequences(
        recorded["inputs"],
        recorded["hidden"],
        recorded["chosen"],
        recorded["log_prob"],
        zeros,
        zeros,
        valid,
    )
    data = _cut(whole, length)
    assert len(data.inputs) == min(length, len(valid))
    assert data.valid.sum() == valid.sum()
    with torch.no_grad():
        distribution, _ = agent.learner_.policy.sequences(data.inputs, data.hidden)
    found = distribution.log_prob(data.action)[data.valid]
    torch.testing.assert_close(found, data.log_prob[data.valid])


def test_a_task_before_changes_nothing(fitted):
    family, agent = fitted
    first, second = family.sample(2, random_state=3)
    alone = agent.adapt(first)
    agent.adapt(second)
    after = agent.adapt(first)
    np.testing.assert_array_equal(alone.returns_, after.returns_)
    for one, other in zip(alone._adapted_state, after._adapted_state, strict=True):
        assert torch.equal(one, other)


def test_a_trial_begins_with_nothing_known(fitted, trials):
    hidden = trials.rollout.recorded["hidden"]
    assert not hidden[0].any()
    assert hidden[-1].any()


def test_an_episode_of_a_trial_keeps_what_is_known(fitted, trials):
    """The first step of the second episode reads what the last one earned."""
    rollout = trials.rollout
    width = fitted[1]._codes[1].width
    ends = rollout.ended[:, 0].nonzero().flatten().tolist()
    t = ends[0] + 1
    inputs = rollout.recorded["inputs"]
    assert inputs[t, 0, -1] == 1  # an episode begins
    assert inputs[0, 0, -1] == 0  # not so the first one
    scale = fitted[1].learner_.policy.reward_moments
    expected = scale.scaled(rollout.reward[t - 1, 0][None])[0]
    assert inputs[t, 0, -2] == pytest.approx(float(expected))
    assert inputs[t, 0, -2 - width : -2].abs().sum() > 0
    assert rollout.recorded["hidden"][t, 0].any()
