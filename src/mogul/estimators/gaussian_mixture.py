"""Gaussian mixture by maximum likelihood, with scikit-learn's interface."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.random import RandomState
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mogul import kernels
from mogul._memory import given_back_if_large
from mogul._threads import one_thread_if_small
from mogul._warn import warn
from mogul.covariances import STRUCTURES, structure
from mogul.data.rows import Rows
from mogul.data.sources import Source, check_weights_of
from mogul.errors import InputError, RepairWarning
from mogul.estimators._inputs import (
    adopt_columns,
    as_rows,
    as_tensor,
    check_enough_rows,
    check_sample_weight,
    check_shape,
    checked_batches,
    named_device,
    named_dtype,
    random_state_of,
    validated,
    warn_of_constant,
    warn_of_constant_columns,
)
from mogul.estimators._progress import Observers
from mogul.estimators._state import (
    finite_or_none,
    is_plain,
    remembered_checks,
    remembered_names,
)
from mogul.infer.ascent import ACCELERATIONS
from mogul.infer.checkpoint import Checkpoint
from mogul.infer.criteria import information_criterion, mean_log_likelihood
from mogul.infer.em import EMResult, EMSettings, fit_em
from mogul.infer.incremental import incremental_em
from mogul.infer.maximum_likelihood import Fit, FixedParts, fit_mixture
from mogul.infer.nested import nested_climb, sample_sizes
from mogul.infer.starts import STARTS
from mogul.infer.stopping import IterationRecord
from mogul.infer.streaming import stepwise
from mogul.infer.streams import fit_source
from mogul.infer.survey import Survey
from mogul.infer.team import Team
from mogul.mixture import Mixture
from mogul.nn.gradient_ascent import ascend

__all__ = ["GaussianMixture"]

_CONSTANT = "its variance is reg_covar alone and the likelihood means little"

_ALGORITHMS = ("auto", "em", "incremental", "gradient")


class GaussianMixture(DensityMixin, BaseEstimator):
    r"""A mixture of Gaussians fitted by expectation maximisation, or by gradient.

    .. math::
        p(x) = \sum_{k=1}^K w_k\, \mathcal{N}(x \mid \mu_k, \Sigma_k)

    Takes the place of ``sklearn.mixture.GaussianMixture``: constructor, methods and fitted
    attributes have the same names, shapes and meaning. What is new: row weights, float32 that is
    right far from the origin, starts that collapse are repaired instead of ending the fit,
    acceleration, ICL, and :attr:`mixture_`, a ``torch`` distribution.

    Parameters
    ----------
    n_components : int, default 1
        K, the number of components.
    covariance_type : {"full", "tied", "diag", "spherical"}, default "full"
        One matrix for each component, one for all, one variance for each component and feature, or
        one variance for each component.
    tol : float, default 1e-3
        EM stops when a step changes the log-likelihood per row by less, in nats. Unless
        ``acceleration`` is "none" it also asks that less than this remains to be gained, as
        extrapolated from the last steps, so that it does not stop on a plateau.
    reg_covar : float, default 1e-6
        Added to every variance, in squared units of the data: it is *not* relative to the scale of
        the data. Scale columns whose variance is near it.
    max_iter : int, default 100
    n_init : int, default 1
        Starts, of which the likeliest end is kept. Where compiled code fits, one after another;
        else they run together as one batched problem.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default "kmeans"
        "kmeans" tries several k-means partitions, on a sample of the rows when there are many, and
        takes the one that a few EM iterations bring furthest; the others are scikit-learn's.
    weights_init, means_init, precisions_init : array-like, optional
        Parameters to start from, in the shapes of the fitted attributes.
    random_state : int, RandomState or None, default None
    warm_start : bool, default False
        Go on from the last fit.
    verbose : int, default 0
    verbose_interval : int, default 10
    algorithm : {"auto", "em", "incremental", "gradient"}, default "auto"
        "auto" is EM; of 800,000 rows on (200 times as many as a start looks at) on random samples
        first, each sixteen times as large as the last. That took three quarters of the time on
        average, from a quarter to twice as long, and may end at another optimum. ``n_iter_`` and
        ``history_`` are of the iterations on all rows. Where parameters to start from are given,
        it is "em".
        "incremental" is for sources: an M-step after each of up to 32 parts of the rows (Neal and
        Hinton 1998), which needs fewer passes where starts are far from the end, then EM. Where the
        parts are unlike each other, in a sorted file say, it still raises the likelihood.
        "gradient" maximises the likelihood by L-BFGS, one start after another: several times fewer
        passes over the rows than plain EM when clusters overlap heavily, and down to half of those
        of accelerated EM. ``tol`` is then the gain of five iterations together, no variance falls
        below ``reg_covar``, and ``lower_bounds_`` holds the value after each iteration.
    acceleration : {"auto", "squarem", "none"}, default "auto"
        Of EM: SQUAREM extrapolation (Varadhan and Roland 2008), guarded so that it never lowers the
        likelihood. "auto" turns it on once plain EM would need many more iterations.
    callbacks : sequence of callables, optional
        Each is called with an ``IterationRecord`` after every iteration; returning True ends the
        fit and keeps the best state so far.
    progress : {"auto", True, False}, default "auto"
        A progress line on standard error; "auto" shows one on a terminal when a fit is long.
    device : str or torch.device, optional
        Where to compute; the CPU by default.
    dtype : {"float32", "float64"}, optional
        The type of the fitted parameters; that of the data by default. Sums are always float64.
    checkpoint : Checkpoint or path, optional
        Of a fit to a source: a file that keeps the state after every iteration, so that a fit that
        was killed can go on, by ``Checkpoint(path, resume=True)``. A path alone begins anew and
        replaces the file.

    Attributes
    ----------
    weights_ : ndarray, shape (K,)
    means_ : ndarray, shape (K, D)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        (K, D, D) for "full", (D, D) for "tied", (K, D) for "diag", (K,) for "spherical".
    converged_ : bool
    n_iter_ : int
        Iterations of the start that won.
    lower_bound_ : float
        Log-likelihood per row of the fitted mixture, equal to ``score`` of the training data
        (scikit-learn's lags one step behind its parameters).
    lower_bounds_ : list of float
        Log-likelihood per row at the start of each iteration, as in scikit-learn.
    history_ : list of IterationRecord
        What happened in each iteration of the start that won.
    mixture_ : Mixture
        The fitted mixture as a distribution.
    n_seen_ : float
        The weight of all rows that were fitted.
    passes_ : PassReport
        After a fit to a source: how many passes over the rows there were, and how fast.

    Raises
    ------
    InputError
        For data, weights or start parameters that cannot be used.
    DegenerateFitError
        When every start collapses.

    References
    ----------
    Dempster, Laird and Rubin (1977); McLachlan and Peel (2000).

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> model = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> sorted(model.means_.round(6).tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    >>> bool(model.predict([[0, 0]]) != model.predict([[12, 3]]))
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(STRUCTURES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(STARTS))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "algorithm": [StrOptions(set(_ALGORITHMS))],
        "acceleration": [StrOptions(set(ACCELERATIONS))],
        "callbacks": [list, tuple, None],
        "progress": [StrOptions({"auto"}), "boolean"],
    }

    weights_: np.ndarray
    means_: np.ndarray
    covariances_: np.ndarray
    precisions_: np.ndarray
    precisions_cholesky_: np.ndarray

    _get_param_names = remembered_names
    _validate_params = remembered_checks

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: int | RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        algorithm: str = "auto",
        acceleration: str = "auto",
        callbacks: Sequence[Callable[[IterationRecord], bool | None]] | None = None,
        progress: str | bool = "auto",
        device: str | torch.device | None = None,
        dtype: Any = None,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.algorithm = algorithm
        self.acceleration = acceleration
        self.callbacks = callbacks
        self.progress = progress
        self.device = device
        self.dtype = dtype
        self.checkpoint = checkpoint

    # --- fitting ------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Estimate the parameters from the rows of X.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D), or Source
            A :class:`mogul.data.Source` is read in batches, once before the first iteration and
            once in each. In a process group every process calls this and gets the same answer.
        y : ignored
        sample_weight : array-like, shape (N,), optional
            A weight of two counts a row twice, a weight of zero not at all.

        Returns
        -------
        self
        """
        if isinstance(X, Source):
            self._fit_source(X, sample_weight)
        else:
            self._fit(X, sample_weight)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, then return the most probable component of each row; the same as fit, predict."""
        if isinstance(X, Source):
            return self.fit(X, sample_weight=sample_weight).predict(X)
        array = self._fit(X, sample_weight)
        return self._predict(as_rows(array, None, named_device(self.device)))

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X: Any, sample_weight: Any) -> np.ndarray:
        device = named_device(self.device)
        if self.checkpoint is not None or self.algorithm == "incremental":
            what = "checkpoint keeps the state of" if self.checkpoint else "'incremental' is for"
            raise InputError(f"{what} fits to a source; give mogul.data.ArraySource(X).")
        array = validated(self, X, reset=True, min_samples=2)
        weight = check_sample_weight(sample_weight, len(array))
        dtype = named_dtype(self.dtype) or array.dtype
        check_enough_rows(self.n_components, array, weight)
        names = getattr(self, "feature_names_in_", None)
        work = array.size * array.shape[1] * int(self.n_components)
        give_back = given_back_if_large(self._n_numbers(array.shape[1]))
        with give_back, one_thread_if_small(work), Observers(self) as observers:
            fixed = self._fixed_parts(array.shape[1])
            rows = as_rows(array, weight, device)
            warn_of_constant_columns(rows, names, _CONSTANT)
            random_state = random_state_of(self.random_state)
            continued = self._last_state(array.shape[1])
            begun = continued is not None or not fixed.empty
            fit = fit_mixture(
                rows,
                int(self.n_components),
                self.covariance_type,
                EMSettings(self.tol, int(self.max_iter), self.reg_covar, self.acceleration),
                method=self.init_params,
                n_init=self.n_init,
                random_state=random_state,
                fixed=fixed,
                continue_from=continued,
                together=not self.verbose,
                climb=self._climb(rows, begun, random_state),
                on_iteration=observers.watching,
                on_end=observers.finish,
            )
            with one_thread_if_small(0):  # to wake torch's threads takes longer than this
                self.adopt(fit, dtype, names)
                self.n_seen_ = rows.total_weight
        self._warn_of(fit)
        return array

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_source(self, source: Source, sample_weight: Any) -> None:
        check_weights_of(source, sample_weight)
        if self.algorithm in ("gradient", "incremental") and self.checkpoint is not None:
            raise InputError("checkpoint keeps the state of EM; leave it out, or take 'em'.")
        names = source.names
        fixed = self._fixed_parts(source.n_features)
        surveys: list[Survey] = []
        leads = Team().leads
        give_back = given_back_if_large(self._n_numbers(source.n_features))
        with give_back, Observers(self, silent=not leads) as observers:  # others would say the same
            passes = observers.of_passes(source)
            fit = fit_source(
                source,
                int(self.n_components),
                self.covariance_type,
                EMSettings(self.tol, int(self.max_iter), self.reg_covar, self.acceleration),
                method=self.init_params,
                n_init=self.n_init,
                random_state=random_state_of(self.random_state),
                fixed=fixed,
                continue_from=self._last_state(source.n_features),
                samples=self.algorithm in ("auto", "gradient"),
                algorithm={"gradient": ascend, "incremental": incremental_em}.get(
                    self.algorithm, fit_em
                ),
                device=named_device(self.device),
                checkpoint=self._checkpoint(),
                on_iteration=observers.watching,
                on_survey=surveys.append,
                reading=passes,
            )
            observers.finish(fit.trace)
        dtype = named_dtype(self.dtype or surveys[0].sample.values.dtype)
        self.adopt(fit, dtype or np.dtype(np.float64), names)
        self.passes_, self.n_seen_ = passes.report, surveys[0].total_weight
        if leads:
            warn_of_constant(surveys[0].constant, names, _CONSTANT)
            self._warn_of(fit)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        r"""Take one more batch of a stream into the mixture: stepwise EM (Cappé and Moulines 2009).

        The first batch is fitted, or the mixture of :meth:`fit` is gone on from. Each later one
        moves the mean statistics s towards its own, :math:`s \leftarrow (1 - \eta) s + \eta s_B`
        with :math:`\eta = (t + 2)^{-0.6}`, t the weight of all rows before it in batches of its
        size, and an M-step follows. A batch of ten rows or more for each component is best; rows
        that would make one collapse are passed over.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
            Of rows in a source :meth:`fit` takes all.
        y : ignored
        sample_weight : array-like, shape (N,), optional

        Returns
        -------
        self
            ``lower_bound_`` is the mean log-density of the batch before the step, ``n_seen_`` the
            weight of all rows so far.
        """
        if not hasattr(self, "means_"):
            self._fit(X, sample_weight)
            return self
        mixture = self.mixture_.to(dtype=torch.float64)
        if (self.n_components, self.covariance_type) != (
            mixture.n_components,
            mixture.covariance_type,
        ):
            raise InputError(
                f"partial_fit goes on with {mixture.n_components} components and covariance_type="
                f"{mixture.covariance_type!r}, and now {self.n_components} and "
                f"{self.covariance_type!r} are asked for; fit anew, or take a clone."
            )
        rows = self._rows(X, sample_weight)
        settings = EMSettings(floor=self.reg_covar)
        seen = self.__dict__.get("n_seen_", 0.0)
        moved, value = stepwise(mixture, rows, seen, settings)
        self._set_mixture(moved, self.means_.dtype)
        self.lower_bound_, self.n_seen_ = value, seen + rows.total_weight
        return self

    def _n_numbers(self, n_features: int) -> int:
        """In the covariances."""
        kind = structure(self.covariance_type)
        return math.prod(kind.factor_shape(int(self.n_components), n_features))

    def _checkpoint(self) -> Checkpoint | None:
        given = self.checkpoint
        return given if given is None or isinstance(given, Checkpoint) else Checkpoint(given)

    def _climb(self, rows: Rows, begun: bool, random_state: RandomState) -> Callable[..., EMResult]:
        """The algorithm; EM on samples first would leave what is ``begun`` already."""
        if self.algorithm == "gradient":
            return ascend
        sizes = sample_sizes(rows.n_rows, int(self.n_components), rows.n_features)
        whole = begun or self.algorithm == "em" or not sizes
        return fit_em if whole else nested_climb(random_state)

    def _fixed_parts(self, n_features: int) -> FixedParts:
        k = self.n_components
        shapes = {
            "weights": (self.weights_init, (k,)),
            "means": (self.means_init, (k, n_features)),
            "precisions": (
                self.precisions_init,
                structure(self.covariance_type).factor_shape(k, n_features),
            ),
        }
        named = {"precisions": f"{self.covariance_type} precision"}
        parts = {
            # Of precisions, which may be large, factors are made.
            part: as_tensor(
                check_shape(value, shape, named.get(part, part), copy=part != "precisions")
            )
            for part, (value, shape) in shapes.items()
            if value is not None
        }
        if "weights" in parts:
            _check_start_weights(parts["weights"])
        return FixedParts(**parts)

    def _last_state(self, n_features: int) -> tuple[Mixture, float] | None:
        if not (self.warm_start and hasattr(self, "converged_")):
            return None
        mixture = self.mixture_.to(dtype=torch.float64)
        if mixture.means.shape != (self.n_components, n_features):
            return None  # another problem: start anew, as scikit-learn does not
        return mixture, self.lower_bounds_[-1] if self.lower_bounds_ else -np.inf

    def adopt(self, fit: Fit, dtype: np.dtype, names: Sequence[str] | None) -> Self:
        """Take over a fit made elsewhere, as if :meth:`fit` had made it."""
        adopt_columns(self, names, fit.mixture.n_features)
        self._set_mixture(fit.mixture, dtype)
        self.converged_ = fit.trace.converged
        self.n_iter_ = fit.trace.n_iter
        self.lower_bound_ = fit.log_likelihood
        self.history_ = list(fit.trace.records)
        self.lower_bounds_ = [record.log_likelihood for record in fit.trace.records]
        return self

    def _warn_of(self, fit: Fit) -> None:
        if fit.notes:
            warn(
                f"During the fit, {'; '.join(dict.fromkeys(fit.notes))}. Fewer components or a "
                "larger reg_covar may describe the data better.",
                RepairWarning,
            )
        if not self.converged_ and self.max_iter > 0:
            how = "The fit was stopped early. " if fit.interrupted else ""
            warn(
                f"{how}Best performing initialization did not converge. Try different init "
                "parameters, or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
            )

    # --- parameters and the mixture -------------------------------------------------------------

    @classmethod
    def from_mixture(cls, mixture: Mixture) -> Self:
        """A fitted estimator with known parameters, to score, predict and sample without fitting.

        Parameters
        ----------
        mixture : Mixture
            A single one, batch shape ().

        Examples
        --------
        >>> from mogul import GaussianMixture, Mixture
        >>> known = Mixture.from_parameters([1.0], [[0.0]], [[1.0]], "diag")
        >>> round(float(GaussianMixture.from_mixture(known).score([[0.0]])), 4)
        -0.9189
        """
        if mixture.batch_shape:
            raise InputError(
                f"The mixture has batch shape {tuple(mixture.batch_shape)}; pick one by indexing."
            )
        model = cls(mixture.n_components, covariance_type=mixture.covariance_type)
        model._set_mixture(mixture, np.dtype(str(mixture.dtype).removeprefix("torch.")))
        model.n_features_in_ = mixture.n_features
        if mixture.feature_names is not None:
            model.feature_names_in_ = np.asarray(mixture.feature_names, dtype=object)
        model.converged_, model.n_iter_, model.history_, model.n_seen_ = True, 0, [], 0.0
        model.lower_bound_, model.lower_bounds_ = float("nan"), []
        return model

    @property
    def mixture_(self) -> Mixture:
        """The fitted mixture, on the CPU, in the type of the fitted attributes.

        It follows the attributes: a program that sets ``weights_``, ``means_`` and
        ``precisions_cholesky_`` by hand gets the mixture of those.
        """
        check_is_fitted(self, "means_")
        return self._mixture_by("precisions_cholesky_")

    def _set_mixture(self, mixture: Mixture, dtype: np.dtype) -> None:
        named = mixture.detach().to(device="cpu")
        names = getattr(self, "feature_names_in_", mixture.feature_names)
        if names is not named.feature_names:
            named = Mixture(named.log_weights, named.means, named.covariance, names)
        covariance = named.covariance
        attributes = {  # inverses are taken before anything is rounded to float32
            "weights_": lambda: named.weights,
            "means_": named.means.clone,
            "covariances_": covariance.covariances,
            "precisions_": covariance.precisions,
            "precisions_cholesky_": covariance.precisions_cholesky,
        }
        with given_back_if_large(covariance.factor.numel()):
            for name, compute in attributes.items():  # one at a time: a mixture may be large
                setattr(self, name, np.ascontiguousarray(compute().numpy(), dtype=dtype))
            self._keep(named.to(dtype=getattr(torch, dtype.name)))

    def _keep(self, mixture: Mixture) -> None:
        self._mixture = mixture, {name: _digest(getattr(self, name)) for name in _READ_BACK}

    def _mixture_by(self, spread: str) -> Mixture:
        """The fitted mixture; where a program has set attributes since, the one they describe.

        ``spread`` is "precisions_cholesky_", which scoring reads in scikit-learn, or
        "covariances_", which sampling does.
        """
        parts = {name: np.asarray(getattr(self, name)) for name in ("weights_", "means_", spread)}
        mixture, fitted = self.__dict__.get("_mixture", (None, {}))
        if mixture is not None and all(_digest(part) == fitted[n] for n, part in parts.items()):
            return mixture
        dtype = np.result_type(np.float32, *parts.values())
        weights, means, factor = (torch.from_numpy(p.astype(dtype)) for p in parts.values())
        kind = structure(self.covariance_type)
        chosen = spread == "precisions_cholesky_"
        build = kind.from_precisions_cholesky if chosen else kind.from_covariances
        names = getattr(self, "feature_names_in_", None)
        return Mixture(weights.log(), means, build(factor, *means.shape), names)

    # --- answers ------------------------------------------------------------------------------

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row of an array, data frame or source, in nats; (N,)."""

        def answer(rows: Rows) -> np.ndarray:
            values = kernels.log_prob(rows.values, self.mixture_)
            return values.cpu().numpy().astype(self._answer_dtype(rows), copy=False)

        return self._each(X, answer)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows, in nats; weighted when ``sample_weight`` is given.

        Rows of a source carry their own weights, and are scored in batches by this process alone.
        """
        if not isinstance(X, Source):
            return mean_log_likelihood(self._rows(X, sample_weight), self.mixture_)
        check_weights_of(X, sample_weight)
        total = weight = 0.0
        for rows in self._batches(X, counted=True):
            total += mean_log_likelihood(rows, self.mixture_) * rows.total_weight
            weight += rows.total_weight
        return total / weight

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row of an array or source; (N,), counted from 0."""
        return self._each(X, self._predict)

    def _predict(self, rows: Rows) -> np.ndarray:
        return kernels.predict(rows.values, self.mixture_).cpu().numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each component for each row of an array or source; (N, K)."""

        def answer(rows: Rows) -> np.ndarray:
            shares = kernels.responsibilities(rows.values, self.mixture_)
            return shares.cpu().numpy().astype(self._answer_dtype(rows), copy=False)

        return self._each(X, answer)

    def _each(self, X: Any, answer: Callable[[Rows], np.ndarray]) -> np.ndarray:
        """An answer for every row, batch by batch where X is a source."""
        if not isinstance(X, Source):
            return answer(self._rows(X))
        return np.concatenate([answer(rows) for rows in self._batches(X)])

    def _batches(self, source: Source, *, counted: bool = False) -> Iterator[Rows]:
        check_is_fitted(self, "means_")
        device = named_device(self.device)
        return (rows.to(device) for rows in checked_batches(self, source, counted=counted))

    def bic(self, X: Any, sample_weight: Any = None) -> float:
        """Bayesian information criterion, −2ℓ + p log n; lower is better (Schwarz 1978)."""
        return self._criterion("bic", X, sample_weight)

    def aic(self, X: Any, sample_weight: Any = None) -> float:
        """Akaike information criterion, −2ℓ + 2p; lower is better (Akaike 1974)."""
        return self._criterion("aic", X, sample_weight)

    def icl(self, X: Any, sample_weight: Any = None) -> float:
        """Integrated completed likelihood, BIC plus twice the entropy of the responsibilities.

        Lower is better; overlapping components are penalised (Biernacki and others 2000).
        """
        return self._criterion("icl", X, sample_weight)

    def _criterion(self, name: str, X: Any, sample_weight: Any) -> float:
        if isinstance(X, Source):
            check_weights_of(X, sample_weight)
            return information_criterion(name, self._batches(X, counted=True), self.mixture_)
        return information_criterion(name, self._rows(X, sample_weight), self.mixture_)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows and the components they are from, sorted by component.

        Returns
        -------
        X : ndarray, shape (n_samples, D)
        y : ndarray, shape (n_samples,)
        """
        check_is_fitted(self, "means_")
        mixture = self._mixture_by("covariances_").to(dtype=torch.float64)
        if n_samples < 1:
            raise InputError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one "
                "sample."
            )
        rng = random_state_of(self.random_state)
        weights = mixture.weights.numpy()
        labels = np.repeat(
            np.arange(len(weights)), rng.multinomial(n_samples, weights / weights.sum())
        )
        noise = torch.from_numpy(rng.standard_normal((n_samples, mixture.n_features)))
        return mixture.place(noise, torch.from_numpy(labels)).numpy(), labels

    def _rows(self, X: Any, sample_weight: Any = None) -> Rows:
        check_is_fitted(self, "means_")
        array = validated(self, X, reset=False)
        weight = check_sample_weight(sample_weight, len(array))
        return as_rows(array, weight, named_device(self.device))

    def _answer_dtype(self, rows: Rows) -> np.dtype:
        return np.result_type(self.means_, rows.values.cpu().numpy())

    # --- files --------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, from which :meth:`from_state` rebuilds this."""
        mixture_header, tensors = self.mixture_.to_state()
        params = {name: value for name, value in self.get_params().items() if is_plain(value)}
        header = {
            "mixture": mixture_header,
            "params": params,
            "converged": bool(self.converged_),
            "n_iter": int(self.n_iter_),
            "lower_bound": finite_or_none(self.lower_bound_),
            "n_seen": self.__dict__.get("n_seen_", 0.0),
        }
        bounds = torch.tensor(self.lower_bounds_, dtype=torch.float64)
        attributes = {
            name: torch.from_numpy(np.ascontiguousarray(getattr(self, name)))
            for name in _PARAMETERS
        }
        return header, {**tensors, **attributes, "lower_bounds_": bounds}

    @classmethod
    def from_state(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what :meth:`to_state` took apart; scores are bit-equal."""
        model = cls(**header["params"])
        mixture = Mixture.from_state(header["mixture"], tensors)
        for name in _PARAMETERS:
            setattr(model, name, tensors[name].numpy().copy())
        model._keep(mixture)
        model.n_features_in_ = mixture.n_features
        if mixture.feature_names is not None:
            model.feature_names_in_ = np.asarray(mixture.feature_names, dtype=object)
        model.converged_, model.n_iter_ = header["converged"], header["n_iter"]
        model.n_seen_ = header.get("n_seen", 0.0)
        bound = header["lower_bound"]
        model.lower_bound_ = float("nan") if bound is None else bound
        model.lower_bounds_, model.history_ = tensors["lower_bounds_"].tolist(), []
        return model


_READ_BACK = ("weights_", "means_", "covariances_", "precisions_cholesky_")
"""What answers are computed from, so that a program may set it."""
_PARAMETERS = (*_READ_BACK, "precisions_")


def _digest(values: np.ndarray) -> tuple[tuple[int, ...], str, bytes]:
    """What tells an array from any other: of a large mixture no copies are kept to compare with."""
    return values.shape, values.dtype.str, blake2b(np.ascontiguousarray(values).data).digest()


def _check_start_weights(weights: Tensor) -> None:
    low, high, total = float(weights.min()), float(weights.max()), float(weights.sum())
    if low < 0 or high > 1:
        raise InputError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{high:.5f}, min value {low:.5f}"
        )
    if abs(total - 1) > 1e-6:
        raise InputError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = {total:.5f}"
        )
