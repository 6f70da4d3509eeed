"""Bayesian Gaussian mixture, with scikit-learn's interface and ProbFlow's verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.random import RandomState
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mogul import kernels
from mogul._checks import check_count, check_level, check_share
from mogul._warn import warn
from mogul.beliefs import Belief
from mogul.covariances import STRUCTURES, Covariance, structure
from mogul.data.rows import Moments, Rows
from mogul.data.sources import Source, check_weights_of
from mogul.errors import InputError
from mogul.estimators._bayesian_state import from_state, to_state
from mogul.estimators._inputs import (
    adopt_columns,
    as_rows,
    check_enough_rows,
    check_sample_weight,
    checked_batches,
    drawn_seed,
    generator_on,
    named_device,
    validated,
    warn_of_constant,
    warn_of_constant_columns,
)
from mogul.estimators._prior_settings import posterior_attributes, prior_attributes, prior_of
from mogul.estimators._progress import Observers
from mogul.estimators._pruning import PruningReport, pruned
from mogul.infer import METHODS, SVI
from mogul.infer.ascent import ACCELERATIONS
from mogul.infer.em import EMSettings, Streamed
from mogul.infer.maximum_likelihood import initial_mixtures
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.selection import relative_floor
from mogul.infer.starts import STARTS
from mogul.infer.stopping import ELBORecord, Trace
from mogul.infer.streams import Share, infer_source
from mogul.infer.svi import streaming_step
from mogul.infer.team import Team
from mogul.infer.variational import begin, elbo
from mogul.mixture import Mixture
from mogul.posterior import Posterior, SampledPosterior, VariationalPosterior
from mogul.posterior.base import needed_components
from mogul.posterior.quantities import PARAMETERS, quantity
from mogul.priors import Prior

__all__ = ["BayesianGaussianMixture", "PruningReport"]

_CONSTANT = "what is said of it is the prior's"
_HELD = 0.99
"""The share of the weight that the effective components hold together."""
_DRAWS = 10_000
"""Draws of parameters that ProbFlow's verbs give, where there is no end of them."""
_FITTED = (
    "weight_concentration_",
    "mean_precision_",
    "degrees_of_freedom_",
    "weight_concentration_prior_",
    "mean_prior_",
    "mean_precision_prior_",
    "degrees_of_freedom_prior_",
    "covariance_prior_",
)
"""Attributes that only some fits set: those of an earlier fit must not stay."""


def _takes_batches(model: BayesianGaussianMixture) -> bool:
    if isinstance(model._method(), SVI):
        return True
    raise AttributeError(
        'partial_fit takes natural-gradient steps; construct the estimator with inference="svi".'
    )


