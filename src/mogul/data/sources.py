"""Rows that are read in batches: from arrays, loaders and files, as often as an algorithm asks."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mogul.errors import FileError, InputError

__all__ = [
    "CACHES",
    "ArraySource",
    "Block",
    "BlockCache",
    "LoaderSource",
    "Source",
    "ahead",
    "batch_size",
    "check_weights_of",
]

CACHES = ("auto", "ram", "disk", "none")
_BATCH_BYTES = 1 << 23
"""A batch of float32: of smaller ones, to begin takes as long as a tenth of the work."""
_FOLD = 64
"""Rows that are laid end to end to look for the extremes of columns."""
_CGROUP = Path("/sys/fs/cgroup")
_SHARE_OF_MEMORY = 0.5
"""What "auto" keeps in memory, of what is free."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Block:
    """Some rows, side by side in a source.

    Attributes
    ----------
    values : ndarray, shape (n, D)
        Float32 or float64, row after row.
    weight : ndarray, shape (n,), or None
        Float64.
    group : int
        The number, within the whole source, of what the rows were read with.
    where : str
        That in words, such as "row group 3 of part.parquet".
    first : int
        Which row of the group the first one is, counted from 0.
    """

    values: np.ndarray
    weight: np.ndarray | None
    group: int
    where: str
    first: int

    @cached_property
    def extremes(self) -> np.ndarray:
        """The lowest and the highest value of each column, (2, D); NaN where one is."""
        return _extremes(self.values)

    def counted(self) -> Block:
        """The rows of positive weight: the others change nothing, however extreme they are."""
        if self.weight is None or self.weight.all():
            return self
        kept = self.weight > 0
        return replace(self, values=self.values[kept], weight=self.weight[kept])

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Rows and weights, sharing memory."""
        weight = None if self.weight is None else torch.from_numpy(self.weight)
        return torch.from_numpy(self.values), weight


class Source(ABC):
    """Rows and their weights, in batches.

    Iterating gives (rows, weights) as tensors, the weights None where rows have none and rows of
    weight zero left out; the next batch is read while one is worked on.

    Attributes
    ----------
    names : tuple of D strings, or None
    n_features : int
        D.
    once : bool
        Whether the rows can be read a single time only.
    shared : bool
        Whether all processes of a group see the same rows, and so divide them. Else each process
        has rows of its own.
    """

    names: tuple[str, ...] | None = None
    n_features: int
    once: bool = False
    shared: bool = False

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All rows, in order."""

    def scattered(self, rng: np.random.Generator) -> Iterator[Block]:
        """All rows, block by block in random order where that is possible."""
        del rng
        yield from self.blocks()

    def shard(self, rank: int, size: int) -> Source:
        """The part of one process of several."""
        del rank, size
        return self

    def uncached(self) -> Source:
        """The same rows, without what was kept of them in a pass: to hold on to."""
        return self

    def parts(self, n: int) -> list[Source]:
        """The rows in n sources, each of which can be read without the others."""
        del n
        raise InputError(
            f"A {type(self).__name__} cannot be read in parts; write the rows to Parquet files, or "
            "give an array."
        )

    def checked_blocks(self) -> Iterator[Block]:
        """All rows, in order, each of them finite and of a weight that can be used."""
        for block in self.blocks():
            _check(block, self.names)
            yield block

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for block in ahead(self.blocks()):
            counted = block.counted()
            if len(counted.values):
                yield counted.tensors()


