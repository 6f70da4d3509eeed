"""Saving and loading models: one safetensors file with a versioned JSON header, and no pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mogul._files import atomic_path, check_target, reason
from mogul.errors import FileError, FileFormatError, InputError, MissingFileError, MogulError

__all__ = ["FORMAT_VERSION", "check_destination", "load", "save"]

FORMAT_VERSION = 1
"""Raised whenever an older mogul could misread what is written."""

_FORMAT = "mogul"
_KEY = "mogul"
"""The entry of the safetensors metadata that holds the header."""
_FILE_IN_FOLDER = "model.safetensors"
_KINDS = {
    "Mixture": "mogul.mixture:Mixture",
    "GaussianMixture": "mogul.estimators:GaussianMixture",
    "BayesianGaussianMixture": "mogul.estimators:BayesianGaussianMixture",
    "MixtureDensityRegressor": "mogul.estimators:MixtureDensityRegressor",
    "MixtureOutlierDetector": "mogul.estimators:MixtureOutlierDetector",
    "Slogan": "mogul.estimators:Slogan",
    "AEGMM": "mogul.estimators:AEGMM",
    "VAEGMM": "mogul.estimators:VAEGMM",
}
"""All that can be saved, and where it is defined; a file only ever names a key of this."""
_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its JSON header, little-endian."""
_LONGEST_HEADER = 100_000_000
"""The limit that safetensors sets itself."""
_NOT_FINITE = "$float"
"""JSON has no NaN and no infinity; in the header they are {"$float": "nan"}."""
_NEWEST_PICKLE = 5
_UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, IndexError)
"""What safetensors and JSON raise for bytes that they cannot make sense of."""


def save(model: Any, path: str | os.PathLike[str]) -> Path:
    """Write a model to one file, whole or not at all.

    Parameters
    ----------
    model : Mixture or fitted estimator
    path : path
        A file, or a folder in which the file is then ``model.safetensors``. A path that ends with
        a separator is a folder, made when it is missing. An existing file is replaced in one step:
        a process killed in the middle leaves the old one intact.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        When the model is of a kind that has no file format.
    FileError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import mogul
    >>> mixture = mogul.Mixture.from_parameters([1.0], [[0.0]], [[1.0]], "diag")
    >>> file = mogul.save(mixture, tempfile.mkdtemp())
    >>> file.name, mogul.load(file)
    ('model.safetensors', Mixture(n_components=1, n_features=1, covariance_type='diag'))
    """
    content = _encode(model)
    file = check_destination(path)
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)
    return file


def check_destination(path: str | os.PathLike[str]) -> Path:
    """The file that :func:`save` would write, to be asked before long work that ends there.

    Raises
    ------
    FileError
        When it could not be written.
    """
    file = _file_of(path)
    if _names_folder(path):
        _make_folder(file.parent)
    check_target(file)
    return file


def load(path: str | os.PathLike[str]) -> Any:
    """Read a model that :func:`save` wrote, bit for bit. No code from the file is ever run.

    Parameters
    ----------
    path : path
        The file, or the folder that holds it as ``model.safetensors``.

    Returns
    -------
    Mixture or estimator
        Of the kind that was saved, on the CPU.

    Raises
    ------
    MissingFileError
        When there is no such file.
    FileFormatError
        When it is not a model, truncated, damaged, of a newer format, or a pickle.
    """
    file = _file_of(path)
    content = _read(file)
    text = _header_text(content, file)
    header = _parsed(text, file)
    return _built(header, _intact(text, header, content, file), file)


# --- what is written ------------------------------------------------------------------------


def _encode(model: Any) -> bytes:
    """The content of the file."""
    name = _kind_name(model)
    model_header, tensors = model.to_state()
    # A copy each: safetensors refuses tensors that share memory. In rows: a single number that was
    # expanded counts as contiguous, and has no bytes side by side.
    rows = torch.contiguous_format
    tensors = {k: v.detach().cpu().clone(memory_format=rows) for k, v in tensors.items()}
    header = {
        "format": _FORMAT,
        "format_version": FORMAT_VERSION,
        "mogul_version": import_module("mogul").__version__,
        "kind": name,
        "model": _without_floats(model_header),
    }
    signed = {**header, "sha256": _digest(header, tensors)}
    return safetensors.torch.save(tensors, {_KEY: _canonical(signed)})


def _kind_name(model: Any) -> str:
    """The key of ``_KINDS`` for ``model``; a subclass has none, for it would come back as less."""
    name = type(model).__name__
    if name not in _KINDS or type(model) is not _class(name):
        raise InputError(
            f"A {type(model).__module__}.{name} cannot be saved; expected one of "
            f"{', '.join(_KINDS)} of mogul."
        )
    return name


def _class(kind: str) -> Any:
    module, _, name = _KINDS[kind].partition(":")
    return getattr(import_module(module), name)


