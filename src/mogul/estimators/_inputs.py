"""From what users pass to tensors, with errors that name the row and the column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.random import MT19937, RandomState
from numpy.random.bit_generator import ISeedSequence
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from mogul._warn import warn
from mogul.data.rows import Rows
from mogul.data.sources import Source, ahead
from mogul.data.tables import Table
from mogul.datasets import Dataset
from mogul.errors import InputError, InputTypeError, SpikeWarning
from mogul.infer.spikes import constant_columns

__all__ = [
    "adopt_columns",
    "as_rows",
    "check_enough_rows",
    "check_sample_weight",
    "check_shape",
    "checked_batches",
    "drawn_seed",
    "generator_on",
    "named_device",
    "named_dtype",
    "random_state_of",
    "validated",
    "warn_of_constant",
    "warn_of_constant_columns",
]

_FLOATS = [np.float64, np.float32]
_LARGEST_SEED = 2**31 - 1


def validated(estimator: BaseEstimator, X: Any, *, reset: bool, min_samples: int = 1) -> np.ndarray:
    """X as a finite two-dimensional float array; feature names are kept or compared."""
    if isinstance(X, Source):
        raise InputTypeError(
            f"{type(estimator).__name__} needs the rows in memory here, and a "
            f"{type(X).__name__} reads them in batches; give it an array or a data frame."
        )
    if reset and _is_plain(X) and len(X) >= min_samples and X.shape[1]:
        _check_finite(X, None)
        estimator.n_features_in_ = X.shape[1]
        vars(estimator).pop("feature_names_in_", None)
        return X
    names = _names_of_table(X)
    options = {"dtype": _FLOATS, "ensure_min_samples": min_samples, "ensure_all_finite": False}
    try:
        if names is None:
            checked = validate_data(estimator, X, reset=reset, **options)
        elif reset:
            checked = validate_data(estimator, np.asarray(X), reset=True, **options)
            estimator.feature_names_in_ = np.asarray(names, dtype=object)
        else:
            _check_names(estimator, names)
            checked = check_array(np.asarray(X), estimator=estimator, **options)
    except (
        TypeError
    ) as error:  # of sparse matrices, mixed column names, objects that are no numbers
        raise InputTypeError(_one_sentence(str(error))) from None
    except (ValueError, RuntimeError) as error:  # the latter of tensors with a graph of gradients
        raise InputError(_one_sentence(str(error))) from None
    _check_finite(checked, getattr(estimator, "feature_names_in_", None))
    return checked


def _is_plain(X: Any) -> bool:
    """Whether scikit-learn would take X as it is: to ask takes as long as to fit few rows."""
    return type(X) is np.ndarray and X.ndim == 2 and X.dtype in _FLOATS


def _names_of_table(X: Any) -> list[str] | None:
    """The column names of mogul's own tables, which scikit-learn does not know as data frames."""
    if isinstance(X, (Table, Dataset)):
        return list(X.names)
    return None


def _check_names(estimator: Any, names: list[str]) -> None:
    known = list(getattr(estimator, "feature_names_in_", names))
    if known != names or len(names) != estimator.n_features_in_:
        raise InputError(
            f"The table has columns {', '.join(names)}; the model was fitted to "
            f"{', '.join(map(str, known))}, {estimator.n_features_in_} in all, in that order."
        )


def _one_sentence(message: str) -> str:
    """scikit-learn's message without the print of the array in it, on one line."""
    message = re.sub(r"(Complex data not supported).*", r"\1.", message, flags=re.S)
    return " ".join(re.sub(r":\narray=.*?\]\.$", ".", message, flags=re.S | re.M).split())


def _check_finite(X: np.ndarray, names: np.ndarray | None) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(X.sum(dtype=np.float64)):
            return
    bad = ~np.isfinite(X)
    if not bad.any():
        raise InputError("Input X holds numbers too large to be added up; scale the data.")
    row, column = np.argwhere(bad)[0]
    what = "NaN" if np.isnan(X[row, column]) else "infinity"
    where = f"column {column}" if names is None else f"column {names[column]!r}"
    raise InputError(
        f"Input X contains {what}: the first is in row {row} (counted from 0), {where}, of "
        f"{int(bad.any(1).sum())} such rows; drop or fill them before fitting or scoring."
    )


