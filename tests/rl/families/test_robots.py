"""The half cheetah and Meta-World: rewards, goals, and the traps of the latter."""

import pickle
import sys
import warnings

import gymnasium
import numpy as np
import pytest

from sklmeta.rl import (
    CheetahDirectionEnv,
    CheetahVelocityEnv,
    HalfCheetahDirection,
    HalfCheetahVelocity,
    metaworld_tasks,
)
from sklmeta.rl.families.metaworld import refuse_shared_goals


@pytest.fixture
def mujoco():
    return pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def metaworld():
    pytest.importorskip("packaging")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("metaworld")


def run(task, n_steps):
    env = task.make_env()
    env.reset(seed=0)
    action = np.full(env.action_space.shape, 0.5, dtype=np.float32)
    steps = [env.step(action) for _ in range(n_steps)]
    env.close()
    return steps


def test_cheetahs_are_rewarded_for_their_direction(mujoco):
    tasks = HalfCheetahDirection(horizon=5).sample(20, random_state=0)
    by_group = {task.group: task for task in tasks}
    assert set(by_group) == {"forward", "backward"}
    forward, backward = (run(by_group[g], 5) for g in ("forward", "backward"))
    for one, other in zip(forward, backward, strict=True):
        control = one[4]["reward_ctrl"]
        assert one[1] == pytest.approx(one[4]["x_velocity"] + control)
        assert other[1] == pytest.approx(-other[4]["x_velocity"] + control)
    assert [step[3] for step in forward] == [False] * 4 + [True]


def test_cheetahs_are_rewarded_for_being_near_a_velocity(mujoco):
    task = HalfCheetahVelocity(horizon=3).sample(1, random_state=0)[0]
    target = task.kwargs["velocity"]
    assert 0 <= target <= 3
    for _, reward, _, _, info in run(task, 3):
        expected = -abs(info["x_velocity"] - target) + info["reward_ctrl"]
        assert reward == pytest.approx(expected)


def test_a_direction_is_one_of_two():
    with pytest.raises(ValueError, match="1 or -1"):
        CheetahDirectionEnv(2)


def test_velocities_are_finite_and_not_negative():
    with pytest.raises(ValueError, match="velocity"):
        CheetahVelocityEnv(float("nan"))
    with pytest.raises(ValueError, match="fastest"):
        HalfCheetahVelocity(fastest=0)


def test_directions_and_velocities_are_drawn_evenly():
    directions = HalfCheetahDirection().sample(1000, random_state=0)
    forward = np.mean([task.group == "forward" for task in directions])
    assert forward == pytest.approx(0.5, abs=0.05)
    velocities = HalfCheetahVelocity().sample(1000, random_state=0)
    drawn = np.array([task.kwargs["velocity"] for task in velocities])
    assert drawn.mean() == pytest.approx(1.5, abs=0.1)
    assert drawn.min() >= 0 and 2.9 < drawn.max() <= 3


def test_a_missing_mujoco_is_told_with_what_to_install(monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("mujoco", "gymnasium.envs.mujoco")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"pip install 'sklmeta\[rl\]'"):
        CheetahDirectionEnv(1)


@pytest.mark.parametrize("missing", ["metaworld", "metaworld.env_dict"])
def test_a_missing_metaworld_is_told_with_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"packaging.*'sklmeta\[metaworld\]'"):
        metaworld_tasks("ML1", "reach-v3")


@pytest.fixture(scope="module")
def reach(metaworld):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            s: metaworld_tasks("ML1", "reach-v3", split=s) for s in ("train", "test")
        }


def goals(tasks):
    return {pickle.loads(t.kwargs["goal"])["rand_vec"].tobytes() for t in tasks}


def test_training_and_test_goals_are_disjoint(reach):
    assert len(goals(reach["train"])) == len(goals(reach["test"])) == 50
    assert not goals(reach["train"]) & goals(reach["test"])
    names = [task.name for split in reach.values() for task in split]
    assert len(set(names)) == 100
    assert {task.group for task in reach["train"]} == {"reach-v3"}


def test_goals_that_are_shared_are_refused(reach):
    both = tuple(("reach-v3", task.kwargs["goal"]) for task in reach["train"])
    with pytest.raises(ValueError, match="50 of the test goals"):
        refuse_shared_goals(both, both)


