r"""MAML for reinforcement learning: initial weights from which a gradient step helps.

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
from sklmeta.rl._gradient_agent import GradientAgent
from sklmeta.rl._inner_loop import Objective, score_function
from sklmeta.rl._meta_trained import Training
from sklmeta.rl._outer_objectives import clipped_updates, trust_region_update
from sklmeta.rl._task_batches import TaskBatch

__all__ = ["MAMLAgent"]


class MAMLAgent(GradientAgent):
    """MAML"""

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
