r"""ProMP: proximal meta-policy search.

The inner step ascends a likelihood-ratio objective, whose gradient's gradient has low
variance, and the outer loop makes several clipped updates with the same samples:

.. math::

    J(\theta) = \mathbb{E}\big[\min(\rho \hat A, \operatorname{clip}(\rho, 1 - \epsilon,
    1 + \epsilon) \hat A)\big] - \eta D_{KL}(\pi_{\theta_o}, \pi_\theta), \qquad
    \rho = \frac{\pi_{\theta'}(a)}{\pi_{\theta'_o}(a)}, \quad
    \theta' = \theta + \alpha \nabla_\theta \mathbb{E}\Big[
    \frac{\pi_\theta(a)}{\pi_{\theta_o}(a)} \hat A\Big]

(Rothfuss et al. 2019, arXiv:1810.06784; equations 10 to 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklmeta._parameters import check_integer, check_not_negative, check_positive
from sklmeta.rl._agent_docs import with_agent_parameters
from sklmeta.rl._gradient_agent import GradientAgent
from sklmeta.rl._inner_loop import Objective, likelihood_ratio
from sklmeta.rl._meta_trained import Training
from sklmeta.rl._outer_objectives import clipped_updates
from sklmeta.rl._task_batches import TaskBatch

__all__ = ["ProMPAgent"]


@with_agent_parameters
class ProMPAgent(GradientAgent):
    """ProMP: initial weights of a policy from which a gradient step helps.

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

    outer_lr : float, default=1e-3
        Step size of Adam for the initial weights.

    n_epochs : int, default=5
        Gradient steps of an update, with the same episodes.

    clip_range : float, default=0.3
        How far the probability of an action may change, as a fraction.

    kl_coef : float, default=5e-4
        Weight of the divergence of the initial policy from the one that acted.

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
    MAMLAgent : With the score function in the inner step, and a trust region.

    Notes
    -----
    *Deviations from the paper.* The weight of the divergence is fixed, not adapted; the
    outer gradient is cut to a norm of 10; observations of a Box are standardised by
    running moments; what is truncated is bootstrapped by the linear baseline.

    References
    ----------
    Rothfuss et al., *ProMP: Proximal Meta-Policy Search*, 2019 (arXiv:1810.06784).

    Examples
    --------
    >>> from sklmeta.rl import PointGoals, ProMPAgent
    >>> goals = PointGoals(horizon=10)
    >>> agent = ProMPAgent(n_episodes=5, max_iter=2, random_state=0).fit(goals)
    >>> policy = agent.adapt(goals.sample(1, random_state=1))
    >>> policy.predict([[0.0, 0.0], [0.1, 0.2]]).shape
    (2, 2)
    """

    def __init__(
        self,
        *,
        n_episodes: int = 20,
        hidden_sizes: Sequence[int] = (64, 64),
        inner_lr: float = 0.1,
        inner_steps: int = 1,
        outer_lr: float = 1e-3,
        n_epochs: int = 5,
        clip_range: float = 0.3,
        kl_coef: float = 5e-4,
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
        self.outer_lr = outer_lr
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.kl_coef = kl_coef
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
        check_integer("n_epochs", self.n_epochs, 1)
        check_positive("clip_range", self.clip_range)
        check_not_negative("kl_coef", self.kl_coef)

    def _inner_objective(self) -> Objective:
        return likelihood_ratio

    def _outer_update(
        self, training: Training, batches: list[TaskBatch]
    ) -> dict[str, float]:
        return clipped_updates(
            training.learner,
            training.optimizer,
            batches,
            self.inner_lr,
            likelihood_ratio,
            n_epochs=self.n_epochs,
            clip_range=self.clip_range,
            kl_coef=self.kl_coef,
        )
