"""Environments that report what goes wrong in them, in whichever process they are."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

__all__ = ["FAILURE", "PARK", "GuardedEnv", "Spaces"]

# Key of the infos under which a failure is reported.
FAILURE = "env_failure"
# Option of `reset` that lets an environment rest: it ignores steps until it is reset.
PARK = "park"

Spaces = tuple[gymnasium.Space, gymnasium.Space]
# What happened, and the traceback.
Failure = tuple[str, str]
CLOSED: Failure = ("when it was used: it is closed already", "")
Transition = tuple[Any, float, bool, bool, dict[str, Any]]


class GuardedEnv(gymnasium.Env):
    """An environment whose failures are told in infos instead of raised.

    Vector environments lose in which environment something was raised, and those in
    other processes more than that.

    Parameters
    ----------
    make_env : callable
        Makes the environment.
    spaces : tuple of gymnasium spaces
        Of observations and actions, as they have to be.
    owned : bool, default=True
        Whether to close the environment.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, make_env: Callable[[], gymnasium.Env], spaces: Spaces, owned: bool = True
    ) -> None:
        self.observation_space, self.action_space = spaces
        self._owned = owned
        self._env: gymnasium.Env | None = None
        self._failure: Failure | None = None
        self._parked = False
        self._last: Any = _nothing(self.observation_space)
        try:
            self._env = make_env()
            self._refuse_other_spaces(self._env)
        except Exception as error:
            self._failure = _told(error, "was made")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, or with the option `PARK` rest."""
        if options and options.get(PARK):
            self._parked = True
            return self._last, {}
        self._parked = False
        if self._env is None or self._failure:
            return self._last, {FAILURE: self._failure or CLOSED}
        try:
            observation, info = self._env.reset(seed=seed, options=options or None)
            self._last = self._checked(observation)
            return self._last, _kept(info)
        except Exception as error:
            self._failure = _told(error, "was reset")
            return self._last, {FAILURE: self._failure}

    def step(self, action: Any) -> Transition:
        """Take an action."""
        if self._parked:
            return self._last, 0.0, False, False, {}
        if self._env is None or self._failure:
            return self._failed()
        try:
            return self._stepped(action)
        except Exception as error:
            self._failure = _told(error, "was stepped")
            return self._failed()

    def close(self) -> None:
        """Close the environment, whatever it raises."""
        if self._env is not None and self._owned:
            with suppress(Exception):
                self._env.close()
        self._env = None

    def _stepped(self, action: Any) -> Transition:
        env: Any = self._env
        result = env.step(action)
        n_values = len(result) if isinstance(result, tuple) else None
        if n_values != 5:
            got = type(result).__name__ if n_values is None else f"{n_values} values"
            raise ValueError(
                "step must return (observation, reward, terminated, truncated, info), "
                f"got {got}"
            )
        observation, reward, terminated, truncated, info = result
        self._last = self._checked(observation)
        return self._last, float(reward), bool(terminated), bool(truncated), _kept(info)

    def _checked(self, observation: Any) -> Any:
        """Return an observation of the space.

        Raises
        ------
        ValueError
            If it has another shape or type, or lies outside a Discrete space.
        """
        space = self.observation_space
        if isinstance(space, Discrete):
            if not space.contains(observation):
                raise ValueError(
                    f"the observation must be in {space}, got {observation!r}"
                )
            return observation
        values = np.asarray(observation)
        kinds = "biuf" if np.issubdtype(space.dtype, np.floating) else "biu"
        if values.shape != space.shape or values.dtype.kind not in kinds:
            raise ValueError(
                f"the observation must have shape {space.shape} and hold numbers that "
                f"fit {space.dtype}, as {space} says, got shape {values.shape} of "
                f"{values.dtype}"
            )
        return values.astype(space.dtype, copy=False)

    def _refuse_other_spaces(self, env: gymnasium.Env) -> None:
        for name, expected, got in (
            ("observation", self.observation_space, env.observation_space),
            ("action", self.action_space, env.action_space),
        ):
            if expected != got:
                raise ValueError(
                    f"the {name} space must be {expected}, as in the other tasks, got "
                    f"{got}"
                )

    def _failed(self) -> Transition:
        return self._last, 0.0, False, True, {FAILURE: self._failure or CLOSED}


def _told(error: Exception, when: str) -> Failure:
    what = "".join(traceback.format_exception_only(error)).strip()
    return f"when it {when}: {what}", "".join(traceback.format_exception(error))


def _kept(info: Any) -> dict[str, Any]:
    """Return what the collector reads of the infos: others may not fit together."""
    if isinstance(info, dict) and "success" in info:
        return {"success": float(info["success"])}
    return {}


def _nothing(space: Any) -> Any:
    if isinstance(space, Discrete):
        return space.start
    return np.zeros(space.shape, space.dtype)
