"""``mogul sample``: rows drawn from a saved model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mogul.cli._arguments import ModelArgument, SeedOption, feature_names, single_mixture

__all__ = ["sample"]


def sample(
    model: ModelArgument,
    n_rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many rows to draw.")],
    seed: SeedOption = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; CSV is printed without it."),
    ] = None,
) -> None:
    """Draw rows from a model; the columns are its features.

    \b
    Examples:
      mogul sample cars.safetensors -n 1000 --out made_up_cars.csv
      mogul sample cars.safetensors -n 5 --seed 1
    """  # noqa: D301 - the escape tells typer to keep the lines
    import torch

    from mogul import load
    from mogul.data import check_table_destination, write_csv, write_table

    if out is not None:
        check_table_destination(out)
    found = load(model)
    mixture = single_mixture(found, model)
    posterior = getattr(found, "posterior_", None)
    source = mixture if posterior is None else posterior.predictive()
    rows = source.sample((n_rows,), generator=torch.Generator().manual_seed(seed)).numpy()
    columns = dict(zip(feature_names(mixture), rows.T, strict=True))
    if out is None:
        write_csv(sys.stdout.buffer, columns)
    else:
        write_table(out, columns)
        print(f"{n_rows} rows written to {out}")
