"""Outlier alarms from the density of a mixture, calibrated and explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.random import RandomState
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mogul._checks import check_count
from mogul._progress import ProgressLine
from mogul.covariances import STRUCTURES
from mogul.data.rows import Rows
from mogul.data.sources import Block, Source, check_weights_of
from mogul.data.views import View
from mogul.errors import DegenerateFitError, InputError
from mogul.estimators._alarms import CalibratedOutliers
from mogul.estimators._columns import column_units, in_units
from mogul.estimators._inputs import (
    adopt_columns,
    check_sample_weight,
    checked_batches,
    drawn_seed,
    validated,
)
from mogul.estimators._progress import checked_callbacks
from mogul.estimators._state import is_plain, take_over, unchanged_on_error
from mogul.explanation import Explanation, energy_contributions, feature_orders
from mogul.infer.em import stack
from mogul.infer.held_out import CrossFit, Form, cross_fit, search_forms
from mogul.infer.held_out_source import cross_fit_source
from mogul.infer.streaming import absorb, statistics_of
from mogul.infer.streams import Share
from mogul.kernels import log_prob
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["MixtureOutlierDetector"]

_FAMILIES = (
    Form("full", 1, 0.1),
    Form("full", 1, 0.03),
    Form("full", 1, 0.1, uncorrelated=True),
    Form("tied", 1, 0.1),
    Form("diag", 1, 0.1),
    Form("spherical", 1, 0.1),
)
"""What "auto" tries in all sizes; floors are in squared standard deviations of the columns."""
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_PILOT_ROWS = 5000
"""Of more rows the form is chosen on so many; the mixtures are then fitted to all."""
_ROWS_TOGETHER = 1 << 16
_REFERENCE_ROWS = 256
"""Of the rows that were fitted, kept to tell what features contribute in ordinary rows."""
_CALIBRATION_ROWS = 1 << 20
"""Of more rows in a source so many are kept for the calibration."""
_NOT_SAVED = ("random_state", "callbacks", "progress")


class MixtureOutlierDetector(CalibratedOutliers, BaseEstimator):
    r"""Outliers by their density under a mixture of Gaussians, with p-values and reasons.

    The rows are cut into folds, and for each fold a mixture is fitted to the others. A row's score
    is the logarithm of the average of these densities,

    .. math::
        s(x) = \log \frac1V \sum_v p_v(x),

    and the scores of the rows by the mixture that did not see them say how low an ordinary row
    scores: that makes thresholds and p-values without a guess of how many outliers there are.
    Structure and size are those of the largest held-out likelihood.

    Parameters
    ----------
    n_components : "auto" or int, default "auto"
        K, of the mixture of each fold: 1, 2, 4, ..., 128 are tried.
    covariance_type : {"auto", "full", "tied", "diag", "spherical"}, default "auto"
    contamination : "auto" or float, default "auto"
        Where ``predict`` draws the line: "auto" below the scores of 99 % of held-out rows; a number
        below those of this share of the training rows, as in scikit-learn.
    trim : float, default 0.0
        The share of the rows, those of least density, that mixtures are fitted without, and that
        columns are winsorised by before their units are taken: for training rows of which some are
        outliers.
    n_folds : int, default 5
        V.
    memory : int, optional
        For :meth:`partial_fit`: the number of rows after which what was learnt counts 1/e.
    window : int, default 2000
        For :meth:`partial_fit`: how many of the latest scores are kept for calibration.
    random_state : int, RandomState or None, default None
    callbacks : sequence of callables, optional
        Each is told of every form that was tried, a :class:`mogul.infer.held_out.CrossFit`.
    progress : {"auto", True, False}, default "auto"

    Attributes
    ----------
    mixture_ : Mixture
        The average of the folds' mixtures, V K components, in the units of the data.
    form_ : mogul.infer.held_out.Form
        Of the mixture of each fold; its floor is in squared standard deviations of the columns.
    held_out_ : list of (Form, float)
        The mean held-out log-likelihood of each form that was tried, in nats, of standardised rows.
    loc_, scale_ : ndarray, shape (D,)
        By which the columns are standardised.
    calibration_scores_ : list of V ndarray
        Scores of the rows of each fold by the mixture that did not see them.
    n_calibration_ : int
        How many they are.
    n_seen_ : float
        The weight of all rows learnt from, less what :meth:`partial_fit` forgot.
    n_streamed_ : int
        Rows that came by :meth:`partial_fit` after the fit.
    offset_ : float
        Rows that score below are outliers.
    n_features_in_ : int
    feature_names_in_ : ndarray

    Raises
    ------
    InputError
        For rows or settings that cannot be used.

    References
    ----------
    Bishop (1994), *Novelty detection and neural network validation*; Fraley and Raftery (2007) for
    the shrinkage of covariances; Vovk (2015) for p-values.

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import MixtureOutlierDetector
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2)) * [1.0, 100.0]
    >>> detector = MixtureOutlierDetector(random_state=0).fit(X)
    >>> strange = [[0.0, 0.0], [0.0, 900.0]]
    >>> detector.predict(strange).tolist()
    [1, -1]
    >>> bool(detector.p_values(strange)[1] == 1 / 501)
    True
    >>> detector.explain(strange).top(1)[1][0][0]
    'x1'
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions({"auto", *STRUCTURES})],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0.0, 0.5, closed="right")],
        "trim": [Interval(Real, 0.0, 0.5, closed="left")],
        "n_folds": [Interval(Integral, 2, None, closed="left")],
        "memory": [None, Interval(Integral, 1, None, closed="left")],
        "window": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "callbacks": [list, tuple, None],
        "progress": [StrOptions({"auto"}), "boolean"],
    }

    def __init__(
        self,
        n_components: str | int = "auto",
        *,
        covariance_type: str = "auto",
        contamination: str | float = "auto",
        trim: float = 0.0,
        n_folds: int = 5,
        memory: int | None = None,
        window: int = 2000,
        random_state: int | RandomState | None = None,
        callbacks: Sequence[Callable[[CrossFit], Any]] | None = None,
        progress: str | bool = "auto",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.contamination = contamination
        self.trim = trim
        self.n_folds = n_folds
        self.memory = memory
        self.window = window
        self.random_state = random_state
        self.callbacks = callbacks
        self.progress = progress

    # --- fitting ------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to rows that are ordinary, or nearly all of them.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D), or Source
            A :class:`mogul.data.Source` is read in batches: of more than 64,000 rows the units and
            the form are found on a sample, the mixtures are fitted to all, and about a million rows
            calibrate and set the threshold of ``contamination``. It must give the same rows in the
            same order in every pass. In a process group every process calls this and gets the same
            answer.
        y : ignored
        sample_weight : array-like, shape (N,), optional
            Of each row in the fit; every row of positive weight counts once in the calibration.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For rows, weights or settings that cannot be used.
        """
        with unchanged_on_error(self):
            rng = check_random_state(self.random_state)
            if isinstance(X, Source):
                self._fit_source(X, sample_weight, rng)
                return self
            array = validated(self, X, reset=True, min_samples=2)
            self._fit_rows(array, check_sample_weight(sample_weight, len(array)), rng)
        return self

    def _fit_rows(self, array: np.ndarray, weight: np.ndarray | None, rng: RandomState) -> None:
        if weight is not None and not weight.all():
            array, weight = array[weight > 0], weight[weight > 0]
        if len(array) < 2:
            raise InputError("Only one row has a positive weight; at least two are needed.")
        rows = self._in_own_units(array, weight)
        chosen = self._chosen(rows, rng)
        self.form_ = chosen.form
        self._set_mixtures([chosen.mixture[v] for v in range(len(chosen.mixture))])
        scores = [chosen.scores[f].numpy() for f in chosen.folds()]
        self._settle(scores, rows, rows.total_weight, rng)

    def _fit_source(self, source: Source, sample_weight: Any, rng: RandomState) -> None:
        """The first process looks at the sample; all fit to their parts of the rows."""
        check_weights_of(source, sample_weight)
        share = Share.surveyed(source, 1, rng, torch.device("cpu"), what="cross-fitting")
        found, team = share.found, share.team
        if found.n_rows < 2:
            raise InputError("Only one row has a positive weight; at least two are needed.")
        adopt_columns(self, source.names, source.n_features)
        array = found.sample.values.numpy()
        weight = None if found.sample.weight is None else found.sample.weight.numpy()
        if not share.samples:
            take_over(self, team, lambda: self._fit_rows(array, weight, rng))
            return
        rows = self._in_own_units(array, weight)
        take_over(self, team, lambda: self._choose_form(rows, rng))

        def standardised(block: Block) -> Block:
            return replace(block, values=self._standardised(block.values))

        fitted = cross_fit_source(
            View(source, standardised),
            self.form_,
            int(self.n_folds),
            rng,
            sample=rows,
            n_rows=found.n_rows,
            n_scores=_CALIBRATION_ROWS,
            seed=share.seed,
            trim=float(self.trim),
        )
        self._set_mixtures(fitted.mixtures)
        drawn = RandomState(share.seed)  # the same in all processes
        self._settle(fitted.scores, rows, found.total_weight, drawn, every=False)

    def _in_own_units(self, array: np.ndarray, weight: np.ndarray | None) -> Rows:
        """Rows in the units that they give."""
        self.loc_, self.scale_ = column_units(array, weight, float(self.trim))
        values = torch.from_numpy(self._standardised(array))
        return Rows(values, None if weight is None else torch.from_numpy(weight))

    def _settle(
        self,
        scores: list[np.ndarray],
        rows: Rows,
        n_seen: float,
        rng: RandomState,
        *,
        every: bool = True,
    ) -> None:
        """Keep what calibrates: scores of rows left out, in standard units, and some rows.

        ``every`` tells that ``rows`` are all that were fitted, so that ``contamination`` is a share
        of them; else it is one of the calibration.
        """
        self.calibration_scores_ = [one - self._log_units() for one in scores]
        self._stats: list[Stats] = []
        self.n_seen_, self.n_streamed_ = n_seen, 0
        some = torch.from_numpy(rng.permutation(rows.n_rows)[:_REFERENCE_ROWS])
        self._reference = rows.values[some]
        own = self._mean_score(rows.values).numpy() - self._log_units() if every else None
        self._set_offset(own)

    def _choose_form(self, rows: Rows, rng: RandomState) -> None:
        """The form that does best on rows of a sample that it was not fitted to."""
        self.form_ = self._best(rows, self._folds(rows.n_rows, rng), rng, drawn_seed(rng)).form

    def _chosen(self, rows: Rows, rng: RandomState) -> CrossFit:
        """The mixtures of the form that does best on rows they were not fitted to."""
        fold = self._folds(rows.n_rows, rng)
        self._check_size(fold)
        seed = drawn_seed(rng)
        best = self._best(rows, fold, rng, seed)
        if len(best.scores) == rows.n_rows and not self.trim:
            return best
        return cross_fit(rows, fold, best.form, RandomState(seed), trim=float(self.trim))

    def _best(self, rows: Rows, fold: Tensor, rng: RandomState, seed: int) -> CrossFit:
        """The best of all forms, on some of the rows where there are many."""
        families, sizes = self._families(), self._sizes()
        callbacks, line = checked_callbacks(self), ProgressLine(self.progress)
        total, done = len(families) * len(sizes), 0

        def told(one: CrossFit) -> None:
            nonlocal done
            done += 1
            said = f"{one.form.covariance_type}, {one.form.n_components} components"
            line.update("form", done, total, said)
            for callback in callbacks:
                callback(one)

        try:
            pilot, pilot_fold = rows, fold
            if rows.n_rows > _PILOT_ROWS and total > 1:
                some = torch.from_numpy(rng.permutation(rows.n_rows)[:_PILOT_ROWS])
                weight = None if rows.weight is None else rows.weight[some]
                pilot = Rows(rows.values[some], weight)
                pilot_fold = self._folds(_PILOT_ROWS, rng)
            tried = search_forms(
                pilot, pilot_fold, families, sizes, RandomState(seed), on_candidate=told
            )
        finally:
            line.close()
        if not tried:
            raise DegenerateFitError(
                "No mixture could be fitted to these rows; fewer components may do."
            )
        self.held_out_ = [(one.form, one.log_likelihood) for one in tried]
        return max(tried, key=lambda one: one.log_likelihood)

    def _families(self) -> list[Form]:
        wanted = self.covariance_type
        return [one for one in _FAMILIES if wanted in ("auto", one.covariance_type)]

    def _sizes(self) -> list[int]:
        if isinstance(self.n_components, str):
            return list(_SIZES)
        return [int(self.n_components)]

    def _check_size(self, fold: Tensor) -> None:
        if isinstance(self.n_components, str):
            return
        fewest = len(fold) - int(fold.bincount().max())
        if self.n_components > fewest:
            raise InputError(
                f"n_components={self.n_components} is more than the {fewest} rows that a mixture "
                f"is fitted to, beside its fold, of {len(fold)}; ask for fewer or give more rows."
            )

    def _folds(self, n_rows: int, rng: RandomState) -> Tensor:
        return torch.from_numpy(rng.permutation(n_rows) % min(self.n_folds, n_rows))

    def _set_mixtures(self, mixtures: list[Mixture]) -> None:
        """Keep the folds' mixtures, of standardised rows, and their average in the data's units."""
        self._mixtures = mixtures
        names = getattr(self, "feature_names_in_", None)
        merged = stack(mixtures).merged().affine(self.loc_, self.scale_)
        given = None if names is None else tuple(str(name) for name in names)
        self.mixture_ = Mixture(merged.log_weights, merged.means, merged.covariance, given)
        self._baseline: dict[int, np.ndarray] = {}

    # --- a stream -----------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Score new rows, then learn from them.

        The first call is :meth:`fit`, which sets units and form. Later rows are scored before the
        mixtures move, so that their scores are those of rows not seen; the latest ``window`` of
        them are the calibration, and the threshold rolls with it.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        y : ignored

        Returns
        -------
        self
        """
        if not hasattr(self, "offset_"):
            return self.fit(X)
        array = validated(self, X, reset=False)
        values = torch.from_numpy(self._standardised(array))
        scores = self._by_fold(values).numpy() - self._log_units()
        n_folds = len(self._mixtures)
        turn = (np.arange(len(array)) + self.n_streamed_) % n_folds
        self.n_streamed_ += len(array)
        most = -(-self.window // n_folds)
        self.calibration_scores_ = [
            np.concatenate([old, scores[v, turn == v]])[-most:]
            for v, old in enumerate(self.calibration_scores_)
        ]
        self._reference = torch.cat([self._reference, values])[-_REFERENCE_ROWS:]
        self._learn(Rows(values))
        self._set_offset()
        return self

    def _learn(self, rows: Rows) -> None:
        keep = 1.0 if self.memory is None else float(np.exp(-rows.n_rows / self.memory))
        if not self._stats:
            self._stats = [statistics_of(m, self.n_seen_, self.form_.floor) for m in self._mixtures]
        moved = [
            absorb(stats, mixture, rows, keep, self.form_.settings(rows.n_features))
            for stats, mixture in zip(self._stats, self._mixtures, strict=True)
        ]
        self._stats = [stats for stats, _ in moved]
        self.n_seen_ = self.n_seen_ * keep + rows.n_rows
        self._set_mixtures([mixture for _, mixture in moved])

    # --- scores -------------------------------------------------------------------------------

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row, (N,), in nats and in the units of the data.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D), or Source
        """
        parts = [self._mean_score(part).numpy() for part in self._in_parts(X)]
        return np.concatenate(parts) - self._log_units()

    def _fold_scores(self, X: Any) -> np.ndarray:
        parts = [self._by_fold(part).numpy() for part in self._in_parts(X)]
        return np.concatenate(parts, axis=1) - self._log_units()

    def _mean_score(self, values: Tensor) -> Tensor:
        return torch.logsumexp(self._by_fold(values), 0) - float(np.log(len(self._mixtures)))

    def _by_fold(self, values: Tensor) -> Tensor:
        return torch.stack([log_prob(values, mixture) for mixture in self._mixtures])

    def _in_parts(self, X: Any) -> Iterator[Tensor]:
        """Standardised rows, so many at once that memory does not grow with their number."""
        check_is_fitted(self, "offset_")
        if isinstance(X, Source):
            arrays = (rows.values.numpy() for rows in checked_batches(self, X))
        else:
            arrays = iter([validated(self, X, reset=False)])
        for array in arrays:
            for at in range(0, len(array), _ROWS_TOGETHER):
                yield torch.from_numpy(self._standardised(array[at : at + _ROWS_TOGETHER]))

    def _standardised(self, array: np.ndarray) -> np.ndarray:
        return in_units(array, self.loc_, self.scale_)

    def _log_units(self) -> float:
        """What a log-density of standardised rows has more than one of rows."""
        return float(np.log(self.scale_).sum())

    # --- reasons ------------------------------------------------------------------------------

    def explain(self, X: Any, n_orders: int = 32) -> Explanation:
        """What each feature adds to the energy, −score, of each row.

        Beyond what it adds on average in 256 of the rows that were fitted: contributions of a row
        sum to its energy less their mean energy. Each is the mean over orders of the features of
        −log p(feature | features before it), from the mixture's own conditional densities; see
        :func:`mogul.explanation.energy_contributions`.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D), or Source
        n_orders : int, default 32
            Of more than five features; of up to five all orders are taken.

        Returns
        -------
        Explanation
        """
        count = check_count(n_orders, "n_orders")
        parts = list(self._in_parts(X))
        mixture = stack(self._mixtures).merged()
        orders = feature_orders(mixture.n_features, count)
        if count not in self._baseline:
            usual = energy_contributions(mixture, self._reference, orders)
            self._baseline[count] = usual.mean(0).numpy()
        found = [energy_contributions(mixture, part, orders).numpy() for part in parts]
        return Explanation(np.concatenate(found) - self._baseline[count], self._names())

    # --- files --------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, from which :meth:`from_state` rebuilds this."""
        check_is_fitted(self, "offset_")
        params = {k: v for k, v in self.get_params().items() if k not in _NOT_SAVED}
        names = getattr(self, "feature_names_in_", None)
        seed = self.random_state
        mixture, tensors = stack(self._mixtures).to_state()
        header = {
            "params": params,
            "random_state": seed if is_plain(seed) else None,
            "feature_names": None if names is None else [str(name) for name in names],
            "n_features": self.n_features_in_,
            "mixture": mixture,
            "form": asdict(self.form_),
            "offset": self.offset_,
            "n_seen": self.n_seen_,
            "n_streamed": self.n_streamed_,
            "held_out": [[asdict(form), value] for form, value in self.held_out_],
            "n_folds": len(self._mixtures),
            "streamed": bool(self._stats),
        }
        tensors["reference"] = self._reference
        tensors |= {"loc": torch.from_numpy(self.loc_), "scale": torch.from_numpy(self.scale_)}
        for v, scores in enumerate(self.calibration_scores_):
            tensors[f"calibration.{v}"] = torch.from_numpy(scores)
        for v, stats in enumerate(self._stats):
            tensors |= {f"stats.{v}.{name}": value for name, value in vars(stats).items()}
        return header, tensors

    @classmethod
    def from_state(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what :meth:`to_state` took apart; scores are bit-equal."""
        model = cls(**header["params"], random_state=header["random_state"])
        model.n_features_in_ = header["n_features"]
        if header["feature_names"] is not None:
            model.feature_names_in_ = np.asarray(header["feature_names"], dtype=object)
        model.loc_, model.scale_ = tensors["loc"].numpy(), tensors["scale"].numpy()
        batch = Mixture.from_state(header["mixture"], tensors)
        model._set_mixtures([batch[v] for v in range(header["n_folds"])])
        model.form_ = Form(**header["form"])
        model._reference = tensors["reference"]
        model.offset_, model.n_seen_ = header["offset"], header["n_seen"]
        model.n_streamed_ = header["n_streamed"]
        model.held_out_ = [(Form(**form), value) for form, value in header["held_out"]]
        every = range(header["n_folds"])
        model.calibration_scores_ = [tensors[f"calibration.{v}"].numpy() for v in every]
        fields = Stats.__dataclass_fields__
        model._stats = [
            Stats(**{name: tensors[f"stats.{v}.{name}"] for name in fields})
            for v in (every if header["streamed"] else ())
        ]
        return model
