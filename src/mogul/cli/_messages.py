"""What goes to standard error: one line for an error, one for each thing to note."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mogul.errors import MogulError

__all__ = ["note", "note_warnings", "say", "sentence"]


def say(text: str) -> None:
    print(f"mogul: {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    print(f"note: {_in_shell_words(_one_line(text))}", file=sys.stderr, flush=True)


_SHELL_WORDS = [
    (r'ask for intervals with correction="linear_response", or fit', "fit"),
    (r'inference="([\w-]+)"', r"--inference \1"),
    (r"by inference=(?:SVI|AdamVI)\([^)]*\)", "by a larger --max-iter"),
    (r"by inference=Gibbs\(.*?draws=(\d+)\)", r"by --max-iter \1"),
    (r"(?<!['\w-])(max_iter|reg_covar|n_init|tol)(?!['\w])", r"--\1"),
    (r"\brandom_state\b", "--seed"),
]


def _in_shell_words(text: str) -> str:
    """Settings by the names that the command line has for them."""
    for pattern, words in _SHELL_WORDS:
        text = re.sub(pattern, words, text)
    return re.sub(r"--(max|reg|n)_(\w+)", r"--\1-\2", text)


def sentence(error: Exception) -> str | None:
    """One line for an error that the user can do something about, None for any other."""
    if isinstance(error, MogulError):
        return _in_shell_words(_one_line(str(error)))
    if isinstance(error, OSError):
        said = error.strerror or str(error) or type(error).__name__
        return _one_line(f"{error.filename}: {said}." if error.filename else f"{said}.")
    if isinstance(error, ValueError):
        return _one_line(str(error))
    usage = getattr(error, "format_message", None)  # typer's and click's errors of the arguments
    return None if usage is None else _usage(usage(), getattr(error, "ctx", None))


def _usage(text: str, context: Any) -> str:
    path = "mogul" if context is None else context.command_path
    return f"{_one_line(text).rstrip('.')}; see {path} --help."


@contextmanager
def note_warnings() -> Iterator[None]:
    """Turn each warning meant for users into one line, and keep the rest quiet."""
    said: set[str] = set()

    def show(message: Any, *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in said:
            said.add(text)
            note(text)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _one_line(text: str) -> str:
    return " ".join(text.split())