class ArraySource(Source):
    """An array, also one in a memory-mapped file, or a data frame, in batches.

    In a group of processes these are rows that no other process has: give each its own part, such
    as ``values[rank::size]``. Parquet files are divided by themselves.

    Parameters
    ----------
    values : array-like or data frame, shape (N, D)
        ``np.load("rows.npy", mmap_mode="r")`` is read from the disk batch by batch.
    sample_weight : array-like, shape (N,), optional
    names : sequence of D strings, optional
        Those of a data frame by default.
    batch_rows : int, optional
        By default as many as fill 8 MB.

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import GaussianMixture
    >>> from mogul.data import ArraySource
    >>> rows = np.random.default_rng(0).normal(size=(1000, 2))
    >>> model = GaussianMixture(1).fit(ArraySource(rows, batch_rows=100))
    >>> bool(np.allclose(model.means_[0], rows.mean(0)))
    True
    """

    def __init__(
        self,
        values: Any,
        sample_weight: Any = None,
        names: Sequence[str] | None = None,
        batch_rows: int | None = None,
    ):
        if names is None and (columns := getattr(values, "columns", None)) is not None:
            names = [str(name) for name in columns]
        values = values.detach().cpu() if isinstance(values, Tensor) else values
        values = np.asanyarray(values)  # a memory map stays one
        sample_weight = None if sample_weight is None else np.asarray(sample_weight)
        if values.ndim != 2 or not values.shape[1]:
            raise InputError(f"The array has shape {values.shape}, expected rows and columns.")
        if values.dtype.kind not in "fiub":
            raise InputError(f"The array holds {values.dtype}, expected numbers.")
        if sample_weight is not None and np.shape(sample_weight) != values.shape[:1]:
            raise InputError(
                f"sample_weight has shape {np.shape(sample_weight)}, expected {values.shape[:1]}."
            )
        self.values, self.sample_weight = values, sample_weight
        self.names = None if names is None else tuple(names)
        if self.names is not None and len(self.names) != values.shape[1]:
            raise InputError(f"{len(self.names)} names are given for {values.shape[1]} columns.")
        self.n_features = values.shape[1]
        self.batch_rows = batch_rows or batch_size(self.n_features)

    @property
    def n_rows(self) -> int:
        """N."""
        return len(self.values)

    def parts(self, n: int) -> list[Source]:
        ends = np.linspace(0, self.n_rows, n + 1).round().astype(int)
        found: list[Source] = []
        for start, end in pairwise(ends):
            weight = None if self.sample_weight is None else self.sample_weight[start:end]
            found.append(ArraySource(self.values[start:end], weight, self.names, self.batch_rows))
        return found

    def blocks(self) -> Iterator[Block]:
        yield from map(self._block, range(0, self.n_rows, self.batch_rows))

    def scattered(self, rng: np.random.Generator) -> Iterator[Block]:
        yield from map(self._block, rng.permutation(range(0, self.n_rows, self.batch_rows)))

    def _block(self, start: int) -> Block:
        dtype = np.float32 if self.values.dtype == np.float32 else np.float64
        part = slice(int(start), int(start) + self.batch_rows)
        weight = self.sample_weight
        return Block(
            np.array(self.values[part], dtype=dtype, order="C"),
            None if weight is None else np.array(weight[part], dtype=np.float64),
            0,
            "the array",
            int(start),
        )


class LoaderSource(Source):
    """The batches of a ``torch.utils.data.DataLoader``, or of any iterable of tensors or arrays.

    In a group of processes these are rows that no other process has.

    Parameters
    ----------
    loader : iterable
        Each item is a batch of rows (n, D), or a tuple whose first member is. An iterator, which
        can be gone through once only, is refused by algorithms that need more passes.
    weighted : bool, default False
        Whether the second member of each item holds the rows' weights.
    """

    def __init__(self, loader: Iterable[Any], *, weighted: bool = False):
        self.loader, self.weighted = loader, weighted
        self.once = iter(loader) is loader
        self._first = next(iter(loader), None)
        if self._first is None:
            raise InputError("The loader gives no batch; expected at least one.")
        self.n_features = self._parts(self._first)[0].shape[1]

    def blocks(self) -> Iterator[Block]:
        begun = [self._first] if self.once else []
        for group, item in enumerate(_chain(begun, self.loader)):
            values, weight = self._parts(item)
            if values.shape[1] != self.n_features:
                raise InputError(
                    f"Batch {group} has {values.shape[1]} columns, expected {self.n_features} as "
                    "in the first."
                )
            yield Block(values, weight, group, f"batch {group}", 0)

    def _parts(self, item: Any) -> tuple[np.ndarray, np.ndarray | None]:
        parts = item if isinstance(item, (tuple, list)) else (item,)
        values = _as_floats(parts[0])
        if values.ndim != 2:
            raise InputError(f"A batch has shape {values.shape}, expected rows and columns.")
        if not self.weighted:
            return values, None
        if len(parts) < 2:
            raise InputError("A batch has no second member; with weighted it holds the weights.")
        return values, _as_floats(parts[1]).astype(np.float64)


def _chain(first: list[Any], rest: Iterable[Any]) -> Iterator[Any]:
    yield from first
    yield from rest


