"""Meta-training on Omniglot within a time budget, judged on characters held out."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback

from sklmeta import ClassPool
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, RowPool, gather
from sklmeta.engine.inference import embedded, run_episodes
from sklmeta.engine.learner import Learner

__all__ = ["Judge", "TimeBudget", "hold_out_characters"]


class Judge:
    """Accuracy on fixed N-way episodes of a pool of classes."""

    def __init__(
        self,
        pool: ClassPool,
        spec: EpisodeSpec,
        n_episodes: int,
        seed: int,
        device: str = "cpu",
    ) -> None:
        rows = pool.rows()
        images = torch.from_numpy(np.ascontiguousarray(rows.X))[..., None]
        names = pool.classes.tolist()
        self.pool = RowPool.from_classes(images, rows.offsets, names, device)
        generator = torch.Generator().manual_seed(seed)
        self.index = EpisodeSampler(self.pool, spec).draw(n_episodes, generator)

    def accuracies(self, learner: Learner, episodes_at_once: int = 50) -> np.ndarray:
        """Return each episode's accuracy on its query rows.

        Learners that compare features see each image once, as in `sklmeta.evaluate`.
        """
        learner, pool = embedded(learner, self.pool, self.index.rows())
        parts = []
        for start in range(0, len(self.index), episodes_at_once):
            episodes = gather(pool, self.index[start : start + episodes_at_once])
            best = run_episodes(learner, episodes).argmax(-1)
            parts.append((best == episodes.query.y.cpu()).double().mean(1))
        return torch.cat(parts).numpy()


class TimeBudget(Callback):
    """Ends meta-training when the time is up, and keeps the best weights till then.

    Also sets the outer learning rate by the share of the budget that is spent.
    """

    def __init__(
        self,
        judge: Judge,
        options: dict[str, Any],
        seconds: float,
        every: float,
        schedule: str,
    ) -> None:
        self.judge = judge
        self.options = options
        self.seconds = seconds
        self.every = every
        self.schedule = schedule
        self.curve: list[dict[str, float]] = []
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.is_over = False
        self.n_updates = 0

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.begin

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.begin = time.perf_counter()
        self.next_look = self.every

    def on_batch_end(self, net: Any, training: bool = True, **kwargs: Any) -> None:
        if not training:
            return
        self.n_updates += 1
        for group in net.optimizer_.param_groups:
            group["lr"] = net.lr * self._factor()
        if self.elapsed > self.next_look:
            self.look(net)
            self.next_look = self.elapsed + self.every
        if self.elapsed > self.seconds:
            self.is_over = True
            raise KeyboardInterrupt  # how skorch's callbacks end training

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.look(net)

    def look(self, net: Any) -> None:
        """Add a point to the curve; keep the weights if they are the best yet."""
        learner = net.module_.eval()
        accuracy = self.judge.accuracies(learner.with_options(**self.options)).mean()
        if accuracy >= max((point["accuracy"] for point in self.curve), default=0):
            self.best_weights = copy.deepcopy(learner.state_dict())
        point = {
            "seconds": round(self.elapsed, 1),
            "updates": self.n_updates,
            "accuracy": float(accuracy),
        }
        self.curve.append(point)
        print(
            f"{point['seconds']:>8.0f} s {self.n_updates:>7} updates  "
            f"{accuracy:.2%} on validation characters",
            flush=True,
        )

    def _factor(self) -> float:
        spent = min(self.elapsed / self.seconds, 1)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * spent)) / 2
        if self.schedule == "linear":
            return 1 - spent
        if self.schedule == "halving":
            return 0.5 ** (self.n_updates // 2000)
        return 1.0


def hold_out_characters(
    pool: ClassPool, n_characters: int, seed: int
) -> tuple[ClassPool, ClassPool]:
    """Split off characters with all their rotations; those held out upright only."""
    characters = np.array([c.split("/rot")[0] for c in pool.classes])
    upright = np.array(["/rot" not in c for c in pool.classes])
    names = np.unique(characters)
    held = np.random.default_rng(seed).choice(names, n_characters, replace=False)
    is_held = np.isin(characters, held)
    return pool[~is_held], pool[is_held & upright]
