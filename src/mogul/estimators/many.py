"""One mixture for each of many small data sets."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from mogul._checks import check_count
from mogul._warn import warn
from mogul.covariances import structure
from mogul.errors import InputError, InputTypeError, RepairWarning
from mogul.infer.em import EMSettings
from mogul.infer.many import as_mixture, fit_each
from mogul.mixture import Mixture

__all__ = ["ManyFits", "fit_many"]


@dataclass(frozen=True)
class ManyFits:
    """What :func:`fit_many` found.

    Attributes
    ----------
    mixture : Mixture, batch shape (M,)
        One for each data set; ``fits.mixture[i]`` is a single one. NaN where the fit failed.
    log_likelihood : ndarray, shape (M,)
        In nats per row, of ``mixture`` itself; −inf where the fit failed.
    n_iter : ndarray of int, shape (M,)
    converged : ndarray of bool, shape (M,)
    failed : ndarray of bool, shape (M,)
        Whether all components collapsed, whatever was tried.
    """

    mixture: Mixture
    log_likelihood: NDArray[np.float64]
    n_iter: NDArray[np.int64]
    converged: NDArray[np.bool_]
    failed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.n_iter)


def fit_many(
    data: Any,
    n_components: int = 1,
    covariance_type: str = "full",
    *,
    sample_weight: Any = None,
    tol: float = 1e-3,
    max_iter: int = 100,
    reg_covar: float = 1e-6,
    random_state: int | RandomState | None = None,
) -> ManyFits:
    r"""Fit a mixture of its own to each of many data sets, thousands of small ones a second.

    Each fit is what :class:`~mogul.GaussianMixture` does by default: four k-means partitions, every
    other one on standardised columns, ten iterations of EM from each, and EM from the best, with
    SQUAREM where it is slow, until an iteration gains less than ``tol`` nats a row and, by Aitken's
    estimate, less remains to be gained. With Numba installed (the extra ``fast``) all of
    that is compiled and runs on all cores.

    Parameters
    ----------
    data : array-like, shape (M, N, D), or sequence of array-likes, shapes (N_i, D)
    n_components : int, default 1
        The same for all.
    covariance_type : {"full", "tied", "diag", "spherical"}, default "full"
    sample_weight : array-like, shape (M, N), or sequence of array-likes, shapes (N_i,), optional
    tol, max_iter, reg_covar
        As of :class:`~mogul.GaussianMixture`. ``reg_covar`` is added to every variance.
    random_state : int, RandomState or None, default None

    Returns
    -------
    ManyFits
        In float64.

    Raises
    ------
    InputError
        For data that cannot be used; the sentence names the data set.

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import fit_many
    >>> rng = np.random.default_rng(0)
    >>> sites = rng.normal(size=(5, 100, 2)) + 8 * rng.integers(0, 2, size=(5, 100, 1))
    >>> fits = fit_many(sites, n_components=2, random_state=0)
    >>> fits.mixture.means.shape, bool(fits.converged.all())
    (torch.Size([5, 2, 2]), True)
    """
    k = check_count(n_components, "n_components")
    settings = EMSettings(
        _not_negative(tol, "tol"),
        check_count(max_iter, "max_iter", 0),
        _not_negative(reg_covar, "reg_covar"),
    )
    structure(covariance_type)
    sets = [_table(one, i) for i, one in enumerate(_sequence(data, "data"))]
    if not sets:
        raise InputError("There are no data sets; give at least one.")
    weights = None if sample_weight is None else _weights(sample_weight, sets)
    if weights is not None:  # a row without weight changes nothing, however extreme it is
        sets = [one[own > 0] for one, own in zip(sets, weights, strict=True)]
        weights = [own[own > 0] for own in weights]
    for i, one in enumerate(sets):
        if one.shape[1] != sets[0].shape[1]:
            raise InputError(
                f"Data set {i} (counted from 0) has {one.shape[1]} columns and the first "
                f"{sets[0].shape[1]}; all must have the same."
            )
        if len(one) < max(2, k):
            raise InputError(
                f"Data set {i} (counted from 0) has {len(one)} rows with weight, fewer than "
                f"{'two' if k < 2 else f'the {k} components'}; leave it out."
            )
    rows = sets[0] if len(sets) == 1 else np.concatenate(sets)
    ends = np.concatenate([[0], np.cumsum([len(one) for one in sets])]).astype(np.int64)
    weight = None if weights is None else np.concatenate(weights)
    rng = check_random_state(random_state)
    found = fit_each(rows, ends, weight, k, covariance_type, settings, rng)
    if found.failed.any():
        which = np.flatnonzero(found.failed)
        warn(
            f"{len(which)} of {len(sets)} data sets could not be fitted, the first of them number "
            f"{which[0]} (counted from 0): every start collapsed. Their parameters are NaN; fewer "
            "components or a larger reg_covar may help.",
            RepairWarning,
        )
    return ManyFits(
        as_mixture(found, covariance_type),
        found.log_likelihood,
        found.n_iter,
        found.converged,
        found.failed,
    )


def _not_negative(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < np.inf:
        raise InputError(f"{what} must be a number from 0 on; got {value!r}.")
    return float(value)


def _sequence(data: Any, what: str) -> Any:
    if isinstance(data, (str, bytes, dict)) or not hasattr(data, "__len__"):
        raise InputTypeError(
            f"{what} must be an array of three axes or a sequence of tables; got "
            f"{type(data).__name__}."
        )
    if getattr(data, "ndim", 3) != 3:
        raise InputError(
            f"{what} has {data.ndim} axes, expected 3 (data sets, rows, columns); for a single "
            "table use GaussianMixture."
        )
    return data


def _table(one: Any, number: int) -> NDArray[np.float64]:
    try:
        table = np.ascontiguousarray(one, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"Data set {number} (counted from 0) is not a table of numbers.") from None
    if table.ndim != 2 or table.shape[1] == 0:
        raise InputError(
            f"Data set {number} (counted from 0) has shape {table.shape}; expected rows and "
            "columns."
        )
    bad = ~np.isfinite(table)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"Data set {number} (counted from 0) holds {table[row, column]} in row {row}, column "
            f"{column}; drop or fill such rows."
        )
    return table


def _weights(sample_weight: Any, sets: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    if len(sample_weight) != len(sets):
        raise InputError(
            f"sample_weight is for {len(sample_weight)} data sets; there are {len(sets)}."
        )
    parts = [np.asarray(part, dtype=np.float64) for part in sample_weight]
    for i, (part, one) in enumerate(zip(parts, sets, strict=True)):
        if part.shape != (len(one),):
            raise InputError(
                f"sample_weight of data set {i} (counted from 0) has shape {part.shape}, expected "
                f"({len(one)},): one weight a row."
            )
        if not (np.isfinite(part).all() and (part >= 0).all() and part.any()):
            raise InputError(
                f"sample_weight of data set {i} (counted from 0) must be finite, not negative and "
                "not all zero."
            )
    return parts
