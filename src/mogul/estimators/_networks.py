"""Networks of the user's own, as many as an ensemble needs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from mogul.errors import InputError

__all__ = ["redrawn"]


def redrawn(given: nn.Module | Callable[[Any], nn.Module] | None, size: Any) -> nn.Module | None:
    """A copy of a module with layers drawn anew, or what a function makes of ``size``.

    Raises
    ------
    InputError
        When the function fails or makes no module.
    """
    if given is not None and not isinstance(given, nn.Module):
        try:
            made = given(size)
        except Exception as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"The function that was to make a network for size {size} failed: {said}."
            ) from error
        if not isinstance(made, nn.Module):
            raise InputError(
                f"The function that was to make a network gave {type(made).__name__}; expected an "
                "nn.Module."
            )
        return made
    made = deepcopy(given)
    for part in made.modules() if isinstance(made, nn.Module) else ():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return made
