"""Where a fit begins: scikit-learn's four ``init_params``, on a bounded sample where that helps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from mogul._memory import LARGE_MIXTURE
from mogul._threads import one_thread_if_small
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.infer.em import EMSettings, compiles, fit_em, likeliest, m_step, mend, stack
from mogul.infer.parallel_seeds import parallel_seeds
from mogul.mixture import Mixture
from mogul.stats import Stats

if TYPE_CHECKING:
    from mogul.infer.compiled_starts import Begun

__all__ = [
    "CANDIDATES",
    "SAMPLE_NUMBERS",
    "SHORT_ITERATIONS",
    "STARTS",
    "distinct_rows",
    "kmeans_start",
    "kmeans_starts",
    "n_sample_rows",
    "sample_rows",
    "some_rows",
    "start_mixtures",
]

_SAMPLE_ROWS = 4000
_SAMPLE_ROWS_PER_COMPONENT = 200
_SAMPLE_ROWS_PER_MEAN = 4
"""k-means on more rows than these changes its centres by less than EM then moves them."""
_FEWEST_ROWS_PER_MEAN = 2
SAMPLE_NUMBERS = 1 << 22
"""In a sample, unless each component would have fewer rows than these: 32 megabytes."""
CANDIDATES = 4
"""k-means runs for each start, half of them on standardised columns; the best after a short EM
is taken (Biernacki, Celeux and Govaert 2003 recommend short runs of EM for this)."""
SHORT_ITERATIONS = 10
"""On 350 simulated tables six took 0.94 of the time, and 76 % in place of 77 % of the fits ended
within 0.001 nats a row of the best."""
MANY_CLUSTERS = 1000
"""Of more, k-means‖ finds the seeds, and two partitions are tried."""
_MANY_ITERATIONS = 15
_CHUNK_ROWS = 8192
_CHUNK_NUMBERS = 1 << 20
"""Distances of rows from components, along each column, kept at a time."""
_FEWEST_CHUNK_ROWS = 16
_STRATUM = 1 << 20
"""Rows, at most, that are numbered at a time to draw from."""

Start = Callable[[Rows, int, type[Covariance], EMSettings, RandomState], tuple[Mixture, Tensor]]


def start_mixtures(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    *,
    method: str,
    n_init: int,
    random_state: RandomState,
) -> tuple[Mixture, Tensor]:
    """``n_init`` mixtures to start from, as a batch, and which of them are fit to be used.

    Parameters
    ----------
    method : {"kmeans", "k-means++", "random", "random_from_data"}
        "kmeans" takes the best of several k-means partitions after a few iterations of EM;
        the others are scikit-learn's.
    """
    begin = STARTS[method]
    with one_thread_if_small(rows.n_rows * n_components * rows.n_features**2):
        starts = [begin(rows, n_components, kind, settings, random_state) for _ in range(n_init)]
    found = stack([mixture.to(device="cpu") for mixture, _ in starts])
    return found, torch.stack([ok.cpu() for _, ok in starts])


def kmeans_start(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    random_state: RandomState,
) -> Begun | tuple[Mixture, Tensor]:
    """The best of several k-means partitions after a few iterations of EM.

    As it began where compiled code found it, else a mixture and which of its components are usable.
    On a sample of the rows the start of what has begun is where it ended, and it has no values.
    """
    sample = sample_rows(rows, n_components, random_state)
    distinct = distinct_rows(sample)
    own = sample is rows  # the fit's own iterations follow; max_iter counts them
    del sample  # it may be large
    if _is_compiled(distinct, n_components, kind, settings):
        from mogul.infer.compiled_starts import begin_best

        short = {"tol": settings.tol, "max_iter": SHORT_ITERATIONS}
        asked = [i % 2 == 1 for i in range(CANDIDATES)], random_state
        begun = begin_best(distinct, n_components, kind, settings.floor, *asked, **short)
        if begun is not None:
            return begun if own else replace(begun, start=lambda: begun.end, values=[])
    return _best_start(distinct, n_components, kind, settings, random_state, moved=not own)


def _best_start(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    random_state: RandomState,
    *,
    moved: bool,
) -> tuple[Mixture, Tensor]:
    """That of several partitions which a short EM brings furthest, or where it is brought."""
    tries = CANDIDATES if n_components <= MANY_CLUSTERS else 2
    is_large = math.prod(kind.factor_shape(n_components, rows.n_features)) >= LARGE_MIXTURE
    at_a_time = 1 if is_large else tries
    best: tuple[Mixture, Tensor] | None = None
    values: list[float] = []
    for first in range(0, tries, at_a_time):
        asked = n_components, kind, settings, at_a_time, random_state
        starts, ok = kmeans_starts(rows, *asked, first=first)
        end, i, value = _short_em(rows, starts, ok, settings)
        values.append(value)
        if likeliest(values) == len(values) - 1:
            best = starts[i], ok[i]
            if moved and end is not None:
                best = end, torch.ones_like(ok[0])
        del starts, ok, end
    assert best is not None  # the first of equals, at least
    return best


def _from_kmeans(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    random_state: RandomState,
) -> tuple[Mixture, Tensor]:
    found = kmeans_start(rows, n_components, kind, settings, random_state)
    if isinstance(found, tuple):
        return found
    return found.start().unpacked(), torch.ones(n_components, dtype=torch.bool)


def kmeans_starts(
    sample: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    n_starts: int,
    random_state: RandomState,
    *,
    first: int = 0,
) -> tuple[Mixture, Tensor]:
    """Mixtures from as many k-means partitions, every other one of standardised columns.

    They are counted from ``first`` on.
    """
    standardised = [i % 2 == 1 for i in range(first, first + n_starts)]
    if _is_compiled(sample, n_components, kind, settings):
        from mogul.infer.compiled_starts import begin_each

        found = begin_each(sample, n_components, kind, settings.floor, standardised, random_state)
        if found is not None:
            ok = torch.ones(n_starts, n_components, dtype=torch.bool)
            return stack([one.end.unpacked() for one in found]), ok
    scale = _column_scale(sample)
    units = [scale if scaled else torch.ones_like(scale) for scaled in standardised]
    partitions = [_kmeans_labels(sample, u, n_components, random_state) for u in units]
    starts = [_from_labels(sample, one, n_components, kind, settings) for one in partitions]
    return stack([mixture for mixture, _ in starts]), torch.stack([ok for _, ok in starts])


def _is_compiled(
    sample: Rows, n_components: int, kind: type[Covariance], settings: EMSettings
) -> bool:
    usual = n_components <= MANY_CLUSTERS and sample.n_rows > n_components
    return usual and compiles(sample.values.device, kind, settings)


def _from_kmeans_plusplus(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    random_state: RandomState,
) -> tuple[Mixture, Tensor]:
    from sklearn.cluster import kmeans_plusplus

    sample = sample_rows(rows, n_components, random_state)
    _, index = kmeans_plusplus(
        sample.values.double().cpu().numpy(),
        n_components,
        sample_weight=None if sample.weight is None else sample.weight.cpu().numpy(),
        random_state=random_state,
    )
    return _from_points(sample.values[torch.as_tensor(index)], kind, settings)


def _from_random_rows(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    random_state: RandomState,
) -> tuple[Mixture, Tensor]:
    index = random_state.choice(rows.n_rows, size=n_components, replace=False)
    return _from_points(rows.values[torch.as_tensor(index)], kind, settings)


def _from_random_responsibilities(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    random_state: RandomState,
) -> tuple[Mixture, Tensor]:
    def draw(start: int, n: int) -> Tensor:
        shares = torch.from_numpy(random_state.uniform(size=(n, n_components)))
        return (shares / shares.sum(1, keepdim=True)).T.to(rows.values.device)

    origin = rows.mean().expand(n_components, -1)
    return _maximise(rows, draw, origin, kind, settings)


STARTS: dict[str, Start] = {
    "kmeans": _from_kmeans,
    "k-means++": _from_kmeans_plusplus,
    "random": _from_random_responsibilities,
    "random_from_data": _from_random_rows,
}


def sample_rows(rows: Rows, n_components: int, random_state: RandomState) -> Rows:
    """All rows when they are few, else a random sample that is enough to start from."""
    size = n_sample_rows(n_components, rows.n_features)
    return rows if rows.n_rows <= size else some_rows(rows, size, random_state)


def n_sample_rows(n_components: int, n_features: int) -> int:
    """How many rows are enough to start from."""
    few = max(_SAMPLE_ROWS_PER_COMPONENT, _FEWEST_ROWS_PER_MEAN * n_features)
    most = max(few, SAMPLE_NUMBERS // (n_components * n_features))
    each = min(most, max(_SAMPLE_ROWS_PER_COMPONENT, _SAMPLE_ROWS_PER_MEAN * n_features))
    return max(_SAMPLE_ROWS, each * n_components)


def some_rows(rows: Rows, size: int, random_state: RandomState) -> Rows:
    """A random sample without replacement, in the order of the rows.

    Of many rows each million gives its share.
    """
    # A RandomState would shuffle all rows; this takes as long as the sample is large.
    rng = np.random.default_rng(random_state.randint(2**31 - 1))
    parts, n_rows = [], rows.n_rows
    for start in range(0, n_rows, _STRATUM):
        stop = min(start + _STRATUM, n_rows)
        share = size * stop // n_rows - size * start // n_rows
        drawn = rng.choice(stop - start, size=share, replace=False, shuffle=False)
        parts.append(start + np.sort(drawn))
    index = np.concatenate(parts)
    return rows.take(torch.as_tensor(index, device=rows.values.device))


def distinct_rows(rows: Rows) -> Rows:
    """Each distinct row once, in a fixed order, with its total weight.

    What is drawn from it depends neither on the order of the rows nor on whether a row is repeated
    or weighted. On the CPU, where few rows are soonest clustered.
    """
    values = np.ascontiguousarray(rows.values.double().cpu().numpy())
    weight = None if rows.weight is None else rows.weight.double().cpu().numpy()
    # A sum that is the same for equal rows: quicker to sort by than all columns.
    unit = np.cos(np.arange(1, rows.n_features + 1))
    parts = [slice(i, i + _CHUNK_ROWS) for i in range(0, len(values) or 1, _CHUNK_ROWS)]
    key = np.concatenate([(values[part] * unit).sum(1) for part in parts])
    order = key.argsort()
    key, values = key[order], values[order]
    begins = np.ones(len(order), dtype=np.bool_)
    np.greater(key[1:], key[:-1], out=begins[1:])
    if not begins.all():
        if (values[1:] != values[:-1])[~begins[1:]].any():  # unequal rows have equal sums
            again = np.lexsort(values.T[::-1])
            order, values = order[again], values[again]
            begins[1:] = (values[1:] != values[:-1]).any(1)
        places = begins.nonzero()[0]
        counts = np.ones(len(order)) if weight is None else weight[order]
        values, counts = values[places], np.add.reduceat(counts, places)
    else:
        counts = np.ones(len(order)) if weight is None else weight[order]
    if not counts.all():
        values, counts = values[counts > 0], counts[counts > 0]
    return Rows(torch.from_numpy(values), torch.from_numpy(counts))


def _column_scale(rows: Rows) -> Tensor:
    """Standard deviations, one for a constant column."""
    gap = rows.values.double() - rows.mean()
    weight = gap.new_ones(rows.n_rows) if rows.weight is None else rows.weight.double()
    variance = weight @ gap.square() / rows.total_weight
    return torch.where(variance > 0, variance, 1.0).sqrt()


def _kmeans_labels(
    rows: Rows, unit: Tensor, n_components: int, random_state: RandomState
) -> Tensor:
    if rows.n_rows <= n_components:  # fewer distinct rows than clusters: one each
        return torch.arange(rows.n_rows)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    seed = random_state.randint(np.iinfo(np.int32).max)
    scaled = ((rows.values.double() - rows.mean()) / unit).cpu().numpy()
    if not np.isfinite(scaled).all():  # squares overflow: no partition is better than another
        return torch.arange(rows.n_rows) % n_components
    weight = None if rows.weight is None else rows.weight.double().cpu().numpy()
    how: dict[str, Any] = {}
    if n_components > MANY_CLUSTERS:
        each = np.ones(len(scaled)) if weight is None else weight
        seeds = parallel_seeds(scaled, each, n_components, RandomState(seed))
        how = {"init": seeds, "max_iter": _MANY_ITERATIONS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an empty cluster is repaired below
        kmeans = KMeans(n_components, n_init=1, random_state=seed, **how)
        found = kmeans.fit(scaled, sample_weight=weight)
    return torch.as_tensor(found.labels_, dtype=torch.long)


def _from_labels(
    rows: Rows, labels: Tensor, n_components: int, kind: type[Covariance], settings: EMSettings
) -> tuple[Mixture, Tensor]:
    def draw(start: int, n: int) -> Tensor:
        part = labels[start : start + n].to(rows.values.device)
        return torch.nn.functional.one_hot(part, n_components).double().T

    values = rows.values.double()
    weight = values.new_ones(rows.n_rows) if rows.weight is None else rows.weight.double()
    index = labels.to(values.device)
    total = values.new_zeros(n_components).index_add_(0, index, weight)
    sums = values.new_zeros(n_components, rows.n_features)
    sums.index_add_(0, index, weight.unsqueeze(-1) * values)
    origin = sums / torch.where(total > 0, total, 1.0).unsqueeze(-1)
    if n_components > MANY_CLUSTERS:
        stats = _of_clusters(values, weight, index, total, origin, kind)
        return m_step(stats, kind, settings.floor, settings.shrinkage, settings.uncorrelated)
    return _maximise(rows, draw, origin, kind, settings)


def _of_clusters(
    values: Tensor,
    weight: Tensor,
    label: Tensor,
    total: Tensor,
    origin: Tensor,
    kind: type[Covariance],
) -> Stats:
    """Statistics of rows each of which is in one cluster, whose mean is its origin."""
    order = label.argsort(stable=True)
    counts = label.bincount(minlength=len(origin)).tolist()
    parts = []
    for k, rows in enumerate(order.split(counts)):
        gap = (values[rows] - origin[k]).unsqueeze(0)
        parts.append(kind.moment(weight[rows].unsqueeze(0), gap, gap))
    second = torch.cat(parts) if kind.block_ndim else torch.stack(parts).sum(0)
    zero = torch.zeros_like(total.sum())
    return Stats(total, torch.zeros_like(origin), second, origin, total.sum(), zero)


def _from_points(
    points: Tensor, kind: type[Covariance], settings: EMSettings
) -> tuple[Mixture, Tensor]:
    """Equal weights, means at the points, variances at the floor: as scikit-learn starts."""
    means = points.double()
    count, second = means.new_ones(len(means)), means.new_zeros(kind.factor_shape(*means.shape))
    total = count.sum()
    own = Stats(count, torch.zeros_like(means), second, means, total, torch.zeros_like(total))
    return m_step(own, kind, settings.floor, settings.shrinkage, settings.uncorrelated)


def _maximise(
    rows: Rows,
    draw: Callable[[int, int], Tensor],
    origin: Tensor,
    kind: type[Covariance],
    settings: EMSettings,
) -> tuple[Mixture, Tensor]:
    """The mixture of given responsibilities; ``draw(start, n)`` gives (K, n) of them."""
    count, first = origin.new_zeros(len(origin)), torch.zeros_like(origin)
    second = origin.new_zeros(kind.factor_shape(*origin.shape))
    step = max(_FEWEST_CHUNK_ROWS, _CHUNK_NUMBERS // origin.numel())
    for start in range(0, rows.n_rows, step):
        values = rows.values[start : start + step].double()
        shares = draw(start, values.shape[0])
        if rows.weight is not None:
            shares = shares * rows.weight[start : start + step].double()
        gap = values - origin.unsqueeze(-2)  # (K, S, D)
        count += shares.sum(-1)
        first += (shares.unsqueeze(-2) @ gap).squeeze(-2)
        second += kind.moment(shares, gap, gap)
    total = count.sum()
    stats = Stats(count, first, second, origin, total, torch.zeros_like(total))
    return m_step(stats, kind, settings.floor, settings.shrinkage, settings.uncorrelated)


def _short_em(
    rows: Rows, starts: Mixture, ok: Tensor, settings: EMSettings
) -> tuple[Mixture | None, int, float]:
    """Where a few iterations of EM bring the best start, which that is and its log-likelihood.

    None, the first and −inf if none lives.
    """
    mended, usable = mend(starts, ok)
    index = usable.nonzero().flatten()
    if len(index) == 0:
        return None, 0, -math.inf
    # The fit's own tolerance: a start is judged by where the fit itself would bring it.
    short = replace(settings, max_iter=SHORT_ITERATIONS, acceleration="none")
    living = mended if len(index) == len(ok) else mended[index]  # which is a copy
    ran = fit_em(rows, living, short)
    if ran.interrupted:  # there is nothing to keep yet
        raise KeyboardInterrupt
    values = ran.log_likelihood.tolist()
    best = likeliest(values)
    end = None if ran.traces[best].failed else ran.mixture[best]
    return end, int(index[best]), values[best]
