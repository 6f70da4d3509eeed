"""Choosing the number of components and the covariance structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from numpy.random import RandomState
from torch import Tensor

from mogul._threads import one_thread_if_small
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.infer.criteria import information_criterion
from mogul.infer.em import EMResult, EMSettings, fit_em, likeliest, mend, stack
from mogul.infer.maximum_likelihood import Fit
from mogul.infer.spikes import find_spikes, rounding_variance
from mogul.infer.starts import distinct_rows, kmeans_starts, sample_rows
from mogul.mixture import Mixture

__all__ = ["Candidate", "relative_floor", "search"]

_TOLERANCE = 1e-6
"""Stricter than a fit's default: criteria are compared to a tenth, over all rows together."""
_MAX_ITERATIONS = 1000
_RELATIVE_FLOOR = 1e-6


@dataclass(frozen=True)
class Candidate:
    """One combination of structure and size, and how it did.

    Attributes
    ----------
    covariance_type : str
    n_components : int
    criterion_value : float
        Lower is better; NaN when nothing could be fitted.
    log_likelihood : float
        In nats per unit of row weight.
    n_parameters : int
    converged : bool
    excluded : str or None
        Why this candidate is out of the ranking, None when it is in it.
    passed_over : int
        How many likelier ends were passed over because they had a spike.
    fit : Fit or None
    """

    covariance_type: str
    n_components: int
    criterion_value: float
    log_likelihood: float
    n_parameters: int
    converged: bool
    excluded: str | None
    passed_over: int
    fit: Fit | None


def relative_floor(rows: Rows) -> float:
    """A regularisation for the search: a millionth of the smallest column variance."""
    gap = rows.values.double() - rows.mean()
    weight = gap.new_ones(rows.n_rows) if rows.weight is None else rows.weight.double()
    return _RELATIVE_FLOOR * float((weight @ gap.square() / rows.total_weight).min())


def search(
    rows: Rows,
    n_components: Iterable[int],
    covariance_types: Iterable[str],
    criterion: str,
    *,
    n_init: int,
    names: list[str] | None,
    random_state: RandomState,
    on_candidate: Callable[[Candidate], None] | None = None,
) -> list[Candidate]:
    """Fit every combination from ``n_init`` starts and score the likeliest end without a spike.

    With many rows the starts compete on a sample and only the winner sees all rows.
    """
    n_components = list(n_components)
    sizes = list(n_components)
    sample = sample_rows(rows, max(sizes), random_state)
    settings = EMSettings(_TOLERANCE, _MAX_ITERATIONS, relative_floor(rows))
    field = _Field(rows, sample, distinct_rows(sample), n_init, settings)
    judge = _Judge(rows, rounding_variance(rows), settings.floor, criterion, names)
    seeds = {k: random_state.randint(2**31 - 1) for k in sizes}
    candidates = []
    for covariance_type in covariance_types:
        for k in sizes:
            # The same seed for every structure: they are compared from the same partitions.
            ends = field.ends(covariance_type, k, RandomState(seeds[k]), judge)
            candidates.append(judge.candidate(covariance_type, k, ends))
            if on_candidate is not None:
                on_candidate(candidates[-1])
    return candidates


@dataclass(frozen=True)
class _Field:
    """Runs all starts of a candidate, on a sample of the rows where they are many."""

    rows: Rows
    sample: Rows
    distinct: Rows
    n_init: int
    settings: EMSettings

    def ends(
        self, covariance_type: str, k: int, random_state: RandomState, judge: _Judge
    ) -> EMResult | None:
        kind = structure(covariance_type)
        with one_thread_if_small(self.sample.n_rows * k * self.rows.n_features**2):
            starts, ok = kmeans_starts(
                self.distinct, k, kind, self.settings, self.n_init, random_state
            )
        mended, usable = mend(starts, ok)
        if not bool(usable.any()):
            return None
        ends = self._run(self.sample, mended[usable.nonzero().flatten()])
        if self.sample is self.rows:
            return ends
        return self._run(self.rows, stack([ends.mixture[judge.preferred(ends)[0]]]))

    def _run(self, rows: Rows, starts: Mixture) -> EMResult:
        ends = fit_em(rows, starts, self.settings)
        if ends.interrupted:  # half a search is no answer
            raise KeyboardInterrupt
        return ends


@dataclass(frozen=True)
class _Judge:
    """Ranks the ends of one candidate, and scores it."""

    rows: Rows
    rounding: Tensor
    floor: float
    criterion: str
    names: list[str] | None

    def spike(self, mixture: Mixture) -> str | None:
        spikes = find_spikes(mixture, self.rounding, self.floor)
        return spikes[0].describe(self.names) if spikes else None

    def preferred(self, ends: EMResult) -> tuple[int, int]:
        """The likeliest end without a spike, and how many likelier ones have one.

        The likeliest of all when every end has a spike.
        """
        first = likeliest(ends.log_likelihood.tolist())
        falling = ends.log_likelihood.argsort(descending=True, stable=True).tolist()
        order = [first, *(i for i in falling if i != first)]
        for passed_over, i in enumerate(order):
            if not ends.traces[i].failed and self.spike(ends.mixture[i]) is None:
                return i, passed_over
        return order[0], 0

    def candidate(self, covariance_type: str, k: int, ends: EMResult | None) -> Candidate:
        n_parameters = k - 1 + k * self.rows.n_features
        n_parameters += structure(covariance_type).n_free(k, self.rows.n_features)
        best, passed_over = (0, 0) if ends is None else self.preferred(ends)
        if ends is None or ends.traces[best].failed:
            nan, why = float("nan"), "every start collapsed"
            return Candidate(covariance_type, k, nan, nan, n_parameters, False, why, 0, None)
        mixture, trace = ends.mixture[best], ends.traces[best]
        value = information_criterion(self.criterion, self.rows, mixture)
        likelihood = float(ends.log_likelihood[best])
        fit = Fit(mixture, likelihood, trace, [], ends.interrupted)
        return Candidate(
            covariance_type,
            k,
            value,
            likelihood,
            n_parameters,
            trace.converged,
            self.spike(mixture),
            passed_over,
            fit,
        )
