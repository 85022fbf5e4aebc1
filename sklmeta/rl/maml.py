r"""MAML: initial weights of a policy from which a gradient step helps.

.. math::

    \max_\theta\; \mathbb{E}_{\mathcal{M}}\; \mathbb{E}_{\pi_{\theta'}}
    \Big[\sum_t r_t\Big], \qquad
    \theta' = \theta + \alpha \nabla_\theta\,
    \mathbb{E}_{\pi_\theta}\big[\log \pi_\theta(a) \hat A\big]

(Finn et al. 2017, arXiv:1703.03400, section 3.2 and algorithm 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklmeta._parameters import check_choice, check_integer, check_positive
from sklmeta.rl._agent_docs import with_agent_parameters
from sklmeta.rl._gradient_agent import GradientAgent
from sklmeta.rl._inner_loop import Objective, score_function
from sklmeta.rl._meta_trained import Training
from sklmeta.rl._outer_objectives import clipped_updates, trust_region_update
from sklmeta.rl._task_batches import TaskBatch

__all__ = ["MAMLAgent"]


@with_agent_parameters
class MAMLAgent(GradientAgent):
    """MAML: initial weights of a policy from which a gradient step helps.

    Adapting acts for some episodes and takes a policy-gradient step, as often as
    `inner_steps` says.

    Parameters
    ----------
    n_episodes : int, default=20
        Episodes before each gradient step.

    hidden_sizes : sequence of int, default=(64, 64)
        Units of the policy's hidden layers, with tanh.

    inner_lr : float, default=0.1
        Step size of adaptation.

    inner_steps : int, default=1
        Gradient steps of adaptation. Read when adapting, too.

    outer : {"trpo", "ppo"}, default="trpo"
        How the initial weights are updated: by a trust-region step, as in the paper, or
        by clipped gradient steps.

    max_kl : float, default=0.01
        Size of the trust region: mean divergence of the adapted policies. "trpo" only.

    outer_lr : float, default=1e-3
        Step size of Adam for the initial weights. "ppo" only.

    n_epochs : int, default=5
        Gradient steps of an update, with the same episodes. "ppo" only.

    clip_range : float, default=0.3
        How far the probability of an action may change, as a fraction. "ppo" only.

    gamma : float, default=0.99
        Discount over the steps of an episode.

    gae_lambda : float, default=1.0
        Weight of later steps in advantages, between 0 and 1. Baselines are linear in
        observations, their squares and powers of time, fitted in each task.

    batch_size : int, default=20
        Tasks of an update.

    <agent parameters>

    Attributes
    ----------
    <agent attributes>

    See Also
    --------
    ProMPAgent : An inner step whose second derivatives have less noise.
    RL2Agent : Adapts by acting alone.

    Notes
    -----
    *Deviations from the paper.* Observations of a Box are standardised by running
    moments; what is truncated is bootstrapped by the linear baseline. In further inner
    steps of an update, and of clipped ones, the score function stays that of the
    episodes at hand.

    References
    ----------
    Finn et al., *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*,
    2017 (arXiv:1703.03400), section 3.2 and algorithm 3.

    Schulman et al., *Trust Region Policy Optimization*, 2015 (arXiv:1502.05477).

    Examples
    --------
    >>> from sklmeta.rl import MAMLAgent, PointGoals
    >>> goals = PointGoals(horizon=10)
    >>> agent = MAMLAgent(n_episodes=5, max_iter=2, random_state=0).fit(goals)
    >>> curve = agent.adaptation_curve(goals.sample(3, random_state=1))
    >>> curve["gradient_step"].tolist()
    [0, 1, 0, 1, 0, 1]
    """

    def __init__(
        self,
        *,
        n_episodes: int = 20,
        hidden_sizes: Sequence[int] = (64, 64),
        inner_lr: float = 0.1,
        inner_steps: int = 1,
        outer: str = "trpo",
        max_kl: float = 0.01,
        outer_lr: float = 1e-3,
        n_epochs: int = 5,
        clip_range: float = 0.3,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        batch_size: int = 20,
        max_iter: int = 200,
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
        self.hidden_sizes = hidden_sizes
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.outer = outer
        self.max_kl = max_kl
        self.outer_lr = outer_lr
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.gamma = gamma
        self.gae_lambda = gae_lambda
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
        check_choice("outer", self.outer, ["trpo", "ppo"])
        check_integer("n_epochs", self.n_epochs, 1)
        check_positive("clip_range", self.clip_range)
        check_positive("max_kl", self.max_kl)

    def _inner_objective(self) -> Objective:
        return score_function

    def _outer_update(
        self, training: Training, batches: list[TaskBatch]
    ) -> dict[str, float]:
        net = training.learner
        if self.outer == "trpo":
            return trust_region_update(
                net, batches, self.inner_lr, score_function, max_kl=self.max_kl
            )
        return clipped_updates(
            net,
            training.optimizer,
            batches,
            self.inner_lr,
            score_function,
            n_epochs=self.n_epochs,
            clip_range=self.clip_range,
            kl_coef=0.0,
        )
