"""Parquet files as a source of rows, one row group at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mogul._files import reason
from mogul.data.sources import Block, BlockCache, Source, batch_size
from mogul.data.tables import ROW_NUMBERS, numeric_names
from mogul.errors import (
    FileError,
    FileFormatError,
    InputError,
    InputTypeError,
    MissingFileError,
    UnknownNameError,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pa_dataset

__all__ = ["ENDINGS", "ParquetSource", "names_files", "parquet_files"]

_NULLS = ("error", "drop")
ENDINGS = (".parquet", ".pq")


@dataclass(frozen=True)
class _Group:
    """One row group: its number among all, its fragment, its rows and its name."""

    number: int
    fragment: Any
    n_rows: int
    where: str


class ParquetSource(Source):
    """The numeric columns of Parquet files, read a row group at a time, as often as needed.

    A group of processes divides the row groups evenly among them.

    Parameters
    ----------
    data : path, glob, sequence of paths, or pyarrow Dataset
        A folder stands for all files in it, and in folders in it, that end in .parquet or .pq. In a
        glob ``**`` is any number of folders.
    columns : sequence of str, optional
        The columns to read, in this order. By default all that are numeric, but the weights and row
        numbers that pandas wrote.
    weight_column : str, optional
        The column of row weights.
    filters : pyarrow Expression, or list, optional
        Which rows to read, as in ``pyarrow.parquet.read_table``: ``[("year", ">", 2020)]``.
    null : {"error", "drop"}, default "error"
        What to do with a row in which a value is missing, NaN or infinite.
    cache : {"auto", "ram", "disk", "none"}, default "auto"
        Where the columns are kept after the first pass: in memory, in a temporary file, or not, so
        that each pass reads the files. "auto" is "ram" while they take less than half of what is
        free, then "disk".
    batch_rows : int, optional
        The most rows of a batch; by default as many as fill 8 MB.

    Raises
    ------
    MissingFileError, FileFormatError, FileError
        When there is no file, one is no Parquet file or damaged, or may not be read.
    UnknownNameError
        When a file lacks a column.
    InputError
        When a column is not numeric. Values are looked at as they are read: one that is missing,
        NaN or infinite is told with its file, row group and row.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, pyarrow as pa, pyarrow.parquet as pq
    >>> from mogul import GaussianMixture
    >>> from mogul.data import ParquetSource
    >>> folder = tempfile.mkdtemp()
    >>> rows = np.random.default_rng(0).normal(size=(2, 500))
    >>> pq.write_table(pa.table({"a": rows[0], "b": rows[1]}), f"{folder}/part-0.parquet")
    >>> source = ParquetSource(folder)
    >>> source.names, source.n_rows
    (('a', 'b'), 500)
    >>> GaussianMixture(1).fit(source).means_.shape
    (1, 2)
    """

    shared = True

    def __init__(
        self,
        data: Any,
        columns: Sequence[str] | None = None,
        weight_column: str | None = None,
        filters: Any = None,
        null: str = "error",
        cache: str = "auto",
        batch_rows: int | None = None,
    ):
        if null not in _NULLS:
            raise InputError(f"null is {null!r}; choose 'error' or 'drop'.")
        dataset = _opened(data)
        self.weight_column, self.null = weight_column, null
        self.filter = None if filters is None else _expression(filters)
        self.names = _chosen(dataset.schema, columns, weight_column, dataset.files[0])
        self.n_features = len(self.names)
        self._wanted = [*self.names, *([weight_column] if weight_column else [])]
        self.groups = list(_groups(dataset, self._wanted))
        single = all(_is_single(dataset.schema.field(name).type) for name in self.names)
        self.dtype = np.dtype(np.float32 if single else np.float64)
        self.batch_rows = batch_rows or batch_size(self.n_features)
        self.cache = cache
        self._cache = self._new_cache()

    def _new_cache(self) -> BlockCache:
        per_row = self.n_features * self.dtype.itemsize + (8 if self.weight_column else 0)
        return BlockCache(self.cache, self.n_rows * per_row)

    @property
    def n_rows(self) -> int:
        """Rows in the row groups, before any are filtered or dropped."""
        return sum(group.n_rows for group in self.groups)

    def shard(self, rank: int, size: int) -> Self:
        """Row groups for one process of several: the largest goes to who has fewest rows so far."""
        if size == 1:
            return self
        loads: list[tuple[int, int, list[_Group]]] = [(0, i, []) for i in range(size)]
        for group in sorted(self.groups, key=lambda one: -one.n_rows):
            load, i, mine = min(loads, key=lambda one: one[:2])
            loads[i] = load + group.n_rows, i, [*mine, group]
        part = copy(self)
        part.groups = sorted(loads[rank][2], key=lambda one: one.number)
        part._cache = part._new_cache()
        return part

    def parts(self, n: int) -> list[Source]:
        return [copy(self.shard(i, n))._kept(self._cache.how) for i in range(n)]

    def uncached(self) -> Source:
        return copy(self)._kept("none")

    def _kept(self, how: str) -> Self:
        """The source itself, with a new cache."""
        self.cache, self._cache = how, BlockCache(how, 0)
        return self

    def blocks(self) -> Iterator[Block]:
        yield from self._cache.through(lambda: self._read(self.groups))

    def scattered(self, rng: np.random.Generator) -> Iterator[Block]:
        kept = self._cache.scattered(rng)
        order = rng.permutation(len(self.groups))
        yield from self._read(self.groups[i] for i in order) if kept is None else kept

    def _read(self, groups: Iterable[_Group]) -> Iterator[Block]:
        for group in groups:
            first = 0
            for batch in self._batches(group):
                block = self._block(batch, group, first)
                first += len(block.values)
                if len(block.values):
                    yield block

    def _batches(self, group: _Group) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        try:
            yield from group.fragment.to_batches(
                columns=self._wanted, filter=self.filter, batch_size=self.batch_rows,
                batch_readahead=1, fragment_readahead=1,
            )  # fmt: skip
        except (pa.ArrowException, OSError, ValueError) as error:
            raise FileFormatError(
                f"{_sentence_start(group.where)} cannot be read ({reason(error)[:200]}); the file "
                "may be damaged, so write it again or leave it out."
            ) from error

    def _block(self, batch: pa.RecordBatch, group: _Group, first: int) -> Block:
        """The numbers of a batch, whose first row that is kept is ``first`` of those."""
        import pyarrow as pa

        n_rows = batch.num_rows
        values = np.empty((n_rows, self.n_features), dtype=self.dtype)
        target = pa.from_numpy_dtype(self.dtype)
        for j in range(self.n_features):
            column = batch.column(j)
            column = column if column.type == target else column.cast(target, safe=False)
            values[:, j] = column.to_numpy(zero_copy_only=False)
        weight = None
        if self.weight_column is not None:
            column = batch.column(self.n_features).cast(pa.float64(), safe=False)
            weight = column.to_numpy(zero_copy_only=False).copy()
        if self.null == "drop":
            kept = np.isfinite(values).all(1)
            kept &= True if weight is None else np.isfinite(weight)
            if not kept.all():
                values, weight = values[kept], None if weight is None else weight[kept]
        whole = self.filter is None and self.null == "error"
        where = group.where if whole else f"the rows kept of {group.where}"
        return Block(values, weight, group.number, where, first)


# --- files ----------------------------------------------------------------------------------------


def parquet_files(data: str | os.PathLike[str]) -> list[str]:
    """The Parquet files of a path, a folder or a glob, in the order of their names."""
    text = os.fspath(data)
    if os.path.isdir(text):
        return _in_folder(text)
    if os.path.exists(text):
        return [text]
    if glob.has_magic(text):
        found = sorted(f for f in glob.glob(text, recursive=True) if os.path.isfile(f))
        if not found:
            raise MissingFileError(f"No file matches {text}; quote the pattern and check the path.")
        return found
    raise MissingFileError(f"There is no file {text}.")


def _in_folder(folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise FileError(f"The folder {folder} cannot be read: {reason(error)}.") from error

    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if name.endswith(ENDINGS) and not name.startswith((".", "_"))
    ]
    if not found:
        raise MissingFileError(f"The folder {folder} holds no file that ends in .parquet or .pq.")
    return sorted(found)


def _opened(data: Any) -> pa_dataset.FileSystemDataset:
    import pyarrow as pa
    import pyarrow.dataset as pa_dataset

    if isinstance(data, pa_dataset.Dataset):
        if not isinstance(data, pa_dataset.FileSystemDataset) or not data.files:
            raise InputTypeError("The pyarrow Dataset holds no files; expected one of files.")
        return data
    if isinstance(data, (str, os.PathLike)):
        files = parquet_files(data)
    else:
        files = [one for path in data for one in parquet_files(path)]
    if not files:
        raise InputError("The list of files is empty; expected at least one.")
    try:
        return pa_dataset.dataset(files, format="parquet", partitioning=None)
    except (pa.ArrowException, OSError, ValueError) as error:
        _tell_which(files, error)
        raise


def _tell_which(files: Sequence[str], error: Exception) -> None:
    """Raise a sentence that names the first file that cannot be opened."""
    from pyarrow import parquet

    for file in files:
        try:
            parquet.read_schema(file)
        except PermissionError as denied:
            raise FileError(f"{file} cannot be read: {reason(denied)}.") from denied
        except Exception as broken:
            raise _damaged(file, broken) from broken
    raise FileFormatError(f"The files cannot be read together ({reason(error)[:200]}).") from error


def _damaged(file: str, error: BaseException) -> FileFormatError:
    return FileFormatError(
        f"{file} cannot be read as Parquet ({reason(error)[:200]}); it may be truncated or of "
        "another format, so write it again or leave it out."
    )


def _groups(dataset: pa_dataset.FileSystemDataset, wanted: Sequence[str]) -> Iterator[_Group]:
    """The row groups of all files, each of which has the columns wanted."""
    number = 0
    for fragment in dataset.get_fragments():
        name = fragment.path
        try:
            schema, groups = fragment.physical_schema, fragment.row_groups
        except PermissionError as error:
            raise FileError(f"{name} cannot be read: {reason(error)}.") from error
        except Exception as error:  # pyarrow raises many kinds for bytes that make no sense
            raise _damaged(name, error) from error
        _check_columns(schema, wanted, name, dataset)
        for group in groups:
            part = fragment.subset(row_group_ids=[group.id])
            yield _Group(number, part, group.num_rows, f"row group {group.id} of {name}")
            number += 1


def _check_columns(
    schema: pa.Schema, wanted: Sequence[str], name: str, dataset: pa_dataset.FileSystemDataset
) -> None:
    missing = [one for one in wanted if one not in schema.names]
    if missing:
        raise UnknownNameError(
            f"{name} has no column {missing[0]!r}; its columns are {', '.join(schema.names)}, and "
            f"those of {dataset.files[0]} were asked for."
        )
    numeric = numeric_names(schema)
    for one in wanted:
        if one not in numeric:
            raise InputError(
                f"Column {one!r} of {name} is not numeric, its type is {schema.field(one).type}."
            )


def _chosen(
    schema: pa.Schema, columns: Sequence[str] | None, weight_column: str | None, file: str
) -> tuple[str, ...]:
    numeric = numeric_names(schema)
    asked = [*(columns or ()), *([weight_column] if weight_column else [])]
    for name in asked:
        if name not in schema.names:
            raise UnknownNameError(
                f"{file} has no column {name!r}; it has {', '.join(schema.names)}."
            )
        if name not in numeric:
            raise InputError(
                f"Column {name!r} of {file} is not numeric, its type is {schema.field(name).type}."
            )
        if asked.count(name) > 1:
            raise InputError(f"Column {name!r} is asked for twice; name each column once.")
    if columns is not None:
        return tuple(columns)
    chosen = tuple(n for n in numeric if n != weight_column and n not in ROW_NUMBERS)
    if not chosen:
        raise InputError(f"{file} has no numeric column; it has {', '.join(schema.names)}.")
    return chosen


def _expression(filters: Any) -> Any:
    import pyarrow.compute as pa_compute
    from pyarrow import parquet

    if isinstance(filters, pa_compute.Expression):
        return filters
    build: Callable[[Any], Any] = parquet.filters_to_expression
    try:
        return build(filters)
    except Exception as error:
        raise InputError(
            f"filters cannot be understood ({reason(error)}); give a list such as "
            '[("year", ">", 2020)].'
        ) from error


def _is_single(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_float32(kind)


def _sentence_start(text: str) -> str:
    return text[:1].upper() + text[1:]


def names_files(text: str | os.PathLike[str]) -> bool:
    """Whether a path names several files: a folder or a glob."""
    given = os.fspath(text)
    return os.path.isdir(given) or (glob.has_magic(given) and not Path(given).exists())
