"""Fits to rows that are read in batches, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from mogul.beliefs import Belief
from mogul.data.rows import Moments, Rows
from mogul.data.shuffling import minibatches
from mogul.data.sources import Source
from mogul.errors import InputError
from mogul.infer.cavi import coordinate_ascent
from mogul.infer.checkpoint import Checkpoint
from mogul.infer.em import EMResult, EMSettings, Streamed, fit_em
from mogul.infer.maximum_likelihood import Fit, FixedParts, fit_mixture
from mogul.infer.nested import GROWTH, warmed
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.starts import n_sample_rows
from mogul.infer.stopping import IterationRecord
from mogul.infer.survey import Survey, survey
from mogul.infer.team import Collect, Team
from mogul.infer.variational import begin
from mogul.kernels import e_steps
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["Reading", "Share", "check_re_iterable", "fit_source", "infer_source"]


class Reading(Protocol):
    """Who is told how far a pass is."""

    def begin_pass(self) -> None:
        """The first batch is about to be read."""

    def read(self, n_rows: int) -> None:
        """So many rows more were read."""


@dataclass
class Share:
    """What one process reads of a source, after a first pass over it.

    Attributes
    ----------
    team : Team
    part : Source
    found : Survey
        Of all processes' rows.
    device : torch.device
        Where batches are worked on.
    seed : int
        The same in all processes.
    reading : Reading, optional
        Told of every batch of this process.
    """

    team: Team
    part: Source
    found: Survey
    device: torch.device
    seed: int
    reading: Reading | None = None
    _parts: list[Source] = field(default_factory=list)
    _dealt: Iterator[tuple[Tensor, Tensor | None]] = field(default_factory=lambda: iter(()))

    @classmethod
    def surveyed(
        cls,
        source: Source,
        n_components: int,
        random_state: RandomState,
        device: torch.device,
        *,
        what: str = "EM",
        on_survey: Callable[[Survey], object] | None = None,
        reading: Reading | None = None,
    ) -> Share:
        """Read the source once: check every row and draw a sample for so many components.

        Raises
        ------
        InputError
            For rows that cannot be used, too few of them, or a source that can be read once only.
        """
        check_re_iterable(source, what)
        team = Team()
        part = source.shard(team.rank, team.size) if source.shared else source
        seed = team.share(_peek(random_state))
        # Else the same places of each process's own rows were drawn.
        own = seed if source.shared else seed + team.rank
        found = survey(part, GROWTH * n_sample_rows(n_components, source.n_features), own, team)
        if max(found.n_rows, found.total_weight) < n_components:
            raise InputError(
                f"The source has {found.n_rows} rows for {n_components} components; ask for fewer "
                "components or give more rows."
            )
        if on_survey is not None:
            on_survey(found)
        return cls(team, part, found, device, seed, reading)

    @property
    def samples(self) -> bool:
        """Whether the sample is not all rows."""
        return self.found.sample.n_rows < self.found.n_rows

    @property
    def sample(self) -> Rows:
        """The sample, with weights that add up to those of all rows."""
        found = self.found
        return found.sample.scaled_to(found.total_weight) if self.samples else found.sample

    def local(self, mixture: Mixture, n_batches: int = 0, part: int = -1) -> Stats:
        """What this process adds to the statistics of all; see :class:`Collect`."""
        if part >= 0:
            if len(self._parts) != n_batches:
                self._parts, self.part = self.part.parts(n_batches), self.part.uncached()
            if part == 0 and self.reading is not None:
                self.reading.begin_pass()
            return e_steps(self._told(iter(self._parts[part])), mixture)
        if not n_batches:
            if self.reading is not None:
                self.reading.begin_pass()
            whole = chain.from_iterable(self._parts or [self.part])
            return e_steps(self._told(whole), mixture)
        batch = next(self._dealt, None)
        if batch is None:
            if self.reading is not None:
                self.reading.begin_pass()
            self.seed += 1
            rng = np.random.default_rng([self.seed, self.team.rank])
            self._dealt = minibatches(self.part, self.found.own_rows, n_batches, rng)
            batch = next(self._dealt)
        return e_steps(self._told(iter([batch] if len(batch[0]) else [])), mixture)

    def streamed(self, collect: Collect) -> Streamed:
        """The rows of all processes, for an algorithm."""
        found = self.found
        return Streamed(found.n_rows, found.total_weight, self.device, collect, self.sample)

    def _told(
        self, batches: Iterator[tuple[Tensor, Tensor | None]]
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches on the device; each is told of once it is worked on."""
        for values, weight in batches:
            yield values.to(self.device), None if weight is None else weight.to(self.device)
            if self.reading is not None:
                self.reading.read(len(values))


def check_re_iterable(source: Source, what: str) -> None:
    """Refuse what can be read once only."""
    if source.once:
        raise InputError(
            f"The source can be read once only, and {what} needs several passes; give a list of "
            "batches or a DataLoader instead of an iterator, or write the rows to a Parquet file."
        )