def _canonical(header: Mapping[str, Any]) -> str:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header and every tensor's name, type, shape and bytes."""
    found = hashlib.sha256(_canonical(header).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        said = _canonical({"name": name, "type": str(value.dtype), "shape": list(value.shape)})
        found.update(b"\0" + said.encode() + b"\0")
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _without_floats(value: Any) -> Any:
    """The same JSON value with NaN and infinities as {"$float": ...}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_NOT_FINITE: str(float(value))}
    if isinstance(value, Mapping):
        return {key: _without_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_floats(item) for item in value]
    return value


def _with_floats(value: Any) -> Any:
    """What ``_without_floats`` was given."""
    if isinstance(value, dict):
        if list(value) == [_NOT_FINITE]:
            return float(value[_NOT_FINITE])
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    return value


# --- where it is ----------------------------------------------------------------------------


def _names_folder(path: str | os.PathLike[str]) -> bool:
    text = os.fspath(path)
    return text.endswith(os.sep) or bool(os.altsep and text.endswith(os.altsep))


def _file_of(path: str | os.PathLike[str]) -> Path:
    given = Path(path)
    return given / _FILE_IN_FOLDER if _names_folder(path) or given.is_dir() else given


def _make_folder(folder: Path) -> None:
    """Make a folder inside one that exists; more than one at once is likely a typing error."""
    if not folder.exists() and folder.parent.is_dir():
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(f"The folder {folder} cannot be made: {reason(error)}.") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        held = f"the folder {file.parent} holds no {file.name}" if file.parent.is_dir() else ""
        said = held if file.name == _FILE_IN_FOLDER and held else f"there is no file {file}"
        raise MissingFileError(f"The model was not found: {said}.") from None
    except OSError as error:
        raise FileError(f"{file} cannot be read: {reason(error)}.") from error


# --- what is read ---------------------------------------------------------------------------


def _header_text(content: bytes, file: Path) -> str:
    """The header that mogul wrote, as text, nothing of it checked."""
    start, end = _LENGTH_BYTES, _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    if not content:
        raise FileFormatError(f"{file} is empty; expected a model that mogul saved.")
    if len(content) > start and (content[start : start + 1] != b"{" or end > _LONGEST_HEADER):
        raise _foreign(content, file)
    if len(content) < max(end, start + 1):
        raise _truncated(file)
    try:
        outer = json.loads(content[start:end])
        text = outer.pop("__metadata__", {}).get(_KEY)
        size = max((int(tensor["data_offsets"][1]) for tensor in outer.values()), default=0)
    except (AttributeError, RecursionError, *_UNREADABLE) as error:
        raise _damaged(file) from error
    if not isinstance(text, str):
        raise FileFormatError(
            f"{file} is a safetensors file without mogul's header; expected a model that mogul "
            "saved."
        )
    if len(content) < end + size:
        raise _truncated(file)
    return text


def _parsed(text: str, file: Path) -> dict[str, Any]:
    """The header as a dictionary, of a version that this mogul can read."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file) from error
    version = header.get("format_version") if isinstance(header, dict) else None
    if not isinstance(version, int) or version < 1 or header.get("format") != _FORMAT:
        raise _damaged(file)
    if version > FORMAT_VERSION:
        raise FileFormatError(
            f"{file} has format version {version}, written by mogul {header.get('mogul_version')}; "
            f"this mogul reads up to version {FORMAT_VERSION}, so upgrade it."
        )
    return header


def _intact(text: str, header: dict[str, Any], content: bytes, file: Path) -> dict[str, Tensor]:
    """The tensors, once nothing in the file differs from what was written."""
    try:
        tensors = safetensors.torch.load(content)
        unsigned = {key: value for key, value in header.items() if key != "sha256"}
        # The text is compared too: some flipped bits change it and not its value, e to E in
        # "\u00e9" for one.
        same = _canonical(header) == text and header.get("sha256") == _digest(unsigned, tensors)
    except _UNREADABLE as error:
        raise _damaged(file) from error
    if not same:
        raise _damaged(file)
    return tensors


def _built(header: dict[str, Any], tensors: dict[str, Tensor], file: Path) -> Any:
    """The model, by the class that this module names for its kind."""
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FileFormatError(
            f"{file} holds a model of the unknown kind {kind!r}; this mogul knows "
            f"{', '.join(_KINDS)}."
        )
    try:
        return _class(kind).from_state(_with_floats(header["model"]), tensors)
    except (MogulError, AttributeError, *_UNREADABLE) as error:
        raise FileFormatError(
            f"{file} does not describe a {kind} that this mogul can build ({reason(error)}); it "
            f"was written by mogul {header.get('mogul_version')}."
        ) from error


# --- what is refused ------------------------------------------------------------------------


def _damaged(file: Path) -> FileFormatError:
    return FileFormatError(
        f"{file} is damaged: its content is not what was saved; restore it from a copy or fit the "
        "model again."
    )


def _truncated(file: Path) -> FileFormatError:
    return FileFormatError(
        f"{file} is truncated: it ends before the model does; copy it again or fit the model again."
    )


def _foreign(content: bytes, file: Path) -> FileFormatError:
    """The error for something that is no safetensors file."""
    if content.startswith(b"PK") and b"data.pkl" in content:
        what = "a torch.save file, which holds a pickle"
    elif _begins_pickle(content) or _begins_pickle(_inflated(content)):
        what = "a pickle (or a joblib file, which is one)"
    else:
        return FileFormatError(f"{file} is not a model; expected a file that mogul.save wrote.")
    return FileFormatError(
        f"{file} is {what}; loading it would run code, which mogul never does, so save the model "
        "with mogul.save instead."
    )


def _begins_pickle(content: bytes) -> bool:
    return len(content) > 1 and content[0] == 0x80 and 2 <= content[1] <= _NEWEST_PICKLE


def _inflated(content: bytes) -> bytes:
    """The first bytes of what is compressed, as joblib does it on request, else none."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, 16)
    except zlib.error:
        return b""
