"""What outlier detectors share: thresholds, conformal p-values, lists with few false alarms."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from mogul._checks import check_level
from mogul.conformal import benjamini_hochberg, cross_conformal_p_values
from mogul.errors import InputError

__all__ = ["CalibratedOutliers"]

_ROUNDING = 1e-9
"""Scores that differ by less, relatively, are ties: the last bits of a sum depend on the batch."""
_AUTO_LEVEL = 0.01
"""The share of ordinary rows below the threshold when contamination is "auto"."""


class CalibratedOutliers(OutlierMixin):
    """Alarms from scores, for an estimator that has kept scores of rows it was not fitted to.

    The estimator gives ``score_samples(X)``, ``_fold_scores(X)`` of shape (V, N) and
    ``calibration_scores_``, a list of V arrays.
    """

    contamination: Any
    offset_: float
    n_features_in_: int
    calibration_scores_: list[np.ndarray]

    def score_samples(self, X: Any) -> np.ndarray:
        raise NotImplementedError

    def _fold_scores(self, X: Any) -> np.ndarray:
        raise NotImplementedError

    def _names(self) -> tuple[str, ...]:
        """What reasons call the features: as the table did, or x0, x1, ..."""
        given = getattr(self, "feature_names_in_", None)
        if given is None:
            return tuple(f"x{j}" for j in range(self.n_features_in_))
        return tuple(str(name) for name in given)

    @property
    def n_calibration_(self) -> int:
        """The number of calibration scores."""
        check_is_fitted(self, "offset_")
        return sum(map(len, self.calibration_scores_))

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples(X) − offset_``, (N,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any, alpha: float | None = None) -> np.ndarray:
        """−1 for outliers and 1 for the others, (N,).

        Parameters
        ----------
        X : array-like or data frame, shape (N, D); of a mixture also Source
        alpha : float, optional
            The share of ordinary rows that may be called outliers: those with a p-value of at most
            alpha are. Without it, those that score below ``offset_``.

        Raises
        ------
        InputError
            For an alpha outside (0, 1), or one that needs more calibration rows.
        """
        if alpha is None:
            return np.where(self.decision_function(X) < 0, -1, 1)
        level = check_level(alpha, "alpha")
        check_is_fitted(self, "offset_")
        fewest = int(np.ceil(1 / level)) - 1
        if self.n_calibration_ < fewest:
            raise InputError(
                f"alpha={level:g} needs at least {fewest} calibration rows and there are "
                f"{self.n_calibration_}; fit to more rows or ask for a larger alpha."
            )
        return np.where(self.p_values(X) <= level, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """How often ordinary rows look as strange as each of these, (N,).

        Conformal: a row is compared with rows that the model has not seen, where there are folds
        by each fold's model with those it has not seen (Vovk 2015); see
        :func:`mogul.conformal.cross_conformal_p_values`.
        """
        check_is_fitted(self, "offset_")
        scores = self._fold_scores(X)
        tied = scores + _ROUNDING * np.maximum(1.0, np.abs(scores))
        return cross_conformal_p_values(tied, self.calibration_scores_)

    def detect(self, X: Any, fdr: float = 0.05) -> np.ndarray:
        """The outliers in X such that on average at most a share ``fdr`` of them is ordinary.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D); of a mixture also Source
        fdr : float, default 0.05

        Returns
        -------
        ndarray of bool, shape (N,)
            By the procedure of Benjamini and Hochberg (1995) on :meth:`p_values`. As these are at
            least 1 / (n + 1) for n calibration rows, a list has no or N / (fdr (n + 1)) rows and
            more: with few calibration rows, look at few rows at once.
        """
        level = check_level(fdr, "fdr")
        return benjamini_hochberg(self.p_values(X), level)

    def infer_threshold(
        self, X: Any, threshold_perc: float | None = None, *, fpr: float | None = None
    ) -> float:
        """Set ``offset_`` from rows, so that a given share of them scores below it.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D); of a mixture also Source
        threshold_perc : float, default 95
            The percentage of the rows that is ordinary.
        fpr : float, optional
            Instead: the share of rows, all of them ordinary, that may be called outliers.

        Returns
        -------
        float
            The new ``offset_``.
        """
        if threshold_perc is not None and fpr is not None:
            raise InputError("Give either threshold_perc or fpr, not both.")
        if fpr is not None:
            share = check_level(fpr, "fpr")
        else:
            percent = 95.0 if threshold_perc is None else threshold_perc
            if not isinstance(percent, Real) or not 0 < float(percent) < 100:
                raise InputError(
                    f"threshold_perc must lie strictly between 0 and 100; got {percent!r}."
                )
            share = 1 - float(percent) / 100
        self.offset_ = float(np.quantile(self.score_samples(X), share))
        return self.offset_

    def _set_offset(self, training_scores: np.ndarray | None = None) -> None:
        """The threshold from ``contamination``: a share of the training rows where they are given,
        as scikit-learn has it, else of the calibration.
        """
        automatic = isinstance(self.contamination, str)
        share = _AUTO_LEVEL if automatic else float(self.contamination)
        if automatic or training_scores is None:
            training_scores = np.concatenate(self.calibration_scores_)
        self.offset_ = float(np.quantile(training_scores, share))