def check_sample_weight(sample_weight: Any, n_rows: int) -> np.ndarray | None:
    """Row weights as float64, or None."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n_rows, float(sample_weight))
    weight = _checked_array(
        sample_weight, "sample_weight", dtype=np.float64, ensure_all_finite=False
    )
    if weight.shape != (n_rows,):
        raise InputError(
            f"sample_weight has shape {weight.shape}, expected ({n_rows},): one weight a row."
        )
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"sample_weight must be finite and not negative; row {row} (counted from 0) has "
            f"{weight[row]}."
        )
    if not weight.any():
        raise InputError("sample_weight is zero for every row; at least one must be positive.")
    return weight


def adopt_columns(estimator: Any, names: Sequence[str] | None, n_features: int) -> None:
    """The features that an estimator was fitted to."""
    estimator.n_features_in_ = n_features
    estimator.__dict__.pop("feature_names_in_", None)
    if names is not None:
        estimator.feature_names_in_ = np.asarray(list(names), dtype=object)


def checked_batches(estimator: Any, source: Source, *, counted: bool = False) -> Iterator[Rows]:
    """The rows of a source, batch by batch: the columns that an estimator was fitted to.

    With ``counted`` rows of weight zero are left out.
    """
    known = getattr(estimator, "feature_names_in_", None)
    chosen: list[int] | None = None
    if known is not None and source.names is not None and set(known) <= set(source.names):
        chosen = [source.names.index(name) for name in known]
        chosen = None if chosen == list(range(source.n_features)) else chosen
    elif source.n_features != estimator.n_features_in_ or (
        known is not None and source.names is not None
    ):
        raise InputError(
            f"The source has columns {source.names or source.n_features}; the model was fitted to "
            f"{estimator.n_features_in_ if known is None else tuple(known)}. Give a source that "
            "has those."
        )
    for block in ahead(source.checked_blocks()):
        values, weight = (block.counted() if counted else block).tensors()
        if not len(values):
            continue
        yield Rows(values if chosen is None else values[:, chosen].contiguous(), weight)


def check_enough_rows(n_components: int, X: np.ndarray, weight: np.ndarray | None) -> None:
    """Refuse fewer rows than components, unless their weights say that they stand for more."""
    n_rows = len(X) if weight is None else int((weight > 0).sum())
    if weight is not None and n_rows < n_components <= weight.sum():
        return
    if n_rows < n_components:
        raise InputError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, "
            f"n_samples = {n_rows}; ask for fewer components or give more rows."
        )


def warn_of_constant_columns(rows: Rows, names: Any, consequence: str) -> None:
    """Warn of columns that hold one value; ``consequence`` says what their variance then is."""
    warn_of_constant(constant_columns(rows), names, consequence)


def warn_of_constant(constant: Sequence[int], names: Any, consequence: str) -> None:
    """Warn of columns by their places; see :func:`warn_of_constant_columns`."""
    if constant:
        which = ", ".join(str(j if names is None else names[j]) for j in constant)
        warn(f"Every value of column {which} is the same, so {consequence}; drop it.", SpikeWarning)


def as_rows(X: np.ndarray, sample_weight: np.ndarray | None, device: torch.device) -> Rows:
    """Tensors on ``device``, sharing memory with the arrays where they can.

    Rows of weight zero are left out: they change nothing, however extreme they are.
    """
    if sample_weight is not None and not sample_weight.all():
        kept = sample_weight > 0
        X, sample_weight = X[kept], sample_weight[kept]
    weight = None if sample_weight is None else as_tensor(sample_weight, device)
    return Rows(as_tensor(X, device), weight)


def as_tensor(array: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    odd = any(stride < 0 or stride % array.itemsize for stride in array.strides)
    if odd or not array.flags.writeable:  # torch takes neither such strides nor read-only memory
        array = array.copy()
    return torch.from_numpy(array).to(device)


def _checked_array(value: Any, name: str, **options: Any) -> np.ndarray:
    try:
        return check_array(value, ensure_2d=False, input_name=name, **options)
    except ValueError as error:
        raise InputError(f"{name}: {_one_sentence(str(error))}") from None


def check_shape(value: Any, shape: tuple[int, ...], name: str, *, copy: bool = True) -> np.ndarray:
    """A given start parameter as float64, of the shape it must have.

    Without ``copy`` it may share the memory of what was given, and is not to be kept.
    """
    array = _checked_array(value, name, dtype=_FLOATS, allow_nd=True)
    array = array.astype(np.float64, copy=copy)
    if array.shape != shape:
        raise InputError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
        )
    return array


def named_device(device: Any) -> torch.device:
    """A device from its name; the CPU when None."""
    try:
        found = torch.device("cpu" if device is None else device)
        # A build of torch without it says so only now, as one does that has no float64.
        torch.empty(0, dtype=torch.float64, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The device {device!r} cannot be used: {reason}") from None
    return found


class _Zeros(ISeedSequence):
    """What a generator begins with that is seeded at once: entropy would take longer than few rows
    do to fit.
    """

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.zeros(n_words, dtype)


def random_state_of(given: Any) -> RandomState:
    """As scikit-learn's ``check_random_state``; an integer's stream in a third of the time."""
    if type(given) is not int:
        return check_random_state(given)
    zeros: Any = _Zeros()
    random_state = RandomState(MT19937(zeros))
    random_state.seed(given)
    return random_state


def drawn_seed(rng: RandomState) -> int:
    """A seed for torch's generators."""
    return int(rng.randint(_LARGEST_SEED))


def generator_on(device: torch.device | str, rng: RandomState) -> torch.Generator:
    """A generator of torch's own, seeded by scikit-learn's."""
    return torch.Generator(device=device).manual_seed(drawn_seed(rng))


def named_dtype(dtype: Any) -> np.dtype | None:
    """float32 or float64 from a NumPy or torch type or its name; None stays None."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    try:
        found = np.dtype(name)
    except TypeError:
        found = np.dtype(object)  # not None, which NumPy takes for float64
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(f"dtype must be float32 or float64; got {dtype!r}.")
    return found
