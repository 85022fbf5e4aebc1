"""What every agent keeps to: the verbs, seeds, pickles, clones, refusals."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_score,
)

from sklmeta.exceptions import EnvTaskError, MetaTrainingError
from sklmeta.rl import (
    BayesOptimalBanditAgent,
    BernoulliBandits,
    EnvTask,
    GridMazes,
    MAMLAgent,
    PointGoals,
    ProMPAgent,
    PSRLAgent,
    RandomAgent,
    RL2Agent,
    TabularMDPs,
    ThompsonSamplingAgent,
    UCB1Agent,
)

BANDITS = BernoulliBandits(3)
SMALL = {"max_iter": 2, "batch_size": 6, "random_state": 0}
TRAINED = {
    "RL2": RL2Agent(n_episodes=3, hidden_size=8, **SMALL),
    "MAML": MAMLAgent(n_episodes=4, hidden_sizes=(8,), **SMALL),
    "MAML, clipped": MAMLAgent(n_episodes=4, hidden_sizes=(8,), outer="ppo", **SMALL),
    "ProMP": ProMPAgent(n_episodes=4, hidden_sizes=(8,), **SMALL),
}
BASELINES = {
    "random": RandomAgent(n_episodes=3, random_state=0),
    "Thompson": ThompsonSamplingAgent(n_episodes=3, random_state=0),
    "UCB1": UCB1Agent(n_episodes=3, random_state=0),
    "optimal": BayesOptimalBanditAgent(n_episodes=5, random_state=0),
}
AGENTS = {**TRAINED, **BASELINES}


@pytest.fixture(scope="module", params=AGENTS)
def agent(request):
    return AGENTS[request.param].fit(BANDITS)


@pytest.fixture(scope="module")
def task():
    return BANDITS.sample(1, random_state=5)[0]


def weights(agent):
    return [p.clone() for p in agent.learner_.parameters()]


def test_adapt_returns_an_independent_policy(agent, task):
    policy = agent.adapt(task, n_episodes=2)
    assert agent.adapted_ is policy
    before = policy.predict([0, 0])
    known = pickle.dumps(policy._adapted_state)
    agent.adapt(BANDITS.sample(1, random_state=6)[0], n_episodes=2)
    np.testing.assert_array_equal(policy.predict([0, 0]), before)
    assert pickle.dumps(policy._adapted_state) == known


def test_predict_is_pure(agent, task):
    policy = agent.adapt(task, n_episodes=2)
    policy.act(0)
    state = pickle.dumps(policy._state)
    first = policy.predict([0, 0, 0])
    assert first.shape == (3,)
    np.testing.assert_array_equal(policy.predict([0, 0, 0]), first)
    assert pickle.dumps(policy._state) == state
    np.testing.assert_array_equal(agent.predict([0]), policy.predict([0]))


def test_reset_goes_back_to_what_adapt_gave(agent, task):
    policy = agent.adapt(task, n_episodes=2)

    def actions():
        taken = []
        for _ in range(2):
            policy.begin_episode()
            taken.append(policy.act(0))
            policy.observe(0, 1.0, True, False)
        return taken

    first = actions()
    policy.reset()
    assert actions() == first


def test_score_leaves_the_adapted_policy_alone(agent, task):
    policy = agent.adapt(task, n_episodes=2)
    score = agent.score(BANDITS.sample(20, random_state=1))
    assert 0 <= score <= 1
    assert agent.adapted_ is policy


def test_the_same_seed_gives_the_same(agent):
    tasks = BANDITS.sample(20, random_state=1)
    again = clone(agent).fit(BANDITS)
    assert again.score(tasks) == agent.score(tasks)
    np.testing.assert_array_equal(
        again.adapt(tasks[0], 2).returns_, agent.adapt(tasks[0], 2).returns_
    )


def test_pickles_do_the_same(agent, task):
    again = pickle.loads(pickle.dumps(agent))
    tasks = BANDITS.sample(20, random_state=1)
    assert again.score(tasks) == agent.score(tasks)
    policy = agent.adapt(task, n_episodes=2)
    copied = pickle.loads(pickle.dumps(policy))
    assert copied.act(0) == policy.act(0)


def test_the_curve_has_a_row_for_each_task_and_point(agent):
    tasks = BANDITS.sample(4, random_state=1)
    curve = agent.adaptation_curve(tasks, n_episodes=3)
    axis = "gradient_step" if "gradient_step" in curve else "episode"
    assert curve.groupby("task").size().nunique() == 1
    assert curve["task"].unique().tolist() == [0, 1, 2, 3]
    assert curve["group"].unique().tolist() == ["3 arms"]
    assert curve[axis].min() == (0 if axis == "gradient_step" else 1)


def test_nothing_works_before_fit(agent, task):
    fresh = clone(agent)
    for call in (
        lambda: fresh.adapt(task),
        lambda: fresh.score([task]),
        lambda: fresh.adaptation_curve([task]),
        lambda: fresh.predict([0]),
    ):
        with pytest.raises(NotFittedError):
            call()


def test_nothing_acts_before_adapt(agent):
    again = clone(agent).fit(BANDITS)
    for call in (again.begin_episode, again.reset, lambda: again.predict([0])):
        with pytest.raises(NotFittedError, match="adapt\\(env\\)"):
            call()
    again.adapt()
    assert again.act(0) in range(3)


def test_observe_wants_an_action_first(agent, task):
    policy = agent.adapt(task, n_episodes=1)
    with pytest.raises(RuntimeError, match="Call act"):
        policy.observe(0, 1.0, True, False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 0]], r"shape \(n_observations\)"),
        ([3], "integers from 0 to 0"),
        ([np.nan], "finite"),
        (["a"], "finite"),
    ],
)
def test_observations_that_do_not_fit_are_refused(agent, task, rows, message):
    agent.adapt(task, n_episodes=1)
    with pytest.raises(ValueError, match=message):
        agent.predict(rows)


def test_environments_of_another_kind_are_refused(agent):
    with pytest.raises(ValueError, match=r"Discrete\(3\).*fitted|action space"):
        agent.adapt(BernoulliBandits(5).sample(1, random_state=0)[0])


def test_adapt_takes_one_environment(agent):
    with pytest.raises(ValueError, match="one environment, got 2"):
        agent.adapt(BANDITS.sample(2, random_state=0))
    with pytest.raises(TypeError, match="got a distribution"):
        agent.adapt(BANDITS)
    assert len(agent.adapt(BANDITS.sample(1, random_state=0), 2).returns_) >= 2


def test_before_anything_is_known_predict_is_the_first_action_of_a_trial(agent):
    policy = agent.adapt()
    assert policy.predict([0])[0] == policy.act(0, deterministic=True)


@pytest.mark.parametrize("name", TRAINED)
def test_meta_learned_weights_do_not_change(name, task):
    agent = TRAINED[name].fit(BANDITS)
    before = weights(agent)
    agent.adapt(task)
    agent.score([task])
    agent.act(0)
    assert all(map(torch.equal, before, weights(agent)))


@pytest.mark.parametrize("name", TRAINED)
def test_updates_change_them(name):
    short = clone(TRAINED[name]).set_params(max_iter=1).fit(BANDITS)
    long = clone(TRAINED[name]).fit(BANDITS)
    assert not all(map(torch.equal, weights(short), weights(long)))
    assert len(long.history_) == long.n_iter_ == 2
    assert long.history_[-1]["env_steps"] == long.n_env_steps_


@pytest.mark.parametrize("name", TRAINED)
def test_warm_start_goes_on_in_a_copy(name, task):
    agent = clone(TRAINED[name]).set_params(warm_start=True, max_iter=1).fit(BANDITS)
    policy, first = agent.adapt(task), agent.learner_
    before = weights(agent)
    agent.fit(BANDITS)
    assert agent.n_iter_ == 2 and agent.learner_ is not first
    assert all(map(torch.equal, before, first.parameters()))
    assert not all(map(torch.equal, before, weights(agent)))
    assert policy.predict([0]).shape == (1,)
    again = pickle.loads(pickle.dumps(agent)).fit(BANDITS)
    assert again.n_iter_ == 3


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("RL2", {"hidden_size": 4}),
        ("RL2", {"head_size": 4}),
        ("ProMP", {"hidden_sizes": (4,)}),
    ],
)
def test_a_warm_start_refuses_another_net(name, changed):
    agent = clone(TRAINED[name]).set_params(warm_start=True, max_iter=1).fit(BANDITS)
    with pytest.raises(ValueError, match=f"{next(iter(changed))}=.* acts in the first"):
        agent.set_params(**changed).fit(BANDITS)


@pytest.mark.parametrize("name", TRAINED)
def test_a_warm_start_refuses_other_spaces(name):
    agent = clone(TRAINED[name]).set_params(warm_start=True, max_iter=1).fit(BANDITS)
    with pytest.raises(ValueError, match="space of the environment is"):
        agent.fit(PointGoals(horizon=3))
    assert agent.n_iter_ == 1


def test_hidden_sizes_are_a_sequence():
    with pytest.raises(TypeError, match="hidden_sizes must be a list or tuple"):
        MAMLAgent(hidden_sizes=8).fit(PointGoals())


@pytest.mark.parametrize("reward", [np.nan, np.inf, None, "much"])
def test_rewards_that_are_no_numbers_are_refused(agent, task, reward):
    policy = agent.adapt()
    policy.act(0)
    with pytest.raises(ValueError, match="reward must be a finite number"):
        policy.observe(0, reward, True, False)


def test_one_observation_has_the_shape_of_the_space():
    policy = TRAINED["ProMP"].fit(PointGoals(horizon=3)).adapt()
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(1, 2\)"):
        policy.act([[0.0, 0.0]])
    TRAINED["ProMP"].fit(BANDITS)


@pytest.mark.parametrize("name", TRAINED)
def test_env_steps_end_training(name):
    agent = clone(TRAINED[name]).set_params(max_iter=50, max_env_steps=1)
    assert agent.fit(BANDITS).n_iter_ == 1


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("family", [PointGoals(horizon=3), GridMazes(2, horizon=3)])
def test_boxes_too(name, family):
    agent = clone(TRAINED[name]).fit(family)
    task = family.sample(1, random_state=1)[0]
    env = task.make_env()
    policy = agent.adapt(env, n_episodes=2)
    env.reset()  # the caller's environment is still open
    observation = env.observation_space.sample() * 0
    action = policy.act(observation)
    assert env.action_space.contains(action)
    assert policy.predict(np.stack([observation] * 2)).shape == (
        2,
        *env.action_space.shape,
    )
    env.close()


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        ("n_episodes", 0, ValueError),
        ("batch_size", 2.5, TypeError),
        ("gamma", 1.5, ValueError),
        ("max_iter", 0, ValueError),
        ("env_errors", "ignore", ValueError),
        ("vectorization", "threads", ValueError),
        ("step_timeout", 3.0, ValueError),
        ("max_env_steps", 0, ValueError),
        ("warm_start", "no", ValueError),
        ("verbose", "x", TypeError),
    ],
)
def test_parameters_are_checked(name, parameter, value, error):
    agent = clone(TRAINED[name]).set_params(**{parameter: value})
    with pytest.raises(error, match=parameter):
        agent.fit(BANDITS)


def test_divergence_is_named_and_what_was_learned_is_kept():
    agent = clone(TRAINED["RL2"]).set_params(warm_start=True).fit(BANDITS)
    before, score = weights(agent), agent.score(BANDITS)
    agent.set_params(lr=1e30, max_iter=20)
    with pytest.raises((MetaTrainingError, ValueError), match=r"diverged.*Lower lr"):
        agent.fit(BANDITS)
    assert all(torch.isfinite(w).all() for w in weights(agent))
    assert len(before) == len(weights(agent)) and np.isfinite(score)
    fresh = clone(TRAINED["RL2"]).set_params(lr=1e30, max_iter=1)
    with pytest.raises(MetaTrainingError):
        fresh.fit(BANDITS)
    with pytest.raises(NotFittedError):
        fresh.score(BANDITS)


def test_a_fit_that_learns_nothing_leaves_what_was_before():
    agent = clone(TRAINED["RL2"]).fit(BANDITS)
    tasks = BANDITS.sample(20, random_state=0)
    score = agent.score(tasks)
    broken = EnvTask(BANDITS.sample(1)[0].env_fn, {"probabilities": [2.0]})
    with pytest.raises(EnvTaskError):
        agent.fit([broken])
    assert agent.score(tasks) == score and agent.n_iter_ == 2


def test_the_optimal_agent_goes_on_after_its_last_pull():
    agent = BayesOptimalBanditAgent(n_episodes=3).fit(BANDITS)
    policy = agent.adapt(BANDITS.sample(1, random_state=0)[0], n_episodes=8)
    assert policy.returns_.shape == (8,) and policy.predict([0])[0] in range(3)


def test_a_grid_search_over_a_list_of_environments():
    tasks = BANDITS.sample(12, random_state=0)
    search = GridSearchCV(
        TRAINED["RL2"], {"lr": [1e-3, 1e-2]}, cv=KFold(3), error_score="raise"
    )
    search.fit(tasks)
    assert search.best_params_["lr"] in (1e-3, 1e-2)
    assert 0 <= search.best_estimator_.score(tasks) <= 1


def test_a_grid_search_in_processes():
    tasks = BANDITS.sample(12, random_state=0)
    grid = {"lr": [1e-3, 1e-2]}
    one = GridSearchCV(TRAINED["RL2"], grid, cv=KFold(3), error_score="raise")
    two = clone(one).set_params(n_jobs=2)
    np.testing.assert_allclose(
        one.fit(tasks).cv_results_["mean_test_score"],
        two.fit(tasks).cv_results_["mean_test_score"],
    )


def test_cross_validation_by_family():
    tasks = [
        EnvTask(task.env_fn, task.kwargs, name=f"{family} {place}", group=family)
        for family in ("low", "middle", "high")
        for place, task in enumerate(BANDITS.sample(4, random_state=len(family)))
    ]
    groups = [task.group for task in tasks]
    scores = cross_val_score(
        TRAINED["RL2"], tasks, cv=GroupKFold(3), groups=groups, error_score="raise"
    )
    assert scores.shape == (3,) and (scores >= 0).all()


def test_environments_in_any_form():
    agent = RL2Agent(n_episodes=1, hidden_size=4, max_iter=1, batch_size=2)
    for tasks in (
        "CartPole-v1",
        gymnasium.spec("CartPole-v1"),
        [lambda: gymnasium.make("CartPole-v1")] * 2,
        EnvTask("CartPole-v1", max_episode_steps=5),
    ):
        assert agent.fit(tasks).action_space_.n == 2


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ([], ValueError, "empty"),
        (3, TypeError, "must be a list"),
        ([3], TypeError, "Entry 0"),
        ([gymnasium.make("CartPole-v1")], TypeError, "is an environment"),
    ],
)
def test_what_is_no_environment_task_is_refused(tasks, error, message):
    with pytest.raises(error, match=message):
        RL2Agent(max_iter=1).fit(tasks)


def test_spaces_that_no_net_reads_are_refused():
    class Odd(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(2)})
        action_space = gymnasium.spaces.Discrete(2)

    with pytest.raises(ValueError, match=r"observation space.*FlattenObservation"):
        RL2Agent(max_iter=1).fit([Odd])


def test_psrl_reads_the_horizon():
    processes = TabularMDPs(3, 2, horizon=4)
    assert PSRLAgent(random_state=0).fit(processes).horizon_ == 4
    task = processes.sample(1, random_state=0)[0]
    endless = EnvTask(task.env_fn, task.kwargs)
    with pytest.raises(ValueError, match="Give PSRLAgent a horizon"):
        PSRLAgent().fit([endless])
    with pytest.raises(ValueError, match="Discrete observations"):
        PSRLAgent().fit(PointGoals())


def test_bandit_agents_refuse_what_is_no_bandit():
    for agent in (ThompsonSamplingAgent(), UCB1Agent(), BayesOptimalBanditAgent()):
        with pytest.raises(ValueError, match="is for bandits"):
            agent.fit(TabularMDPs())
