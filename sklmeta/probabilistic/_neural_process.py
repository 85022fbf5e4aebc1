"""Neural processes as a torch module; `neural_process` says what they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from sklmeta.backbones.initialization import make_linear
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.densities import standard_normal
from sklmeta.engine.learner import State
from sklmeta.engine.losses import masked_mean
from sklmeta.probabilistic._context_learner import ContextLearner, folded
from sklmeta.probabilistic._encoders import CrossAttention, PoolingEncoder, dense

__all__ = ["NeuralProcess"]

LATENT_SEED = 0  # of the draws that predictions are averaged over
NOISE = 1  # of the stream of an update's random numbers


class NeuralProcess(ContextLearner):
    """Conditional, latent and attentive neural processes as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    task_type : {"classification", "regression"}, default="regression"
        What outputs are: logits, or numbers.
    latent : bool, default=False
        Whether a task has a latent variable.
    attention : bool, default=True
        Whether query rows attend to the support rows, and these to each other.
    hidden_size : int, default=128
        Width of layers, codes and the latent variable.
    encoder_depth, decoder_depth : int, default=4 and 3
        Linear layers.
    n_heads : int, default=8
        Attention heads.
    n_samples : int, default=30
        Draws of the latent variable that a prediction averages over.
    n_train_samples : int, default=1
        Draws of it that the training loss is made of: 1 is the papers' bound. The
        estimators' default is 8.
    min_std : float, default=0.01
        Least standard deviation of a number.
    prior_fraction : float, default=0.05
        Share of the training episodes whose support rows are hidden.
    generator : torch.Generator, default=None
        Draws the initial weights.
    """

    adaptation_options = ("n_samples",)

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        task_type: str = "regression",
        latent: bool = False,
        attention: bool = True,
        hidden_size: int = 128,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        n_heads: int = 8,
        n_samples: int = 30,
        n_train_samples: int = 1,
        min_std: float = 0.01,
        prior_fraction: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            task_type,
            backbone,
            n_outputs,
            min_std=min_std,
            prior_fraction=prior_fraction,
        )
        self.latent = latent
        self.attention = attention
        self.hidden_size = width = hidden_size
        self.n_samples = n_samples
        self.n_train_samples = n_train_samples
        self.seed = 0
        if latent and generator is not None:
            self.seed = int(torch.randint(2**31, (1,), generator=generator))
        heads = n_heads if attention else None
        sizes = (n_features + self.n_labels, width, encoder_depth, heads, generator)
        self.pooling = PoolingEncoder(*sizes)
        n_pooled = 2 * width if latent else width
        self.summary = dense([width, width, n_pooled], generator)
        self.reading: nn.Module
        if attention:
            self.reading = CrossAttention(
                n_features, self.n_labels, width, encoder_depth, n_heads, generator
            )
        else:
            self.reading = PoolingEncoder(*sizes)
            self.reading_summary = dense([width, width, width], generator)
        self.split = [n_features, width, width]
        self.entry = make_linear(sum(self.split), width, generator=generator)
        hidden = max(decoder_depth - 1, 1) * [width]
        self.decoder = dense([*hidden, self.n_decoded], generator)

    # Encoding --------------------------------------------------------------------

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Encode the support rows.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "summary" (T, W, H), or "mean" and "std" (T, H) of the latent variable; what
            query rows read: "local" (T, W, H), or "keys" and "values" (T, W, heads, S,
            H / heads) with "mask" (T, S); with local labels "ways" (T, N).
        """
        told = self.told(support, features)
        rows, mask, full = self._rows(features, told, support.mask)
        n_questions = told.shape[1]
        state: dict[str, Tensor] = self.ways(support)
        if self.latent:
            latent = self._latent(rows, mask, full, state.get("ways"), n_questions)
            state |= {"mean": latent.mean, "std": latent.stddev}
        else:
            summary = self.summary(self.pooling(rows, mask, full))
            state["summary"] = summary.unflatten(0, (-1, n_questions))
        if isinstance(self.reading, CrossAttention):
            x, y = rows.split([features.shape[2], self.n_labels], -1)
            memory = self.reading.memory(x, y, None if full else mask)
            keys, values = (part.unflatten(0, (-1, n_questions)) for part in memory)
            return state | {"keys": keys, "values": values, "mask": support.mask}
        local = self.reading_summary(self.reading(rows, mask, full))
        return state | {"local": local.unflatten(0, (-1, n_questions))}

    def _rows(
        self, features: Tensor, told: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, bool]:
        """Return labelled rows (T * W, S, F + L), their mask, and if all are real."""
        n_questions = told.shape[1]
        rows = torch.cat([folded(features, n_questions), told.flatten(0, 1)], -1)
        return rows, folded(mask, n_questions), bool(mask.all())

    def _latent(
        self,
        rows: Tensor,
        mask: Tensor,
        full: bool,
        ways: Tensor | None,
        n_questions: int,
    ) -> Normal:
        """Return q(z | rows) of each task, of which all ways have the same share."""
        pooled = self.pooling(rows, mask, full).unflatten(0, (-1, n_questions))
        if ways is None:
            pooled = pooled.mean(1)
        else:
            share = ways / ways.sum(1, keepdim=True).clamp(min=1)
            pooled = (pooled * share.to(pooled.dtype).unsqueeze(-1)).sum(1)
        mean, raw = self.summary(pooled).chunk(2, dim=-1)
        return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw), validate_args=False)

    # Decoding --------------------------------------------------------------------

    def decode(self, state: State, features: Tensor, z: Tensor | None) -> Tensor:
        """Return what the decoder says of query rows, (T, K, W, Q, L) or twice L.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.
        z : Tensor of shape (T, K, H) or None
            Draws of the latent variable; None where there is none, which makes K 1.

        Returns
        -------
        Tensor of shape (T, K, W, Q, L)
            Not normalised: see `answers` and `moments`.
        """
        of_row, of_local, of_summary = self.entry.weight.split(self.split, 1)
        hidden = F.linear(features, of_row, self.entry.bias)[:, None]  # (T, 1, Q, H)
        hidden = (hidden + F.linear(self._read(state, features), of_local))[:, None]
        summary = state["summary"][:, None] if z is None else z[:, :, None]
        hidden = hidden + F.linear(summary, of_summary)[:, :, :, None]
        return self.decoder(hidden.relu())

    def _read(self, state: State, features: Tensor) -> Tensor:
        """Return what query rows read of the support, (T, W, Q or 1, H)."""
        if not isinstance(self.reading, CrossAttention):
            return state["local"].unsqueeze(2)
        mask, n_questions = state["mask"], state["keys"].shape[1]
        keys, values = (state[name].flatten(0, 1) for name in ("keys", "values"))
        read = self.reading(
            folded(features, n_questions),
            (keys, values),
            None if bool(mask.all()) else folded(mask, n_questions),
        )
        return read.unflatten(0, (-1, n_questions))

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return outputs for query rows, averaged over the latent variable's points.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, -inf for ways that a task does not have; or numbers.
        """
        decoded = self.decode(state, features, self.latent_points(state))
        if self.task_type == "classification":
            log_p = self.answers(decoded, state).log_softmax(-1)
            return self.logits(log_p.logsumexp(1) - math.log(log_p.shape[1]))
        mean, std = self.moments(decoded.squeeze(2))  # (T, K, Q, n_outputs)
        middle = mean.mean(1)
        spread = (mean - middle.unsqueeze(1)).square().mean(1)
        return self.outputs(middle, std.square().mean(1) + spread)

    def latent_points(self, state: State) -> Tensor | None:
        """Return what predictions are averaged over, (T, n_samples, H).

        Draws that are the same in every call, each with its mirror image: with an even
        number of them, the average of whatever is linear in the latent variable is
        exact. With an odd number one is without its image.
        """
        if not self.latent:
            return None
        mean, std = state["mean"].unsqueeze(1), state["std"].unsqueeze(1)
        generator = torch.Generator().manual_seed(LATENT_SEED)
        half = (self.n_samples + 1) // 2, mean.shape[2]
        noise = standard_normal(half, generator, mean)
        return mean + std * torch.cat([noise, -noise])[: self.n_samples]

    def draw_latent(
        self, state: State, n_samples: int, generator: torch.Generator
    ) -> Tensor | None:
        """Return draws (T, n_samples, H) of the latent variable; None if there is none.

        The draws of all tasks are made of the same random numbers.
        """
        if not self.latent:
            return None
        mean, std = state["mean"].unsqueeze(1), state["std"].unsqueeze(1)
        noise = standard_normal((n_samples, mean.shape[2]), generator, mean)
        return mean + std * noise

    def draw(
        self,
        state: State,
        x: Tensor,
        n_samples: int,
        generator: torch.Generator,
        noise: bool = True,
    ) -> Tensor:
        """Draw functions of query rows, each from one draw of the latent variable.

        Parameters
        ----------
        state : dict
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.
        n_samples : int
            How many.
        generator : torch.Generator
            On the CPU.
        noise : bool, default=True
            Whether targets are drawn; else their means, given the latent variable.
            Without one these are all the same.

        Returns
        -------
        Tensor of shape (T, n_samples, Q, n_outputs) or (T, n_samples, Q, N)
            Numbers, or logits; not calibrated.
        """
        z = self.draw_latent(state, n_samples, generator)
        decoded = self.decode(state, self.embed(x), z)
        if self.task_type == "classification":
            logits = self.answers(decoded, state)
            return logits.expand(-1, n_samples, -1, -1)
        mean, std = self.moments(decoded.squeeze(2))
        shape = (len(mean), n_samples, *mean.shape[2:])
        if not noise:
            return mean.expand(shape)
        return mean + std * standard_normal(shape, generator, mean)

    # Training --------------------------------------------------------------------

    def training_loss(self, episodes: Episodes) -> Tensor:
        """Return the negative log density of context and query rows, or its bound (3).

        Parameters
        ----------
        episodes : Episodes
            Of T tasks.

        Returns
        -------
        Tensor of shape (T,)
            Per row and output.
        """
        support, query = episodes.support, episodes.query
        features = self.embed(torch.cat([support.x, query.x], 1))
        targets = Rows(
            features,
            torch.cat([support.y, query.y], 1),
            torch.cat([support.mask, query.mask], 1),
            support.n_way,
        )
        state = self.adapt_features(features[:, : support.x.shape[1]], support)
        if not self.latent:
            densities = self._log_densities(state, targets, None)
            return -masked_mean(densities[:, 0], targets.mask)
        return -self._bound(state, targets)

    def _bound(self, state: State, targets: Rows) -> Tensor:
        """Return the bound on the log density of targets, per row and output, (T,)."""
        told = self.told(targets, targets.x)
        rows, mask, full = self._rows(targets.x, told, targets.mask)
        posterior = self._latent(rows, mask, full, state.get("ways"), told.shape[1])
        prior = Normal(state["mean"], state["std"], validate_args=False)
        z = posterior.mean.unsqueeze(1) + posterior.stddev.unsqueeze(
            1
        ) * self._training_noise(len(state["mean"])).to(posterior.mean)
        densities = self._log_densities(state, targets, z)  # (T, K, R)
        real = targets.mask.unsqueeze(1)
        total = torch.where(real, densities, 0.0).sum(-1)  # (T, K)
        share = self.n_labels if self.task_type == "regression" else 1
        n_rows = targets.mask.sum(1).clamp(min=1)
        if self.n_train_samples == 1:
            kl = kl_divergence(posterior, prior).sum(-1)
            return (total[:, 0] - kl / share) / n_rows
        q, p = (
            Normal(one.mean[:, None], one.stddev[:, None], validate_args=False)
            for one in (posterior, prior)
        )
        ratio = (p.log_prob(z) - q.log_prob(z)).sum(-1)
        weights = total * share + ratio
        bound = weights.logsumexp(1) - math.log(self.n_train_samples)
        return bound / (share * n_rows)

    def _log_densities(self, state: State, rows: Rows, z: Tensor | None) -> Tensor:
        """Return the mean log density of each row's outputs, (T, K, R)."""
        decoded = self.decode(state, rows.x, z)
        if self.task_type == "classification":
            log_p = self.answers(decoded, state).log_softmax(-1)
            y = rows.y[:, None, :, None].expand(-1, log_p.shape[1], -1, -1)
            return log_p.gather(-1, y).squeeze(-1)
        mean, std = self.moments(decoded.squeeze(2))
        return (
            Normal(mean, std, validate_args=False)
            .log_prob(rows.y.unsqueeze(1))
            .mean(-1)
        )

    def _training_noise(self, n_tasks: int) -> Tensor:
        """Return standard normal draws (T, K, H), others in every update."""
        seed = self.seed ^ int(self.random_stream(NOISE)) & (2**62 - 1)
        generator = torch.Generator().manual_seed(seed)
        shape = (n_tasks, self.n_train_samples, self.hidden_size)
        return torch.randn(shape, generator=generator)
