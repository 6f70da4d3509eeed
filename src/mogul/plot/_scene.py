"""What a picture of a mixture shows, checked once: a mixture, rows of data, names, coverages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mogul.errors import InputError
from mogul.mixture import Mixture

MOST_POINTS = 5000
"""Rows that are drawn as points; more would only print over one another."""
_SUBSAMPLE_SEED = 0
"""The same rows are drawn each time, so that two pictures of the same data compare."""


@dataclass(frozen=True)
class Scene:
    """A mixture of F features, and N rows of the same features (N is 0 without data)."""

    mixture: Mixture
    rows: np.ndarray  # (N, F)
    row_weights: np.ndarray  # (N,)
    shown: np.ndarray  # (S,) positions of the rows that are drawn as points
    component: np.ndarray  # (S,) of each of those
    labels: tuple[str, ...]  # K of them, or none
    coverage: tuple[float, ...]  # ascending

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, F of them."""
        given = self.mixture.feature_names
        return given or tuple(f"feature {i}" for i in range(self.mixture.n_features))

    @property
    def components(self) -> list[int]:
        """The components that are drawn: those with some weight."""
        return torch.nonzero(self.mixture.weights > 0).flatten().tolist()

    @property
    def means(self) -> np.ndarray:
        """Means of the components, (K, F)."""
        return self.mixture.means.numpy()

    @property
    def scales(self) -> np.ndarray:
        """Standard deviations of the components, (K, F)."""
        return self.mixture.covariance.variances().sqrt().numpy()

    def pick(self, features: Any) -> Scene:
        """The same scene over some features; components of rows stay those of all features."""
        single = isinstance(features, (int, str, np.integer))
        chosen = [features] if single else list(features)
        marginal = self.mixture.marginal(chosen)  # refuses unknown and repeated features
        index = [self.names.index(f) if isinstance(f, str) else int(f) for f in chosen]
        return replace(self, mixture=marginal, rows=self.rows[:, index])


def scene(
    mixture: Mixture,
    data: Any = None,
    *,
    features: Any = None,
    coverage: Sequence[float] = (),
    labels: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    sample_weight: Any = None,
) -> Scene:
    """Check everything that a picture of a mixture is given; see :func:`mogul.plot.density`."""
    _check_mixture(mixture)
    rows = _rows(data, mixture)
    whole = _prepared(mixture, _names(mixture, data, feature_names))
    shown = _subsample(len(rows))
    found = Scene(
        mixture=whole,
        rows=rows,
        row_weights=_row_weights(sample_weight, len(rows)),
        shown=shown,
        component=whole.predict(rows[shown]).numpy(),
        labels=_labels(labels, mixture.n_components),
        coverage=_coverage(coverage),
    )
    return found if features is None else found.pick(features)


def _check_mixture(mixture: Any) -> None:
    if not isinstance(mixture, Mixture):
        raise InputError(
            f"Expected a Mixture; got {type(mixture).__name__} (an estimator's is its mixture_)."
        )
    if mixture.batch_shape:
        raise InputError(
            f"A picture shows one mixture; got a batch of shape {tuple(mixture.batch_shape)}, so "
            "choose one by indexing, mixture[0] say."
        )


def _prepared(mixture: Mixture, names: Sequence[str]) -> Mixture:
    """The mixture with its names, in float64 on the CPU and without gradients."""
    here = mixture.detach().to("cpu").to(dtype=torch.float64)  # some devices have no float64
    return Mixture(here.log_weights, here.means, here.covariance, names)


def _names(mixture: Mixture, data: Any, given: Sequence[str] | None) -> Sequence[str]:
    """The names given, else the mixture's own, else a frame's, else positions."""
    if given is not None:
        return given
    positions = [f"feature {i}" for i in range(mixture.n_features)]
    return mixture.feature_names or _columns(data) or positions


def _columns(data: Any) -> list[str]:
    """A frame's column names where they are words."""
    columns: list[str] = list(getattr(data, "columns", ()))
    return columns if all(isinstance(c, str) for c in columns) else []


def _rows(data: Any, mixture: Mixture) -> np.ndarray:
    """Rows of data as (N, D) numbers, a frame's columns by name where the mixture has names."""
    n_features = mixture.n_features
    if data is None:
        return np.empty((0, n_features))
    rows = _as_numbers(_in_order(data, mixture))
    if rows.ndim == 1 and n_features == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or rows.shape[1] != n_features:
        raise InputError(
            f"The data have shape {rows.shape}; expected (rows, {n_features}), one column for "
            "each feature of the mixture."
        )
    _check_finite(rows)
    return rows


def _check_finite(rows: np.ndarray) -> None:
    n_bad = int((~np.isfinite(rows)).any(axis=1).sum())
    if n_bad:
        raise InputError(
            f"{n_bad:,} of {len(rows):,} rows hold NaN or infinity; drop or fill them before "
            "plotting."
        )


def _in_order(data: Any, mixture: Mixture) -> Any:
    """A frame's columns in the mixture's order; anything else as it is."""
    wanted, have = mixture.feature_names, _columns(data)
    if not wanted or not have:
        return data
    missing = [name for name in wanted if name not in have]
    if missing:
        raise InputError(
            f"The data have no column {missing[0]!r}, a feature of the mixture; they have "
            f"{', '.join(have)}."
        )
    return data[list(wanted)]


def _as_numbers(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The data must be numbers: {error}.") from error


def _row_weights(weights: Any, n_rows: int) -> np.ndarray:
    if weights is None:
        return np.ones(n_rows)
    found = _as_numbers(weights)
    if found.shape != (n_rows,):
        raise InputError(
            f"sample_weight has shape {found.shape}; expected ({n_rows},), one for each row."
        )
    if not (np.isfinite(found).all() and (found >= 0).all() and found.sum() > 0):
        raise InputError("sample_weight must be finite and not negative, and not all zero.")
    return found


def _subsample(n_rows: int) -> np.ndarray:
    """The rows to draw as points, shuffled so that no component is always printed on top."""
    order = np.random.default_rng(_SUBSAMPLE_SEED).permutation(n_rows)
    return order[:MOST_POINTS]


def _labels(labels: Sequence[str] | None, n_components: int) -> tuple[str, ...]:
    if labels is None:
        return tuple(str(k) for k in range(n_components))
    if len(labels) not in (0, n_components):
        raise InputError(f"{len(labels)} labels were given for {n_components} components.")
    return tuple(str(label) for label in labels)


def _coverage(coverage: Sequence[float]) -> tuple[float, ...]:
    if not all(0 < c < 1 for c in coverage):
        raise InputError(
            f"Coverages must lie strictly between 0 and 1; got {', '.join(map(str, coverage))}."
        )
    return tuple(sorted(set(coverage)))
