"""gymnasium environments side by side: modes of resetting, seeds, failures, closing."""

import multiprocessing
import os
import pickle
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from sklmeta.exceptions import EnvTaskError, EnvTaskWarning
from sklmeta.rl import EnvTask, RandomAgent, RL2Agent
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._vector import GymVector, autoreset_mode

CPU = torch.device("cpu")


def make_env_class():
    """Return a class that other processes get by value: they do not find this file."""

    class Env(gymnasium.Env):
        """Observes the step and a draw; its third step goes wrong as `how` says."""

        n_open = 0

        def __init__(self, how=None, length=3):
            if how == "make":
                raise OSError("no licence")
            n_actions = 3 if how == "space" else 2
            self.observation_space = Box(-9, 9, (2,), np.float32)
            self.action_space = Discrete(n_actions)
            self.how, self.length = how, length
            type(self).n_open += 1

        def close(self):
            type(self).n_open -= 1

        def _seen(self):
            return np.array([self.t, self.np_random.random()], dtype=np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            if self.how == "reset":
                raise ValueError("cannot begin")
            return self._seen(), {}

        def step(self, action):
            self.t += 1
            result = [self._seen(), float(self.t), False, self.t >= self.length, {}]
            if self.t == 2 and self.how:
                self._go_wrong(result)
            return tuple(result)

        def _go_wrong(self, result):
            if self.how == "raise":
                raise ZeroDivisionError("oh")
            if self.how == "nan reward":
                result[1] = np.nan
            if self.how == "nan observation":
                result[0] = result[0] * np.inf
            if self.how == "shape":
                result[0] = np.zeros(3, np.float32)
            if self.how == "result":
                result.pop()
            if self.how == "hang":
                time.sleep(60)
            if self.how == "die":
                os._exit(3)

    return Env


def tasks_with(how):
    env = make_env_class()
    return [EnvTask(env, {}, name="good"), EnvTask(env, {"how": how}, name="bad")]


def small_agent(**parameters):
    return RL2Agent(
        **{
            "n_episodes": 2,
            "max_iter": 2,
            "batch_size": 2,
            "hidden_size": 4,
            "random_state": 0,
            **parameters,
        }
    )


# Modes -----------------------------------------------------------------------------


def transitions(mode):
    """Return the valid transitions of three environments of unlike length."""
    env = make_env_class()
    vector = SyncVectorEnv(
        [lambda n=n: env(length=n) for n in (1, 2, 4)], autoreset_mode=mode
    )
    envs = GymVector(vector, "abc", 0, CPU)
    observation = envs.reset()
    found = [[] for _ in range(3)]
    for _ in range(12):
        step = envs.step(torch.zeros(3, dtype=torch.long))
        for i in step.valid.nonzero().flatten().tolist():
            before, after = float(observation[i, 0]), float(step.observation[i, 0])
            ended = bool(step.truncated[i])
            found[i].append((before, after, float(step.reward[i]), ended))
        ended = (step.terminated | step.truncated) & step.valid
        observation = envs.reset(ended) if ended.any() else step.observation
    envs.close()
    return found


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_mode_gives_the_transitions_of_the_environments(mode):
    for length, found in zip((1, 2, 4), transitions(mode), strict=True):
        n = 4  # as many as all modes have: resets take steps in one of them
        expected = [
            (t % length, t % length + 1, t % length + 1, (t + 1) % length == 0)
            for t in range(n)
        ]
        assert found[:n] == expected


def test_resets_in_the_next_step_cost_steps_that_are_not_valid():
    counts = {mode: [len(f) for f in transitions(mode)] for mode in AutoresetMode}
    assert counts[AutoresetMode.DISABLED] == [12, 12, 12]
    assert counts[AutoresetMode.SAME_STEP] == [12, 12, 12]
    assert counts[AutoresetMode.NEXT_STEP] == [6, 8, 10]


def test_a_vector_that_does_not_tell_its_mode_is_refused():
    vector = SyncVectorEnv([make_env_class()])
    vector.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        autoreset_mode(vector)


# Seeds and steps ---------------------------------------------------------------------


def first_draws(seed):
    env = make_env_class()
    tasks = [EnvTask(env, {}, name=i) for i in range(3)]
    with EnvPool("sync", None) as pool:
        return pool.batched(tasks, seed, CPU).reset()[:, 1].tolist()


def test_environments_have_seeds_of_their_own_that_come_from_one():
    assert first_draws(1) == first_draws(1)
    assert len(set(first_draws(1))) == 3
    assert set(first_draws(1)).isdisjoint(first_draws(2))


def test_environments_that_rest_are_not_stepped():
    env = make_env_class()
    tasks = [EnvTask(env, {"length": n}, name=n) for n in (1, 9)]
    with EnvPool("sync", None) as pool:
        envs = pool.batched(tasks, 0, CPU)
        envs.reset()
        action = torch.zeros(2, dtype=torch.long)
        steps = [envs.step(action) for _ in range(3)]
        assert [s.valid.tolist() for s in steps] == [
            [True, True],
            [False, True],
            [False, True],
        ]
        again = envs.reset(torch.tensor([True, False]))
    assert again[:, 0].tolist() == [0, 3]


def test_actions_beyond_a_box_are_clipped():
    class Env(gymnasium.Env):
        observation_space = Box(-9, 9, (1,))
        action_space = Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return np.zeros(1, np.float32), float(action[0]), True, False, {}

    with EnvPool("sync", None) as pool:
        envs = pool.batched([EnvTask(Env), EnvTask(Env)], 0, CPU)
        envs.reset()
        step = envs.step(torch.tensor([[5.0], [-5.0]]))
    assert step.reward.tolist() == [1.0, -1.0]


def test_environments_are_kept_from_one_call_to_the_next_and_closed_in_the_end():
    env = make_env_class()
    tasks = [EnvTask(env, {}, name=i) for i in range(3)]
    with EnvPool("sync", None) as pool:
        for _ in range(4):
            pool.batched(tasks, 0, CPU).reset()
        assert env.n_open == 3
        pool.batched(tasks, 0, CPU, copies=2).reset()
        assert env.n_open == 6
    assert env.n_open == 0


def test_an_environment_of_the_callers_is_not_closed():
    env = make_env_class()
    agent = RandomAgent(random_state=0).fit([env])
    mine = env()
    agent.adapt(mine, n_episodes=2)
    assert env.n_open == 1


# Failures ----------------------------------------------------------------------------

FAILURES = {
    "make": "made: OSError: no licence",
    "space": r"action space must be Discrete\(2\)",
    "reset": "reset: ValueError: cannot begin",
    "raise": "stepped: ZeroDivisionError: oh",
    "nan reward": "a reward that is not finite",
    "nan observation": "an observation that is not finite",
    "shape": r"shape \(2,\).*got shape \(3,\)",
    "result": "step must return",
}


@pytest.mark.parametrize("how", FAILURES)
def test_an_environment_that_fails_is_named_and_all_are_closed(how):
    tasks = tasks_with(how)
    with EnvPool("sync", None) as pool:
        pool._spaces = pool.spaces_of(tasks[0])
        with pytest.raises(EnvTaskError, match=f"'bad'.*{FAILURES[how]}") as caught:
            envs = pool.batched(tasks, 0, CPU)
            envs.reset()
            for _ in range(2):
                envs.step(torch.zeros(2, dtype=torch.long))
    assert caught.value.task_name == "bad"
    assert tasks[0].env_fn.n_open == 0


def test_the_policy_learned_so_far_is_kept():
    class FailsLater(make_env_class()):
        n_steps = 0

        def step(self, action):
            type(self).n_steps += 1
            if self.n_steps > 20:
                raise RuntimeError("worn out")
            return super().step(action)

    agent = small_agent(max_iter=50)  # 12 steps an update
    with pytest.raises(EnvTaskError, match="worn out"):
        agent.fit([EnvTask(FailsLater, name="robot")])
    assert agent.n_iter_ == 1
    assert agent.adapt(make_env_class(), n_episodes=1).predict([[0, 0]]).shape == (1,)


def test_training_can_go_on_without_the_task():
    agent = small_agent(env_errors="warn")
    with pytest.warns(EnvTaskWarning, match="'bad'.*goes on without it"):
        agent.fit(tasks_with("raise"))
    assert agent.n_iter_ == 2
    with pytest.raises(EnvTaskError, match="'bad'"):  # none is left
        small_agent(env_errors="warn").fit(tasks_with("raise")[1:] * 2)


def test_errors_pass_between_processes():
    error = pickle.loads(pickle.dumps(EnvTaskError("it broke", "robot")))
    assert str(error) == "it broke" and error.task_name == "robot"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "stepped: ZeroDivisionError: oh"),
        ("hang", "did not answer within 1.0 s"),
        ("die", "ended its process"),
    ],
)
def test_failures_in_processes_are_named_and_no_process_is_left(how, message):
    before = set(multiprocessing.active_children())
    agent = small_agent(
        vectorization="async", step_timeout=1.0 if how == "hang" else 30.0
    )
    with pytest.raises(EnvTaskError, match=f"'bad' .*{message}"):
        agent.fit(tasks_with(how))
    assert set(multiprocessing.active_children()) <= before


def test_processes_do_the_same_as_one():
    env = make_env_class()
    tasks = [EnvTask(env, {}, name=i) for i in range(2)]
    scores = [
        small_agent(vectorization=kind).fit(tasks).history_[-1]["return"]
        for kind in ("sync", "async")
    ]
    assert scores[0] == scores[1]
