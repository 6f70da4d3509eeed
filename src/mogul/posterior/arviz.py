"""Posteriors in the words of ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.errors import MogulError
from mogul.kernels import log_prob
from mogul.mixture import Mixture
from mogul.posterior.quantities import PARAMETERS, QUANTITIES

__all__ = ["data_tree"]


def data_tree(
    draws: Mixture, stats: Mapping[str, Tensor], rows: Rows, kind: type[Covariance]
) -> Any:
    """A ``DataTree`` with posterior, sample_stats, log_likelihood and observed_data.

    Parameters
    ----------
    draws : Mixture, batch shape (chains, draws)
    stats : mapping of Tensors, shape (chains · draws)
    rows : Rows
    """
    try:
        from arviz_base import from_dict
    except ImportError:
        raise MogulError(
            "ArviZ is not installed; install it with: pip install 'mogul[bayes]'."
        ) from None
    shape = draws.batch_shape
    names = [*PARAMETERS, "covariances"]
    posterior = {name: _array(QUANTITIES[name].of(draws)) for name in names}
    each = torch.stack(
        [
            log_prob(rows.values, draws[chain, i])
            for chain in range(shape[0])
            for i in range(shape[1])
        ]
    )
    if rows.weight is not None:
        each = each * rows.weight
    return from_dict(
        {
            "posterior": posterior,
            "sample_stats": {name: _array(value.reshape(shape)) for name, value in stats.items()},
            "log_likelihood": {"x": _array(each.reshape(*shape, -1))},
            "observed_data": {"x": _array(rows.values)},
        },
        coords=_coordinates(draws),
        dims=_dimensions(kind),
    )


def _coordinates(draws: Mixture) -> dict[str, Any]:
    features = list(draws.feature_names or range(draws.n_features))
    return {
        "component": np.arange(draws.n_components),
        "feature": features,
        "feature_again": features,
    }


def _dimensions(kind: type[Covariance]) -> dict[str, list[str]]:
    """The names of the axes; a covariance matrix has its features twice."""
    spread = ["component"] if kind.block_ndim else []
    spread += ["feature"] if kind.feature_blocks else []
    spread += ["feature", "feature_again"] if kind.has_matrices() else []
    return {
        "weights": ["component"],
        "means": ["component", "feature"],
        "precisions": spread,
        "covariances": spread,
        "x": ["row"],
    }


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
