"""gymnasium vector environments as the collector steps them."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from sklmeta.exceptions import EnvTaskError
from sklmeta.rl._batched import Step
from sklmeta.rl._guard import FAILURE, PARK
from sklmeta.rl._spaces import space_code

__all__ = ["GymVector", "autoreset_mode", "end_processes"]

# How long environments may take to close.
CLOSING_SECONDS = 10.0

WHAT_TO_DO = (
    "Mend the environment, or leave the task out (fit of meta-trained agents does with "
    "env_errors='warn')."
)


class GymVector:
    """A gymnasium vector environment: a `BatchedEnvs`.

    Vector environments differ in what they do at the end of an episode. The mode is
    read from their metadata: "disabled" ones are reset when `reset` says so; those that
    reset themselves in the same step give the final observation aside; those that do in
    the next step ignore the action of that step, which is then not valid.

    Parameters
    ----------
    vector : gymnasium.vector.VectorEnv
        The environments.
    names : sequence of hashable
        Names of their tasks.
    seed : int
        From which the environments' seeds are derived.
    device : torch.device
        Where tensors go.
    parks : bool, default=False
        Whether the environments know the option `PARK`.
    step_timeout : float, default=None
        Seconds that a step may take; needs environments in other processes.
    """

    def __init__(
        self,
        vector: VectorEnv,
        names: Sequence[Hashable],
        seed: int,
        device: torch.device,
        parks: bool = False,
        step_timeout: float | None = None,
    ) -> None:
        self.vector, self.names, self.device = vector, list(names), device
        self.n_envs = vector.num_envs
        self.observation_space: gymnasium.Space = vector.single_observation_space
        self.action_space: gymnasium.Space = vector.single_action_space
        self._observation_code = space_code(self.observation_space, "observation")
        self._action_code = space_code(self.action_space, "action")
        self._mode = autoreset_mode(vector)
        self._parks, self._timeout = parks, step_timeout
        states = np.random.SeedSequence(seed).generate_state(self.n_envs)
        self._seeds: list[int] | None = [int(state) for state in states]
        # Environments that do not take the next action: their episode has ended.
        self._resting = np.zeros(self.n_envs, dtype=bool)
        self._parked = np.zeros(self.n_envs, dtype=bool)
        self._observation: Any = None

    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Begin an episode where `mask` says so, by default everywhere.

        The first time, all begin. Vector environments that reset themselves in the next
        step still show the final observation, and that step is not valid.
        """
        if mask is None or self._seeds is not None:
            chosen = np.ones(self.n_envs, bool)
        elif self._mode == AutoresetMode.DISABLED:
            chosen = mask.cpu().numpy()
        else:  # they reset themselves
            chosen = np.zeros(self.n_envs, bool)
        if chosen.any():
            self._reset_now(chosen)
            self._resting &= ~chosen
        return self._tensor(self._observation)

    def step(self, actions: Tensor) -> Step:
        """Take an action in every environment."""
        resting = self._resting
        self._park(resting)
        observation, reward, terminated, truncated, infos = self._answer(
            "step", self._action_code.to_env(actions)
        )
        self._observation = observation
        ended = terminated | truncated
        final = self._final_observation(observation, infos, ended)
        self._refuse_not_finite(final, "an observation")
        self._refuse_not_finite(observation, "an observation")
        self._refuse_not_finite(reward, "a reward")
        self._resting = self._resting_after(ended)
        return Step(
            self._tensor(final),
            torch.as_tensor(reward, dtype=torch.float32, device=self.device),
            torch.as_tensor(terminated, device=self.device),
            torch.as_tensor(truncated, device=self.device),
            torch.as_tensor(~resting, device=self.device),
            self._success(infos, ended),
        )

    def close(self) -> None:
        """Close all environments, also those that do not answer."""
        watch = threading.Timer(CLOSING_SECONDS, self._kill)
        if self._processes:
            watch.start()
        try:
            with warnings.catch_warnings(), suppress(Exception):
                warnings.simplefilter("ignore")  # that a step was not waited for
                self.vector.close()
        finally:
            watch.cancel()
            self._forget()

    # How the modes differ --------------------------------------------------------

    def _resting_after(self, ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which environments do not take the next action."""
        if self._mode == AutoresetMode.SAME_STEP:
            return np.zeros_like(ended)
        if self._mode == AutoresetMode.NEXT_STEP:
            return ended
        return ended | self._resting

    def _reset_now(self, chosen: NDArray[np.bool_]) -> None:
        seeds, self._seeds = self._seeds, None
        options = {} if chosen.all() else {"reset_mask": chosen}
        observation, _ = self._answer("reset", seed=seeds, options=options)
        self._refuse_not_finite(observation, "an observation")
        self._observation = observation

    def _park(self, resting: NDArray[np.bool_]) -> None:
        """Let environments rest that have ended and were not reset."""
        if self._mode != AutoresetMode.DISABLED:
            return
        waiting = resting & ~self._parked if self._parks else resting
        if waiting.any():
            options = {"reset_mask": waiting, **({PARK: True} if self._parks else {})}
            self._answer("reset", seed=None, options=options)
        self._parked = resting

    def _final_observation(
        self, observation: Any, infos: dict[str, Any], ended: NDArray[np.bool_]
    ) -> Any:
        """Return the observations that the step led to, also where it ended one."""
        if self._mode != AutoresetMode.SAME_STEP or not ended.any():
            return observation
        final = np.array(observation)
        for i in np.flatnonzero(ended):
            final[i] = infos["final_obs"][i]
        return final

    def _success(
        self, infos: dict[str, Any], ended: NDArray[np.bool_]
    ) -> Tensor | None:
        """Return what infos say of success, also of episodes that have just ended."""
        found = {**infos.get("final_info", {}), **infos}.get("success")
        last = infos.get("final_info", {}).get("success")
        if found is None:
            return None
        success = np.asarray(found, dtype=np.float32)
        if last is not None:
            success = np.where(ended, np.asarray(last, np.float32), success)
        return torch.as_tensor(success, device=self.device)

    # What can go wrong -----------------------------------------------------------

    def _answer(self, verb: str, *arguments: Any, **keywords: Any) -> Any:
        """Call the vector environment; environments that fail are named.

        Raises
        ------
        EnvTaskError
            If one raises, hangs or dies; all are closed then.
        """
        try:
            answer = self._asked(verb, *arguments, **keywords)
        except multiprocessing.TimeoutError as error:
            self._give_up(
                self._silent(), f"did not answer within {self._timeout} s", error
            )
        except (EOFError, OSError) as error:
            if not self._processes:
                raise
            self._give_up(self._dead(), "ended its process", error)
        infos = answer[-1]
        if FAILURE in infos:
            place = int(np.flatnonzero(infos[f"_{FAILURE}"])[0])
            what, where = infos[FAILURE][place]
            self._give_up([place], f"failed {what}", None, where)
        return answer

    def _asked(self, verb: str, *arguments: Any, **keywords: Any) -> Any:
        if self._timeout is None:
            return getattr(self.vector, verb)(*arguments, **keywords)
        vector: Any = self.vector
        getattr(vector, f"{verb}_async")(*arguments, **keywords)
        return getattr(vector, f"{verb}_wait")(timeout=self._timeout)

    def _silent(self) -> Iterable[int]:
        vector: Any = self.vector
        pipes = vector.parent_pipes
        return [i for i, pipe in enumerate(pipes) if not pipe.poll(0)]

    def _dead(self) -> Iterable[int]:
        vector: Any = self.vector
        return [i for i, pipe in enumerate(vector.parent_pipes) if _is_cut(pipe)]

    def _give_up(
        self,
        places: Iterable[int],
        what: str,
        cause: BaseException | None,
        where: str | None = None,
    ) -> NoReturn:
        """Close all and name who failed; `where` is the traceback, if it is known."""
        self._close_by_force()
        named = [self.names[i] for i in places] or [None]
        failure = EnvTaskError(
            f"The environment of task {named[0]!r} {what}. {WHAT_TO_DO}", named[0]
        )
        if where is not None:
            failure.add_note(f"In the environment:\n{where}")
        raise failure from cause

    def _close_by_force(self) -> None:
        """Close all environments while some may hang or be gone."""
        if self._processes:
            self._forget()
        else:
            self.close()

    @property
    def _processes(self) -> list[Any]:
        return getattr(self.vector, "processes", [])

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    def _forget(self) -> None:
        """Let nothing be tried again when the vector environment is collected."""
        end_processes(self._processes)
        for pipe in getattr(self.vector, "parent_pipes", []):
            pipe.close()
        self.vector.closed = True

    def _refuse_not_finite(self, values: Any, what: str) -> None:
        array = np.asarray(values)
        if array.dtype.kind != "f" or np.isfinite(array).all():
            return
        rows = np.isfinite(array.reshape(self.n_envs, -1)).all(1)
        place = int(np.flatnonzero(~rows)[0])
        self._give_up([place], f"gave {what} that is not finite", None)

    def _tensor(self, observation: Any) -> Tensor:
        # A copy: vector environments may write the next one to the same memory.
        return self._observation_code.from_env(np.array(observation), self.device)


def end_processes(processes: Iterable[Any]) -> None:
    """End processes, whatever they are at."""
    running = [process for process in processes if process.is_alive()]
    for process in running:
        process.terminate()
    for process in running:
        process.join(1)
        if process.is_alive():  # deaf to that
            process.kill()
            process.join()


def _is_cut(pipe: Any) -> bool:
    """Return whether the other end of a pipe is gone."""
    try:
        while pipe.poll(0):
            pipe.recv()
    except (EOFError, OSError):
        return True
    return False


def autoreset_mode(vector: VectorEnv) -> AutoresetMode:
    """Return what a vector environment does at the end of an episode.

    Raises
    ------
    ValueError
        If it does not say so.
    """
    mode = vector.metadata.get("autoreset_mode")
    if mode is None:
        raise ValueError(
            f"{vector} does not say what it does at the end of an episode. Set its "
            "metadata['autoreset_mode'] to a gymnasium.vector.AutoresetMode."
        )
    return AutoresetMode(mode)
