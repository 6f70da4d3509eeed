"""Fitting and scoring rows in many files, by one process or by several that torchrun started."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul.cli._arguments import names
from mogul.cli._report import number, print_facts, print_mixture, print_saved
from mogul.errors import InputError, TeamError

if TYPE_CHECKING:
    import numpy as np

    from mogul import GaussianMixture
    from mogul.data import ParquetSource, Table
    from mogul.estimators._progress import Passes

__all__ = [
    "BatchMemoryOption",
    "CheckpointOption",
    "MemoryOption",
    "ResumeOption",
    "files_for",
    "fit_files",
    "fit_in_group",
    "is_many",
    "n_processes",
    "refuse_several",
    "told_batches",
    "write_in_batches",
]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_OWN_MEMORY = 600 * 10**6
"""What the libraries and the batches that are worked on take."""

_COPIES = 6
"""About how often what is read and written for a row is in memory at once."""

MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory to stay within, such as 1GB: Parquet files are read in batches, and kept in a "
        "temporary file where they do not fit.",
    ),
]
BatchMemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory to stay within, such as 1GB: Parquet files are read and written in batches "
        "small enough for it.",
    ),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Keeps the state of EM on Parquet files, after each iteration. Without --resume a fit "
        "begins anew and replaces it.",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")
]


def n_processes() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_many(data: Path) -> bool:
    """Whether a path stands for several files."""
    from mogul.data.parquet import names_files

    return names_files(data)


def refuse_several() -> None:
    """Scoring is for one process: several would all write the same file."""
    if n_processes() > 1:
        raise InputError(
            "Rows are scored by one process; start this without torchrun, or for files of their "
            "own in each process."
        )


def n_bytes(size: str) -> int:
    """The bytes in "1GB", "512M" or "800000000"."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)i?b?\s*", size, re.IGNORECASE)
    if not found:
        raise InputError(f"--memory {size!r} is not understood; give a size such as 1GB.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _left(memory: str) -> int:
    """Bytes that each process may use for rows."""
    left = n_bytes(memory) // n_processes() - _OWN_MEMORY
    if left < 0:
        raise InputError(
            f"--memory {memory} is too little: a process takes some {_OWN_MEMORY // 10**6} MB "
            "before any row is kept."
        )
    return left


def _source_of(
    data: Path,
    columns: list[str] | None,
    weight_column: str | None,
    memory: str | None,
    n_components: int = 1,
) -> ParquetSource:
    """The files as a source that keeps within ``memory``, of which a fit takes a sample."""
    from mogul.data import ParquetSource
    from mogul.data.parquet import ENDINGS
    from mogul.infer.nested import GROWTH
    from mogul.infer.starts import n_sample_rows

    if not is_many(data) and data.is_file() and not str(data).endswith(ENDINGS):
        raise InputError(
            f"--memory, --checkpoint and torchrun are for Parquet files, and {data} is of another "
            "format; convert it, or leave them out."
        )
    asked: dict[str, Any] = {"columns": columns, "weight_column": weight_column}
    if memory is None:
        return ParquetSource(data, **asked)
    left = _left(memory)
    source = ParquetSource(data, **asked, cache="disk")
    per_row = 8 * (source.n_features + 1)
    sample = min(source.n_rows, GROWTH * n_sample_rows(n_components, source.n_features))
    left -= 2 * sample * per_row
    if left < 0:
        raise InputError(
            f"--memory {memory} is too little for the sample of {sample} rows that {n_components} "
            "components start from; give more, or ask for fewer components."
        )
    small = source.n_rows * per_row // n_processes() < left
    return ParquetSource(data, **asked, cache="ram") if small else source


def files_for(
    data: Path,
    features: Sequence[str] | None,
    n_features: int,
    columns: str | None = None,
    memory: str | None = None,
    n_written: int = 0,
) -> ParquetSource:
    """The columns of many files that are the features of a model, to be read once.

    ``n_written`` numbers are written for each row; batches are so long that the work on one stays
    within ``memory``.
    """
    from mogul.data import ParquetSource

    chosen: Any = names(columns)
    if chosen is None and features is not None:
        chosen = [str(name) for name in features]
    source = ParquetSource(data, chosen, cache="none")
    if source.n_features != n_features:
        raise InputError(
            f"The model has {n_features} features and {data} gives {source.n_features}: "
            f"{', '.join(source.names or ())}; choose as many with --columns."
        )
    if memory is not None:
        per_row = _COPIES * 8 * (n_features + n_written)
        source.batch_rows = min(source.batch_rows, max(1, _left(memory) // per_row))
    return source


def write_in_batches(
    source: ParquetSource,
    answer: Callable[[Table], Mapping[str, np.ndarray]],
    out: Path | None,
) -> float:
    """Write what is answered for the rows of each batch, and tell how far it is.

    Returns
    -------
    float
        Rows a second.
    """
    from mogul.data import write_csv, write_table_parts

    passes, batches = told_batches(source)
    parts = map(answer, batches)
    if out is not None:
        write_table_parts(out, parts)
    else:
        for i, part in enumerate(parts):
            write_csv(sys.stdout.buffer, part, header=i == 0)
    return passes.report.n_rows_per_second


def told_batches(source: ParquetSource) -> tuple[Passes, Iterator[Table]]:
    """The rows of many files, batch by batch, with a line that tells how far that is."""
    from mogul._progress import ProgressLine
    from mogul.data import Table
    from mogul.data.sources import ahead
    from mogul.estimators._progress import Passes

    line = ProgressLine("auto")
    passes = Passes(line, source.n_rows)
    passes.begin_pass()

    def read() -> Iterator[Table]:
        try:
            for block in ahead(source.checked_blocks()):
                yield Table(block.values, source.names or ())
                passes.read(len(block.values))
        finally:
            line.close()

    return passes, read()


@contextmanager
def _group() -> Iterator[bool]:
    """The group of processes that torchrun started, if it did; whether this is the first one."""
    if n_processes() == 1:
        yield True
        return
    import torch.distributed as dist

    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            "WORLD_SIZE is set and MASTER_ADDR is not; start several processes by torchrun, or one "
            "with WORLD_SIZE unset."
        )
    try:
        # The first process may work alone for long, on the choice of a form say.
        dist.init_process_group("gloo", timeout=timedelta(days=1), **_meeting_place())
    except RuntimeError as error:
        from mogul.infer.team import in_short

        raise TeamError(f"The processes cannot find each other ({in_short(error)}).") from error
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def _meeting_place() -> dict[str, Any]:
    """Where the processes leave their addresses: one for each attempt of torchrun.

    It keeps a single store for all of them, with the addresses of processes that are dead.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    n = n_processes()
    dist: Any = import_module("torch.distributed")  # which says nothing of its stores' types
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.TCPStore(address, port, n, is_master=False)
    store = dist.PrefixStore(f"mogul-{attempt}", store)
    return {"store": store, "rank": int(os.environ["RANK"]), "world_size": n}


def fit_files(
    data: Path,
    n_components: int,
    kind: str,
    settings: dict[str, Any],
    *,
    columns: str | None,
    weight_column: str | None,
    memory: str | None,
    checkpoint: str | None,
    resume: bool,
    out: str | None,
    bayes: bool = False,
) -> None:
    """Fit one mixture to Parquet files, tell of it and save it."""
    import mogul
    from mogul.cli._bayes import posterior_facts, print_posterior
    from mogul.infer.checkpoint import Checkpoint

    if bayes and (resume or checkpoint):
        raise InputError("--checkpoint and --resume keep the state of EM; leave out --bayes.")
    if resume and checkpoint is None:
        raise InputError("--resume goes on from a checkpoint; say which with --checkpoint FILE.")
    rows = data, names(columns), weight_column, memory
    if bayes:
        posterior = mogul.BayesianGaussianMixture(n_components, covariance_type=kind, **settings)

        def told(source: ParquetSource, spent: float) -> None:
            del spent
            print_facts(posterior_facts(posterior, posterior.score(source)))
            print_posterior(posterior)

        fit_in_group(posterior, posterior.fit, *rows, out, told, n_components)
        return
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    keep = checkpoint and Checkpoint(checkpoint, resume=resume or restarted)
    model = mogul.GaussianMixture(
        n_components, covariance_type=kind, checkpoint=keep or None, **settings
    )
    fit_in_group(model, model.fit, *rows, out, lambda _, spent: _print(model, spent), n_components)


def fit_in_group(
    model: Any,
    fit: Callable[[ParquetSource], object],
    data: Path,
    columns: list[str] | None,
    weight_column: str | None,
    memory: str | None,
    out: str | None,
    tell: Callable[[ParquetSource, float], None],
    n_components: int = 1,
) -> None:
    """Fit a model to files in every process that torchrun started; the first saves it and tells.

    Parameters
    ----------
    fit : callable (source)
        Fits ``model``.
    tell : callable (source, seconds)
        Prints what was found.
    n_components : int, default 1
        On which depends how much memory a sample takes.
    """
    import mogul

    with _group() as leads:
        source = _source_of(data, columns, weight_column, memory, n_components)
        began = monotonic()
        fit(source)
        spent = monotonic() - began
        if leads:
            saved = None if out is None else mogul.save(model, out)
            weighted = ", weighted" if source.weight_column is not None else ""
            print(
                f"{data}: {source.n_rows} rows in {len(source.groups)} row groups, "
                f"{source.n_features} columns{weighted}\n"
            )
            tell(source, spent)
            print_saved(saved)


def _print(model: GaussianMixture, spent: float) -> None:
    mixture = model.mixture_
    by = "" if n_processes() == 1 else f" by {n_processes()} processes"
    state = "converged" if model.converged_ else "not converged"
    facts: list[tuple[str, Any]] = [
        ("covariance type", mixture.covariance_type),
        ("components", mixture.n_components),
        ("parameters", mixture.n_parameters),
        ("log-likelihood", f"{number(model.lower_bound_)} nats a row"),
        ("EM", f"{state} after {model.n_iter_} iterations"),
        (
            "rows read",
            f"{number(n_processes() * model.passes_.n_rows_per_second / 1e6)} million a second{by}",
        ),
        ("time", f"{spent:.1f} s, {model.passes_.n_passes} passes over the rows"),
    ]
    print_facts(facts)
    print_mixture(mixture)
