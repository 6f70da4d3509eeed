"""The E-step: (rows, mixture) → statistics and log-likelihood, behind one function.

Also the maps over rows that share its arithmetic: log-densities, labels and responsibilities. Rows
are taken in tiles, so that memory beyond the data does not grow with their number.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache, reduce
from operator import add
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from torch import Tensor

from mogul._threads import in_threads, one_thread_if_small, shares
from mogul.errors import UnknownNameError
from mogul.kernels.device import DeviceKernel, OneByOne, has_triton, type_of_products
from mogul.kernels.expanded import ExpandedKernel
from mogul.kernels.reference import ReferenceKernel
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = [
    "KERNELS",
    "draw_step",
    "e_step",
    "e_steps",
    "has_compiler",
    "likelihood_from",
    "log_likelihood",
    "log_prob",
    "predict",
    "responsibilities",
]

if TYPE_CHECKING:
    from mogul.kernels.compiled import CompiledKernel
    from mogul.kernels.triton_diagonal import TritonKernel

Answer = TypeVar("Answer")

KERNELS = ("reference", "expanded", "compiled")
"""In the order of their speed; "compiled" needs Numba (the extra ``fast``)."""

Kernel: TypeAlias = "ReferenceKernel | ExpandedKernel | CompiledKernel | OneByOne | TritonKernel"


def e_step(
    rows: Tensor, mixture: Mixture, sample_weight: Tensor | None = None, *, kernel: str = "auto"
) -> Stats:
    """Expected sufficient statistics of ``rows`` under ``mixture``, and the log-likelihood.

    Parameters
    ----------
    rows : Tensor, shape (N, D) or (*batch, N, D)
        Rows shared by every mixture of the batch, or its own rows for each.
    mixture : Mixture
        Any batch shape; statistics have the same.
    sample_weight : Tensor, shape (N,) or (*batch, N), optional
    kernel : {"auto", "reference", "expanded", "compiled"}, default "auto"
        "auto" picks the fastest that applies and is installed.

    Returns
    -------
    Stats
        About the components' means, on the device of ``mixture``, which need not be that of the
        rows.

    Examples
    --------
    >>> import torch
    >>> from mogul import Mixture
    >>> mixture = Mixture.from_parameters([1.0], [[0.0]], [[1.0]], "diag")
    >>> stats = e_step(torch.tensor([[1.0], [3.0]]).double(), mixture)
    >>> float(stats.count), float(stats.first), float(stats.second)
    (2.0, 4.0, 10.0)
    """
    return _statistics(rows, mixture, sample_weight, None, kernel)


def draw_step(
    rows: Tensor,
    mixture: Mixture,
    uniform: Tensor,
    sample_weight: Tensor | None = None,
    *,
    kernel: str = "auto",
) -> Stats:
    """Statistics of rows each of which is of one component, drawn by its responsibilities.

    What a Gibbs sampler needs to know of the labels that it draws. Otherwise as :func:`e_step`; the
    log-likelihood is still that of the mixture.

    Parameters
    ----------
    uniform : Tensor, shape (*batch, N)
        A number between 0 and 1 for each row, that decides its component.
    """
    return _statistics(rows, mixture, sample_weight, uniform, kernel)


def e_steps(batches: Iterable[tuple[Tensor, Tensor | None]], mixture: Mixture) -> Stats:
    """The sum of :func:`e_step` over batches of (rows, weights) on one device, of one type.

    What depends on the mixture only is computed once. No batches add up to nothing.
    """
    engine: Kernel | None = None
    total: Stats | None = None
    for rows, weight in batches:
        engine = engine or _choose(rows, mixture, "auto")
        found = _added_up(engine, rows, weight, None)
        total = found if total is None else total + found
    if total is None:
        return e_step(mixture.means.new_empty((0, mixture.n_features)), mixture)
    return _about_means(total, mixture)


def _statistics(
    rows: Tensor,
    mixture: Mixture,
    sample_weight: Tensor | None,
    uniform: Tensor | None,
    kernel: str,
) -> Stats:
    engine = _choose(rows, mixture, kernel)
    return _about_means(_added_up(engine, rows, sample_weight, uniform), mixture)


def _about_means(stats: Stats, mixture: Mixture) -> Stats:
    exact = mixture.to(dtype=torch.float64)
    return exact.covariance.recentre(stats.to(mixture.device), exact.means)


def _added_up(
    engine: Kernel, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None
) -> Stats:
    def collect(span: slice) -> Stats:
        weight = None if sample_weight is None else sample_weight[..., span]
        chance = None if uniform is None else uniform[..., span]
        return copy(engine).collect(rows[..., span, :], weight, chance)

    with _ieee(rows.device):
        return reduce(add, _over_spans(collect, rows, engine))


def log_likelihood(rows: Tensor, mixture: Mixture, sample_weight: Tensor | None = None) -> Tensor:
    r"""The log-likelihood of all rows in nats, with its gradient in the mixture's parameters.

    The gradient of :math:`\sum_n w_n \log p(x_n)` is that of the expected complete log-likelihood

    .. math::
        \sum_k S_{0k} (\log w_k - \tfrac12 \log\det 2\pi\Sigma_k)
        - \tfrac12 \operatorname{tr} \Sigma_k^{-1} S_{2k}(\mu_k)

    at the statistics of the E-step (Fisher's identity; Salakhutdinov, Roweis and Ghahramani 2003).
    So a gradient costs what an EM iteration costs, with the same kernels and bounded memory. The
    rows themselves get no gradient; :meth:`Mixture.log_prob` gives them one.

    Parameters
    ----------
    rows : Tensor, shape (N, D)
    mixture : Mixture
    sample_weight : Tensor, shape (N,), optional

    Returns
    -------
    Tensor, shape (*batch), float64
    """
    with torch.no_grad():
        stats = e_step(rows, mixture.detach(), sample_weight)
    return likelihood_from(stats, mixture)


def likelihood_from(stats: Stats, mixture: Mixture) -> Tensor:
    """:func:`log_likelihood` from the statistics of the rows under the mixture."""
    covariance = mixture.covariance
    second = covariance.recentre(stats, mixture.means).second
    distance = (covariance.precisions() * second).flatten(-covariance.factor_ndim).sum(-1)
    constant = mixture.log_weights - covariance.log_diagonal().sum(-1)
    constant = torch.where(stats.count > 0, constant, 0.0)  # 0 · log 0
    expected = (stats.count * constant).sum(-1) - 0.5 * distance
    return stats.log_likelihood + (expected - expected.detach())


def log_prob(rows: Tensor, mixture: Mixture) -> Tensor:
    """Log-densities in nats, (*batch, N)."""
    return _score(rows, mixture, "log_prob")


def predict(rows: Tensor, mixture: Mixture) -> Tensor:
    """The most probable component of each row, (*batch, N)."""
    return _score(rows, mixture, "labels")


def responsibilities(rows: Tensor, mixture: Mixture) -> Tensor:
    """The probability of each component for each row, (*batch, N, K)."""
    return _score(rows, mixture, "responsibilities")


def _score(rows: Tensor, mixture: Mixture, what: str) -> Tensor:
    with one_thread_if_small(rows.shape[0] * mixture.means.numel() * mixture.n_features):
        engine = _choose(rows, mixture, "auto")
        with _ieee(rows.device):
            parts = _over_spans(lambda span: copy(engine).score(rows[span], what), rows, engine)
        return torch.cat(parts, -2 if what == "responsibilities" else -1)


def _over_spans(function: Callable[[slice], Answer], rows: Tensor, engine: Kernel) -> list[Answer]:
    """``function`` of stretches of rows, in threads on a CPU where no gradients are asked for."""
    n_rows = rows.shape[-2]
    alone = engine.own_threads or rows.device.type != "cpu"
    if alone or _tracks_gradients(rows, engine.mixture):
        return [function(slice(0, n_rows))]

    def without_gradients(span: slice) -> Answer:
        with torch.no_grad():  # a new thread does not inherit the caller's choice
            return function(span)

    return in_threads(without_gradients, shares(n_rows, engine.tile_rows))


def _choose(rows: Tensor, mixture: Mixture, kernel: str) -> Kernel:
    """The kernel to use, on a mixture of the type it computes in."""
    if kernel not in ("auto", *KERNELS):
        known = ", ".join(map(repr, ("auto", *KERNELS)))
        raise UnknownNameError(f"The kernel {kernel!r} is unknown; choose one of {known}.")
    if kernel == "reference":
        return ReferenceKernel(mixture.to(device=rows.device))
    # On a CPU float64 costs about what float32 does once a tile is in cache, and keeps law 3.
    exact = mixture.to(dtype=torch.float64)
    if kernel != "auto":
        return _fast_kernel(kernel)(exact)
    shared = rows.ndim == 2 and not _tracks_gradients(rows, mixture)
    if rows.device.type != "cpu":
        return _on_accelerator(rows, exact, shared)
    if shared:
        candidate = _fast_kernel("compiled" if has_compiler() else "expanded")(exact)
        if candidate.applies:
            return candidate
    return ReferenceKernel(exact)


def _on_accelerator(rows: Tensor, mixture: Mixture, shared: bool) -> Kernel:
    """The fastest kernel that applies where float64 may cost dozens of times what float32 does."""
    products = type_of_products(rows.device)
    dtype = torch.float64 if rows.dtype == torch.float64 else products
    if shared:
        if rows.device.type == "cuda" and has_triton():
            from mogul.kernels.triton_diagonal import TritonKernel

            single = mixture[0] if len(mixture.batch_shape) == 1 else mixture
            if TritonKernel.takes(rows, single):
                fused = (
                    OneByOne(
                        mixture,
                        [TritonKernel(mixture[i], rows.device) for i in range(len(mixture))],
                    )
                    if mixture.batch_shape
                    else TritonKernel(mixture, rows.device)
                )
                if fused.applies:
                    return fused
        candidate = DeviceKernel(mixture, rows.device, dtype)
        if candidate.applies:
            return candidate
    return ReferenceKernel(mixture.to(rows.device, dtype))


@contextmanager
def _ieee(device: torch.device) -> Iterator[None]:
    """Matrix products in float32 and not TF32, whatever the program has asked for elsewhere."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _fast_kernel(name: str) -> type[ExpandedKernel | CompiledKernel]:
    if name == "expanded":
        return ExpandedKernel
    from mogul.kernels.compiled import CompiledKernel  # Numba takes a quarter of a second to load

    return CompiledKernel


def has_compiler() -> bool:
    """Whether Numba is there and works with this NumPy."""
    return _find_compiler()


@cache
def _find_compiler() -> bool:
    return _loads("numba", "mogul.kernels.compiled")


def _loads(package: str, module: str) -> bool:
    """Whether a package is installed and the kernel that needs it can be loaded."""
    if importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError):
        # Numba does not know the installed NumPy, or finds no folder to keep compiled code in.
        return False
    return True


def _tracks_gradients(rows: Tensor, mixture: Mixture) -> bool:
    tensors = (rows, mixture.log_weights, mixture.means, mixture.covariance.factor)
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
