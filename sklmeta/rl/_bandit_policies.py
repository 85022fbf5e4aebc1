"""Policies for bandits that count what each arm has paid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklmeta.rl._online import Decision, Experience
from sklmeta.rl.bandit_optimum import BanditTable

__all__ = [
    "BanditCounts",
    "BayesOptimalPolicy",
    "CountingPolicy",
    "ThompsonPolicy",
    "UCB1Policy",
]


class BanditCounts(NamedTuple):
    """What B trials know: payments and their absence, (B, n_arms) each."""

    successes: Tensor
    failures: Tensor


class CountingPolicy:
    """Base of policies whose state are counts: an `OnlinePolicy`.

    A reward between 0 and 1 counts as that fraction of a payment.
    """

    def __init__(self, n_arms: int) -> None:
        self.n_arms = n_arms

    def choose(
        self, counts: BanditCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        """Return which arm to pull (B,)."""
        raise NotImplementedError

    def initial(self, n_trials: int, device: torch.device) -> BanditCounts:
        zeros = torch.zeros(n_trials, self.n_arms, device=device)
        return BanditCounts(zeros, zeros)

    def act(
        self,
        state: BanditCounts,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        return Decision(self.choose(state, generator, deterministic), state, {})

    def observe(self, state: BanditCounts, experience: Experience) -> BanditCounts:
        reward = experience.reward
        if ((reward < 0) | (reward > 1)).any():
            raise ValueError(
                "Bandit policies need rewards between 0 and 1, got "
                f"{float(reward.min()):g} to {float(reward.max()):g}. Rescale the "
                "rewards of the environment (gymnasium.wrappers.TransformReward)."
            )
        arm = torch.nn.functional.one_hot(experience.action, self.n_arms)
        paid = reward[:, None] * arm
        return BanditCounts(state.successes + paid, state.failures + (arm - paid))

    def begin_episode(
        self, state: BanditCounts, mask: Tensor, generator: torch.Generator
    ) -> BanditCounts:
        return state


class ThompsonPolicy(CountingPolicy):
    """Pulls the arm whose probability, drawn from its Beta posterior, is largest."""

    def choose(
        self, counts: BanditCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        a, b = counts.successes + 1, counts.failures + 1
        if deterministic:
            return (a / (a + b)).argmax(-1)
        # torch's beta draws take no generator of their own.
        seed = torch.randint(2**31, (), generator=generator, device=generator.device)
        rng = np.random.default_rng(int(seed))
        drawn = rng.beta(a.cpu().numpy(), b.cpu().numpy()).argmax(-1)
        return torch.as_tensor(drawn, device=a.device)


class UCB1Policy(CountingPolicy):
    r"""Pulls the arm with the largest :math:`\bar r_a + \sqrt{c \ln t / n_a}`."""

    def __init__(self, n_arms: int, exploration: float) -> None:
        super().__init__(n_arms)
        self.exploration = exploration

    def choose(
        self, counts: BanditCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        pulls = counts.successes + counts.failures
        total = pulls.sum(-1, keepdim=True).clamp(min=1)
        bonus = (self.exploration * total.log() / pulls).sqrt()
        index = counts.successes / pulls + bonus
        return torch.where(pulls > 0, index, torch.inf).argmax(-1)


class BayesOptimalPolicy(CountingPolicy):
    """Pulls what the dynamic program says; after its last pull, the best mean."""

    def __init__(self, table: BanditTable) -> None:
        super().__init__(table.n_arms)
        self.table = table

    def choose(
        self, counts: BanditCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        n_made = (counts.successes + counts.failures).sum(-1)
        arms = (counts.successes + 1) / (counts.successes + counts.failures + 2)
        chosen = arms.argmax(-1)
        for n in n_made.unique().tolist():
            if n < self.table.n_pulls:
                rows = n_made == n
                chosen[rows] = self._best(counts, rows)
        return chosen

    def _best(self, counts: BanditCounts, rows: Tensor) -> Tensor:
        successes, failures = (c[rows].round().long().cpu().numpy() for c in counts)
        best = self.table.best_arms(successes, failures)
        return torch.as_tensor(best, device=rows.device)
