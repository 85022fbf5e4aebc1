"""Hard-task meta-batches: episodes of what the learner fails at.

After some meta-updates a batch is drawn from those classes of a class pool that were
told apart worst in earlier episodes, or from those tasks whose query loss was largest.
It is algorithm 2 of arXiv:1812.02391, section 4.3.

Deviations from the paper
-------------------------
- The paper notes failures as meta-updates go by; here the episodes since the last hard
  batch are judged together, by the weights at that time, without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sklmeta._episodes import batches_of
from sklmeta.engine.batches import Episodes
from sklmeta.engine.episodes import EpisodeIndex, EpisodeSampler
from sklmeta.engine.inference import run_episodes
from sklmeta.engine.learner import Learner

__all__ = ["HardTasks"]


@dataclass(frozen=True)
class HardTasks:
    """Batches of episodes, every few of them of what is hard for a learner.

    Attributes
    ----------
    sampler : EpisodeSampler
    learner : Learner
        The one in training, whose failures count.
    batch_size : int
        Episodes of a batch.
    every : int
        One hard batch comes after as many others.
    """

    sampler: EpisodeSampler
    learner: Learner
    batch_size: int
    every: int

    def batches(self, generator: torch.Generator) -> Iterator[Episodes]:
        """Yield batches for ever."""
        while True:
            index = self.sampler.draw(self.every * self.batch_size, generator)
            yield from batches_of(self.sampler, index, self.batch_size)
            hard = self._hard(index)
            index = hard.draw(self.batch_size, generator)
            yield from batches_of(hard, index, self.batch_size)

    def _hard(self, index: EpisodeIndex) -> EpisodeSampler:
        """Return a sampler of what came out worst in these episodes."""
        right, losses = self._judged(index)
        if self.sampler.pool.is_class_pool:
            return self.sampler.among(classes=self._hard_classes(index, right))
        worst = losses.argsort(descending=True)[: self.batch_size]
        return self.sampler.among(tasks=index.task[worst].unique())

    def _judged(self, index: EpisodeIndex) -> tuple[Tensor, Tensor]:
        """Return which query rows were classified rightly, (B, Q), and losses, (B,)."""
        self.learner.eval()  # the loop that trains it sets the mode back
        right = torch.zeros(index.query.shape, dtype=torch.float64)
        losses = torch.zeros(len(index))
        for start in range(0, len(index), self.batch_size):
            own = slice(start, start + self.batch_size)
            episodes = self.sampler.gather(index[own])
            outputs = run_episodes(self.learner, episodes)
            query = episodes.query.to("cpu")
            n_query = query.y.shape[1]
            right[own, :n_query] = (outputs.argmax(-1) == query.y).double()
            losses[own] = self.learner.loss(outputs, query).float()
        return right, losses

    def _hard_classes(self, index: EpisodeIndex, right: Tensor) -> Tensor:
        """Return the classes that were told apart worst, at least as many as ways.

        `right` (B, Q) is 1 where a query row was classified rightly.
        """
        assert index.query_way is not None and index.n_way is not None
        n_ways, n_classes = int(index.n_way.max()), len(self.sampler.pool.names)
        member = F.one_hot(index.query_way, n_ways) * index.query_mask.unsqueeze(-1)
        counts = member.sum(1).double()  # (B, N)
        shares = (member * right.unsqueeze(-1)).sum(1) / counts
        shares = shares.where(counts > 0, torch.inf)  # of rows that were right
        classes = self._classes(index, n_ways)  # (B, N)
        worst = shares.argmin(1, keepdim=True)
        worst = classes.gather(1, worst)[shares.gather(1, worst) < 1]
        is_worst = torch.zeros(n_classes, dtype=torch.bool)
        is_worst[worst] = True
        seen = shares.isfinite()
        total, n_seen = torch.zeros(2, n_classes, dtype=torch.float64)
        total.index_add_(0, classes[seen], shares[seen])
        n_seen.index_add_(0, classes[seen], torch.ones_like(shares[seen]))
        mean = (total / n_seen).nan_to_num(torch.inf)  # those not seen come last
        order = (mean + 2.0 * ~is_worst).argsort()  # the worst of an episode first
        return self._enough(order, is_worst, n_ways)

    def _enough(self, order: Tensor, is_worst: Tensor, n_ways: int) -> Tensor:
        """Return the worst classes in order; of each domain none, or enough for ways.

        An episode has classes of one domain. If none was failed at, all domains count.
        """
        domain = self.sampler.pool.domain
        if domain is None:
            return order[: max(int(is_worst.sum()), n_ways)]
        kept = []
        for number in domain.unique():
            own = order[domain[order] == number]
            n_worst = int(is_worst[own].sum())
            if n_worst or not bool(is_worst.any()):
                kept.append(own[: max(n_worst, n_ways)])
        return torch.cat(kept)

    def _classes(self, index: EpisodeIndex, n_ways: int) -> Tensor:
        """Return the class of each way of each episode, (B, N); 0 where it has none."""
        classes = torch.zeros(len(index), n_ways, dtype=torch.int64)
        own = self.sampler.pool.y.cpu()[index.query] * index.query_mask
        assert index.query_way is not None
        return classes.scatter_reduce_(1, index.query_way, own, reduce="amax")
