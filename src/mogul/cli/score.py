"""``mogul score``: log-densities and responsibilities of the rows of a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mogul.cli._arguments import ColumnsOption, DataArgument, ModelArgument, load_mixture, rows_for
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

    The columns of DATA are found by the names that the model was fitted with.
    """  # noqa: D301 - the escape tells typer to keep the lines
    from mogul.data import check_table_destination, write_csv, write_table
    from mogul.infer.criteria import mean_log_likelihood

    if out is not None:
        check_table_destination(out)
    mixture = load_mixture(model)
    rows = rows_for(mixture, data, columns)
    if summary:
        print(number(mean_log_likelihood(rows, mixture)))
    elif out is None:
        write_csv(sys.stdout.buffer, _scores(mixture, rows))
    else:
        write_table(out, _scores(mixture, rows))
        print(f"{rows.n_rows} rows written to {out}")


def _scores(mixture: Mixture, rows: Rows) -> dict[str, np.ndarray]:
    """The columns to write."""
    from mogul import kernels

    shares = kernels.responsibilities(rows.values, mixture).numpy()
    return {
        "log_density": kernels.log_prob(rows.values, mixture).numpy(),
        "component": kernels.predict(rows.values, mixture).numpy(),
        **{f"responsibility_{k}": share for k, share in enumerate(shares.T)},
    }
