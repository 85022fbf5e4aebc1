r"""How query rows, seen all at once, refine a classification by class means.

Each function takes what nearest class means know of T tasks, and returns logits
(T, Q, N) after some steps; without steps these are the nearest class means' own. Axes:
T tasks, S support rows, Q query rows, D features, N ways. All query rows count: there
is no mask for padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Evidence", "laplacian", "mutual_information", "soft_kmeans"]

Logits = Callable[[Tensor], Tensor]

# Query rows that are compared with all others at once.
ROWS_PER_BLOCK = 1024


@dataclass(frozen=True)
class Evidence:
    """Support rows of T tasks.

    Attributes
    ----------
    features : Tensor of shape (T, S, D)
        Of the rows; those of padded rows mean nothing.
    member : Tensor of shape (T, S, N)
        1 where a row is of a way, else 0; padded rows are of none.
    """

    features: Tensor
    member: Tensor


def soft_kmeans(
    prototypes: Tensor,
    counts: Tensor,
    query: Tensor,
    logits_of: Logits,
    *,
    n_steps: int,
) -> Tensor:
    r"""Move class means towards the query rows that are probably theirs.

    .. math:: c_k \leftarrow \frac{\sum_{i \in S_k} f_i + \sum_j z_{jk} f_j}
              {|S_k| + \sum_j z_{jk}}, \qquad z_{jk} = p(y = k \mid x_j).

    Parameters
    ----------
    prototypes : Tensor of shape (T, N, D)
        Class means of the support rows.
    counts : Tensor of shape (T, N)
        Support rows of each way.
    query : Tensor of shape (T, Q, D)
        Features of the query rows.
    logits_of : callable
        Gives the logits (T, Q, N) of the query rows for class means (T, N, D).
    n_steps : int
        How many times.

    Returns
    -------
    Tensor of shape (T, Q, N)
    """
    support_sum = prototypes * counts.unsqueeze(-1)
    for _ in range(n_steps):
        z = logits_of(prototypes).softmax(-1)
        weight = counts + z.sum(1)
        total = support_sum + z.transpose(1, 2) @ query
        # Ways without support rows have no weight.
        prototypes = total / _positive(weight).unsqueeze(-1)
    return logits_of(prototypes)


def laplacian(
    logits: Tensor, query: Tensor, *, n_steps: int, weight: float, n_neighbors: int
) -> Tensor:
    r"""Let neighbouring query rows agree.

    .. math:: y_q \leftarrow \mathrm{softmax}\left(-a_q + \lambda \sum_{p \in N(q)}
              y_p\right),

    with :math:`-a_q` the logits, and :math:`N(q)` the nearest other query rows.

    Parameters
    ----------
    logits : Tensor of shape (T, Q, N)
        Of the query rows, one by one.
    query : Tensor of shape (T, Q, D)
        Features among which neighbours are sought, by Euclidean distance.
    n_steps : int
        How many times.
    weight : float
        :math:`\lambda`.
    n_neighbors : int
        At most this many; there are no more than the other query rows.

    Returns
    -------
    Tensor of shape (T, Q, N)
    """
    neighbours = _nearest(query, min(n_neighbors, query.shape[1] - 1))  # (T, Q, k)
    task = torch.arange(len(query), device=query.device)[:, None, None]
    refined = logits
    for _ in range(n_steps):
        y = refined.softmax(-1)
        # The minimum of Ziko et al.'s bound, which all rows take at once.
        refined = logits + weight * y[task, neighbours].sum(2)
    return refined


def mutual_information(
    prototypes: Tensor,
    support: Evidence,
    query: Tensor,
    logits_of: Callable[[Tensor, Tensor], Tensor],
    *,
    n_steps: int,
    support_weight: float,
    entropy_weight: float,
) -> Tensor:
    r"""Move class means so that query rows say much about classes.

    Alternating directions of Boudiaf et al. on cross-entropy minus mutual information,

    .. math:: -\frac{\lambda}{|S|} \sum_{i \in S} \log p_{i y_i}
              + \sum_k \hat p_k \log \hat p_k
              - \frac{\alpha}{|Q|} \sum_{i \in Q} \sum_k p_{ik} \log p_{ik}.

    Parameters
    ----------
    prototypes : Tensor of shape (T, N, D)
        Class means of the support rows.
    support : Evidence
        The support rows.
    query : Tensor of shape (T, Q, D)
        Features of the query rows.
    logits_of : callable
        Gives logits (T, rows, N) of features (T, rows, D) for class means (T, N, D):
        negative squared distances over a temperature, and -inf for ways without
        support rows.
    n_steps : int
        How many times.
    support_weight, entropy_weight : float
        :math:`\lambda` and :math:`\alpha`.

    Returns
    -------
    Tensor of shape (T, Q, N)
    """
    member, n_query = support.member, query.shape[1]
    share = member / _positive(member.sum((1, 2)))[:, None, None]  # y_ik / |S|
    row_share = share.sum(2, keepdim=True)  # 1 / |S|, 0 for padded rows
    support_weight = support_weight / (1 + entropy_weight)
    for _ in range(n_steps):
        p = logits_of(query, prototypes).softmax(-1)
        p_support = logits_of(support.features, prototypes).softmax(-1) * row_share
        q = _assignments(p, entropy_weight)
        # The w-update: where rows pull class means, with p as it was.
        pull = support_weight * _pull(
            share - p_support, support.features, prototypes
        ) + _pull((q - p) / n_query, query, prototypes)
        total = support_weight * share.sum(1) + q.sum(1) / n_query
        prototypes = prototypes + pull / _positive(total).unsqueeze(-1)
    return logits_of(query, prototypes)


def _assignments(p: Tensor, entropy_weight: float) -> Tensor:
    """Return q (T, Q, N): sharper than p, and balanced over ways: the q-update."""
    sharp = p ** (1 + entropy_weight)
    q = sharp / _positive(sharp.sum(1, keepdim=True)).sqrt()
    return q / _positive(q.sum(-1, keepdim=True))


def _pull(weight: Tensor, features: Tensor, prototypes: Tensor) -> Tensor:
    """Return sum_i weight_ik (f_i - w_k), (T, N, D)."""
    total = weight.sum(1).unsqueeze(-1)
    return weight.transpose(1, 2) @ features - total * prototypes


def _nearest(x: Tensor, n_neighbors: int) -> Tensor:
    """Return the indices (T, Q, n_neighbors) of the nearest other rows."""
    found = []
    for rows in torch.arange(x.shape[1], device=x.device).split(ROWS_PER_BLOCK):
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(x[:, rows], x, compute_mode=exact)
        distance[:, torch.arange(len(rows)), rows] = torch.inf
        found.append(distance.topk(n_neighbors, largest=False).indices)
    return torch.cat(found, 1)


def _positive(weight: Tensor) -> Tensor:
    """Return weights to divide by: what is 0 has nothing to be divided."""
    return weight.clamp(min=torch.finfo(weight.dtype).tiny)
