"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mogul.errors import FileError, MogulError

__all__ = ["PARTIAL_PREFIX", "atomic_path", "check_target", "reason"]

PARTIAL_PREFIX = ".mogul-partial-"
"""How the names of unfinished files begin. Only a killed process leaves one, safe to delete."""
_LONGEST_TAIL = 48
"""Characters of the target's name kept in the temporary one, at most 192 of a name's 255 bytes."""


def check_target(path: str | os.PathLike[str]) -> Path:
    """Where a file asked for at ``path`` would be written, links followed.

    To be asked before long work whose result goes there.

    Raises
    ------
    FileError
        When the folder is missing or closed to writing, or ``path`` is no ordinary file.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    if not folder.is_dir():
        raise FileError(f"{path} cannot be written: there is no folder {folder}; create it first.")
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "a device or a pipe"
        raise FileError(f"{path} cannot be written: it is {what}; give the name of a file.")
    closed = next((p for p in (folder, target) if p.exists() and not os.access(p, os.W_OK)), None)
    if closed is not None:
        raise FileError(f"{path} cannot be written: there is no permission to write to {closed}.")
    return target


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``path`` that becomes ``path`` when the block ends without an error.

    Whoever reads ``path`` finds the old content or the whole new one, also when the process is
    killed or the power fails: the content is on the disk before the name is moved to it. When the
    block fails the temporary file is removed.

    Parameters
    ----------
    path : path
        The file to write or to replace; its folder exists, its permissions are kept.

    Yields
    ------
    Path
        The temporary file, whose name has the ending of ``path``.

    Raises
    ------
    FileError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "notes.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['notes.txt']
    """
    target = check_target(path)
    tail = target.name[-_LONGEST_TAIL:]
    temporary = target.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(6)}-{tail}")
    try:
        _create(temporary, like=target)
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, target)
        _to_disk(target.parent)
    except MogulError:
        raise
    except OSError as error:
        raise FileError(f"{path} could not be written: {reason(error)}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """What an error says, as part of one sentence."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()).rstrip(".") or type(error).__name__


def _create(temporary: Path, *, like: Path) -> None:
    """An empty file that did not exist, with the permissions of the one it will replace."""
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    if like.exists():
        os.chmod(temporary, stat.S_IMODE(like.stat().st_mode))


def _to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
