r"""RL^2: a recurrent net whose state is the learning algorithm.

A trial is a number of episodes in one environment. The net reads each observation with
the previous action, reward and end-of-episode flag, and keeps its state across the
episodes of a trial; meta-training maximises what a whole trial earns,

.. math::

    \max_\theta\; \mathbb{E}_{\mathcal{M} \sim p(\mathcal{M})}\;
    \mathbb{E}_{\pi_\theta} \Big[\sum_{t=1}^{T} \gamma^{t} r_t\Big],

with T the steps of all episodes of the trial, so that the net learns to explore
(Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763). What differs
from the paper is in the notes of `RL2Agent`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sklmeta._parameters import (
    check_fraction,
    check_integer,
    check_not_negative,
    check_positive,
)
from sklmeta.rl._advantages import advantage_estimates, discounted_sums
from sklmeta.rl._agent_docs import with_agent_parameters
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._meta_trained import MetaTrainedAgent, Training
from sklmeta.rl._online_agent import OnlineAgent
from sklmeta.rl._ppo import PPOSettings, Sequences, ppo_update
from sklmeta.rl._recurrent_policy import RecurrentPolicy
from sklmeta.rl._running import RunningMoments
from sklmeta.rl._trials import Rollout, run_trials
from sklmeta.rl.tasks import EnvTask

__all__ = ["RL2", "RL2Agent"]


class RL2(nn.Module):
    """The torch learner: the recurrent policy and the scale of its returns."""

    policy: RecurrentPolicy
    return_moments: RunningMoments

    def __init__(self, policy: RecurrentPolicy) -> None:
        super().__init__()
        self.policy = policy
        # Values are learned in units of the returns: long trials have large ones.
        self.return_moments = RunningMoments(1)

    def values(self, outputs: Tensor) -> Tensor:
        """Return values from what the critic puts out."""
        return outputs * self.return_moments.std + self.return_moments.mean

    def value_targets(self, values: Tensor) -> Tensor:
        """Return what the critic has to put out for values."""
        return (values - self.return_moments.mean) / self.return_moments.std


@with_agent_parameters
class RL2Agent(OnlineAgent, MetaTrainedAgent):
    """RL^2: meta-reinforcement learning by a recurrent policy.

    Its net reads the last action, reward and end of an episode with each observation,
    and keeps its state for all episodes of a trial in one environment: what it has
    learned of the environment is in that state. Adapting takes no gradients, only
    episodes.

    Parameters
    ----------
    n_episodes : int, default=10
        Episodes of a trial, and of `adapt` unless it is told otherwise.

    hidden_size : int, default=128
        Units of the gated recurrent layer.

    head_size : int, default=None
        Units of a layer with ReLU that reads the recurrent state together with the
        inputs, and that policy and value read in turn. None: they read the state.
        Worth a try where what is known has to be looked up by what is observed, as in
        tabular processes.

    lr : float, default=2e-3
        Step size of Adam.

    gamma : float, default=0.99
        Discount over the steps of a whole trial.

    gae_lambda : float, default=0.95
        Weight of later steps in advantages, between 0 and 1.

    clip_range : float, default=0.2
        How far PPO lets the probability of an action change, as a fraction.

    n_epochs : int, default=4
        Times that PPO goes over the trials of an update.

    n_minibatches : int, default=4
        Parts into which each time is divided; a gradient step each.

    entropy_coef : float, default=0.01
        Weight of the entropy of actions, which keeps a policy from settling too early.

    value_coef : float, default=0.5
        Weight of the value loss.

    max_grad_norm : float, default=0.5
        Norm to which longer gradients are cut.

    sequence_length : int, default=None
        Steps that gradients go back. None: the whole trial, which long trials have no
        memory for.

    batch_size : int, default=64
        Trials of an update. Simulated tasks are cheap: hundreds learn faster.

    <agent parameters>

    Attributes
    ----------
    <agent attributes>

    See Also
    --------
    MAMLAgent : Adapts by policy gradients.
    RL2TrialWrapper : RL^2 with any other optimiser of recurrent policies.

    Notes
    -----
    *Deviations from the paper.* Proximal policy optimisation instead of TRPO; policy
    and value share their recurrent layer; values are learned in units of the returns,
    by a running mean and deviation of discounted returns, and rewards are read in units
    of their running root mean square, since unscaled ones of long trials teach nothing;
    observations of a Box are standardised; update gates are nearly closed at first.
    The net is told where an episode begins instead of where it ended, which differs
    before the first step only.

    References
    ----------
    Duan et al., *RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning*,
    2016 (arXiv:1611.02779).

    Wang et al., *Learning to Reinforcement Learn*, 2016 (arXiv:1611.05763).

    Examples
    --------
    >>> from sklmeta.rl import BernoulliBandits, RL2Agent
    >>> bandits = BernoulliBandits(n_arms=3)
    >>> agent = RL2Agent(n_episodes=5, max_iter=2, random_state=0).fit(bandits)
    >>> new = bandits.sample(1, random_state=1)[0]
    >>> policy = agent.adapt(new, n_episodes=4)
    >>> policy.returns_.shape
    (4,)
    >>> policy.predict([0]).shape
    (1,)
    """

    _structural_parameters = ("hidden_size", "head_size")

    def __init__(
        self,
        *,
        n_episodes: int = 10,
        hidden_size: int = 128,
        head_size: int | None = None,
        lr: float = 2e-3,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        n_epochs: int = 4,
        n_minibatches: int = 4,
        entropy_coef: float = 0.01,
        value_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        sequence_length: int | None = None,
        batch_size: int = 64,
        max_iter: int = 500,
        max_env_steps: int | None = None,
        deterministic: bool = False,
        vectorization: str = "sync",
        step_timeout: float | None = None,
        env_errors: str = "raise",
        device: Any = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_episodes = n_episodes
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.lr = lr
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.clip_range = clip_range
        self.n_epochs = n_epochs
        self.n_minibatches = n_minibatches
        self.entropy_coef = entropy_coef
        self.value_coef = value_coef
        self.max_grad_norm = max_grad_norm
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.max_env_steps = max_env_steps
        self.deterministic = deterministic
        self.vectorization = vectorization
        self.step_timeout = step_timeout
        self.env_errors = env_errors
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("hidden_size", "n_epochs", "n_minibatches"):
            check_integer(name, getattr(self, name), 1)
        for name in ("lr", "clip_range", "max_grad_norm"):
            check_positive(name, getattr(self, name))
        for name in ("entropy_coef", "value_coef"):
            check_not_negative(name, getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            check_fraction(name, getattr(self, name), boundaries="both")
        for name in ("sequence_length", "head_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)

    def _new_learner(self) -> RL2:
        return RL2(RecurrentPolicy(*self._codes, self.hidden_size, self.head_size))

    def _outer_step_size(self) -> float:
        return self.lr

    def _online_policy(self, device: torch.device) -> RecurrentPolicy:
        return self._learner_on(device).policy

    def _update(
        self, training: Training, pool: EnvPool, tasks: list[EnvTask]
    ) -> dict[str, float]:
        learner: Any = training.learner
        generator = training.generator
        envs = pool.batched(tasks, training.next_seed(), generator.device)
        trials = run_trials(
            learner.policy, envs, self.n_episodes, generator, record=True
        )
        rollout: Any = trials.rollout
        data = self._training_data(learner, rollout)
        losses = ppo_update(
            learner.policy, training.optimizer, data, self._ppo_settings(), generator
        )
        self._refuse_divergence(losses)
        _take_in(learner.policy, rollout)
        mean_return = float(trials.returns.mean())
        return {"env_steps": trials.n_steps, "return": mean_return, **losses}

    def _ppo_settings(self) -> PPOSettings:
        return PPOSettings(
            self.clip_range,
            self.n_epochs,
            self.n_minibatches,
            self.entropy_coef,
            self.value_coef,
            self.max_grad_norm,
        )

    def _training_data(self, learner: RL2, rollout: Rollout) -> Sequences:
        """Return what PPO learns from: advantages over whole trials."""
        valid, recorded = rollout.valid, rollout.recorded
        last = _last_steps(valid)
        reward = torch.where(valid, rollout.reward, 0.0)
        returns = discounted_sums(reward, last, self.gamma)
        learner.return_moments.update(returns[valid][:, None])
        value = torch.where(valid, learner.values(recorded["value"]), 0.0)
        next_value = torch.cat([value[1:], torch.zeros_like(value[:1])])
        # Nothing follows the last step of a trial; ends of episodes inside it do not
        # end what the trial earns.
        advantage = advantage_estimates(
            reward, value, next_value, last, last, self.gamma, self.gae_lambda
        )
        target = learner.value_targets(advantage + value)
        spread = advantage[valid].std() + 1e-8
        advantage = torch.where(
            valid, (advantage - advantage[valid].mean()) / spread, 0.0
        )
        return _cut(
            Sequences(
                recorded["inputs"],
                recorded["hidden"],
                recorded["chosen"],
                recorded["log_prob"],
                advantage,
                target,
                valid,
            ),
            self.sequence_length,
        )


def _last_steps(valid: Tensor) -> Tensor:
    """Return where trials end, (T, B) bool."""
    follows = torch.cat([valid[1:], torch.zeros_like(valid[:1])])
    return valid & ~follows


def _take_in(policy: RecurrentPolicy, rollout: Rollout) -> None:
    """Let the policy's moments know the observations and rewards of an update."""
    valid = rollout.valid
    if not policy.observation.is_discrete:
        rows = policy.observation.code(rollout.observation)
        policy.observation_moments.update(rows[valid])
    policy.reward_moments.update(rollout.reward[valid][:, None])


def _cut(data: Sequences, length: int | None) -> Sequences:
    """Return trials as sequences of a length, each with the state it began with.

    `data.hidden` holds the states before every step, (T, N, H).
    """
    n_steps = len(data.inputs)
    length = min(length or n_steps, n_steps)
    n_parts = -(-n_steps // length)

    def parts(steps: Tensor) -> Tensor:  # (T, N, ...) to (length, n_parts * N, ...)
        missing = n_parts * length - n_steps
        filling = steps.new_zeros(missing, *steps.shape[1:])
        whole = torch.cat([steps, filling]) if missing else steps
        whole = whole.view(n_parts, length, *steps.shape[1:])
        return whole.transpose(0, 1).flatten(1, 2)

    return Sequences(
        parts(data.inputs),
        data.hidden[::length].flatten(0, 1),
        parts(data.action),
        parts(data.log_prob),
        parts(data.advantage),
        parts(data.value_target),
        parts(data.valid),
    )
