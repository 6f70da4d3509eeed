"""What can go wrong, as a tree.

::

    MogulError
    ├── InputError (ValueError)           what was passed in cannot be used
    │   ├── UnknownNameError (KeyError)   a column, feature or structure that does not exist
    │   └── InputTypeError (TypeError)    what was passed in is not of a kind that can be used
    ├── DegenerateFitError (ValueError)   every start of a fit collapsed
    ├── NotConvergedError (ValueError)    an answer needs a converged fit
    ├── TeamError (RuntimeError)          one of several processes that fit together stopped
    └── FileError (OSError)               a file cannot be used
        ├── MissingFileError (FileNotFoundError)
        └── FileFormatError (ValueError)  truncated, damaged, of a newer format, of an unknown kind
    MogulWarning (UserWarning)
    ├── MeanFieldWarning                  a posterior is too narrow as it was asked for
    ├── RepairWarning                     a component collapsed and was repaired, or a start dropped
    ├── CheckpointWarning                 the state of a fit could not be kept; the fit goes on
    └── SpikeWarning                      a component sits on duplicated or rounded values

Every message is one sentence, or two: what happened, what was expected, what to try.
"""

from __future__ import annotations

__all__ = [
    "CheckpointWarning",
    "DegenerateFitError",
    "FileError",
    "FileFormatError",
    "InputError",
    "InputTypeError",
    "MeanFieldWarning",
    "MissingFileError",
    "MogulError",
    "MogulWarning",
    "NotConvergedError",
    "RepairWarning",
    "SpikeWarning",
    "TeamError",
    "UnknownNameError",
]


class MogulError(Exception):
    """Any error that mogul raises on purpose."""


class InputError(MogulError, ValueError):
    """What was passed in cannot be used as it is."""


class UnknownNameError(InputError, KeyError):
    """A column, feature or structure was asked for that does not exist."""

    def __str__(self) -> str:  # KeyError would print the quoted repr of the sentence
        return str(self.args[0])


class InputTypeError(InputError, TypeError):
    """What was passed in is not of a kind that can be used."""


class DegenerateFitError(MogulError, ValueError):
    """Every start of a fit collapsed."""


class NotConvergedError(MogulError, ValueError):
    """The answer asked for exists only at a converged fit."""


class TeamError(MogulError, RuntimeError):
    """One of several processes that fit together stopped, and so all did."""


class FileError(MogulError, OSError):
    """A file cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file does not exist."""


class FileFormatError(FileError, ValueError):
    """A file is truncated, damaged, of a newer format or of an unknown kind."""


class MogulWarning(UserWarning):
    """Any warning that mogul issues on purpose."""


class MeanFieldWarning(MogulWarning):
    """Components overlap, so that mean-field intervals are too narrow."""


class RepairWarning(MogulWarning):
    """A component collapsed and was repaired, or a whole start was dropped."""


class CheckpointWarning(MogulWarning):
    """The state of a fit could not be kept in its file; the fit goes on."""


class SpikeWarning(MogulWarning):
    """A component sits on duplicated or rounded values, so its likelihood means little."""
