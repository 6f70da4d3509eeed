"""Maximum likelihood for rows that are read in batches, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from numpy.random import RandomState
from torch import Tensor

from mogul.data.rows import Rows
from mogul.data.sources import Source
from mogul.errors import InputError
from mogul.infer.checkpoint import Checkpoint
from mogul.infer.em import EMResult, EMSettings, Streamed, fit_em
from mogul.infer.maximum_likelihood import Fit, FixedParts, fit_mixture
from mogul.infer.nested import GROWTH, warmed
from mogul.infer.starts import n_sample_rows
from mogul.infer.stopping import IterationRecord
from mogul.infer.survey import Survey, survey
from mogul.infer.team import Collect, Team
from mogul.kernels import e_steps
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["Reading", "fit_source"]


class Reading(Protocol):
    """Who is told how far a pass is."""

    def begin_pass(self) -> None:
        """The first batch is about to be read."""

    def read(self, n_rows: int) -> None:
        """So many rows more were read."""


def _on_device(
    source: Source, device: torch.device, reading: Reading | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The batches of a source on a device."""
    if reading is not None:
        reading.begin_pass()
    for values, weight in source:
        yield values.to(device), None if weight is None else weight.to(device)
        if reading is not None:
            reading.read(len(values))


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
    if source.once:
        raise InputError(
            "The source can be read once only, and EM needs several passes; give a list of batches "
            "or a DataLoader instead of an iterator, or write the rows to a Parquet file."
        )
    team = Team()
    part = source.shard(team.rank, team.size) if source.shared else source
    seed = team.share(_peek(random_state))
    if not source.shared:
        seed += team.rank  # else the same places of each process's rows were drawn
    size = GROWTH * n_sample_rows(n_components, source.n_features)
    found = survey(part, size, seed, team)
    if max(found.n_rows, found.total_weight) < n_components:
        raise InputError(
            f"The source has {found.n_rows} rows for {n_components} components; ask for fewer "
            "components or give more rows."
        )
    if on_survey is not None:
        on_survey(found)

    def local(mixture: Mixture) -> Stats:
        return e_steps(_on_device(part, device, reading), mixture)

    def work(collect: Collect) -> Fit:
        streamed = Streamed(found.n_rows, device, collect)
        keeper = None
        if checkpoint is not None:
            task = covariance_type, n_components, found, settings, team.size
            keeper = checkpoint.of(*task)
        warm = samples and found.sample.n_rows < found.n_rows
        before = continue_from
        if keeper is not None and keeper.resumes:
            before = keeper.start(), -torch.inf

        def climb(rows: Rows, start: Mixture, how: EMSettings, **more: Any) -> EMResult:
            if warm and before is None and fixed.empty:
                start = warmed(rows, start, how)
            return fit_em(streamed, start, how, keeper=keeper, **more)

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

    return team.lead(work, local)


def _peek(random_state: RandomState) -> int:
    """A seed that its next number will not be, so that starts are those of rows in memory."""
    twin = RandomState()
    twin.set_state(random_state.get_state())
    return int(twin.randint(2**31 - 1))
