"""Tables in files: CSV, Parquet and Arrow, through pyarrow, which only functions here import."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from mogul._files import atomic_path, check_target, reason
from mogul.errors import (
    FileError,
    FileFormatError,
    InputError,
    MissingFileError,
    MogulError,
    UnknownNameError,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ROW_NUMBERS",
    "Table",
    "check_table_destination",
    "numeric_names",
    "read_table",
    "write_csv",
    "write_table",
    "write_table_parts",
]

_LARGEST_BLOCK = 2**31 - 1
"""Bytes that pyarrow's CSV reader can take at once."""


ROW_NUMBERS = ("", "__index_level_0__")
"""The names under which pandas writes its row numbers to CSV and Parquet: no feature."""


@dataclass(frozen=True, eq=False)
class Table:
    """Numeric columns of a file, as ``GaussianMixture.fit`` and ``mogul.select`` take them.

    Attributes
    ----------
    values : ndarray, shape (N, D)
        Finite, float64; float32 where every column of the file is.
    names : tuple of D strings
    sample_weight : ndarray, shape (N,), or None
        Row weights, float64.
    skipped : tuple of strings
        When all columns were asked for: those not used, since they are not numeric or are the row
        numbers that pandas writes.
    """

    values: np.ndarray
    names: tuple[str, ...]
    sample_weight: np.ndarray | None = None
    skipped: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The names, by the word that data frames use."""
        return list(self.names)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=True if copy else None)

    def rows(self, kept: np.ndarray) -> Table:
        """Some of the rows, by a mask (N,) or by their numbers."""
        weight = None if self.sample_weight is None else self.sample_weight[kept]
        return Table(self.values[kept], self.names, weight, self.skipped)

    def __getitem__(self, names: Sequence[str]) -> Table:
        """The same rows with some columns, in the given order."""
        chosen = [_position(name, self.names, "The table") for name in names]
        return Table(self.values[:, chosen], tuple(names), self.sample_weight, self.skipped)


def read_table(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    weight_column: str | None = None,
    may_be_missing: Sequence[str] = (),
) -> Table:
    r"""Read the numeric columns of a file.

    Parameters
    ----------
    path : path
        By its ending: .csv, .tsv or .csv.gz with a header row; .parquet or .pq; .arrow, .feather
        or .ipc.
    columns : sequence of str, optional
        The columns to read, in this order. By default all that are numeric (integers, floats and
        decimals, not booleans or dates) but the weights and row numbers that pandas wrote.
    weight_column : str, optional
        The column of row weights.
    may_be_missing : sequence of str, default ()
        Columns whose missing values are read as NaN; in others they are refused.

    Raises
    ------
    MissingFileError, FileFormatError, FileError
        When there is no such file, its ending is unknown, or its content cannot be read.
    UnknownNameError
        When a column does not exist.
    InputError
        When a column is not numeric, or holds a missing value, NaN or infinity, when there is no
        row or no numeric column, or the weights are negative, not finite or all zero. The message
        names the row, the first row of data being row 1.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "cars.csv"
    >>> _ = file.write_text("maker,weight_kg,power_kw\nFiat,870,51\nVolvo,1610,140\n")
    >>> table = read_table(file)
    >>> table.names, table.skipped
    (('weight_kg', 'power_kw'), ('maker',))
    >>> table.values
    array([[ 870.,   51.],
           [1610.,  140.]])
    """
    file = _existing(path)
    whole = _parsed(file)
    if not whole.num_rows:
        raise InputError(f"{path} holds no row of data; expected at least one below its header.")
    names = _chosen(whole, columns, weight_column, path)
    weights = None if weight_column is None else _weights(whole, weight_column, path)
    asked_for = set(whole.column_names) if columns is not None else {*names, weight_column}
    skipped = tuple(name for name in whole.column_names if name not in asked_for)
    values = _values(whole, names, path, may_be_missing)
    return Table(values, tuple(names), weights, skipped)


def write_table(path: str | os.PathLike[str], columns: Mapping[str, np.ndarray]) -> Path:
    """Write columns to a file, in the format of its ending, whole or not at all.

    Parameters
    ----------
    path : path
        With an ending that :func:`read_table` knows. An existing file is replaced.
    columns : mapping from names to arrays, shape (N,) each

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FileFormatError, FileError
        When the ending is unknown, or the file cannot be written.
    InputError
        When the columns differ in length.
    """
    write = _FORMATS[_ending(path)][1]
    table = _as_arrow(columns)
    with atomic_path(path) as temporary:
        write(table, temporary)
    return Path(path)


def write_table_parts(
    path: str | os.PathLike[str], parts: Iterable[Mapping[str, np.ndarray]]
) -> Path:
    """As :func:`write_table`, the rows part after part: memory holds one of them at a time."""
    ending = _ending(path)
    tables = map(_as_arrow, parts)
    with atomic_path(path) as temporary, _appender(ending, temporary) as append:
        for table in tables:
            append(table)
    return Path(path)


@contextmanager
def _appender(ending: str, file: Path) -> Iterator[Callable[[pa.Table], object]]:
    """A function that appends tables of one schema to a file."""
    import pyarrow as pa
    from pyarrow import parquet

    if ending in (".csv", ".tsv", ".csv.gz"):
        delimiter = "\t" if ending == ".tsv" else ","
        with gzip.GzipFile(file, "wb", mtime=0) if ending == ".csv.gz" else file.open("wb") as sink:
            begun = False

            def append_text(table: pa.Table) -> None:
                nonlocal begun
                _write_text(table, cast("IO[bytes]", sink), delimiter, header=not begun)
                begun = True

            yield append_text
        return
    writer: Any = None

    def append(table: pa.Table) -> None:
        nonlocal writer
        if writer is None and ending in (".parquet", ".pq"):
            writer = parquet.ParquetWriter(file, table.schema)
        elif writer is None:
            writer = pa.ipc.new_file(os.fspath(file), table.schema)
        writer.write_table(table)

    try:
        yield append
    finally:
        if writer is not None:
            writer.close()


def check_table_destination(path: str | os.PathLike[str]) -> None:
    """Raise what :func:`write_table` would for this path; to be asked before long work."""
    _ending(path)
    check_target(path)


def write_csv(sink: IO[bytes], columns: Mapping[str, np.ndarray], *, header: bool = True) -> None:
    """Write columns as CSV to an open binary file, standard output for one."""
    _write_text(_as_arrow(columns), sink, ",", header=header)


def _ending(path: str | os.PathLike[str]) -> str:
    """The ending of a path, if tables can be read from and written to files with it."""
    name = os.fspath(path).lower()
    for ending in _FORMATS:
        if name.endswith(ending):
            return ending
    raise FileFormatError(
        f"{path} has no ending that says how to read or write it; expected one of "
        f"{', '.join(_FORMATS)}."
    )


# --- files ----------------------------------------------------------------------------------


def _existing(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.exists():
        raise MissingFileError(f"There is no file {path}.")
    if file.is_dir():
        raise FileError(f"{path} is a folder; expected a file.")
    _ending(file)
    try:
        empty = file.stat().st_size == 0
    except OSError as error:
        raise FileError(f"{path} cannot be read: {reason(error)}.") from error
    if empty:
        raise InputError(f"{path} is empty; expected a header and at least one row of data.")
    return file


def _parsed(file: Path) -> pa.Table:
    import pyarrow as pa

    read = _FORMATS[_ending(file)][0]
    try:
        return read(file)
    except MogulError:
        raise
    except PermissionError as error:
        raise FileError(f"{file} cannot be read: {reason(error)}.") from error
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise FileFormatError(
            f"{file} cannot be read as {_ending(file)} ({shorten(reason(error), 200)}); it "
            "may be damaged or of another format."
        ) from error


def _read_csv(file: Path) -> pa.Table:
    return _read_text(file, ",")


def _read_tsv(file: Path) -> pa.Table:
    return _read_text(file, "\t")


def _read_text(file: Path, delimiter: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    form = pa_csv.ParseOptions(delimiter=delimiter)
    try:
        table = pa_csv.read_csv(file, parse_options=form)
    except pa.ArrowInvalid as error:
        if "conversion error" not in str(error):
            raise
        # Types were guessed from the first block, and a later one differs: guess from all of it.
        with pa.input_stream(file, compression="detect") as stream:
            content = stream.read()
        block = pa_csv.ReadOptions(block_size=min(len(content) + 1, _LARGEST_BLOCK))
        table = pa_csv.read_csv(pa.BufferReader(content), read_options=block, parse_options=form)
    _refuse_headless(table.column_names, file)
    return table


def _refuse_headless(names: Sequence[str], file: Path) -> None:
    """A file without a header would lose its first row to the names of the columns, unnoticed.

    Whole numbers pass: years and positions are common names of columns.
    """
    if all(map(_is_number, names)) and not all(map(str.isdigit, names)):
        raise FileFormatError(
            f"The first row of {file} is numbers ({', '.join(names[:4])}); expected the names of "
            "the columns, so add a row of them."
        )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _read_parquet(file: Path) -> pa.Table:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:  # read_table would add columns named in folders
        return opened.read()


def _read_ipc(file: Path) -> pa.Table:
    import pyarrow as pa

    with pa.OSFile(os.fspath(file)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:  # the same batches as a stream, without an index at the end
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()


def _write_csv_file(table: pa.Table, file: Path) -> None:
    with file.open("wb") as sink:
        _write_text(table, sink, ",")


def _write_tsv_file(table: pa.Table, file: Path) -> None:
    with file.open("wb") as sink:
        _write_text(table, sink, "\t")


def _write_gzip_file(table: pa.Table, file: Path) -> None:
    with gzip.GzipFile(file, "wb", mtime=0) as sink:  # no time inside: equal tables, equal files
        _write_text(table, cast("IO[bytes]", sink), ",")


def _write_text(table: pa.Table, sink: IO[bytes], delimiter: str, *, header: bool = True) -> None:
    from pyarrow import csv as pa_csv

    if header:
        line = io.StringIO()  # pyarrow quotes every name, this one only those that need it
        csv.writer(line, delimiter=delimiter, lineterminator="\n").writerow(table.column_names)
        sink.write(line.getvalue().encode())
    pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=False, delimiter=delimiter))


def _write_parquet(table: pa.Table, file: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(table, file)


def _write_ipc(table: pa.Table, file: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(os.fspath(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


_FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Any, Path], None]]] = {
    ".csv": (_read_csv, _write_csv_file),
    ".tsv": (_read_tsv, _write_tsv_file),
    ".csv.gz": (_read_csv, _write_gzip_file),
    ".parquet": (_read_parquet, _write_parquet),
    ".pq": (_read_parquet, _write_parquet),
    ".arrow": (_read_ipc, _write_ipc),
    ".feather": (_read_ipc, _write_ipc),
    ".ipc": (_read_ipc, _write_ipc),
}
"""By ending, how to read and how to write."""


# --- columns --------------------------------------------------------------------------------


def _chosen(
    table: pa.Table, columns: Sequence[str] | None, weight_column: str | None, path: Any
) -> list[str]:
    """The names of the columns to use, in order."""
    numeric = numeric_names(table.schema)
    wanted = [weight_column] if weight_column is not None else []
    if columns is not None:
        wanted = [*columns, *wanted]
        _refuse_repeated(wanted, path)
    for name in wanted:
        _position(name, table.column_names, path)
        if name not in numeric:
            kind = table.schema.field(name).type
            raise InputError(
                f"Column {name!r} of {path} is not numeric, its type is {kind}; numeric are "
                f"{_listed(numeric)}."
            )
    left_out = {weight_column, *ROW_NUMBERS}
    chosen = [n for n in numeric if n not in left_out] if columns is None else list(columns)
    if not chosen:
        raise InputError(
            f"{path} has no numeric column to use; its columns are {_listed(table.column_names)}."
        )
    return chosen


def _refuse_repeated(wanted: Sequence[str], path: Any) -> None:
    twice = next((name for name in wanted if wanted.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Column {twice!r} of {path} is asked for twice; name each column once.")


def _position(name: str, names: Sequence[str], path: Any) -> int:
    count = list(names).count(name)
    if count == 0:
        raise UnknownNameError(f"{path} has no column {name!r}; it has {_listed(names)}.")
    if count > 1:
        raise InputError(f"{path} has {count} columns named {name!r}; rename all but one.")
    return list(names).index(name)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) if names else "none"


def numeric_names(schema: pa.Schema) -> list[str]:
    """The columns of integers, floats and decimals."""
    from pyarrow import types

    return [
        field.name
        for field in schema
        if types.is_integer(field.type)
        or types.is_floating(field.type)
        or types.is_decimal(field.type)
    ]


def _values(
    table: pa.Table, names: Sequence[str], path: Any, may_be_missing: Sequence[str]
) -> np.ndarray:
    """The columns side by side, (N, D), every value finite but for those that may be missing."""
    from pyarrow import types

    for name in names:
        _position(name, table.column_names, path)
    single = all(types.is_float32(table.schema.field(name).type) for name in names)
    dtype = np.dtype(np.float32 if single else np.float64)
    values = np.empty((table.num_rows, len(names)), dtype)
    for j, name in enumerate(names):
        values[:, j] = _as_floats(table.column(name), dtype)
    _refuse_not_finite(values, names, path, may_be_missing)
    return values


def _as_floats(column: pa.ChunkedArray, dtype: np.dtype) -> np.ndarray:
    """One column as floats, missing values as NaN."""
    import pyarrow as pa

    # safe=False rounds whole numbers above 2**53 instead of refusing them.
    return column.cast(pa.from_numpy_dtype(dtype), safe=False).to_numpy()


def _refuse_not_finite(
    values: np.ndarray, names: Sequence[str], path: Any, may_be_missing: Sequence[str]
) -> None:
    bad = ~np.isfinite(values)
    allowed = [name in may_be_missing for name in names]
    bad[:, allowed] &= ~np.isnan(values[:, allowed])
    if not bad.any():
        return
    row, column = (int(i) for i in np.argwhere(bad)[0])
    what = "a missing value (NaN)" if np.isnan(values[row, column]) else "infinity"
    n_bad = int(bad.any(axis=1).sum())
    more = f", the first of {n_bad} such rows" if n_bad > 1 else ""
    raise InputError(
        f"{path} holds {what} in row {row + 1}, column {names[column]!r}{more}; fill it or drop "
        "the row."
    )


def _weights(table: pa.Table, name: str, path: Any) -> np.ndarray:
    """Row weights, finite, not negative and not all zero; (N,)."""
    weights = _as_floats(table.column(name), np.dtype(np.float64)).copy()
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        said = "missing (NaN)" if np.isnan(weights[row]) else f"{weights[row]:g}"
        raise InputError(
            f"The weight in row {row + 1}, column {name!r} of {path} is {said}; weights must be "
            "finite and not negative."
        )
    if not weights.any():
        raise InputError(
            f"Every weight in column {name!r} of {path} is zero; at least one must be positive."
        )
    return weights


def _as_arrow(columns: Mapping[str, np.ndarray]) -> pa.Table:
    import pyarrow as pa

    arrays = {name: np.asarray(values) for name, values in columns.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        said = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
        raise InputError(f"Columns must be one-dimensional and equally long; got {said}.")
    return pa.table({name: pa.array(array) for name, array in arrays.items()})
