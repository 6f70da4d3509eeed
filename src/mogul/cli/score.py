"""``mogul score``: log-densities and responsibilities of the rows of a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul.cli._arguments import (
    ColumnsOption,
    FilesArgument,
    ModelArgument,
    rows_for,
    single_mixture,
    table_rows,
)
from mogul.cli._files import (
    BatchMemoryOption,
    files_for,
    is_many,
    refuse_several,
    told_batches,
    write_in_batches,
)
from mogul.cli._report import number

if TYPE_CHECKING:
    import numpy as np

    from mogul import Mixture
    from mogul.data import Rows

__all__ = ["score"]


def score(
    model: ModelArgument,
    data: FilesArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; CSV is printed without it."),
    ] = None,
    columns: ColumnsOption = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the mean log-density and nothing else.")
    ] = False,
    memory: BatchMemoryOption = None,
) -> None:
    """Write each row's log-density, its component, and the probability of each component.

    \b
    The columns written:
      log_density         in nats; the lower, the stranger the row
      component           the most probable one, counted from 0
      responsibility_0..  the probability of each component

    \b
    Examples:
      mogul score cars.safetensors new_cars.csv --out scores.parquet
      mogul score cars.safetensors new_cars.csv --summary
      mogul score cars.safetensors 'new/*.parquet' --out scores.parquet

    The columns of DATA are found by the names that the model was fitted with. For a model with a
    posterior, densities and probabilities are averaged over it. A folder or a quoted pattern of
    Parquet files is read and written in batches, so that memory does not grow with the rows.
    """  # noqa: D301 - the escape tells typer to keep the lines
    from mogul import load
    from mogul.data import check_table_destination, write_csv, write_table

    refuse_several()
    if out is not None:
        check_table_destination(out)
    found = load(model)
    if memory or is_many(data):
        _score_files(found, model, data, columns, out, summary, memory)
        return
    rows = rows_for(single_mixture(found, model), data, columns)
    if summary:
        print(number(float(_densities(found, rows).mean())))
    elif out is None:
        write_csv(sys.stdout.buffer, _scores(found, rows))
    else:
        write_table(out, _scores(found, rows))
        print(f"{rows.n_rows} rows written to {out}")


def _score_files(
    found: Any,
    model: Path,
    data: Path,
    columns: str | None,
    out: Path | None,
    summary: bool,
    memory: str | None,
) -> None:
    """Batch after batch: memory holds one of them."""
    mixture = single_mixture(found, model)
    n_written = 2 + mixture.n_components
    asked = mixture.feature_names, mixture.n_features, columns, memory, n_written
    source = files_for(data, *asked)
    if summary:
        total, n_rows = 0.0, 0
        for batch in told_batches(source)[1]:
            total += float(_densities(found, table_rows(batch)).sum())
            n_rows += len(batch)
        print(number(total / n_rows if n_rows else float("nan")))
        return
    rate = write_in_batches(source, lambda batch: _scores(found, table_rows(batch)), out)
    if out is not None:
        print(f"{source.n_rows} rows written to {out}, {number(rate / 1e6)} million a second")


def _densities(found: Any, rows: Rows) -> np.ndarray:
    """The log-density of each row."""
    from mogul import kernels

    posterior = getattr(found, "posterior_", None)
    if posterior is not None:
        return posterior.predictive().log_prob(rows.values).numpy()
    return kernels.log_prob(rows.values, _mixture(found)).numpy()


def _shares(found: Any, rows: Rows) -> np.ndarray:
    """The probability of each component for each row."""
    from mogul import kernels

    posterior = getattr(found, "posterior_", None)
    if posterior is not None:
        return posterior.predictive().responsibilities(rows.values).numpy()
    return kernels.responsibilities(rows.values, _mixture(found)).numpy()


def _mixture(found: Any) -> Mixture:
    return getattr(found, "mixture_", found)


def _scores(found: Any, rows: Rows) -> dict[str, np.ndarray]:
    """The columns to write."""
    shares = _shares(found, rows)
    return {
        "log_density": _densities(found, rows),
        "component": shares.argmax(1),
        **{f"responsibility_{k}": share for k, share in enumerate(shares.T)},
    }
