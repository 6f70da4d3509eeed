"""Frozen dataclasses of tensors that share their batch axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from mogul.covariances import Covariance

__all__ = ["Record"]


class Record:
    """A frozen dataclass of tensors, covariances and records that share their batch axes."""

    def index(self, index: Any) -> Self:
        """Some of the batch, as by indexing its leading axes."""

        def pick(value: Any) -> Any:
            return value[index] if isinstance(value, Tensor) else value.index(index)

        return self._mapped(pick)

    def detach(self) -> Self:
        """The same numbers, cut off from the graph of gradients."""

        def cut(value: Any) -> Any:
            if isinstance(value, Covariance):
                return replace(value, factor=value.factor.detach())
            return value.detach()

        return self._mapped(cut)

    def _mapped(self, function: Callable[[Any], Any]) -> Self:
        changed = {f.name: function(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **changed)  # type: ignore[type-var]

    @classmethod
    def stack(cls, records: Sequence[Self]) -> Self:
        """Several of one shape as a batch, along a new first axis."""
        first = records[0]

        def joined(name: str) -> Any:
            parts = [getattr(record, name) for record in records]
            if isinstance(parts[0], Tensor):
                return torch.stack(parts)
            if isinstance(parts[0], Covariance):
                return replace(parts[0], factor=torch.stack([part.factor for part in parts]))
            return type(parts[0]).stack(parts)

        return replace(first, **{f.name: joined(f.name) for f in fields(first)})  # type: ignore[arg-type,type-var]
