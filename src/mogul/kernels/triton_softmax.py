"""Responsibilities from log-densities on an accelerator, in one kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["softmax_over_components"]

_ROWS, _COMPONENTS = 32, 32
"""Rows of a block, and components that it takes at a time."""


@triton.jit
def _normalise(
    terms, log_prob, n_components, stride, n_rows,
    TYPE: tl.constexpr, ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_rows
    peak = tl.full((ROWS,), -float("inf"), TYPE)
    mass = tl.zeros((ROWS,), TYPE)
    for first in range(0, n_components, COMPONENTS):
        ks = first + tl.arange(0, COMPONENTS).to(tl.int64)
        there = (ks < n_components)[:, None] & inside[None, :]
        values = tl.load(
            terms + ks[:, None] * stride + rows[None, :], mask=there, other=-float("inf")
        )
        higher = tl.maximum(peak, tl.max(values, 0))
        level = tl.where(higher == -float("inf"), 0.0, higher)
        mass = mass * tl.exp(peak - level) + tl.sum(tl.exp(values - level[None, :]), 0)
        peak = higher
    found = tl.where(inside, peak + tl.log(tl.where(inside, mass, 1.0)), 0.0)
    tl.store(log_prob + rows, found, mask=inside)
    for first in range(0, n_components, COMPONENTS):
        ks = first + tl.arange(0, COMPONENTS).to(tl.int64)
        there = (ks < n_components)[:, None] & inside[None, :]
        place = terms + ks[:, None] * stride + rows[None, :]
        values = tl.load(place, mask=there, other=-float("inf"))
        tl.store(place, tl.exp(values - found[None, :]), mask=there)


def softmax_over_components(terms: Tensor) -> Tensor:
    """Replace log-densities (K, S) by responsibilities, in place.

    Returns
    -------
    Tensor, shape (S,)
        Log Σ exp of each column.
    """
    n_components, n_rows = terms.shape
    log_prob = terms.new_empty(n_rows)
    kernel: Any = _normalise
    kernel[(triton.cdiv(n_rows, _ROWS),)](
        terms, log_prob, n_components, terms.stride(0), n_rows,
        TYPE=tl.float64 if terms.dtype == torch.float64 else tl.float32,
        ROWS=_ROWS, COMPONENTS=_COMPONENTS,
    )  # fmt: skip
    return log_prob
