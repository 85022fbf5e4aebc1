"""Agents behind other libraries' interfaces, and videos of them."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sklearn.exceptions import NotFittedError

from sklmeta.rl import (
    BernoulliBandits,
    GridMazes,
    MAMLAgent,
    MetaWorldAgent,
    PointGoals,
    RandomAgent,
    RL2Agent,
    RL2TrialWrapper,
    StableBaselinesPolicy,
    TabularMDPs,
    record_video,
)

N_EPISODES = 3
FAMILIES = {
    "bandits": BernoulliBandits(3),
    "processes": TabularMDPs(4, 3, horizon=2),
    "points": PointGoals(horizon=3),
}


@pytest.fixture(scope="module", params=FAMILIES)
def fitted(request):
    family = FAMILIES[request.param]
    agent = RL2Agent(
        n_episodes=N_EPISODES, hidden_size=8, max_iter=2, batch_size=8, random_state=0
    )
    return family, agent.fit(family)


def test_a_trial_is_an_episode_of_the_wrapper(fitted):
    family, _ = fitted
    task = family.sample(1, random_state=0)[0]
    env = RL2TrialWrapper(task.make_env(), N_EPISODES)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    steps = N_EPISODES * (task.max_episode_steps or 1)
    begins = []
    for step in range(steps):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        assert env.observation_space.contains(observation)
        assert observation[-2] == pytest.approx(reward)
        begins.append(observation[-1])
        assert terminated == (step == steps - 1) and not truncated
    assert sum(begins) == N_EPISODES


def test_actions_are_those_of_the_control_loop(fitted):
    """stable-baselines3's predict on rows, against act and observe on environments."""
    family, agent = fitted
    agent.set_params(deterministic=True)
    task = family.sample(1, random_state=0)[0]
    env = RL2TrialWrapper(task.make_env(), N_EPISODES)
    policy, theirs = agent.adapt(), StableBaselinesPolicy(agent)
    row, _ = env.reset(seed=3)
    inner = task.make_env()
    observation, _ = inner.reset(seed=3)
    policy.begin_episode()
    state, start, over = None, np.ones(1, dtype=bool), False
    while not over:
        actions, state = theirs.predict(row[None], state, start, deterministic=True)
        action = policy.act(observation)
        np.testing.assert_allclose(actions[0], action, atol=1e-5)
        row, _, over, _, _ = env.step(actions[0])
        observation, reward, terminated, truncated, _ = inner.step(actions[0])
        policy.observe(observation, reward, terminated, truncated)
        if terminated or truncated:
            observation, _ = inner.reset()
            policy.begin_episode()
        start = np.zeros(1, dtype=bool)
    agent.set_params(deterministic=False)


def test_a_new_trial_forgets(fitted):
    family, agent = fitted
    env = RL2TrialWrapper.of_tasks(family, N_EPISODES, random_state=0)
    policy = StableBaselinesPolicy(agent)
    rows = np.stack([env.reset(seed=seed)[0] for seed in range(3)])
    first, fresh = policy.predict(rows, deterministic=True)
    _, later = policy.predict(rows, fresh, np.zeros(3, bool), deterministic=True)
    again, reset = policy.predict(rows, later, np.ones(3, bool), deterministic=True)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(reset[0], fresh[0])
    assert not np.array_equal(later[0], fresh[0])
    single, _ = policy.predict(rows[0], deterministic=True)
    np.testing.assert_allclose(single, first[0], atol=1e-6)


def test_stable_baselines_evaluates_it(fitted):
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    vectors = pytest.importorskip("stable_baselines3.common.vec_env")
    family, agent = fitted
    envs = vectors.DummyVecEnv(
        [lambda: RL2TrialWrapper.of_tasks(family, N_EPISODES, random_state=0)] * 2
    )
    mean, deviation = evaluation.evaluate_policy(
        StableBaselinesPolicy(agent), envs, n_eval_episodes=6, warn=False
    )
    assert np.isfinite([mean, deviation]).all()


