"""Beliefs as named tensors and a header of JSON types, for files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from mogul.beliefs.base import Belief
from mogul.beliefs.independent import IndependentComponents
from mogul.beliefs.normal_wishart import NormalWishartComponents
from mogul.beliefs.record import Record
from mogul.beliefs.weights import DirichletWeights, StickBreakingWeights
from mogul.beliefs.wishart import WishartPrecisions
from mogul.covariances import Covariance, structure

__all__ = ["belief_from_state", "belief_to_state"]

_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        Belief,
        DirichletWeights,
        StickBreakingWeights,
        NormalWishartComponents,
        IndependentComponents,
        WishartPrecisions,
    )
}
"""All that a belief is made of; a file only ever names a key of this."""


def belief_to_state(belief: Belief, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A header and tensors whose names begin with ``prefix``."""
    return _to_state(belief, prefix)


def belief_from_state(
    header: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str
) -> Belief:
    """Rebuild what :func:`belief_to_state` took apart, bit for bit."""
    return _from_state(header, tensors, prefix)


def _to_state(record: Record, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header: dict[str, Any] = {"kind": type(record).__name__}
    tensors: dict[str, Tensor] = {}
    for field in fields(record):  # type: ignore[arg-type]  # every record is a dataclass
        value, name = getattr(record, field.name), f"{prefix}.{field.name}"
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Covariance):
            tensors[name] = value.factor
            header[field.name] = [value.name, value.n_components, value.n_features]
        else:
            header[field.name], more = _to_state(value, name)
            tensors |= more
    return header, tensors


def _from_state(header: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str) -> Any:
    kind = _KINDS[header["kind"]]
    parts: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        said, name = header.get(field.name), f"{prefix}.{field.name}"
        if said is None:
            parts[field.name] = tensors[name]
        elif isinstance(said, list):
            parts[field.name] = structure(said[0])(tensors[name], said[1], said[2])
        else:
            parts[field.name] = _from_state(said, tensors, name)
    return kind(**parts)
