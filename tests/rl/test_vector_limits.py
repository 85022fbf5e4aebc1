"""Vector environments where it is easy to go wrong: ends, rests, keeping, closing."""

import multiprocessing
import os
import pickle
import signal
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from sklmeta.exceptions import EnvTaskError
from sklmeta.rl import BernoulliBandits, EnvTask
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._vector import GymVector
from sklmeta.rl.families.bandits import BanditEnv

CPU = torch.device("cpu")
MODES = list(AutoresetMode)


def counting(length=3, ends="terminated", number=0):
    """Return an environment that counts steps and pays its count plus the action.

    Defined in a function: other processes then get it by value, and need not import
    this file.
    """

    class Counting(gymnasium.Env):
        observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        action_space = Discrete(2)

        def __init__(self):
            self.metadata = {"render_modes": []}
            self.episode = -1
            self.n_closed = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.episode += 1
            self.count = 0
            return self._seen(), {}

        def step(self, action):
            self.count += 1
            over = self.count >= length
            return (
                self._seen(),
                10 * number + self.count + int(action) / 2,
                over and ends == "terminated",
                over and ends == "truncated",
                {"success": over},
            )

        def _seen(self):
            return np.array([self.episode, self.count], np.float32)

        def close(self):
            self.n_closed += 1

    return Counting()


