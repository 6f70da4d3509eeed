"""Information criteria for choosing a mixture; lower is better."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from mogul.data.rows import Rows
from mogul.errors import UnknownNameError
from mogul.kernels import log_prob, responsibilities
from mogul.mixture import Mixture

__all__ = ["CRITERIA", "information_criterion", "mean_log_likelihood"]

_CHUNK_ELEMENTS = 1 << 20


def mean_log_likelihood(rows: Rows, mixture: Mixture) -> float:
    """Log-likelihood in nats per unit of row weight."""
    values = log_prob(rows.values, mixture).double()
    if rows.weight is None:
        return float(values.mean())
    return float(values @ rows.weight.double()) / rows.total_weight


def _aic(total: float, n_parameters: int, n_rows: float, entropy: float) -> float:
    return -2 * total + 2 * n_parameters


def _bic(total: float, n_parameters: int, n_rows: float, entropy: float) -> float:
    return -2 * total + n_parameters * math.log(n_rows)


def _icl(total: float, n_parameters: int, n_rows: float, entropy: float) -> float:
    return _bic(total, n_parameters, n_rows, entropy) + 2 * entropy


CRITERIA = {"bic": _bic, "icl": _icl, "aic": _aic}


def information_criterion(name: str, rows: Rows | Iterable[Rows], mixture: Mixture) -> float:
    r"""A criterion of ``mixture`` on ``rows``.

    With log-likelihood ℓ, p parameters and total row weight n: AIC = −2ℓ + 2p (Akaike 1974),
    BIC = −2ℓ + p log n (Schwarz 1978), ICL = BIC − 2 Σ r log r, which also counts the doubt about
    which component each row is from (Biernacki, Celeux and Govaert 2000). Rows may come in batches.
    """
    try:
        formula = CRITERIA[name]
    except KeyError:
        known = ", ".join(map(repr, CRITERIA))
        raise UnknownNameError(f"The criterion {name!r} is unknown; choose {known}.") from None
    total = weight = entropy = 0.0
    for batch in [rows] if isinstance(rows, Rows) else rows:
        total += mean_log_likelihood(batch, mixture) * batch.total_weight
        entropy += assignment_entropy(batch, mixture) if formula is _icl else 0.0
        weight += batch.total_weight
    return formula(total, mixture.n_parameters, weight, entropy)


def assignment_entropy(rows: Rows, mixture: Mixture) -> float:
    """−Σ_n w_n Σ_k r_nk log r_nk, in nats."""
    step = max(1, _CHUNK_ELEMENTS // mixture.n_components)
    total = 0.0
    for start in range(0, rows.n_rows, step):
        share = responsibilities(rows.values[start : start + step], mixture).double()
        each: Tensor = -torch.special.xlogy(share, share).sum(-1)
        weight = None if rows.weight is None else rows.weight[start : start + step].double()
        total += float(each.sum() if weight is None else each @ weight)
    return total