def _moments(streamed: Streamed) -> Moments:
    """The mean and the scatter of all rows, by one pass."""
    sample = streamed.sample
    middle = sample.mean()
    covariance = torch.eye(sample.n_features, dtype=torch.float64).unsqueeze(0)
    one = Mixture.from_parameters([1.0], middle.unsqueeze(0), covariance, "full")
    stats = streamed.collect(one)
    shift = stats.first[0] / stats.count[0]
    scatter = stats.second[0] - stats.count[0] * shift.outer(shift)
    return Moments(float(stats.row_weight), stats.origin[0] + shift, scatter)


def fit_source(
    source: Source,
    n_components: int,
    covariance_type: str,
    settings: EMSettings,
    *,
    method: str,
    n_init: int,
    random_state: RandomState,
    fixed: FixedParts,
    continue_from: tuple[Mixture, float] | None = None,
    samples: bool = True,
    algorithm: Callable[..., EMResult] = fit_em,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
    on_survey: Callable[[Survey], object] | None = None,
    reading: Reading | None = None,
) -> Fit:
    """Fit a mixture to all rows of a source.

    The first pass checks every row and draws a sample. Starts are made from it; with ``samples``,
    EM then runs on the whole sample before the first pass over all rows, so that few passes are
    left to do. In a process group each process reads its part, and the first one decides; all get
    the same answer.

    Parameters
    ----------
    source : Source
    samples : bool
        Whether EM runs on the sample first.
    algorithm : callable, default fit_em
        What climbs the likelihood of all rows, called as that is.
    device : torch.device
        Where batches are worked on.
    checkpoint : Checkpoint, optional
        Where the state is kept, and whether to go on from it.
    on_survey : callable (Survey), optional
        Told what the first pass found.
    reading : Reading, optional
        Told of every batch of this process.

    Other parameters are those of :func:`~mogul.infer.maximum_likelihood.fit_mixture`.
    """
    share = Share.surveyed(
        source, n_components, random_state, device, on_survey=on_survey, reading=reading
    )
    found = share.found

    def work(collect: Collect) -> Fit:
        streamed = share.streamed(collect)
        keeper = None
        if checkpoint is not None:
            task = covariance_type, n_components, found, settings, share.team.size
            keeper = checkpoint.of(*task)
        before = continue_from
        if keeper is not None and keeper.resumes:
            before = keeper.start(), -torch.inf

        def climb(rows: Rows, start: Mixture, how: EMSettings, **more: Any) -> EMResult:
            if samples and share.samples and before is None and fixed.empty:
                start = warmed(rows, start, how)
            if keeper is not None:
                more["keeper"] = keeper
            return algorithm(streamed, start, how, **more)

        return fit_mixture(
            found.sample,
            n_components,
            covariance_type,
            settings,
            method=method,
            n_init=n_init,
            random_state=random_state,
            fixed=fixed,
            continue_from=before,
            climb=climb,
            on_iteration=on_iteration,
        )

    return share.team.lead(work, share.local)


def _peek(random_state: RandomState) -> int:
    """A seed that its next number will not be, so that starts are those of rows in memory."""
    twin = RandomState()
    twin.set_state(random_state.get_state())
    return int(twin.randint(2**31 - 1))


def infer_source(
    share: Share,
    method: Method,
    prior_of: Callable[[Moments], Belief],
    starts_of: Callable[[Rows], tuple[Mixture, list[str]]],
    last_of: Callable[[Belief], Belief | None],
    problem_of: Callable[[Streamed, Belief, list[Belief]], Problem],
) -> tuple[Outcome, Belief, list[str]]:
    """Infer a posterior from all rows of a source.

    The prior is filled in from the moments of all rows. Where the sample is not all rows,
    coordinate ascent runs on it first, with as much weight as all rows have.

    Parameters
    ----------
    share : Share
    method : Method
    prior_of : callable, Moments → Belief
    starts_of : callable, Rows → (Mixture, notes)
        Places to start, from the sample.
    last_of : callable, prior → Belief or None
        What to go on from.
    problem_of : callable (rows, prior, starts) → Problem

    Returns
    -------
    outcome : Outcome
    prior : Belief
    notes : list of str
    """

    def work(collect: Collect) -> tuple[Outcome, Belief, list[str]]:
        rows = share.streamed(collect)
        prior = prior_of(_moments(rows))
        last, notes = last_of(prior), []
        if last is not None:
            starts = [last] * method.n_starts(1)
        else:
            mixtures, notes = starts_of(rows.sample)
            begun = begin(rows.sample if share.samples else rows, prior, mixtures)
            starts = [begun.index(i) for i in range(len(mixtures))]
            if share.samples:
                ran = coordinate_ascent(rows.sample, prior, starts)
                if ran.interrupted:  # there is nothing to keep yet
                    raise KeyboardInterrupt
                starts = ran.beliefs
        return method.run(problem_of(rows, prior, starts)), prior, notes

    return share.team.lead(work, share.local)
