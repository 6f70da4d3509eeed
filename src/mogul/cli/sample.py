"""``mogul sample``: rows drawn from a saved model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul.cli._arguments import (
    ModelArgument,
    SeedOption,
    feature_names,
    numbered_names,
    single_mixture,
)

if TYPE_CHECKING:
    import numpy as np

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
    from mogul import load
    from mogul.data import check_table_destination, write_csv, write_table

    if out is not None:
        check_table_destination(out)
    rows, names = _drawn(load(model), model, n_rows, seed)
    columns = dict(zip(names, rows.T, strict=True))
    if out is None:
        write_csv(sys.stdout.buffer, columns)
    else:
        write_table(out, columns)
        print(f"{n_rows} rows written to {out}")


def _drawn(found: Any, model: Path, n_rows: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Rows and the names of their columns."""
    import torch

    if hasattr(found, "generator_"):
        names = getattr(found, "feature_names_in_", None)
        rows = found.set_params(random_state=seed).sample(n_rows)
        return rows, numbered_names(names, found.n_features_in_)
    mixture = single_mixture(found, model)
    posterior = getattr(found, "posterior_", None)
    source = mixture if posterior is None else posterior.predictive()
    rows = source.sample((n_rows,), generator=torch.Generator().manual_seed(seed)).numpy()
    return rows, feature_names(mixture)
