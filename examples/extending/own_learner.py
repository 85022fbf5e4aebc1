"""A meta-learner of your own: one torch class, one thin scikit-learn face.

The torch learner says how to adapt to support rows and how to predict query rows, for a
batch of T tasks; its parameters are the meta-learned weights. Data, episodes, training,
the few-shot estimator, scores and checks come by themselves. Here: ridge regression on
meta-learned features, solved in closed form for every task.

    python examples/extending/own_learner.py
"""

from __future__ import annotations

import torch
from torch import nn

from sklmeta import MAMLRegressor
from sklmeta.datasets import make_sinusoids
from sklmeta.engine.batches import Rows
from sklmeta.engine.learner import Learner
from sklmeta.episodic import EpisodicMetaLearner, EpisodicRegressorMixin
from sklmeta.utils.learner_checks import check_meta_learner


class RidgeHead(Learner):
    """Ridge regression on learned features, with a learned penalty."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__("regression")
        self.backbone = backbone
        self.log_penalty = nn.Parameter(torch.zeros(()))

    def adapt(self, support: Rows) -> torch.Tensor:
        """Return each task's coefficients (T, n_features + 1, n_outputs)."""
        # Padded rows are zero rows: they add nothing to the solution.
        features = self.features(support.x) * support.mask.unsqueeze(-1)  # (T, S, D)
        identity = torch.eye(features.shape[1]).to(features)
        gram = features @ features.mT + self.log_penalty.exp() * identity
        return features.mT @ torch.linalg.solve(gram, support.y)

    def predict(self, state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return predictions (T, Q, n_outputs)."""
        return self.features(x) @ state

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Map rows (T, S, *F) to features and a constant, (T, S, n_features + 1)."""
        rows = self.backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return torch.cat([rows, torch.ones_like(rows[..., :1])], -1)


class RidgeHeadRegressor(EpisodicRegressorMixin, EpisodicMetaLearner):
    """The scikit-learn face: how to make the torch learner.

    Parameters of your own go into an ``__init__(self, backbone=None, *, penalty=1.0,
    **common)`` that stores them and hands ``**common`` to ``super().__init__``.
    """

    def _make_learner(self, backbone, n_features, n_outputs, n_ways, generator):
        return RidgeHead(backbone)


def main() -> None:
    """Compare with MAML on sine waves, and run the checks of all meta-learners."""
    train = make_sinusoids(500, random_state=0)
    test = make_sinusoids(200, n_samples=50, random_state=1)
    for meta in (RidgeHeadRegressor(random_state=0), MAMLRegressor(random_state=0)):
        score = meta.fit(train).score(test)
        print(f"{type(meta).__name__:20} score on new waves, 5 rows each: {score:.2f}")
    check_meta_learner(RidgeHeadRegressor(max_iter=200, outer_lr=5e-3))
    print("RidgeHeadRegressor passes every check.")


if __name__ == "__main__":
    main()
