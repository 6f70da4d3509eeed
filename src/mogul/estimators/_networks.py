"""Networks of the user's own, as many as an ensemble needs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

__all__ = ["redrawn"]


def redrawn(given: nn.Module | Callable[[Any], nn.Module] | None, size: Any) -> nn.Module | None:
    """A copy of a module with parameters drawn anew, or what a function makes of ``size``."""
    if given is not None and not isinstance(given, nn.Module):
        return given(size)
    made = deepcopy(given)
    for part in made.modules() if isinstance(made, nn.Module) else ():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return made