def _as_floats(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    dtype = np.float32 if array.dtype == np.float32 else np.float64
    return np.ascontiguousarray(array, dtype=dtype)


def check_weights_of(source: Source, sample_weight: Any) -> None:
    """Refuse weights beside a source, whose rows carry their own."""
    if sample_weight is not None:
        raise InputError(
            f"sample_weight is given beside a {type(source).__name__}, whose rows carry their own "
            "weights; name the column with weight_column, or give the weights to the source."
        )


def batch_size(n_features: int) -> int:
    """Rows of a batch that fills 8 MB as float32."""
    return max(1, _BATCH_BYTES // (4 * n_features))


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each taken by a thread while the one before is worked on."""
    end: Any = object()

    def take() -> Any:
        return next(items, end)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(take)
        while (item := coming.result()) is not end:
            coming = pool.submit(take)
            yield item


def _extremes(values: np.ndarray) -> np.ndarray:
    """Reductions over many short rows take NumPy ten times as long as over few long ones."""
    d = values.shape[1]
    if not len(values):
        return np.zeros((2, d))
    whole = len(values) - len(values) % _FOLD
    wide = values[:whole].reshape(-1, _FOLD * d)
    parts = [wide, values[whole:]] if whole else [values]
    lowest = [part.min(0).reshape(-1, d).min(0) for part in parts if len(part)]
    highest = [part.max(0).reshape(-1, d).max(0) for part in parts if len(part)]
    return np.stack([np.min(lowest, axis=0), np.max(highest, axis=0)])


def _check(block: Block, names: Sequence[str] | None) -> None:
    if not np.isfinite(block.extremes).all():
        row, column = np.argwhere(~np.isfinite(block.values))[0]
        what = "a missing value (NaN)" if np.isnan(block.values[row, column]) else "infinity"
        name = column if names is None else repr(names[column])
        raise InputError(
            f"Row {block.first + row} (counted from 0) of {block.where} holds {what} in column "
            f"{name}; fill it or leave such rows out, as ParquetSource does with null='drop'."
        )
    if block.weight is not None:
        bad = ~(np.isfinite(block.weight) & (block.weight >= 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"The weight of row {block.first + row} (counted from 0) of {block.where} is "
                f"{block.weight[row]:g}; weights must be finite and not negative."
            )


# --- keeping what was read ------------------------------------------------------------------------


class BlockCache:
    """Blocks kept after the first pass over them, in memory or in a temporary file.

    Parameters
    ----------
    how : {"auto", "ram", "disk", "none"}
        "auto" is "ram" where ``n_bytes`` are less than half of what is free, else "disk" where a
        temporary file has room, else "none".
    n_bytes : int
        About what there is to keep.
    """

    def __init__(self, how: str, n_bytes: int):
        if how not in CACHES:
            raise InputError(f"cache is {how!r}; choose one of {', '.join(map(repr, CACHES))}.")
        self.how = _chosen(n_bytes) if how == "auto" else how
        self._kept: list[Block] | None = None
        self._file: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Only how to keep blocks, not the blocks."""
        return {"how": self.how, "_kept": None, "_file": None}

    def through(self, read: Callable[[], Iterator[Block]]) -> Iterator[Block]:
        """The blocks: from the cache once they were read to their end, else by ``read``."""
        if self._kept is not None:
            yield from self._again()
            return
        if self.how == "none":
            yield from read()
            return
        kept: list[Block] = []
        file = None if self.how == "ram" else self._opened()
        for block in read():
            kept.append(block if file is None else _written(block, file))
            yield block
        self._kept, self._file = kept, file

    def scattered(self, rng: np.random.Generator) -> Iterator[Block] | None:
        """The blocks in random order, or None where they are not kept."""
        return None if self._kept is None else self._again(rng.permutation(len(self._kept)))

    def _again(self, order: Iterable[int] | None = None) -> Iterator[Block]:
        kept = self._kept
        assert kept is not None
        places = range(len(kept)) if order is None else order
        if self._file is None:
            yield from (kept[i] for i in places)
            return
        begins = np.cumsum([0, *(_n_bytes(block) for block in kept)])
        for i in places:
            block = kept[i]
            self._file.seek(int(begins[i]))
            values = np.empty(block.values.shape, block.values.dtype)
            weight = None if block.weight is None else np.empty(block.weight.shape)
            for array in (values, weight):
                if array is not None:
                    self._file.readinto(_bytes_of(array))
            yield replace(block, values=values, weight=weight)

    def _opened(self) -> Any:
        try:
            file = tempfile.TemporaryFile(prefix="mogul-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise FileError(f"No temporary file can be made for cache='disk': {error}.") from error
        weakref.finalize(self, file.close)
        return file


def _written(block: Block, file: Any) -> Block:
    """Append a block to a file; what is left of it in memory has its shapes and no numbers."""
    try:
        for array in (block.values, block.weight):
            if array is not None and array.size:
                file.write(_bytes_of(np.ascontiguousarray(array)))
    except OSError as error:
        raise FileError(
            f"The temporary file of cache='disk' cannot be written ({error}); free some space, set "
            "TMPDIR to a folder with room, or take cache='none'."
        ) from error
    return replace(block, values=_hollow(block.values), weight=_hollow(block.weight))


def _bytes_of(array: np.ndarray) -> Any:
    return array.reshape(-1).view(np.uint8)


def _n_bytes(block: Block) -> int:
    return block.values.nbytes + (0 if block.weight is None else block.weight.nbytes)


def _hollow(array: Any) -> Any:
    """An array of the same shape and type that takes no memory."""
    return None if array is None else np.broadcast_to(array.dtype.type(0), array.shape)


def _chosen(n_bytes: int) -> str:
    if n_bytes < _SHARE_OF_MEMORY * _free_memory():
        return "ram"
    room = shutil.disk_usage(tempfile.gettempdir()).free
    return "disk" if 2 * n_bytes < room else "none"


def _free_memory() -> int:
    """What this process may take, of several on the machine that torchrun started."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows and macOS do not say
        free = 1 << 32
    try:  # a container's own limit
        most, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, most - used + int(counts["inactive_file"]))  # what was read may go
    except (OSError, ValueError, KeyError):
        pass
    return free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
