"""EM for engines that map and reduce: statistics of batches, their sum, and the next mixture.

Whatever can run a Python function on batches of rows and bring small tables back can fit a mixture:
Spark's ``mapInArrow``, Ray's ``map_batches``, Dask's ``map_partitions``, a database. One iteration
is :func:`partial_stats` wherever the rows are, addition, and :func:`m_step`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mogul._warn import warn
from mogul.data.sources import ArraySource
from mogul.errors import DegenerateFitError, InputError, RepairWarning, UnknownNameError
from mogul.infer.em import m_step as _m_step
from mogul.infer.maximum_likelihood import COLLAPSED
from mogul.infer.repair import split_into
from mogul.io import load, save
from mogul.kernels import e_steps
from mogul.mixture import Mixture
from mogul.stats import Stats

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "m_step",
    "model_from_arrow",
    "model_to_arrow",
    "partial_stats",
    "rows_of",
    "stats_from_arrow",
    "stats_to_arrow",
]

_COLUMN, _MODEL = "statistics", "model"


def partial_stats(batches: Any, mixture: Mixture, weight_column: str | None = None) -> Stats:
    """The expected sufficient statistics of some rows under a mixture.

    Statistics of different rows under the same mixture may be added.

    Parameters
    ----------
    batches : pyarrow RecordBatch or Table, data frame, array (N, D), or an iterable of these
        Columns are found by the mixture's feature names, or else taken in order but for the
        weights. An iterable is gone through once.
    mixture : Mixture
    weight_column : str, optional
        The column of row weights.

    Raises
    ------
    InputError
        When a value is missing or not finite, or columns do not fit the mixture.

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import GaussianMixture
    >>> x = np.random.default_rng(0).normal(size=(1000, 2))
    >>> mixture = GaussianMixture(2, random_state=0, max_iter=500).fit(x).mixture_
    >>> both = partial_stats(x[:400], mixture) + partial_stats(x[400:], mixture)
    >>> float(both.row_weight), m_step(both, mixture)
    (1000.0, Mixture(n_components=2, n_features=2, covariance_type='full'))
    """
    one = hasattr(batches, "columns") or hasattr(batches, "schema") or hasattr(batches, "shape")
    each: Iterable[Any] = [batches] if one else batches
    return e_steps(_tensors(each, mixture, weight_column), mixture.detach())


def _tensors(
    batches: Iterable[Any], mixture: Mixture, weight_column: str | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    names = mixture.feature_names
    for batch in batches:
        values, weight = _numbers(batch, names, weight_column)
        if values.ndim != 2 or values.shape[1] != mixture.n_features:
            raise InputError(
                f"A batch has shape {values.shape}, expected {mixture.n_features} columns."
            )
        if not np.isfinite(values).all():
            row = int(np.argmax(~np.isfinite(values).all(1)))
            raise InputError(
                f"Row {row} (counted from 0) of a batch holds a missing value, NaN or infinity; "
                "fill it or drop the row."
            )
        if weight is not None and not (np.isfinite(weight) & (weight >= 0)).all():
            raise InputError("A weight is negative, missing or not finite.")
        yield torch.from_numpy(values), None if weight is None else torch.from_numpy(weight)


def rows_of(
    batches: Iterable[Any], columns: Sequence[str], weight_column: str | None = None
) -> ArraySource:
    """All rows of some batches, in memory, as a source that this process alone reads.

    For engines that can start processes side by side and let them talk to each other, as Spark does
    in barrier mode: each keeps the rows that it is given, and all fit together, without a job for
    each iteration.

    Parameters
    ----------
    batches : iterable of pyarrow RecordBatch or Table, or data frames
        Gone through once. There may be none.
    columns : sequence of str
    weight_column : str, optional

    Examples
    --------
    >>> import pyarrow as pa
    >>> from mogul import GaussianMixture
    >>> batches = [pa.table({"a": [1.0, 2.0]}), pa.table({"a": [4.0, 5.0]})]
    >>> float(GaussianMixture(1).fit(rows_of(batches, ["a"])).means_[0, 0])
    3.0
    """
    names = tuple(columns)
    parts = [_numbers(batch, names, weight_column) for batch in batches]
    values = np.concatenate([np.empty((0, len(names))), *(part for part, _ in parts)])
    if weight_column is None:
        return ArraySource(values, names=names)
    weights = np.concatenate([np.empty(0), *(w for _, w in parts if w is not None)])
    return ArraySource(values, weights, names)


def _numbers(
    batch: Any, features: Sequence[str] | None, weight_column: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    names = _names_of(batch)
    if names is None:
        if weight_column is not None:
            raise InputError("weight_column names a column, and an array has no names.")
        return np.array(batch, dtype=np.float64, order="C"), None
    chosen = features or [name for name in names if name != weight_column]
    columns = [_column(batch, name, names) for name in chosen]
    weight = None if weight_column is None else _column(batch, weight_column, names)
    return np.stack(columns, 1), weight


def _names_of(batch: Any) -> list[str] | None:
    if _is_arrow(batch):
        return list(batch.schema.names)
    columns = getattr(batch, "columns", None)
    return None if columns is None else [str(name) for name in columns]


def _is_arrow(batch: Any) -> bool:
    return type(batch).__module__.startswith("pyarrow")


def _column(batch: Any, name: str, names: list[str]) -> np.ndarray:
    if name not in names:
        raise UnknownNameError(f"A batch has no column {name!r}; it has {', '.join(names)}.")
    try:
        if not _is_arrow(batch):
            return np.array(batch[name], dtype=np.float64)
        column = batch.column(names.index(name))
        whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        return np.array(whole.to_numpy(zero_copy_only=False), dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"Column {name!r} of a batch does not hold numbers.") from None


def m_step(stats: Stats, mixture: Mixture, reg_covar: float = 1e-6) -> Mixture:
    """The mixture that maximises the expected likelihood: EM's next one.

    Parameters
    ----------
    stats : Stats
        Of all rows under ``mixture``.
    mixture : Mixture
        Its structure and its features' names are kept.
    reg_covar : float, default 1e-6
        Added to every variance, in squared units of the data.

    Raises
    ------
    DegenerateFitError
        When every component collapsed.

    Warns
    -----
    RepairWarning
        When a component collapsed; it then takes half of the heaviest one.
    """
    found, ok = _m_step(stats, type(mixture.covariance), reg_covar)
    if not bool(ok.all()):
        repaired = split_into(found, ok)
        if repaired is None:
            raise DegenerateFitError(COLLAPSED)
        which = ", ".join(map(str, (~ok).nonzero().flatten().tolist()))
        warn(f"Component {which} collapsed and was repaired.", RepairWarning)
        found = repaired
    return Mixture(found.log_weights, found.means, found.covariance, mixture.feature_names)


def model_to_arrow(model: Any) -> pa.RecordBatch:
    """A fitted model as one row of a single column: what :func:`mogul.save` would write."""
    import pyarrow as pa

    with tempfile.TemporaryDirectory() as folder:
        content = save(model, Path(folder) / "model.safetensors").read_bytes()
    return pa.record_batch({_MODEL: pa.array([content], pa.binary())})


def model_from_arrow(table: pa.Table | pa.RecordBatch) -> Any:
    """The model that :func:`model_to_arrow` made a row of; the first, where there are several."""
    if not len(table):
        raise InputError("The table has no row, so it holds no model.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(table.column(_MODEL)[0].as_py())
        return load(file)


def stats_to_arrow(stats: Stats) -> pa.RecordBatch:
    """Statistics as one row of a single column of binary numbers, to be sent and added up."""
    import pyarrow as pa

    content = stats.pack().cpu().numpy().astype("<f8").tobytes()
    return pa.record_batch({_COLUMN: pa.array([content], pa.binary())})


def stats_from_arrow(table: pa.Table | pa.RecordBatch, mixture: Mixture) -> Stats:
    """The sum of the rows that :func:`stats_to_arrow` made of statistics under ``mixture``."""
    empty = e_steps([], mixture.detach())
    expected = empty.pack().numel()
    total = np.zeros(expected)
    for content in table.column(_COLUMN).to_pylist():
        part = np.frombuffer(content, "<f8")
        if len(part) != expected:
            raise InputError(
                f"A row holds {len(part)} numbers, expected {expected}; the statistics must be "
                "under the same mixture."
            )
        total += part
    return empty.unpack(torch.from_numpy(total))