@pytest.mark.filterwarnings("ignore")
def test_a_task_has_one_goal_and_hides_it(reach):
    task = pickle.loads(pickle.dumps(reach["test"][0]))
    env = task.make_env()
    places = []
    for seed in (0, 1):
        observation, _ = env.reset(seed=seed)
        places.append(env.unwrapped._target_pos.copy())
    np.testing.assert_array_equal(*places)
    assert observation.shape == (39,) and not observation[-3:].any()
    *_, info = env.step(env.action_space.sample())
    assert info["success"] in (0.0, 1.0)
    env.close()


@pytest.mark.filterwarnings("ignore")
def test_trap_ids_of_meta_world_train_on_test_goals(metaworld, reach):
    """Why its gymnasium ids are not used: those for training hold the test goals."""
    envs = gymnasium.make_vec(
        "Meta-World/ML1-train", env_name="reach-v3", seed=0, meta_batch_size=1
    )
    held = {
        pickle.loads(task.data)["rand_vec"].tobytes()
        for tasks in envs.get_attr("tasks")
        for task in tasks
    }
    envs.close()
    assert held == goals(reach["test"])


@pytest.mark.filterwarnings("ignore")
def test_episodes_of_a_task_are_alike_and_end_at_the_horizon(reach):
    tasks = metaworld_tasks("ML1", "reach-v3", max_episode_steps=4)
    env = tasks[0].make_env()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(4, 4)).astype(np.float32)
    episodes = []
    for seed in (0, 1):
        env.reset(seed=seed)
        episodes.append([env.step(action) for action in actions])
    env.close()
    for one, other in zip(*episodes, strict=True):
        np.testing.assert_allclose(one[0], other[0])
        assert one[1] == pytest.approx(other[1])
    assert [step[3] for step in episodes[1]] == [False, False, False, True]


@pytest.mark.filterwarnings("ignore")
def test_success_is_told_where_the_goal_is_reached(reach):
    env = reach["train"][0].make_env()
    observation, _ = env.reset(seed=0)
    successes = []
    for _ in range(80):
        toward = 10 * (env.unwrapped._target_pos - observation[:3])
        action = np.append(np.clip(toward, -1, 1), 0).astype(np.float32)
        observation, *_, info = env.step(action)
        successes.append(info["success"])
    env.close()
    assert successes[0] == 0 and successes[-1] == 1


@pytest.mark.filterwarnings("ignore")
def test_trap_ids_of_meta_world_raise(metaworld):
    """Why its gymnasium ids are not used, again: they cannot be made by `make`."""
    with pytest.raises(gymnasium.error.Error, match="entry_point"):
        gymnasium.make("Meta-World/ML1-train", env_name="reach-v3", seed=0)


def test_trap_lists_of_ml25_share_an_environment(metaworld):
    def shared(lists):
        return set(lists["train"]) & set(lists["test"])

    assert shared(metaworld.env_dict.ML25_V3) == {"basketball-v3"}
    assert not shared(metaworld.env_dict.ML10_V3)
    assert not shared(metaworld.env_dict.ML45_V3)


@pytest.mark.filterwarnings("ignore")
def test_trap_seeds_of_resets_change_nothing(metaworld):
    """Why each task has a goal of its own: seeds of resets do not draw one."""
    env = metaworld.ALL_V3_ENVIRONMENTS["reach-v3"]()
    env._freeze_rand_vec = False
    env._set_task_called = True
    env.seed(5)
    env.reset(seed=1)
    first = env._target_pos.copy()
    env.reset(seed=1)
    assert not np.array_equal(first, env._target_pos)
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ML25",), "share an environment"),
        (("ML2",), "benchmark must be one of"),
        (("ML1", "fly-v3"), "env_name must be one of"),
        (("ML10", "reach-v3"), "ML1 only"),
    ],
)
def test_what_meta_world_does_not_have_is_refused(metaworld, arguments, message):
    with pytest.raises(ValueError, match=message):
        metaworld_tasks(*arguments)


def test_goals_without_a_seed_are_refused(metaworld):
    with pytest.raises(TypeError, match="seed"):
        metaworld_tasks("ML1", "reach-v3", seed=None)


def test_horizons_beyond_meta_worlds_are_refused(metaworld):
    with pytest.raises(ValueError, match="at most 500"):
        metaworld_tasks("ML1", "reach-v3", max_episode_steps=501)