def drawing():
    """Return an environment that shows draws of its generator."""

    class Drawing(gymnasium.Env):
        observation_space = Box(0, 1, (1,), np.float64)
        action_space = Box(-1, 1, (2,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.random(1), {}

        def step(self, action):
            self.taken = action
            return self.np_random.random(1), float(action.sum()), False, False, {}

    return Drawing()


def failing(how=None, when=2, flag=None):
    """Return an environment that does at step `when` what `how` says."""

    class Failing(gymnasium.Env):
        observation_space = Box(-1, 1, (2,), np.float32)
        action_space = Discrete(3 if how == "other action space" else 2)

        def __init__(self):
            if how == "make":
                raise OSError("no licence")
            if how == "other space":
                self.observation_space = Box(-1, 1, (3,), np.float32)
            if how == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.count = 0
            if how == "reset":
                raise KeyError("start")
            if how == "observation only":
                return np.zeros(2, np.float32)
            return np.zeros(2, np.float32), {"unread": object}

        def step(self, action):
            self.count += 1
            seen, reward = np.zeros(2, np.float32), 1.0
            if self.count == when:
                if how == "step":
                    raise ZeroDivisionError("the step broke")
                if how == "four values":
                    return seen, reward, False, {}
                if how == "none":
                    return None
                if how == "exit":
                    os._exit(3)
                if how in ("hang", "deaf"):
                    time.sleep(600)
                seen, reward = {
                    "nan": (seen * np.nan, reward),
                    "infinite": (seen + np.inf, reward),
                    "nan reward": (seen, np.nan),
                    "shape": (np.zeros(3, np.float32), reward),
                    "text": (np.array(["a", "b"]), reward),
                    "no reward": (seen, None),
                }.get(how, (seen, reward))
            return seen, reward, False, self.count >= 4, {}

        def close(self):
            if flag is not None:
                flag.append(how)

    return Failing()


def rooms(inside=True):
    """Return an environment of which the observation is a room's number."""

    class Rooms(gymnasium.Env):
        observation_space = Discrete(3, start=5)
        action_space = Discrete(2, start=1)

        def reset(self, *, seed=None, options=None):
            return 5, {}

        def step(self, action):
            assert self.action_space.contains(action)
            return (5 + int(action) if inside else 8), 0.0, False, False, {}

    return Rooms()


def in_mode(mode, *makers, seed=0):
    vector = SyncVectorEnv(makers, autoreset_mode=mode)
    return GymVector(vector, [f"task {i}" for i in range(len(makers))], seed, CPU)


def episodes(envs, n_steps):
    """Return the transitions of each environment, as a collector sees them."""
    observation = envs.reset()
    seen = [[] for _ in range(envs.n_envs)]
    actions = torch.tensor([0, 1])
    for _ in range(n_steps):
        step = envs.step(actions)
        parts = (
            observation,
            step.reward,
            step.observation,
            step.terminated,
            step.truncated,
        )
        for i in torch.nonzero(step.valid)[:, 0]:
            seen[i].append(tuple(part[i].tolist() for part in parts))
        observation = step.observation
        ended = (step.terminated | step.truncated) & step.valid
        if ended.any():
            observation = envs.reset(ended)
    return seen


# What the three modes of gymnasium have in common ------------------------------------


def expected(length, ends, number, action, n_episodes):
    return [
        (
            [episode, count],
            10 * number + count + 1 + action / 2,
            [episode, count + 1],
            ends == "terminated" and count + 1 == length,
            ends == "truncated" and count + 1 == length,
        )
        for episode in range(n_episodes)
        for count in range(length)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_all_modes_give_the_same_transitions(mode):
    envs = in_mode(
        mode,
        lambda: counting(2, "truncated"),
        lambda: counting(3, "terminated", number=1),
    )
    short, long = episodes(envs, 12)
    assert short[:6] == expected(2, "truncated", 0, 0, 3)
    assert long[:6] == expected(3, "terminated", 1, 1, 2)
    # In the next-step mode one step in each episode more is spent on the reset.
    spent = mode == AutoresetMode.NEXT_STEP
    assert (len(short), len(long)) == ((8, 9) if spent else (12, 12))


@pytest.mark.parametrize("mode", MODES)
def test_success_is_that_of_the_last_step(mode):
    envs = in_mode(mode, lambda: counting(2), lambda: counting(3))
    envs.reset()
    success = [envs.step(torch.tensor([0, 0])).success.tolist() for _ in range(2)]
    assert success == [[0, 0], [1, 0]]


def test_environments_that_say_nothing_of_success_give_none():
    envs = in_mode(AutoresetMode.DISABLED, drawing)
    envs.reset()
    assert envs.step(torch.zeros(1, 2)).success is None


@pytest.mark.parametrize("parks", [True, False])
def test_ended_environments_rest_until_they_are_reset(parks):
    if parks:
        tasks = [EnvTask(counting, {"length": n}, name=n) for n in (1, 5)]
        envs = EnvPool("sync", None).batched(tasks, 0, CPU)
    else:
        envs = in_mode(AutoresetMode.DISABLED, lambda: counting(1), lambda: counting(5))
    envs.reset()
    valid = [envs.step(torch.tensor([0, 0])).valid.tolist() for _ in range(3)]
    assert valid == [[True, True], [False, True], [False, True]]
    again = envs.reset(torch.tensor([True, False]))
    assert again[0, 1] == 0 and again[1, 1] == 3
    step = envs.step(torch.tensor([0, 0]))
    assert step.valid.all() and step.observation[:, 1].tolist() == [1, 4]


def test_resting_environments_take_no_steps():
    env = counting(1)
    tasks = [EnvTask(lambda: env, name=0), EnvTask(counting, name=1)]
    envs = EnvPool("sync", None).batched(tasks, 0, CPU)
    envs.reset()
    for _ in range(3):
        envs.step(torch.tensor([0, 0]))
    assert (env.episode, env.count) == (0, 1)


def test_a_mask_of_nothing_resets_nothing():
    envs = in_mode(AutoresetMode.DISABLED, counting)
    envs.reset()
    envs.step(torch.tensor([0]))
    assert envs.reset(torch.tensor([False])).tolist() == [[0, 1]]


@pytest.mark.parametrize("mode", MODES)
def test_the_first_reset_is_one_of_all(mode):
    envs = in_mode(mode, counting, counting)
    assert envs.reset(torch.tensor([True, False])).tolist() == [[0, 0], [0, 0]]
    assert envs.step(torch.tensor([0, 0])).valid.all()


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_of_all_makes_the_next_step_valid(mode):
    envs = in_mode(mode, lambda: counting(1))
    envs.reset()
    envs.step(torch.tensor([0]))
    envs.reset()
    step = envs.step(torch.tensor([0]))
    assert step.valid.all() and step.observation[0, 1] == 1


# Values ------------------------------------------------------------------------------


def test_discrete_values_are_ranks():
    envs = in_mode(AutoresetMode.DISABLED, rooms, rooms)
    assert envs.reset().tolist() == [0, 0]
    assert envs.step(torch.tensor([0, 1])).observation.tolist() == [1, 2]


def test_observations_are_copies():
    envs = in_mode(AutoresetMode.DISABLED, counting)
    first = envs.reset()
    second = envs.step(torch.tensor([0])).observation
    envs.step(torch.tensor([0]))
    assert first.tolist() == [[0, 0]] and second.tolist() == [[0, 1]]


# Seeds -------------------------------------------------------------------------------


def test_later_episodes_have_draws_of_their_own():
    envs = in_mode(AutoresetMode.DISABLED, drawing)
    assert envs.reset() != envs.reset()


# The pool ----------------------------------------------------------------------------


def test_families_with_a_simulator_are_simulated():
    tasks = BernoulliBandits(3).sample(4, random_state=0)
    pool = EnvPool("sync", None)
    envs = pool.batched(tasks, 3, CPU, copies=2)
    assert not isinstance(envs, GymVector) and envs.n_envs == 8
    again = pool.batched(tasks, 3, CPU, copies=2)
    arms = torch.zeros(8, dtype=torch.long)
    assert torch.equal(envs.step(arms).reward, again.step(arms).reward)


def test_subclasses_are_not_taken_for_their_parent():
    class Generous(BanditEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward + 5, *rest

    task = EnvTask(Generous, {"probabilities": [0.5, 0.5]}, name=0)
    envs = EnvPool("sync", None).batched([task], 0, CPU)
    envs.reset()
    assert envs.step(torch.tensor([0])).reward >= 5


def test_tasks_of_different_length_are_not_simulated_together():
    tasks = [
        EnvTask(BanditEnv, {"probabilities": [0.5]}, max_episode_steps=n)
        for n in (1, 2)
    ]
    assert not EnvPool.simulates(tasks)
    assert EnvPool.simulates(tasks[:1])


def test_environments_are_kept_from_one_batch_to_the_next():
    made = []

    def make():
        made.append(counting())
        return made[-1]

    tasks = [EnvTask(make, name=i) for i in range(2)]
    with EnvPool("sync", None) as pool:
        for _ in range(3):
            envs = pool.batched(tasks, 0, CPU)
            envs.reset()
            envs.step(torch.tensor([0, 0]))
            del envs  # as vector environments may close theirs when collected
        assert len(made) == 3  # one of them told the spaces
        assert [env.n_closed for env in made] == [1, 0, 0]
    assert [env.n_closed for env in made] == [1, 1, 1]
    pool.close()
    assert [env.n_closed for env in made] == [1, 1, 1]


def test_not_all_are_kept_forever(monkeypatch):
    monkeypatch.setattr("sklmeta.rl._env_pool.N_KEPT", 2)
    made = []

    def make():
        made.append(counting())
        return made[-1]

    with EnvPool("sync", None) as pool:
        for place in range(4):
            pool.batched([EnvTask(make, name=place)], 0, CPU)
        assert sum(not env.n_closed for env in made) == 2
    assert all(env.n_closed == 1 for env in made)


def test_an_environment_of_the_user_is_left_open():
    env = counting(1)
    with EnvPool("sync", None) as pool:
        envs = pool.of_env(env, 0)
        envs.reset()
        assert envs.step(torch.tensor([1])).reward.tolist() == [1.5]
        envs.close()
    assert not env.n_closed


def test_the_seed_reaches_an_environment_of_the_user():
    env = drawing()
    first, second, again = (
        EnvPool("sync", None).of_env(env, seed).reset() for seed in (0, 1, 0)
    )
    assert first != second and first == again


# Failures ----------------------------------------------------------------------------

FAILURES = {
    "other space": r"observation space must be Box\(.*\(2,\).*got Box\(.*\(3,\)",
    "observation only": "failed when it was reset: ValueError",
    "step": "failed when it was stepped: ZeroDivisionError: the step broke",
    "none": "got NoneType",
    "infinite": "gave an observation that is not finite",
    "no reward": "failed when it was stepped: TypeError",
    "text": "hold numbers that fit float32.*got shape",
}


def tasks_with(how, flag=None):
    kwargs = {} if flag is None else {"flag": flag}
    return [
        EnvTask(failing, {"how": h, **kwargs}, name=name)
        for name, h in (("good", None), ("bad", how), ("fine", None))
    ]


def run(pool, tasks, n_steps=3):
    envs = pool.batched(tasks, 0, CPU)
    envs.reset()
    for _ in range(n_steps):
        envs.step(torch.zeros(len(tasks), dtype=torch.long))


@pytest.mark.parametrize("how", FAILURES)
def test_failures_name_the_task_and_all_are_closed(how):
    closed = []
    with (
        pytest.raises(EnvTaskError, match=FAILURES[how]) as caught,
        EnvPool("sync", None) as pool,
    ):
        run(pool, tasks_with(how, closed))
    assert caught.value.task_name == "bad"
    assert "task 'bad'" in str(caught.value) and "env_errors" in str(caught.value)
    # "good" also told the spaces before; what was not made can not be closed.
    assert closed.count(None) == 3
    assert closed.count(how) == (how != "make")


def test_the_first_task_fails_by_name_too():
    with pytest.raises(EnvTaskError, match="'bad' failed when it was made") as caught:
        run(EnvPool("sync", None), tasks_with("make")[1:])
    assert caught.value.task_name == "bad"


def test_a_failure_tells_where_in_the_environment_it_happened():
    with pytest.raises(EnvTaskError) as caught, EnvPool("sync", None) as pool:
        run(pool, tasks_with("step"))
    (note,) = caught.value.__notes__
    assert "Traceback" in note and "in step" in note


def test_errors_pass_between_processes():
    error = EnvTaskError("It broke.", ("a", 1))
    error.add_note("There.")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, EnvTaskError) and isinstance(again, RuntimeError)
    assert (str(again), again.task_name) == ("It broke.", ("a", 1))
    assert again.__notes__ == ["There."]


def test_a_room_that_is_none_is_refused():
    tasks = [EnvTask(rooms, {"inside": False}, name="maze")]
    with (
        pytest.raises(EnvTaskError, match=r"'maze'.*must be in Discrete.*got 8"),
        EnvPool("sync", None) as pool,
    ):
        run(pool, tasks)


def test_fractions_are_no_whole_numbers():
    class Counted(gymnasium.Env):
        observation_space = Box(0, 9, (1,), np.int64)
        action_space = Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.array([0.5]), {}

    with (
        pytest.raises(EnvTaskError, match=r"hold numbers that fit int64.*of float64"),
        EnvPool("sync", None) as pool,
    ):
        run(pool, [EnvTask(Counted, name="counted")])


def test_closing_may_fail_unseen():
    class Sticky(type(counting())):
        def close(self):
            raise OSError("stuck")

    made = []

    def make():
        made.append(counting())
        return made[-1]

    with EnvPool("sync", None) as pool:
        pool.batched([EnvTask(Sticky, name=0), EnvTask(make, name=1)], 0, CPU)
    assert made[0].n_closed == 1


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_values_that_are_not_finite_are_found_in_every_mode(mode):
    envs = in_mode(mode, failing, lambda: failing("nan"))
    envs.reset()
    envs.step(torch.tensor([0, 0]))
    with pytest.raises(EnvTaskError, match="'task 1' gave an observation"):
        envs.step(torch.tensor([0, 0]))
    assert envs.vector.closed


def test_errors_of_foreign_vector_environments_are_their_own():
    class Foreign(type(counting())):
        def step(self, action):
            raise OSError("no display")

    envs = in_mode(AutoresetMode.DISABLED, Foreign)
    envs.reset()
    with pytest.raises(OSError, match="no display"):
        envs.step(torch.tensor([0]))


# Processes ---------------------------------------------------------------------------


@pytest.fixture
def no_process_is_left():
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.usefixtures("no_process_is_left")
def test_processes_give_what_one_gives():
    tasks = [
        EnvTask(counting, {"length": 2, "ends": "truncated"}, name=0),
        EnvTask(counting, {"length": 3, "number": 1}, name=1),
    ]
    with EnvPool("async", 60.0) as pool, EnvPool("sync", None) as one:
        envs = pool.batched(tasks, 0, CPU)
        assert episodes(envs, 7) == episodes(one.batched(tasks, 0, CPU), 7)
        again = pool.batched(tasks, 0, CPU)
        assert again.vector is envs.vector
        assert again.reset()[:, 1].tolist() == [0, 0]
    assert again.vector.closed
    again.close()


@pytest.mark.usefixtures("no_process_is_left")
def test_what_hangs_and_is_deaf_is_ended():
    with (
        pytest.raises(EnvTaskError, match=r"did not answer within 0\.5 s") as caught,
        EnvPool("async", 60.0) as pool,
    ):
        envs = pool.batched(tasks_with("deaf")[:2], 0, CPU)
        envs.reset()
        envs.step(torch.tensor([0, 0]))
        envs._timeout = 0.5
        envs.step(torch.tensor([0, 0]))
    assert caught.value.task_name == "bad"


@pytest.mark.usefixtures("no_process_is_left")
def test_a_process_that_ends_while_it_starts_leaves_none():
    parent = os.getpid()

    def make(name):
        if os.getpid() != parent and name == "bad":
            os._exit(1)
        return failing()

    tasks = [EnvTask(make, {"name": name}, name=name) for name in ("good", "bad")]
    with (
        pytest.raises(EnvTaskError, match="ended while it started"),
        EnvPool("async", None) as pool,
    ):
        pool.batched(tasks, 0, CPU)


@pytest.mark.usefixtures("no_process_is_left")
def test_closing_does_not_wait_for_one_that_hangs(monkeypatch):
    monkeypatch.setattr("sklmeta.rl._vector.CLOSING_SECONDS", 0.2)
    vector = AsyncVectorEnv(
        [lambda: failing("hang", when=1)],
        autoreset_mode=AutoresetMode.DISABLED,
        context="forkserver",
    )
    envs = GymVector(vector, [0], 0, CPU)
    envs.reset()
    vector.step_async(np.array([0]))  # as where a user interrupts
    envs.close()
    assert vector.closed
    envs.close()
