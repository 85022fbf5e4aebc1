"""Posterior sampling in tabular decision processes."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from sklmeta.rl._online import Experience
from sklmeta.rl._psrl import PSRLPolicy, greedy_plan
from sklmeta.rl._random_policy import RandomPolicy

CPU = torch.device("cpu")
N_STATES, N_ACTIONS, HORIZON = 10, 5, 10


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def step(policy, state, observation, action, reward, next_observation):
    rows = map(torch.tensor, (observation, action, reward, next_observation))
    flags = torch.zeros(len(action)).bool()
    return policy.observe(state, Experience(*rows, flags, flags))


def episodes(policy, n_trials, n_episodes, seed=0):
    """Return the rewards of episodes in processes drawn from the prior, (B, E)."""
    draws = generator(seed)
    shape = (n_trials, N_STATES, N_ACTIONS)
    transitions = torch.empty(*shape, N_STATES).exponential_(generator=draws)
    means = 1 + torch.empty(shape).normal_(generator=draws)
    state, trial = policy.initial(n_trials, CPU), torch.arange(n_trials)
    returns = torch.zeros(n_trials, n_episodes)
    for episode in range(n_episodes):
        here = torch.zeros(n_trials).long()
        for i in range(HORIZON):
            decision = policy.act(state, here, draws)
            pair = (trial, here, decision.action)
            reward = means[pair] + torch.empty(n_trials).normal_(generator=draws)
            there = torch.multinomial(transitions[pair], 1, generator=draws)[:, 0]
            ended = torch.full((n_trials,), i == HORIZON - 1)
            experience = Experience(*pair[1:], reward, there, ~ended & ended, ended)
            state = policy.observe(decision.state, experience)
            returns[:, episode] += reward
            here = there
        state = policy.begin_episode(state, ended, draws)
    return returns


@pytest.fixture(scope="module")
def returns():
    return episodes(PSRLPolicy(N_STATES, N_ACTIONS, HORIZON), 200, 10)


def test_it_collects_more_than_random_actions(returns):
    random = episodes(RandomPolicy(Discrete(N_ACTIONS)), 200, 10).sum(1)
    # 100 and 138 are published, the latter of a prior that expects less of rewards.
    assert random.mean() == pytest.approx(100, abs=6)
    assert 127 < returns.sum(1).mean() < 142


def test_it_learns_from_episode_to_episode(returns):
    first, last = returns[:, 0], returns[:, -1]
    assert last.mean() - first.mean() > 4
    assert first.mean() == pytest.approx(10, abs=1)  # of which nothing is known


def test_posterior_of_a_hand_made_trial():
    policy = PSRLPolicy(2, 2, 3, reward_mean=1.0, reward_std=0.5, noise_std=2.0)
    state = policy.initial(2, CPU)
    state = step(policy, state, [0, 1], [1, 0], [3.0, -1.0], [1, 1])
    state = step(policy, state, [1, 1], [0, 0], [5.0, 2.0], [0, 1])
    state = step(policy, state, [0, 1], [1, 1], [4.0, 7.0], [0, 0])
    counts = torch.zeros(2, 2, 2, 2)
    counts[0, 0, 1, 1] = counts[0, 1, 0, 0] = counts[0, 0, 1, 0] = 1
    counts[1, 1, 0, 1], counts[1, 1, 1, 0] = 2, 1
    assert torch.equal(state.transition_counts, counts)
    assert state.reward_sums.tolist() == [[[0, 7], [5, 0]], [[0, 0], [1, 7]]]
    mean, std = policy.reward_posterior(state)
    # Precisions 4 of the prior and 1/4 of each reward.
    expected = [
        [[1, 5.75 / 4.5], [5.25 / 4.25, 1]],
        [[1, 1], [4.25 / 4.5, 5.75 / 4.25]],
    ]
    assert mean.numpy() == pytest.approx(np.array(expected))
    n = np.array([[[0, 2], [1, 0]], [[0, 0], [2, 1]]])
    assert std.numpy() == pytest.approx((4 + n / 4) ** -0.5)


def test_value_iteration_is_the_numpy_loop():
    rng = np.random.default_rng(0)
    transitions = rng.dirichlet(np.ones(4), size=(3, 4, 2))  # (B, S, A, S)
    rewards = rng.normal(size=(3, 4, 2))
    plan, value = greedy_plan(*map(torch.from_numpy, (transitions, rewards)), 5)
    assert plan.shape == (3, 5, 4)
    for b in range(3):
        to_go = np.zeros(4)
        for h in reversed(range(5)):
            gains = np.empty((4, 2))
            for s in range(4):
                for a in range(2):
                    gains[s, a] = rewards[b, s, a] + transitions[b, s, a] @ to_go
            assert plan[b, h].tolist() == gains.argmax(1).tolist()
            to_go = gains.max(1)
        assert value[b].numpy() == pytest.approx(to_go)


def test_the_plan_looks_ahead():
    # Action 1 pays nothing at first, but leads to where all pays.
    transitions = torch.tensor([[[[1.0, 0], [0, 1]], [[0, 1], [0, 1]]]])
    rewards = torch.tensor([[[1.0, 0], [5, 4]]])
    plan, value = greedy_plan(transitions, rewards, 2)
    assert plan[0, :, 0].tolist() == [1, 0]
    assert value.tolist() == [[5, 10]]


def test_what_is_known_well_is_followed():
    policy = PSRLPolicy(1, 3, 1, reward_mean=0.0, noise_std=0.01)
    state = policy.initial(2, CPU)
    for action, rewards in enumerate([[0.0, 5.0], [1.0, 3.0], [0.5, 4.0]]):
        for _ in range(2):
            state = step(policy, state, [0, 0], [action] * 2, rewards, [0, 0])
    state = policy.begin_episode(state, torch.ones(2).bool(), generator())
    for seed in range(5):
        decision = policy.act(state, torch.zeros(2).long(), generator(seed))
        assert decision.action.tolist() == [1, 0]


def test_a_plan_lasts_an_episode_and_only_trials_that_begin_one_get_another():
    policy = PSRLPolicy(4, 6, 8)
    draws = generator()
    here = torch.zeros(2).long()
    first = policy.act(policy.initial(2, CPU), here, draws).state
    state = step(policy, first, [0, 0], [1, 1], [0.5, 0.5], [2, 2])
    assert torch.equal(policy.act(state, here, draws).state.plan, first.plan)
    state = policy.begin_episode(state, torch.tensor([False, True]), draws)
    assert state.n_steps.tolist() == [1, 0]
    second = policy.act(state, here, draws).state
    assert torch.equal(second.plan[0], first.plan[0])
    assert not torch.equal(second.plan[1], first.plan[1])
    assert second.transition_counts.sum() == 2


def test_each_step_takes_its_own_row_of_the_plan():
    policy = PSRLPolicy(2, 2, 2)
    plan = torch.tensor([[[0, 1], [1, 0]]])
    state = policy.initial(1, CPU)._replace(plan=plan, is_planned=torch.tensor([True]))
    actions = []
    for here in (1, 1, 1):  # the last is beyond the horizon
        actions.append(policy.act(state, torch.tensor([here]), generator()).action)
        state = step(policy, state, [here], [0], [0.0], [here])
    assert torch.cat(actions).tolist() == [1, 0, 0]


def test_deterministic_plans_do_not_depend_on_the_seed():
    policy = PSRLPolicy(4, 6, 8)
    state = step(policy, policy.initial(1, CPU), [0], [3], [9.0], [0])
    plans = [
        policy.act(state, torch.zeros(1).long(), generator(seed), True).state.plan
        for seed in range(2)
    ]
    assert torch.equal(*plans)
    assert (plans[0][0, :, 0] == 3).all()


def test_rewards_that_are_not_finite_are_refused():
    policy = PSRLPolicy(2, 2, 2)
    with pytest.raises(ValueError, match="finite rewards, got nan"):
        step(policy, policy.initial(1, CPU), [0], [0], [float("nan")], [0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_states", 0, "n_states == 0"),
        ("horizon", 0, "horizon == 0"),
        ("transition_prior", 0.0, r"transition_prior == 0\.0"),
        ("reward_std", -1.0, r"reward_std == -1\.0"),
        ("reward_mean", float("nan"), "reward_mean must be finite, got nan"),
    ],
)
def test_bad_parameters_are_refused(name, value, message):
    parameters = {"n_states": 2, "n_actions": 2, "horizon": 2, name: value}
    with pytest.raises(ValueError, match=message):
        PSRLPolicy(**parameters)