class BayesianGaussianMixture(DensityMixin, BaseEstimator):
    r"""A mixture of Gaussians with a posterior of its parameters.

    .. math::
        p(x) = \sum_{k=1}^K w_k\, \mathcal{N}(x \mid \mu_k, \Lambda_k^{-1}), \qquad
        (w, \mu, \Lambda) \sim \text{prior}

    Takes the place of ``sklearn.mixture.BayesianGaussianMixture``: constructor, methods and fitted
    attributes have the same names. What is new: the bound is complete, so that it compares numbers
    of components and priors; :meth:`score_samples` is the posterior predictive density, which
    integrates to one; updates are exact for every covariance structure; row weights; priors as
    objects; four ways of inference; and :attr:`posterior_`, with intervals that linear response
    corrects for what mean field leaves out.

    Parameters
    ----------
    n_components : int, default 1
        K; with a Dirichlet process, the most there may be.
    covariance_type : {"full", "tied", "diag", "spherical"}, default "full"
    tol : float, default 1e-3
        Coordinate ascent stops when an iteration gains less, in nats of the whole bound, and,
        unless ``acceleration`` is "none", less remains to be gained.
    reg_covar : float, default 0.0
        Added to every variance of the prior's guess of the covariances, in squared units of the
        data. None is needed: a prior keeps covariances positive. (scikit-learn adds 1e-6 to each
        estimate.)
    max_iter : int, default 500
        Iterations of coordinate ascent; the other methods have numbers of their own.
    n_init : int, default 1
        Starts; the end of the highest bound is kept. A sampler starts each chain by itself.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default "kmeans"
        As for :class:`GaussianMixture`.
    weight_concentration_prior_type : {"dirichlet_process", "dirichlet_distribution"}
        By default "dirichlet_process": weights by breaking a stick, components in order of size
        ("cavi" and "svi"). Unused when ``prior`` is given, which has weights of its own.
    weight_concentration_prior : float, optional
        Of each component, or of the process; 1 / K by default.
    mean_precision_prior : float, optional
        How many rows the prior of a mean is worth; 1 by default.
    mean_prior : array-like, shape (D,), optional
        The mean of the rows by default.
    degrees_of_freedom_prior : float, optional
        How many rows the prior of a precision is worth, above D − 1; D by default.
    covariance_prior : float or array-like, optional
        The prior's scale, which is its guess of a covariance times its degrees of freedom: (D, D)
        for full and tied, (D,) for diag, a number for spherical. The sample covariance, variances
        or mean variance by default.
    random_state : int, RandomState or None, default None
    warm_start : bool, default False
        Go on from the last posterior.
    verbose : int, default 0
    verbose_interval : int, default 10
    prior : Prior, optional
        From :mod:`mogul.priors`, in the place of the six settings of the prior above.
    inference : {"cavi", "svi", "vi-adam", "gibbs"} or settings, default "cavi"
        Coordinate ascent; natural gradients from minibatches; the reparameterised bound by Adam;
        Gibbs sampling. ``mogul.infer.SVI(passes=20)`` and the like set what the names leave at
        their defaults.
    acceleration : {"auto", "squarem", "none"}, default "auto"
        Of coordinate ascent, guarded so that the bound never falls.
    callbacks : sequence of callables, optional
        Each is called with a record after every iteration; returning True ends the fit and keeps
        the state so far.
    progress : {"auto", True, False}, default "auto"
    device : str or torch.device, optional
        Where a fit computes with the rows, the CPU by default; rows are scored on the CPU.

    Attributes
    ----------
    posterior_ : Posterior
        A mapping to ``torch.distributions``; intervals, covariances, draws.
    prior_ : Belief
        The prior with every setting filled in.
    mixture_ : Mixture
        The mixture of the expected weights, means and precisions.
    weights_, means_, covariances_, precisions_, precisions_cholesky_ : ndarray
        Its parameters, in the shapes of :class:`GaussianMixture`.
    elbo_ : float
        The evidence lower bound in nats, of all rows, with every constant: at most log p(X). NaN
        for a sampler; for "vi-adam" estimated from draws, of the tighter bound without labels.
    lower_bound_, lower_bounds_ : float, list of float
        scikit-learn's names for it, and for its values at the start of each iteration.
    n_effective_components_ : int
        The fewest components that hold 99 % of the expected weight.
    converged_ : bool
    n_iter_ : int
    history_ : list
        Records of the iterations of the start that won.
    passes_ : PassReport
        After a fit to a source: how many passes over the rows there were, and how fast.
    weight_concentration_, mean_precision_, degrees_of_freedom_ : ndarray
        Parameters of the posterior, where the prior is conjugate, degrees of freedom in rows. For a
        Dirichlet process the first is a pair of arrays (K,) of the Beta distributions of the
        breaks; the last component takes what is left, (1, 0).
    weight_concentration_prior_, mean_prior_, mean_precision_prior_, covariance_prior_, \
degrees_of_freedom_prior_ : float or ndarray
        The settings of the prior, filled in.
    pruned_ : PruningReport
        Of an estimator that :meth:`prune` gave: what was removed.

    Raises
    ------
    InputError
        For data, weights or priors that cannot be used.

    References
    ----------
    Attias (2000); Blei and Jordan (2006); Hoffman and others (2013); Giordano, Broderick and Jordan
    (2018).

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets
    >>> rows = datasets.old_faithful().values
    >>> model = BayesianGaussianMixture(6, random_state=0).fit(rows)
    >>> model.n_effective_components_
    2
    >>> low, high = model.posterior_ci("weights", correction="linear_response")
    >>> [f"{a:.2f} to {b:.2f}" for a, b in zip(low[:2], high[:2])]
    ['0.59 to 0.70', '0.30 to 0.41']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(STRUCTURES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(STARTS))],
        "weight_concentration_prior_type": [
            StrOptions({"dirichlet_process", "dirichlet_distribution"})
        ],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [None, "array-like", Interval(Real, 0.0, None, closed="neither")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "prior": [None, Prior],
        "inference": [StrOptions(set(METHODS)), Method],
        "acceleration": [StrOptions(set(ACCELERATIONS))],
        "callbacks": [list, tuple, None],
        "progress": [StrOptions({"auto"}), "boolean"],
    }

    posterior_: Posterior
    prior_: Belief
    mixture_: Mixture

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 0.0,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: int | RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        prior: Prior | None = None,
        inference: str | Method = "cavi",
        acceleration: str = "auto",
        callbacks: Sequence[Callable[[Any], bool | None]] | None = None,
        progress: str | bool = "auto",
        device: str | torch.device | None = None,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.prior = prior
        self.inference = inference
        self.acceleration = acceleration
        self.callbacks = callbacks
        self.progress = progress
        self.device = device

    # --- fitting ------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Infer the posterior from the rows of X.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D), or Source
            A :class:`mogul.data.Source` is read in batches, by "cavi" once in each iteration and by
            "svi" in random order. In a process group every process calls this and gets the same
            answer.
        y : ignored
        sample_weight : array-like, shape (N,), optional
            A weight of two counts a row twice, a weight of zero not at all.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For rows, weights or a prior that cannot be used.
        DegenerateFitError
            When a stochastic method runs away.

        Warns
        -----
        ConvergenceWarning
            When the fit is not at its optimum, or the chains of a sampler differ.
        SpikeWarning
            When a column holds one value.
        """
        if isinstance(X, Source):
            self._fit_source(X, sample_weight)
        else:
            self._fit(X, sample_weight)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """Fit, then return the most probable component of each row; the same as fit, predict."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, X: Any, sample_weight: Any) -> None:
        rows = self._checked(X, sample_weight, reset=True)
        method = self._method()
        rng = check_random_state(self.random_state)
        prior = self._prior(rows)
        last = self._last_belief(prior)
        if last is None:
            starts, notes = self._starts(rows, prior, method, rng)
            previous = -np.inf
        else:
            starts, notes = [last] * method.n_starts(1), []
            previous = self._last_bound()
        self._infer(rows, prior, starts, method, rng, notes, previous)

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_source(self, source: Source, sample_weight: Any) -> None:
        check_weights_of(source, sample_weight)
        method = self._method()
        if not method.takes_sources:
            raise InputError(
                f"inference={method.name!r} needs the rows in memory; take 'cavi' or 'svi' for a "
                "source."
            )
        rng = check_random_state(self.random_state)
        names, leads = source.names, Team().leads
        n_iterations = method.n_iterations(self.max_iter)
        with Observers(self, n_iterations, silent=not leads) as observers:
            passes = observers.of_passes(source)
            share = Share.surveyed(
                source,
                int(self.n_components),
                rng,
                named_device(self.device),
                what="inference",
                reading=passes,
            )

            def starts_of(sample: Rows) -> tuple[Mixture, list[str]]:
                return self._start_mixtures(sample, method, rng)

            def problem_of(rows: Streamed, prior: Belief, starts: list[Belief]) -> Problem:
                goes_on = self._last_belief(prior) is not None
                previous = self._last_bound() if goes_on else -np.inf
                return self._problem(rows, prior, starts, rng, previous, observers)

            outcome, prior, notes = infer_source(
                share, method, self._prior, starts_of, self._last_belief, problem_of
            )
        adopt_columns(self, names, source.n_features)
        assert outcome.belief is not None  # methods that take sources are variational
        alone = share.team.size == 1 or source.shared
        of_sample = VariationalPosterior(outcome.belief, prior, share.found.sample)
        rows = source.uncached() if alone else None
        posterior = self._posterior_of(outcome, prior, rows, of_sample.doubt, share.sample)
        self._adopt(outcome, posterior, prior)
        self._rows_seen = share.found.total_weight
        self.passes_ = passes.report
        if leads:
            warn_of_constant(share.found.constant, names, _CONSTANT)
            self._warn_of(outcome, notes)

    def _validate_params(self) -> None:
        for name, value in (("prior", self.prior), ("inference", self.inference)):
            if isinstance(value, type):
                raise InputError(
                    f"{name} must be an object, and {value.__name__} is its class; write "
                    f"{value.__name__}()."
                )
        super()._validate_params()

    def _checked(self, X: Any, sample_weight: Any, *, reset: bool) -> Rows:
        array = validated(self, X, reset=reset, min_samples=2 if reset else 1)
        weight = check_sample_weight(sample_weight, len(array))
        if reset:
            check_enough_rows(self.n_components, array, weight)
        rows = as_rows(array, weight, named_device(self.device))
        if reset:
            names = getattr(self, "feature_names_in_", None)
            warn_of_constant_columns(rows, names, _CONSTANT)
        return rows

    def _method(self) -> Method:
        return METHODS[self.inference]() if isinstance(self.inference, str) else self.inference

    @property
    def _kind(self) -> type[Covariance]:
        return structure(self.covariance_type)

    def _prior(self, rows: Rows | Moments) -> Belief:
        """The prior with every setting filled in."""
        belief = prior_of(self, rows.n_features).belief(rows, self.n_components, self._kind)
        if not self.reg_covar:
            return belief
        return Belief(belief.weights, belief.components.widened(self.reg_covar))

    def _starts(
        self, rows: Rows, prior: Belief, method: Method, rng: RandomState
    ) -> tuple[list[Belief], list[str]]:
        mixtures, notes = self._start_mixtures(rows, method, rng)
        beliefs = begin(rows, prior, mixtures)
        return [beliefs.index(i) for i in range(len(mixtures))], notes

    def _start_mixtures(
        self, rows: Rows, method: Method, rng: RandomState
    ) -> tuple[Mixture, list[str]]:
        # A prior needs no floor; the start, which has none, is kept off the rounding of the data.
        floor = relative_floor(rows) or float(torch.finfo(torch.float64).eps)
        return initial_mixtures(
            rows,
            self.n_components,
            self._kind,
            EMSettings(floor=floor),
            method=self.init_params,
            n_init=method.n_starts(self.n_init),
            random_state=rng,
        )

    def _last_belief(self, prior: Belief) -> Belief | None:
        """What to go on from: the last belief, when it is of this problem."""
        posterior = getattr(self, "posterior_", None)
        if not self.warm_start or not isinstance(posterior, VariationalPosterior):
            return None
        last = posterior.belief
        return last if _alike(last, prior) else None

    def _last_bound(self) -> float:
        return self.lower_bounds_[-1] if self.lower_bounds_ else -np.inf

    def _infer(
        self,
        rows: Rows,
        prior: Belief,
        starts: list[Belief],
        method: Method,
        rng: RandomState,
        notes: Sequence[str] = (),
        previous: float = -np.inf,
    ) -> None:
        with Observers(self, method.n_iterations(self.max_iter)) as observers:
            problem = self._problem(rows, prior, starts, rng, previous, observers)
            outcome = method.run(problem)
        self._adopt(outcome, self._posterior_of(outcome, prior, rows.to("cpu")), prior)
        self._rows_seen = rows.total_weight
        self._warn_of(outcome, notes)

    def _problem(
        self,
        rows: Rows | Streamed,
        prior: Belief,
        starts: list[Belief],
        rng: RandomState,
        previous: float,
        observers: Observers,
    ) -> Problem:
        return Problem(
            rows=rows,
            prior=prior,
            starts=starts,
            tol=self.tol,
            max_iter=self.max_iter,
            acceleration=self.acceleration,
            generator=generator_on("cpu", rng),
            previous=previous,
            together=not self.verbose,
            on_iteration=observers,
            on_end=observers.finish,
        )

    def _posterior_of(
        self,
        outcome: Outcome,
        prior: Belief,
        rows: Rows | Source | None,
        doubt: Tensor | None = None,
        sample: Rows | None = None,
    ) -> Posterior:
        names = getattr(self, "feature_names_in_", None)
        if outcome.belief is not None:
            return VariationalPosterior(
                outcome.belief,
                prior,
                rows,
                elbo=outcome.bound,
                converged=outcome.trace.converged,
                doubt=doubt,
                feature_names=names,
                some_rows=sample,
            )
        assert isinstance(rows, Rows)  # those of a sampler
        assert outcome.draws is not None  # a method answers with one or the other
        assert outcome.log_joint is not None
        sampled = SampledPosterior(outcome.draws, outcome.log_joint, rows, feature_names=names)
        return sampled.relabel("pivot")

    def _adopt(self, outcome: Outcome, posterior: Posterior, prior: Belief) -> None:
        for name in _FITTED:
            self.__dict__.pop(name, None)
        self.converged_, self.n_iter_ = outcome.trace.converged, outcome.trace.n_iter
        self.history_ = list(outcome.trace.records)
        self.elbo_ = self.lower_bound_ = outcome.elbo
        self.lower_bounds_ = [getattr(r, "elbo", float("nan")) for r in self.history_]
        self._keep(posterior, prior)

    def _keep(self, posterior: Posterior, prior: Belief) -> None:
        """Take over a posterior: its mean mixture and its parameters, as arrays."""
        self.posterior_, self.prior_ = posterior, prior
        self.mixture_ = posterior.mean().to(device="cpu")
        covariance = self.mixture_.covariance
        self.weights_ = self.mixture_.weights.numpy()
        self.means_ = self.mixture_.means.numpy()
        self.covariances_ = covariance.covariances().numpy()
        self.precisions_ = covariance.precisions().numpy()
        self.precisions_cholesky_ = covariance.precisions_cholesky().numpy()
        self.n_effective_components_ = len(needed_components(self.weights_, _HELD))
        self._predictive = posterior.predictive()
        found = prior_attributes(self, prior)
        if isinstance(posterior, VariationalPosterior):
            found |= posterior_attributes(posterior.belief)
        for name, value in found.items():
            setattr(self, name, value)

    def _warn_of(self, outcome: Outcome, notes: Sequence[str]) -> None:
        for note in dict.fromkeys(notes):
            warn(f"During the fit, {note}.", ConvergenceWarning)
        if outcome.interrupted:
            warn(
                f"The fit was stopped early, after {self.n_iter_} iterations; this is the state "
                "that it had.",
                ConvergenceWarning,
            )
        elif outcome.complaint:
            warn(outcome.complaint, ConvergenceWarning)

    @available_if(_takes_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take one more batch of a stream into the posterior, by one natural-gradient step.

        The posterior speaks of all rows given so far, those of :meth:`fit` included, each of which
        is to be given once. Step t has the size (t + delay)^(−forgetting), where t is the number of
        such batches so far, by rows. The first batch scales the prior, unless one is given, and
        finds the start.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        y : ignored
        sample_weight : array-like, shape (N,), optional

        Returns
        -------
        self

        Raises
        ------
        InputError
            For rows or weights that cannot be used, and when the number of components, the
            covariance structure or the way of inference has changed since the last batch.
        """
        method = self._method()
        assert isinstance(method, SVI)  # else there is no such method
        seen = self.__dict__.get("_rows_seen", 0.0)
        batch = self._checked(X, sample_weight, reset=not seen)
        if seen:
            prior, history = self.prior_, self.history_
            last = self._last_of_stream(prior)
            belief, value = streaming_step(batch, last, prior, seen, method)
        else:
            prior, history = self._prior(batch), []
            rng = check_random_state(self.random_state)
            belief = self._starts(batch, prior, method, rng)[0][0].in_order(prior)
            value = float(elbo(batch, belief, prior))
        previous = history[-1].elbo if history else -np.inf
        trace = Trace(kind=ELBORecord, records=list(history), value=previous)
        trace.record(value, False)
        trace.converged = True
        # Of the rows so far only this batch is at hand: how its components overlap is kept, for it
        # tells whether intervals are too narrow.
        of_batch = VariationalPosterior(belief, prior, batch)
        names = getattr(self, "feature_names_in_", None)
        posterior = VariationalPosterior(belief, prior, doubt=of_batch.doubt, feature_names=names)
        self._adopt(Outcome(value, trace, False, belief), posterior, prior)
        self._rows_seen = seen + batch.total_weight
        return self

    def _last_of_stream(self, prior: Belief) -> Belief:
        """The belief that a stream goes on from."""
        posterior = self.posterior_
        if not isinstance(posterior, VariationalPosterior):
            raise InputError(
                "partial_fit goes on from a variational fit, and this one is sampled; fit with "
                'inference="svi" first.'
            )
        asked = (self.n_components, self.covariance_type)
        known = (posterior.n_components, posterior.kind.name)
        if asked != known or not _alike(posterior.belief, prior):
            raise InputError(
                f"partial_fit goes on with {known[0]} components and covariance_type={known[1]!r}, "
                f"and now {asked[0]} and {asked[1]!r} are asked for; fit anew, or take a clone."
            )
        return posterior.belief

    def prune(self, keep: float = _HELD) -> Self:
        """Fit again with the fewest components that hold ``keep`` of the weight.

        Coordinate ascent goes on from what they believe, under the same prior for fewer components.
        What was removed is in ``pruned_``, which prints as a sentence.

        Parameters
        ----------
        keep : float, default 0.99
            The share of the expected weight that is kept.

        Returns
        -------
        BayesianGaussianMixture
            A new estimator; this one stays as it is.

        Raises
        ------
        InputError
            For draws of a sampler, a posterior without its rows, and a prior that tells components
            apart.

        Examples
        --------
        >>> from mogul import BayesianGaussianMixture, datasets
        >>> rows = datasets.old_faithful().values
        >>> model = BayesianGaussianMixture(4, random_state=0).fit(rows).prune()
        >>> model.n_components, len(model.pruned_.removed)
        (2, 2)
        """
        check_is_fitted(self, "posterior_")
        return pruned(self, check_share(keep))

    # --- densities of rows --------------------------------------------------------------------

    def _each(self, X: Any, answer: Callable[[Tensor], Tensor]) -> np.ndarray:
        """An answer for every row, batch by batch where X is a source."""
        check_is_fitted(self, "posterior_")
        if isinstance(X, Source):
            batches = checked_batches(self, X)
        else:
            batches = [self._checked(X, None, reset=False)]
        found = [_array(answer(rows.values.to(self._predictive.means))) for rows in batches]
        return np.concatenate(found)

    def log_prob(
        self, X: Any, distribution: bool = False, n: int = 1000, *, plug_in: bool = False
    ) -> np.ndarray:
        """Log-density of each row, in nats.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D), or Source
        distribution : bool, default False
            Whether to give the log-density under each of ``n`` draws of the posterior.
        n : int, default 1000
        plug_in : bool, default False
            The density of :attr:`mixture_`, at the expected parameters, in the place of the
            posterior predictive density: its tails are too light.

        Returns
        -------
        ndarray, shape (N,), or (N, n) when ``distribution``

        Warns
        -----
        MeanFieldWarning
            When components overlap, so that the densities of draws differ too little.
        """
        check_is_fitted(self, "posterior_")
        if distribution and plug_in:
            raise InputError("plug_in is one density and distribution many; ask for one of them.")
        if distribution:
            draws = self._drawn(check_count(n, "n"))
            each = [draws[i] for i in range(len(draws))]
            return self._each(
                X, lambda rows: torch.stack([kernels.log_prob(rows, one) for one in each], -1)
            )
        if plug_in:
            return self._each(X, lambda rows: kernels.log_prob(rows, self.mixture_))
        return self._each(X, self._predictive.log_prob)

    def prob(
        self, X: Any, distribution: bool = False, n: int = 1000, *, plug_in: bool = False
    ) -> np.ndarray:
        """The density of each row: exp of :meth:`log_prob`, with the same arguments."""
        return np.exp(self.log_prob(X, distribution, n, plug_in=plug_in))

    def score_samples(self, X: Any) -> np.ndarray:
        """Log of the posterior predictive density of each row, in nats; (N,)."""
        return self.log_prob(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log predictive density of the rows of an array or source, in nats, weighted."""
        check_is_fitted(self, "posterior_")
        if isinstance(X, Source):
            check_weights_of(X, sample_weight)
            batches = checked_batches(self, X, counted=True)
        else:
            batches = [self._checked(X, sample_weight, reset=False)]
        total = weight = 0.0
        for rows in batches:
            values = self._predictive.log_prob(rows.values.to(self._predictive.means))
            own = torch.ones_like(values) if rows.weight is None else rows.weight.to(values)
            total, weight = total + float(own @ values), weight + float(own.sum())
        return total / weight

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of each row of an array or source; (N,), counted from 0."""
        check_is_fitted(self, "posterior_")
        return self._each(X, self._predictive.predict)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each component for each row, averaged over the posterior; (N, K)."""
        check_is_fitted(self, "posterior_")
        return self._each(X, self._predictive.responsibilities)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw new rows and the components they are from, sorted by component.

        Each row has parameters of its own, drawn from the posterior.

        Parameters
        ----------
        n_samples : int, default 1

        Returns
        -------
        X : ndarray, shape (n_samples, D)
        y : ndarray, shape (n_samples,)
        """
        check_is_fitted(self, "posterior_")
        predictive = self._predictive
        if n_samples < 1:
            raise InputError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one "
                "sample."
            )
        generator = self._generator()
        rows, labels = predictive.sample_with_labels((n_samples,), generator=generator)
        order = labels.argsort(stable=True)
        return _array(rows[order]), _array(labels[order])

    def predictive_sample(self, n: int = 1000) -> np.ndarray:
        """New rows drawn from the posterior predictive distribution, in random order; (n, D)."""
        check_is_fitted(self, "posterior_")
        predictive = self._predictive
        generator = self._generator()
        return _array(predictive.sample((check_count(n, "n"),), generator=generator))

    def _generator(self) -> torch.Generator:
        return generator_on("cpu", check_random_state(self.random_state))

    def _drawn(self, n: int) -> Mixture:
        """Draws of the posterior, with a warning where they are too much alike."""
        if isinstance(self.posterior_, VariationalPosterior):
            self.posterior_.warn_if_narrow()
        return self.posterior_.sample(n, seed=drawn_seed(check_random_state(self.random_state)))

    # --- ProbFlow's verbs ---------------------------------------------------------------------

    def posterior_mean(self, params: str | Sequence[str] | None = None) -> Any:
        """The posterior mean of parameters.

        Parameters
        ----------
        params : str or sequence of str, optional
            Of what :attr:`posterior_` knows; "weights", "means" and "precisions" by default.

        Returns
        -------
        ndarray, or a dictionary of them unless ``params`` is one name
        """
        check_is_fitted(self, "posterior_")
        return _by_name(params, lambda name: _array(self.posterior_.expectation(name)))

    def posterior_sample(
        self, params: str | Sequence[str] | None = None, n: int | None = None
    ) -> Any:
        """Draws of parameters, (n, *shape); as :meth:`posterior_mean`.

        Parameters
        ----------
        params : str or sequence of str, optional
        n : int, optional
            By default 10,000, or all that a sampler kept when these are fewer.

        Warns
        -----
        MeanFieldWarning
            When components overlap, so that the draws of a mean-field posterior are too near one
            another.
        """
        check_is_fitted(self, "posterior_")
        kept = self.posterior_.n_kept or _DRAWS
        draws = self._drawn(min(kept, _DRAWS) if n is None else check_count(n, "n"))
        return _by_name(params, lambda name: _array(quantity(name, self._fitted_kind).of(draws)))

    @property
    def _fitted_kind(self) -> type[Covariance]:
        return self.posterior_.kind

    def posterior_ci(
        self,
        params: str | Sequence[str] | None = None,
        ci: float = 0.95,
        *,
        correction: str = "none",
    ) -> Any:
        """Equal-tailed credible intervals of parameters.

        Parameters
        ----------
        params : str or sequence of str, optional
        ci : float, default 0.95
            The probability that an interval holds.
        correction : {"none", "linear_response"}, default "none"
            What is added to a mean-field posterior, which is too narrow where components overlap.

        Returns
        -------
        (lower, upper), ndarrays, or a dictionary of such pairs unless ``params`` is one name

        Raises
        ------
        InputError
            When ``ci`` is no probability, or draws of a sampler are to be corrected.
        NotConvergedError
            When linear response is asked of a fit that is not at its optimum.

        Warns
        -----
        MeanFieldWarning
            When components overlap and no correction is asked for.
        """
        check_is_fitted(self, "posterior_")
        level = check_level(ci, "ci")

        def ends(name: str) -> tuple[np.ndarray, np.ndarray]:
            found = _array(self.posterior_.interval(name, level, correction))
            return found[..., 0], found[..., 1]

        return _by_name(params, ends)

    def prior_sample(self, params: str | Sequence[str] | None = None, n: int = _DRAWS) -> Any:
        """Draws of parameters from the prior, (n, *shape); as :meth:`posterior_mean`."""
        check_is_fitted(self, "posterior_")
        generator = self._generator()
        with torch.no_grad():
            draws = self.prior_.sample((check_count(n, "n"),), generator=generator)
        return _by_name(params, lambda name: _array(quantity(name, self._fitted_kind).of(draws)))

    def posterior_plot(
        self,
        params: str | Sequence[str] | None = None,
        *,
        ci: float = 0.95,
        correction: str = "none",
        prior: bool = True,
        features: Sequence[int | str] | None = None,
    ) -> Any:
        """Draw the posterior of parameters, and the prior dashed; see ``mogul.plot.posterior``.

        Parameters
        ----------
        params : str or sequence of str, optional
        ci : float, default 0.95
            The probability of the interval that is filled; 0 for none.
        correction : {"none", "linear_response"}, default "none"
        prior : bool, default True
        features : sequence of int or str, optional
            Whose panels to draw, by position or name.

        Returns
        -------
        ndarray of Axes, or a dictionary of them unless ``params`` is one name
        """
        check_is_fitted(self, "posterior_")
        before = self.prior_ if prior else None

        def drawn(name: str) -> Any:
            return _plots().posterior(
                self.posterior_,
                name,
                prior=before,
                level=ci,
                correction=correction,
                features=features,
            )

        return _by_name(params, drawn)

    def prior_plot(
        self,
        params: str | Sequence[str] | None = None,
        *,
        ci: float = 0.95,
        features: Sequence[int | str] | None = None,
    ) -> Any:
        """Draw the prior of parameters, with every setting filled in; as :meth:`posterior_plot`.

        One curve where all components are believed the same, else one for each.
        """
        check_is_fitted(self, "posterior_")
        names = getattr(self, "feature_names_in_", None)

        def drawn(name: str) -> Any:
            return _plots().posterior(
                self.prior_,
                name,
                level=ci,
                feature_names=None if names is None else list(names),
                features=features,
            )

        return _by_name(params, drawn)

    # --- files --------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, from which :meth:`from_state` rebuilds this.

        The rows are not part of it: ``posterior_.with_rows(X)`` gives them back, for linear
        response and diagnostics.

        Raises
        ------
        InputError
            When prior or inference are objects of another library's or the user's classes.
        """
        check_is_fitted(self, "posterior_")
        return to_state(self)

    @classmethod
    def from_state(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what :meth:`to_state` took apart; scores are bit-equal."""
        return from_state(cls, header, tensors)


def _alike(one: Belief, other: Belief) -> bool:
    """Whether two beliefs are of the same family and of mixtures of the same form."""
    return (
        one.components.loc.shape == other.components.loc.shape
        and one.components.kind is other.components.kind
        and type(one.components) is type(other.components)
        and type(one.weights) is type(other.weights)
    )


def _plots() -> Any:
    from importlib import import_module  # plots lie above estimators

    return import_module("mogul.plot")


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _by_name(params: str | Sequence[str] | None, answer: Callable[[str], Any]) -> Any:
    """The answer for one name, or a dictionary for several."""
    if isinstance(params, str):
        return answer(params)
    return {name: answer(name) for name in (PARAMETERS if params is None else params)}
