"""Expectation maximisation, for any covariance structure and a batch of starts at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from mogul._memory import given_back_if_large
from mogul._threads import at_hand, one_thread_if_small
from mogul.covariances import Covariance
from mogul.errors import InputError
from mogul.infer.ascent import Ascent, Step
from mogul.infer.repair import split_into
from mogul.infer.squarem import MixtureChart
from mogul.infer.stopping import IterationRecord, Trace
from mogul.kernels import e_step, has_compiler
from mogul.mixture import Mixture
from mogul.stats import Stats

if TYPE_CHECKING:
    from mogul.data.rows import Rows
    from mogul.infer.checkpoint import Keeper

__all__ = [
    "EMResult",
    "EMSettings",
    "Streamed",
    "ascent_by",
    "collect",
    "compiles",
    "fit_em",
    "likeliest",
    "m_step",
    "mend",
    "stack",
]

_EMPTY = 10.0
"""A component is empty when its weight is below this many roundings of the whole."""
_ROUNDING = 8.0
"""A variance below this many roundings of the squares it was computed from is noise."""
_TIE = 1e-11
"""A relative difference of log-likelihoods that is rounding: the same end, found twice."""

_HOST_NUMBERS = 1 << 14
"""Numbers in the means or covariances of a mixture up to which M-steps are made on the CPU: each of
their hundred operations takes an accelerator as long to begin as a core takes with these."""


@dataclass(frozen=True)
class Streamed:
    """Rows that somebody else reads, by the statistics of all of them.

    Attributes
    ----------
    n_rows : float
    total_weight : float
        Of a batch, both are averages.
    device : torch.device
        Where they are worked on.
    collect : callable, (Mixture, n_batches, part) → Stats
        One pass over the rows; over the next of so many batches that they are dealt to at random;
        or over one of so many parts.
    sample : Rows
        Some of the rows, or all where they are few, whose weights add up to that of all.
    """

    n_rows: float
    total_weight: float
    device: torch.device
    collect: Callable[..., Stats]
    sample: Rows

    @property
    def n_features(self) -> int:
        return self.sample.n_features

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Streamed]:
        """All rows once in random order, in batches; who reads them draws the order."""
        del generator
        n_batches = math.ceil(self.n_rows / batch_size)
        if n_batches <= 1:
            yield self
            return
        for _ in range(n_batches):
            yield replace(
                self,
                n_rows=self.n_rows / n_batches,
                total_weight=self.total_weight / n_batches,
                collect=_Once(partial(self.collect, n_batches=n_batches)),
            )


class _Once:
    """A batch of streamed rows, which are gone once they were worked on."""

    def __init__(self, collect: Callable[[Mixture], Stats]):
        self.collect: Callable[[Mixture], Stats] | None = collect

    def __call__(self, mixture: Mixture) -> Stats:
        if self.collect is None:
            raise InputError(
                "The optimiser looks at a batch more than once, and batches of a source are read "
                'once; take batch_size as large as all rows, "lbfgs" or "adam".'
            )
        found, self.collect = self.collect(mixture), None
        return found


Batches: TypeAlias = Iterable[tuple[Tensor, Tensor | None]] | Streamed


@dataclass(frozen=True)
class EMSettings:
    """How EM runs.

    Attributes
    ----------
    tol : float
        A start has converged when a plain EM step changes its log-likelihood per row by less and,
        unless ``acceleration`` is "none", less remains to be gained by Aitken's estimate.
    max_iter : int
    floor : float
        Added to every variance, in squared units of the data.
    acceleration : {"auto", "squarem", "none"}
    shrinkage : float
        As of so many more rows in each component that lie as all rows lie in theirs; see
        :func:`m_step`. The likelihood may then fall: ask for no acceleration.
    uncorrelated : bool
        Whether those rows have no correlations.
    """

    tol: float = 1e-3
    max_iter: int = 100
    floor: float = 1e-6
    acceleration: str = "auto"
    shrinkage: float = 0.0
    uncorrelated: bool = False


@dataclass(frozen=True)
class EMResult:
    """Where every start ended.

    Attributes
    ----------
    mixture : Mixture, batch shape (R,)
    log_likelihood : Tensor, shape (R,)
        In nats per unit of row weight, of ``mixture`` itself; −inf for a start that failed.
    traces : list of R Trace
    interrupted : bool
        Whether Ctrl-C or a callback ended the fit early.
    """

    mixture: Mixture
    log_likelihood: Tensor
    traces: list[Trace]
    interrupted: bool


def collect(batches: Batches, mixture: Mixture) -> Stats:
    """The statistics of all rows: one pass over the data."""
    if isinstance(batches, Streamed):
        return batches.collect(mixture)
    return reduce(add, (e_step(x, mixture, weight) for x, weight in batches))


def m_step(
    stats: Stats,
    kind: type[Covariance],
    floor: float,
    shrinkage: float = 0.0,
    uncorrelated: bool = False,
) -> tuple[Mixture, Tensor]:
    r"""The maximum-likelihood mixture of some statistics.

    With d = S₁ / S₀ the mean is o + d and the central moment S₂ − S₀ d dᵀ: one pass suffices, and
    nothing is subtracted that is larger than the cluster (McLachlan and Krishnan 2008, §2.7).

    ``shrinkage`` ν draws each covariance towards the pooled one W, that of rows within their
    components: (n_k S_k + ν W) / (n_k + ν), as ν rows of a prior would (Fraley and Raftery 2007).
    ``uncorrelated`` takes the diagonal of W instead.

    Returns
    -------
    mixture : Mixture
        ``floor`` is added to every variance.
    ok : Tensor, shape (*batch, K), boolean
        False where a component is empty or its covariance is not positive definite.
    """
    eps = torch.finfo(stats.count.dtype).eps
    filled = stats.count > _EMPTY * eps * stats.row_weight.unsqueeze(-1)
    count = torch.where(filled, stats.count, 1.0)
    shift = torch.where(filled.unsqueeze(-1), stats.first / count.unsqueeze(-1), 0.0)
    gap = shift.unsqueeze(-2)
    used = torch.where(filled, count, 0.0).unsqueeze(-1)
    central = stats.second - kind.moment(used, gap, gap)
    rows = count
    if shrinkage and kind.block_ndim:  # a single block is the pooled one already
        axis = stats.count.ndim - 1
        total = used.sum(-2).reshape(*used.shape[:-2], *[1] * (central.ndim - axis))
        pooled = central.sum(axis, keepdim=True)
        if uncorrelated and kind.has_matrices():
            pooled = torch.diag_embed(torch.diagonal(pooled, dim1=-2, dim2=-1))
        central = central + (shrinkage / total) * pooled
        rows = count + shrinkage
    covariance, ok = kind.from_moment(
        central, rows, stats.origin.shape[-1], stats.count.new_tensor(floor)
    )
    del central  # it may be large
    means = stats.origin + shift
    noise = _ROUNDING * eps * torch.maximum(shift.square(), eps * means.square())
    ok = ok & filled & (covariance.variances() > noise).all(-1)
    return Mixture(torch.where(filled, stats.count, 0.0).log(), means, covariance), ok


def fit_em(
    batches: Batches,
    start: Mixture,
    settings: EMSettings,
    *,
    previous: float = -torch.inf,
    first: int = 0,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
    keeper: Keeper | None = None,
) -> EMResult:
    """Run EM from every mixture of a batch of starts.

    All starts advance together, and without compiled code they share each pass over the data; a
    start that has converged, failed or used up its iterations leaves the batch.

    Parameters
    ----------
    batches : iterable of (rows, weights), re-iterable
    start : Mixture, batch shape (R,)
    settings : EMSettings
    previous : float
        A log-likelihood to measure the first change against, when a fit continues.
    first : int
        The number of the first of these starts, where others have run before.
    on_iteration : callable (IterationRecord) → True to stop, optional
    keeper : Keeper, optional
        Where the state of a fit to streamed rows is kept, and gone on from.
    """
    kind = type(start.covariance)

    def maximise(stats: Stats) -> tuple[Mixture, Tensor]:
        return m_step(stats, kind, settings.floor, settings.shrinkage, settings.uncorrelated)

    def evaluate(points: list[Mixture]) -> list[Step[Mixture]]:
        stats = collect(batches, stack(points))
        values = stats.mean_log_likelihood().tolist()
        mapped, ok = maximise(stats)
        bad = [(~one).nonzero().flatten().tolist() for one in ok]
        return [Step(value, mapped[i], bad[i]) for i, value in enumerate(values)]

    n_rows, device = _extent(batches)
    work = n_rows * start.means.numel() * start.n_features
    numbers = max(start.means.numel(), start.covariance.factor.numel())
    few = numbers <= _HOST_NUMBERS * len(start)
    give_back = given_back_if_large(start.covariance.factor.numel() // len(start))
    start = start.to(device="cpu" if few else device)
    traces = [Trace(first + i, previous) for i in range(len(start))]
    points = [start[i] for i in range(len(start))]
    n_threads = at_hand()
    with give_back, one_thread_if_small(work):
        if not isinstance(batches, Streamed) and compiles(device, kind, settings):
            from mogul.infer.compiled_em import fit_packed
            from mogul.kernels.packed import PackedMixture

            packed = [PackedMixture.of(point) for point in points]
            del start, points
            how = settings, n_threads, on_iteration
            packed, values, interrupted = fit_packed(batches, packed, traces, *how)
            ends = stack([point.unpacked() for point in packed])
            return EMResult(ends, torch.tensor(values, dtype=torch.float64), traces, interrupted)
        how = {"chart": MixtureChart(), "mend": _split, "on_iteration": on_iteration}
        ascent = ascent_by(settings, evaluate, points, traces, **how)
        if keeper is not None:
            keeper.restore(ascent)
            ascent.on_state = keeper.keep
        interrupted = ascent.run()
        mixture = stack(ascent.points)
        final = collect(batches, mixture).mean_log_likelihood()
    failed = torch.tensor([trace.failed for trace in traces], device=final.device)
    return EMResult(mixture, torch.where(failed, -torch.inf, final), traces, interrupted)


def ascent_by(
    settings: EMSettings,
    evaluate: Callable[[list[Any]], list[Step[Any]]],
    points: list[Any],
    traces: list[Trace],
    **how: Any,
) -> Ascent[Any]:
    """An ascent that ends and is extrapolated as the settings say."""
    how.update(tol=settings.tol, max_iter=settings.max_iter, acceleration=settings.acceleration)
    return Ascent(evaluate, points, traces, **how)


def _extent(batches: Batches) -> tuple[float, torch.device]:
    """How many rows there are, and where."""
    if isinstance(batches, Streamed):
        return batches.n_rows, batches.device
    seen = [(x.shape[-2], x.device) for x, _ in batches]
    return sum(n_rows for n_rows, _ in seen), seen[0][1] if seen else torch.device("cpu")


def compiles(device: torch.device, kind: type[Covariance], settings: EMSettings) -> bool:
    """Whether compiled code does what is asked: of structures that it knows, without shrinkage."""
    if device.type != "cpu" or settings.shrinkage or not has_compiler():
        return False
    from mogul.kernels.packed import KINDS

    return kind in KINDS


def _split(mixture: Mixture, collapsed: Sequence[int]) -> Mixture | None:
    ok = torch.ones(mixture.n_components, dtype=torch.bool)
    ok[list(collapsed)] = False
    return split_into(mixture, ok)


def likeliest(log_likelihoods: Sequence[float]) -> int:
    """The first of the highest values: rounding does not choose among ends that are the same."""
    values = [-math.inf if math.isnan(value) else float(value) for value in log_likelihoods]
    highest = max(values)
    least = highest - _TIE * (1 + abs(highest))
    return next(i for i, value in enumerate(values) if value >= least)


def mend(mixture: Mixture, ok: Tensor) -> tuple[Mixture, Tensor]:
    """Repair the starts of a batch; the second answer is False for a start beyond repair."""
    if bool(ok.all()):
        return mixture, torch.ones(len(mixture), dtype=torch.bool)
    pairs = [(mixture[i], split_into(mixture[i], ok[i])) for i in range(len(mixture))]
    mended = [whole if repaired is None else repaired for whole, repaired in pairs]
    return stack(mended), torch.tensor([repaired is not None for _, repaired in pairs])


def stack(mixtures: list[Mixture]) -> Mixture:
    """Single mixtures of one structure as a batch."""
    first = mixtures[0]
    if len(mixtures) == 1:  # as of most fits, where this is much quicker
        covariance = first.covariance.index(None)
        return Mixture(first.log_weights[None], first.means[None], covariance, first.feature_names)
    factor = torch.stack([m.covariance.factor for m in mixtures])
    return Mixture(
        torch.stack([m.log_weights for m in mixtures]),
        torch.stack([m.means for m in mixtures]),
        type(first.covariance)(factor, first.n_components, first.n_features),
        first.feature_names,
    )
