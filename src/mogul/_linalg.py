"""Batched Cholesky factors, lower triangular with a positive diagonal, and their algebra."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "add_to_diagonal",
    "by_parts",
    "cholesky_report",
    "exp_triangle",
    "factor_from_precision",
    "factor_from_precision_factor",
    "factor_of_rows",
    "is_symmetric",
    "log_triangle",
    "mahalanobis_whiten",
    "merge_axis",
    "on_diagonal",
    "precision_factor",
    "symmetric",
    "transpose",
    "triangle_units",
    "widened_factor",
]


_PART_NUMBERS = 1 << 19
"""Numbers of matrices that are worked on at a time: four megabytes."""


def transpose(matrix: Tensor) -> Tensor:
    """Swap the last two axes."""
    return matrix.transpose(-1, -2)


def symmetric(matrix: Tensor) -> Tensor:
    """Average a matrix with its transpose, so that rounding leaves no skew part."""
    return 0.5 * (matrix + transpose(matrix))


def cholesky_report(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factor L with L Lᵀ = matrix, and where that worked.

    Returns ``(L, ok)`` with ``L`` of shape (*, D, D) and ``ok`` boolean of shape (*). Where ``ok``
    is False, ``L`` is the identity, so that what follows stays finite until it is replaced.
    """
    finite = torch.isfinite(matrix).all(-1).all(-1)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    safe = torch.where(finite[..., None, None], matrix, eye)
    factor, info = torch.linalg.cholesky_ex(safe)
    # A pivot is the variance left in a feature once the others are known. Below rounding of the
    # variance itself it carries no information; the ratio is free of units.
    pivot = torch.diagonal(factor, dim1=-2, dim2=-1).square()
    total = torch.diagonal(safe, dim1=-2, dim2=-1)
    rounding = matrix.shape[-1] * torch.finfo(matrix.dtype).eps
    ok = finite & (info == 0) & (pivot > rounding * total).all(-1)
    return torch.where(ok[..., None, None], factor, eye), ok


def by_parts(
    factorise: Callable[..., tuple[Tensor, Tensor]], matrices: Tensor, *values: Tensor
) -> tuple[Tensor, Tensor]:
    """``factorise`` of matrices (*, D, D), as :func:`cholesky_report`, some of them at a time.

    What it needs on the way is then small where there are many. It is also given what belongs to
    each matrix of some ``values``, broadcastable to (*).
    """
    size = matrices.shape[-1] ** 2
    step = max(1, _PART_NUMBERS // max(1, size))
    tracked = any(part.requires_grad for part in (matrices, *values))
    if matrices.numel() <= step * size or tracked:
        return factorise(matrices, *values)
    flat = matrices.flatten(0, -3)
    each = [value.expand(matrices.shape[:-2]).flatten() for value in values]
    factor, ok = torch.empty_like(flat), torch.empty_like(flat[:, 0, 0], dtype=torch.bool)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        factor[part], ok[part] = factorise(flat[part], *(value[part] for value in each))
    return factor.reshape(matrices.shape), ok.reshape(matrices.shape[:-2])


def mahalanobis_whiten(factor: Tensor, difference: Tensor) -> Tensor:
    """Solve L y = difference for rows: (*, D, D) and (*, S, D) give (*, S, D)."""
    return transpose(torch.linalg.solve_triangular(factor, transpose(difference), upper=False))


def precision_factor(factor: Tensor) -> Tensor:
    """The upper triangular U = L⁻ᵀ with U Uᵀ = (L Lᵀ)⁻¹."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return transpose(torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False))


def factor_from_precision(precision: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance factor L, and where it exists, from a precision matrix P = (L Lᵀ)⁻¹.

    With J the exchange matrix, J P J = C Cᵀ gives the upper triangular U = J C J, P = U Uᵀ, and
    L = U⁻ᵀ is lower triangular: no inverse of P is formed.
    """
    reversed_factor, ok = cholesky_report(precision.flip(-1, -2))
    return factor_from_precision_factor(reversed_factor.flip(-1, -2)), ok


def factor_from_precision_factor(upper: Tensor) -> Tensor:
    """The covariance factor L = U⁻ᵀ from the upper triangular U of a precision U Uᵀ."""
    eye = torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device)
    return transpose(torch.linalg.solve_triangular(upper, eye.expand_as(upper), upper=True))


def is_symmetric(matrix: Tensor) -> Tensor:
    """Whether each matrix equals its transpose up to rounding; (*, D, D) to (*)."""
    size = matrix.abs().amax((-1, -2))
    skew = (matrix - transpose(matrix)).abs().amax((-1, -2))
    return skew <= 1e-5 * size  # as loose as scikit-learn: arrays printed and read back pass


def factor_of_rows(rows: Tensor) -> Tensor:
    """The Cholesky factor of A Aᵀ from A of shape (*, M, D), M ≤ D.

    By a QR decomposition of Aᵀ, so that the condition number is never squared.
    """
    _, upper = torch.linalg.qr(transpose(rows))
    sign = torch.where(torch.diagonal(upper, dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper.dtype)
    return transpose(upper * sign[..., None])


def add_to_diagonal(matrix: Tensor, value: Tensor) -> Tensor:
    """Add ``value`` (broadcastable to the leading axes) to the diagonals."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + value[..., None, None] * eye


def log_triangle(factor: Tensor, reference: Tensor | None) -> Tensor:
    """Lower entries of reference⁻¹ factor, the diagonal as logarithms; (*, D (D + 1) / 2)."""
    ratio = (
        factor
        if reference is None
        else torch.linalg.solve_triangular(reference, factor, upper=False)
    )
    rows, columns = torch.tril_indices(factor.shape[-1], factor.shape[-1])
    entries = ratio[..., rows, columns]
    logs = on_diagonal(factor.shape[-1]).to(entries.device)
    return torch.where(logs, torch.where(logs, entries, 1.0).log(), entries)


def exp_triangle(values: Tensor, n_features: int, reference: Tensor | None) -> Tensor:
    """The inverse of :func:`log_triangle`."""
    rows, columns = torch.tril_indices(n_features, n_features)
    logs = on_diagonal(n_features).to(values.device)
    entries = torch.where(logs, torch.where(logs, values, 0.0).exp(), values)
    ratio = values.new_zeros((*values.shape[:-1], n_features, n_features))
    ratio[..., rows, columns] = entries
    return ratio if reference is None else reference @ ratio


def on_diagonal(n_features: int) -> Tensor:
    """Which entries of :func:`log_triangle` are of the diagonal; (D (D + 1) / 2)."""
    rows, columns = torch.tril_indices(n_features, n_features)
    return rows == columns


def triangle_units(scales: Tensor) -> Tensor:
    """For each entry of :func:`log_triangle`, one on the diagonal and else the scale of its row."""
    rows, columns = torch.tril_indices(len(scales), len(scales))
    return torch.where((rows == columns).to(scales.device), 1.0, scales[rows])


def widened_factor(factor: Tensor, variance: Tensor) -> Tensor:
    """The Cholesky factor of L Lᵀ + v I, for (*, D, D) and v (*)."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    more = variance.sqrt()[..., None, None] * eye
    return factor_of_rows(torch.cat([factor, more.expand_as(factor)], -1))


def merge_axis(values: Tensor, n_batch: int, axis: int | None) -> Tensor:
    """An axis of a batch (*batch, K, …), or all of them, flattened into that of the components."""
    if axis is None:
        return values.flatten(0, n_batch)
    place = axis % n_batch
    return values.movedim(place, n_batch - 1).flatten(n_batch - 1, n_batch)
