"""``mogul score``: log-densities and responsibilities of the rows of a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul.cli._arguments import (
    ColumnsOption,
    DataArgument,
    ModelArgument,
    rows_for,
    single_mixture,
)
from mogul.cli._files import files_for, is_many
from mogul.cli._report import number

if TYPE_CHECKING:
    import numpy as np

    from mogul import Mixture
    from mogul.data import Rows

__all__ = ["score"]


def score(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; CSV is printed without it."),
    ] = None,
    columns: ColumnsOption = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the mean log-density and nothing else.")
    ] = False,
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

    if out is not None:
        check_table_destination(out)
    found = load(model)
    if is_many(data):
        _score_files(found, model, data, columns, out, summary)
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
    found: Any, model: Path, data: Path, columns: str | None, out: Path | None, summary: bool
) -> None:
    """Batch after batch: memory holds one of them."""
    from mogul._progress import ProgressLine
    from mogul.data import Rows, write_csv, write_table_parts
    from mogul.estimators._progress import Passes

    source = files_for(single_mixture(found, model), data, columns)
    line = ProgressLine("auto")
    passes = Passes(line, source.n_rows)
    passes.begin_pass()

    def read() -> Iterator[Rows]:
        for block in source.checked_blocks():
            rows = Rows(*block.tensors())
            yield rows
            passes.read(rows.n_rows)
        line.close()

    batches = read()
    if summary:
        total, n_rows = 0.0, 0
        for rows in batches:
            total, n_rows = total + float(_densities(found, rows).sum()), n_rows + rows.n_rows
        print(number(total / n_rows if n_rows else float("nan")))
        return
    parts = (_scores(found, rows) for rows in batches)
    if out is not None:
        write_table_parts(out, parts)
        rate = passes.report.n_rows_per_second / 1e6
        print(f"{source.n_rows} rows written to {out}, {number(rate)} million a second")
        return
    for i, part in enumerate(parts):
        write_csv(sys.stdout.buffer, part, header=i == 0)


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
