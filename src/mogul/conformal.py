"""Calibrated alarms: conformal p-values, and lists of alarms of which few are false."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mogul._checks import check_level
from mogul.errors import InputError

__all__ = ["benjamini_hochberg", "conformal_p_values", "cross_conformal_p_values"]


def conformal_p_values(scores: Any, calibration: Any) -> np.ndarray:
    r"""How often a row of the kind that made ``calibration`` has a score as low as these.

    .. math::
        p(s) = \frac{1 + \#\{j : c_j \le s\}}{n + 1}

    If rows are exchangeable with those of the calibration, which the model must not have seen, then
    :math:`P(p \le \alpha) \le \alpha` for every α, whatever the model.

    Parameters
    ----------
    scores : array-like, shape (N,)
        Higher is more ordinary.
    calibration : array-like, shape (n,)

    Returns
    -------
    ndarray, shape (N,)
        From 1 / (n + 1) to 1.

    Raises
    ------
    InputError
        When a score is NaN or there is no calibration.

    References
    ----------
    Vovk, Gammerman and Shafer (2005); Laxhammar and Falkman (2010).

    Examples
    --------
    >>> from mogul.conformal import conformal_p_values
    >>> conformal_p_values([-9.0, 0.5], [0.1, 0.4, 0.9]).tolist()
    [0.25, 0.75]
    """
    return cross_conformal_p_values(_numbers(scores, "scores")[None], [calibration])


def cross_conformal_p_values(scores: Any, calibration: Sequence[Any]) -> np.ndarray:
    r"""The same when each row of the calibration was scored by a model that had not seen it.

    .. math::
        p(x) = \frac{1 + \sum_v \#\{j \in v : c_j \le s_v(x)\}}{n + 1}

    Parameters
    ----------
    scores : array-like, shape (V, N)
        By the model of each fold.
    calibration : sequence of V array-like
        The scores of each fold's rows by the model that left them out, n in all.

    Returns
    -------
    ndarray, shape (N,)

    Raises
    ------
    InputError
        When a score is NaN, shapes do not fit or there is no calibration.

    References
    ----------
    Vovk (2015), *Cross-conformal predictors*. The share of fresh rows with p ≤ α is then at most 2α
    in theory and about α in practice.

    Examples
    --------
    >>> from mogul.conformal import cross_conformal_p_values
    >>> cross_conformal_p_values([[0.0], [2.0]], [[-1.0, 1.0], [1.5, 3.0]]).tolist()
    [0.6]
    """
    values = _numbers(scores, "scores")
    folds = [np.sort(_numbers(one, "calibration")) for one in calibration]
    if values.ndim != 2 or len(values) != len(folds):
        raise InputError(
            f"Scores of shape {values.shape} do not fit {len(folds)} folds; expected a row of "
            "scores for each fold."
        )
    n = sum(len(fold) for fold in folds)
    if not n:
        raise InputError("There are no calibration scores; at least one is needed.")
    below = np.zeros(values.shape[1])
    for fold, own in zip(folds, values, strict=True):
        below += np.searchsorted(fold, own, side="right")
    return (1.0 + below) / (n + 1.0)


def benjamini_hochberg(p_values: Any, fdr: float = 0.05) -> np.ndarray:
    r"""The rows to report so that on average at most a share ``fdr`` of the reports is false.

    With :math:`p_{(1)} \le \dots \le p_{(N)}` those up to the largest i for which
    :math:`p_{(i)} \le i\, \mathrm{fdr} / N`.

    Parameters
    ----------
    p_values : array-like, shape (N,)
    fdr : float, default 0.05
        The expected share of false ones among those reported.

    Returns
    -------
    ndarray of bool, shape (N,)

    Raises
    ------
    InputError
        For p-values outside [0, 1] and a level outside (0, 1).

    References
    ----------
    Benjamini and Hochberg (1995); for conformal p-values, which depend on each other through the
    calibration, Bates, Candès, Lei, Romano and Sesia (2023).

    Examples
    --------
    >>> from mogul.conformal import benjamini_hochberg
    >>> benjamini_hochberg([0.001, 0.8, 0.02, 0.3], 0.05).tolist()
    [True, False, True, False]
    """
    values = _numbers(p_values, "p_values")
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError("p_values must be a list of numbers from 0 to 1.")
    level, n = check_level(fdr, "fdr"), len(values)
    order = np.argsort(values, kind="stable")
    passed = values[order] <= level * np.arange(1, n + 1) / n if n else np.zeros(0, bool)
    last = np.flatnonzero(passed)
    found = np.zeros(n, bool)
    if len(last):
        found[order[: last[-1] + 1]] = True
    return found


def _numbers(values: Any, name: str) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if np.isnan(found).any():
        raise InputError(f"{name} must be numbers; {int(np.isnan(found).sum())} are NaN.")
    return found