def test_gymnasiums_checker_accepts_the_wrapper():
    env = RL2TrialWrapper(PointGoals(horizon=2).sample(1, 0)[0].make_env(), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its rows have no limits
        check_env(env, skip_render_check=True)


def test_tasks_change_from_trial_to_trial():
    env = RL2TrialWrapper.of_tasks(BernoulliBandits(2), 1, random_state=0)
    drawn = []
    for _ in range(3):
        env.reset(seed=0)
        drawn.append(env.env._env.unwrapped.probabilities[0])
    assert len(set(drawn)) == 3


def test_other_agents_and_rows_are_refused(fitted):
    _, agent = fitted
    with pytest.raises(TypeError, match="for RL2Agent"):
        StableBaselinesPolicy(RandomAgent())
    with pytest.raises(NotFittedError):
        StableBaselinesPolicy(RL2Agent())
    with pytest.raises(ValueError, match="Wrap the environment in RL2TrialWrapper"):
        StableBaselinesPolicy(agent).predict(np.zeros((1, 2)))
    with pytest.raises(TypeError, match="for RL2Agent, MAMLAgent"):
        MetaWorldAgent(RandomAgent())


# Meta-World's protocol ---------------------------------------------------------------


@pytest.fixture(scope="module")
def judge():
    """Return a function that runs the official evaluation with few, short episodes."""
    pytest.importorskip("packaging")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metaworld = pytest.importorskip("metaworld")
        from metaworld.evaluation import metalearning_evaluation

        envs = {
            told: metaworld.make_ml_envs_test(
                name="reach-v3",
                seed=0,
                meta_batch_size=2,
                max_episode_steps=4,
                recurrent_info_in_obs=told,
            )
            for told in (True, False)
        }

    def evaluate(agent, told):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return metalearning_evaluation(
                MetaWorldAgent(agent),
                envs[told],
                num_evals=1,
                adaptation_steps=2,
                adaptation_episodes=2,
                evaluation_episodes=2,
            )

    yield evaluate
    for vector in envs.values():
        vector.close()


@pytest.fixture(scope="module")
def reaching():
    from sklmeta.rl import metaworld_tasks

    return metaworld_tasks("ML1", "reach-v3", max_episode_steps=4)[:2]


@pytest.mark.filterwarnings("ignore")
def test_the_official_evaluation_runs_end_to_end(judge, reaching):
    small = {"n_episodes": 2, "max_iter": 1, "batch_size": 2, "random_state": 0}
    recurrent = RL2Agent(hidden_size=8, **small).fit(reaching)
    success, mean_return, by_task = judge(recurrent, told=True)
    assert 0 <= success <= 1 and mean_return > 0
    assert set(by_task) == {"reach-v3"}
    with pytest.raises(ValueError, match="recurrent_info_in_obs=True"):
        judge(recurrent, told=False)
    gradient = MAMLAgent(hidden_sizes=(8,), **small).fit(reaching)
    for told in (True, False):
        assert judge(gradient, told)[1] > 0


def test_gradient_agents_adapt_in_its_adapt():
    """The weights after `adapt` are those of a gradient step on what was stepped."""
    goals = PointGoals(horizon=3)
    agent = MAMLAgent(n_episodes=2, hidden_sizes=(8,), max_iter=1, random_state=0)
    adapter = MetaWorldAgent(agent.fit(goals))
    envs = [task.make_env() for task in goals.sample(2, random_state=0)]
    observations = np.stack([env.reset(seed=0)[0] for env in envs])
    for _ in range(3):
        actions, nothing = adapter.adapt_action(observations)
        assert nothing == {}
        steps = [env.step(a) for env, a in zip(envs, actions, strict=True)]
        told = (np.array([step[i] for step in steps]) for i in (1, 2, 3))
        adapter.step(Timestep(observations, *told))
        observations = np.stack([step[0] for step in steps])
    before = [w.clone() for w in adapter._policy.weights]
    adapter.adapt()
    moved = [
        (a - b).flatten(1).norm(dim=1)
        for a, b in zip(adapter._policy.weights, before, strict=True)
    ]
    assert all((m > 0).all() for m in moved[:-1])  # in both tasks
    adapter.init()
    adapter.eval_action(observations)
    pairs = zip(adapter._policy.weights, before, strict=True)
    assert all((now == first[:1]).all() for now, first in pairs)


class Timestep:
    def __init__(self, observation, reward, terminated, truncated):
        self.observation, self.reward = observation, reward
        self.terminated, self.truncated = terminated, truncated


# Videos ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_a_video_of_each_episode_is_written(tmp_path):
    pytest.importorskip("moviepy")
    mazes = GridMazes(2, horizon=5)
    policy = RandomAgent(n_episodes=1, random_state=0).fit(mazes).adapt()
    task = mazes.sample(1, random_state=0)[0]
    returns = record_video(policy, task, tmp_path, n_episodes=2, seed=0)
    assert len(returns) == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["policy-episode-0.mp4", "policy-episode-1.mp4"]
    assert all(path.stat().st_size > 500 for path in tmp_path.iterdir())
