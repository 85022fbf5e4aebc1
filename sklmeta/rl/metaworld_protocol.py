"""Agents behind the interface of ``metaworld.evaluation``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklmeta._parameters import check_positive
from sklmeta.rl._gradient_agent import GradientAgent
from sklmeta.rl._inner_loop import adapted_weights
from sklmeta.rl._online import Decision, Experience
from sklmeta.rl._stacked_policy import StackedPolicy
from sklmeta.rl._task_batches import task_batch
from sklmeta.rl._trials import Rollout
from sklmeta.rl.base import CPU
from sklmeta.rl.rl2 import RL2Agent

__all__ = ["MetaWorldAgent"]


class MetaWorldAgent:
    """A fitted agent that ``metaworld.evaluation.metalearning_evaluation`` judges.

    The protocol keeps rewards from agents in its evaluation episodes; an `RL2Agent`,
    which reads them, finds them in the observations of
    ``make_ml_envs(..., recurrent_info_in_obs=True)``. Those of `MAMLAgent` and
    `ProMPAgent` adapt in its `adapt`, by one gradient step each time.

    Parameters
    ----------
    agent : RL2Agent, MAMLAgent or ProMPAgent
        A fitted agent.
    reward_scale : float, default=10.0
        What rewards in observations are multiplied by: Meta-World divides them by 10,
        unless ``normalize_reward_in_recurrent_info=False``.
    deterministic : bool, default=True
        Whether evaluation episodes take the likeliest action.

    Raises
    ------
    TypeError
        If it is another kind of agent.
    NotFittedError
        If it is not fitted.

    Notes
    -----
    Where an environment was reset, its observation tells no reward: the last one of
    each evaluation episode stays unknown to the agent.
    """

    def __init__(
        self, agent: Any, reward_scale: float = 10.0, deterministic: bool = True
    ) -> None:
        if not isinstance(agent, RL2Agent | GradientAgent):
            raise TypeError(
                "MetaWorldAgent is for RL2Agent, MAMLAgent and ProMPAgent, got "
                f"{type(agent).__name__}."
            )
        check_is_fitted(agent)
        check_positive("reward_scale", reward_scale)
        self.agent, self.reward_scale = agent, reward_scale
        self.deterministic = deterministic
        self._generator = torch.Generator().manual_seed(0)
        self._observation, self._action = agent._codes
        self.init()

    def init(self) -> None:
        """Forget all tasks: new ones have been drawn."""
        self._state: Any = None
        self._policy: Any = None
        self._decision: Decision | None = None
        # Observations, decisions and what came of them in episodes of adaptation.
        self._steps: list[tuple[Tensor, Decision, Any]] = []

    def adapt_action(
        self, observations: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[Any]]]:
        """Choose actions in episodes of adaptation, and say nothing else of them."""
        return self._actions(observations, deterministic=False), {}

    def step(self, timestep: Any) -> None:
        """Take in what came of the actions in episodes of adaptation."""
        decision: Any = self._decision
        observation, _ = self._read(timestep.observation)
        self._steps.append((observation, decision, timestep))
        if isinstance(self.agent, RL2Agent):
            self._know(timestep.reward, timestep.terminated | timestep.truncated)

    def adapt(self) -> None:
        """Take a gradient step, with agents that adapt so."""
        if isinstance(self.agent, GradientAgent):
            batch = self._batch()
            weights, _ = adapted_weights(
                self.agent._learner_on(CPU),
                self._policy.weights,
                [batch],
                self.agent.inner_lr,
                self.agent._inner_objective(),
            )
            detached = tuple(w.detach() for w in weights)
            self._policy = StackedPolicy(self.agent._learner_on(CPU), detached)
        self._steps = []

    def eval_action(self, observations: NDArray[np.float64]) -> NDArray[np.float64]:
        """Choose actions in episodes of evaluation."""
        if isinstance(self.agent, RL2Agent) and self._decision is not None:
            self._know_from(observations)
        return self._actions(observations, self.deterministic)

    def reset(self, env_mask: NDArray[np.bool_]) -> None:
        """Take in which environments have been reset."""
        if self._state is not None:
            mask = torch.as_tensor(env_mask)
            self._state = self._policy.begin_episode(self._state, mask, self._generator)

    # What the agent knows --------------------------------------------------------

    def _actions(
        self, observations: NDArray[np.float64], deterministic: bool
    ) -> NDArray[np.float64]:
        observation, _ = self._read(observations)
        if self._policy is None:
            self._begin(len(observation))
        self._decision = self._policy.act(
            self._state, observation, self._generator, deterministic
        )
        self._state = self._decision.state
        return self._action.to_env(self._decision.action)

    def _begin(self, n_envs: int) -> None:
        if isinstance(self.agent, RL2Agent):
            self._policy = self.agent._online_policy(CPU)
        else:
            net = self.agent._learner_on(CPU)
            weights = tuple(w.detach() for w in net.stacked(n_envs))
            self._policy = StackedPolicy(net, weights)
        self._state = self._policy.initial(n_envs, CPU)

    def _read(
        self, observations: NDArray[np.float64]
    ) -> tuple[Tensor, NDArray[np.float32] | None]:
        """Return observations, and what is told with them of the step before.

        Raises
        ------
        ValueError
            If they have another width.
        """
        rows = np.asarray(observations, dtype=np.float32)
        width = self._observation.width
        told = width + self._action.width + 2
        if rows.ndim != 2 or rows.shape[1] not in (width, told):
            raise ValueError(
                f"Observations must have {width} numbers, or {told} with "
                f"recurrent_info_in_obs=True, got shape {rows.shape}."
            )
        rest = rows[:, width:] if rows.shape[1] == told else None
        return torch.as_tensor(rows[:, :width]), rest

    def _know(self, reward: Any, ended: Any) -> None:
        decision: Any = self._decision
        flags = torch.as_tensor(np.asarray(ended, dtype=bool))
        experience = Experience(
            decision.action,  # recurrent policies do not look at observations here
            decision.action,
            torch.as_tensor(np.asarray(reward, dtype=np.float32)),
            decision.action,
            flags,
            torch.zeros_like(flags),
        )
        self._state = self._policy.observe(self._state, experience)
        if flags.any():
            self._state = self._policy.begin_episode(
                self._state, flags, self._generator
            )

    def _know_from(self, observations: NDArray[np.float64]) -> None:
        """Let an RL^2 agent know the rewards that observations tell of."""
        _, told = self._read(observations)
        if told is None:
            raise ValueError(
                "RL2Agent reads rewards, which this protocol tells in observations "
                "only: make the environments with "
                "make_ml_envs(..., recurrent_info_in_obs=True)."
            )
        begins = self._state.begins
        ended = np.zeros(len(told), dtype=bool)
        self._know(self.reward_scale * told[:, -2], ended)
        self._state = self._state._replace(begins=begins)

    def _batch(self) -> Any:
        """Return what happened in adaptation as rows of each task."""
        observations = torch.stack([o for o, _, _ in self._steps])
        following = torch.cat([observations[1:], observations[-1:]])
        ended = self._stacked("terminated") | self._stacked("truncated")
        names = self._steps[0][1].recorded
        rollout = Rollout(
            observation=observations,
            action=torch.stack([d.action for _, d, _ in self._steps]),
            reward=self._stacked("reward").float(),
            next_observation=following,
            # What follows the end of an episode is not told: nothing is bootstrapped.
            terminated=ended,
            truncated=torch.zeros_like(ended),
            valid=torch.ones_like(ended),
            episode=ended.long().cumsum(0),
            recorded={
                n: torch.stack([d.recorded[n] for _, d, _ in self._steps])
                for n in names
            },
        )
        net = self.agent._learner_on(CPU)
        n_tasks = observations.shape[1]
        agent = self.agent
        return task_batch(net, rollout, n_tasks, agent.gamma, agent.gae_lambda)

    def _stacked(self, name: str) -> Tensor:
        return torch.stack(
            [torch.as_tensor(np.asarray(getattr(t, name))) for _, _, t in self._steps]
        )
