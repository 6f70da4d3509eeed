"""Arguments that several commands share, and what they name."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul.cli._messages import note
from mogul.errors import InputError

if TYPE_CHECKING:
    from mogul import Mixture
    from mogul.data import Rows, Table

__all__ = [
    "ColumnsOption",
    "DataArgument",
    "FilesArgument",
    "ModelArgument",
    "OutOption",
    "SeedOption",
    "WeightOption",
    "feature_names",
    "load_mixture",
    "names",
    "note_left_out",
    "numbered_names",
    "rows_for",
    "single_mixture",
    "table_rows",
]

_LARGEST_SEED = 2**32 - 1
"""What NumPy's generators take."""

DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="A table: CSV, Parquet or Arrow.")
]
FilesArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A table (CSV, Parquet or Arrow), a folder or a quoted pattern of Parquet files.",
    ),
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that mogul fit saved, or its folder.")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="A,B,...",
        help="The columns to use, in this order; quote a name that has a comma.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, max=_LARGEST_SEED, help="The same seed, the same result."),
]

WeightOption = Annotated[str | None, typer.Option(metavar="NAME", help="The column of weights.")]
OutOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Where to save: a file, or a folder with a /.")
]


def note_left_out(columns: Sequence[str]) -> None:
    """Tell of columns that are not used."""
    if columns:
        listed = ", ".join(map(repr, columns))
        note(f"Not used, for they are not numbers or only number the rows: {listed}.")


def names(text: str | None) -> list[str] | None:
    """The names in a comma-separated list, with CSV's quotes around those that hold a comma."""
    if text is None:
        return None
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def load_mixture(model: Path) -> Mixture:
    """The single mixture in a model file, whatever kind of model it holds."""
    from mogul import load

    return single_mixture(load(model), model)


def single_mixture(found: Any, model: Path) -> Mixture:
    """The mixture of what was loaded from ``model``."""
    from mogul import Mixture

    mixture = found if isinstance(found, Mixture) else getattr(found, "mixture_", None)
    if mixture is None and hasattr(found, "generator_"):
        raise InputError(
            f"{model} holds a {type(found).__name__}, which draws rows and has no density; use "
            "mogul sample, or fit a mixture by mogul fit."
        )
    if mixture is None:
        raise InputError(
            f"{model} holds a {type(found).__name__}, whose mixture is another for each row; use "
            "mogul regress predict."
        )
    if mixture.batch_shape:
        raise InputError(
            f"{model} holds a batch of mixtures, of shape {tuple(mixture.batch_shape)}; commands "
            "work on one, so pick it in Python by indexing and save that."
        )
    return mixture


def feature_names(mixture: Mixture) -> list[str]:
    """The mixture's own names, or x0, x1, ... as scikit-learn names features without one."""
    return numbered_names(mixture.feature_names, mixture.n_features)


def numbered_names(given: Sequence[str] | None, n_features: int) -> list[str]:
    """The names of features, x0, x1, ... where they have none."""
    return [f"x{i}" for i in range(n_features)] if given is None else [str(one) for one in given]


def rows_for(mixture: Mixture, data: Path, columns: str | None = None) -> Rows:
    """The columns of a file that are the features of a mixture."""
    from mogul.data import read_table

    chosen: Any = names(columns)
    if chosen is None and mixture.feature_names is not None:
        chosen = mixture.feature_names
    table = read_table(data, chosen)
    if len(table.names) != mixture.n_features:
        raise InputError(
            f"The model has {mixture.n_features} features and {data} gives {len(table.names)}: "
            f"{', '.join(table.names)}; choose as many with --columns."
        )
    return table_rows(table)


def table_rows(table: Table) -> Rows:
    """A table and its weights as tensors."""
    import torch

    from mogul.data import Rows

    weight = None if table.sample_weight is None else torch.from_numpy(table.sample_weight)
    return Rows(torch.from_numpy(table.values), weight)
