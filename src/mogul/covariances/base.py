"""What a covariance structure is: the questions that a mixture and its algorithms ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mogul._linalg import merge_axis
from mogul.errors import InputError
from mogul.stats import Stats

__all__ = ["Covariance"]


@dataclass(frozen=True)
class Covariance(ABC):
    r"""The covariances of K components, of one structure, for a whole batch of mixtures.

    Stored as a ``factor`` whose meaning is the structure's own and from which a lower triangular
    :math:`L_k` with a positive diagonal and :math:`\Sigma_k = L_k L_k^\top` follows. Below,
    ``*batch`` is the batch shape, K, D and S numbers of components, features and rows.

    A new structure is one final subclass in one file, one line in the registry and one case in
    ``tests/laws``.
    """

    factor: Tensor
    n_components: int
    n_features: int

    name: ClassVar[str]
    """The word that users write for ``covariance_type``."""
    factor_ndim: ClassVar[int]
    """The number of trailing axes of ``factor`` that are not batch axes."""
    requirement: ClassVar[str] = "symmetric, positive-definite"
    """What must hold of given covariances or precisions, to complete "should be …"."""
    shared_features: ClassVar[bool] = True
    """Whether :meth:`features` depends on rows alone, so that one array serves all components."""
    block_ndim: ClassVar[int]
    """How many axes of ``factor`` count blocks; see :meth:`block_size`."""
    feature_blocks: ClassVar[bool] = False
    """Whether every feature has a block of its own."""

    # --- shapes -------------------------------------------------------------------------------

    @property
    def batch_shape(self) -> torch.Size:
        return self.factor.shape[: self.factor.ndim - self.factor_ndim]

    @staticmethod
    @abstractmethod
    def factor_shape(n_components: int, n_features: int) -> tuple[int, ...]:
        """The shape of ``factor`` without its batch axes; ``covariances`` have the same."""

    @staticmethod
    @abstractmethod
    def n_free(n_components: int, n_features: int) -> int:
        """The number of free parameters, for information criteria."""

    def expand(self, batch_shape: torch.Size) -> Self:
        """The same covariances for every member of a larger batch, without copying."""
        event = self.factor.shape[self.factor.ndim - self.factor_ndim :]
        return replace(self, factor=self.factor.expand(*batch_shape, *event))

    def index(self, index) -> Self:
        """Some of the batch, as by indexing its leading axes."""
        return replace(self, factor=self.factor[index])

    def merged(self, axis: int | None = None) -> Covariance:
        """All components along an axis of the batch, or of all of it, as the components of one.

        Of another structure where components of this one have something in common.
        """
        factor = merge_axis(self.factor, len(self.batch_shape), axis)
        n_components = factor.shape[factor.ndim - self.factor_ndim]
        return replace(self, factor=factor, n_components=n_components)

    def to(self, **kwargs) -> Self:
        """Change device or dtype, in the words of ``torch.Tensor.to``."""
        return replace(self, factor=self.factor.to(**kwargs))

    @abstractmethod
    def select(self, components: Tensor) -> Self:
        """The given components, in the given order; ``components`` is a 1-D index."""

    def reorder(self, order: Tensor) -> Self:
        """The components of each member of the batch in an order of its own; ``order`` (*batch, K).

        Component k of the answer is component ``order[..., k]``.
        """
        if self.block_ndim == 0:  # shared by all components
            return self
        axis = self.factor.ndim - self.factor_ndim
        index = order.reshape(*order.shape, *[1] * (self.factor_ndim - 1))
        return replace(self, factor=self.factor.take_along_dim(index, axis))

    # --- construction -------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def _factorise(cls, covariances: Tensor) -> tuple[Tensor, Tensor]:
        """``(factor, ok)`` from covariances; ``ok`` boolean per component, broadcastable to K."""

    @classmethod
    @abstractmethod
    def _factorise_precisions(cls, precisions: Tensor) -> tuple[Tensor, Tensor]:
        """``(factor, ok)`` from precisions in the shape of ``covariances``."""

    @classmethod
    def from_covariances(cls, covariances: Tensor, n_components: int, n_features: int) -> Self:
        """From covariances in scikit-learn's shape for this structure, with any batch axes."""
        cls._check(covariances, n_components, n_features, "covariances")
        factor, ok = cls._factorise(covariances)
        if not bool(ok.all()):
            raise InputError(f"'{cls.name} covariance' should be {cls.requirement}")
        return cls(factor, n_components, n_features)

    @classmethod
    def from_precisions(cls, precisions: Tensor, n_components: int, n_features: int) -> Self:
        """From inverse covariances in scikit-learn's shape, with any batch axes."""
        cls._check(precisions, n_components, n_features, "precisions")
        factor, ok = cls._factorise_precisions(precisions)
        if not bool(ok.all()):
            raise InputError(f"'{cls.name} precision' should be {cls.requirement}")
        return cls(factor, n_components, n_features)

    @classmethod
    @abstractmethod
    def from_precisions_cholesky(cls, upper: Tensor, n_components: int, n_features: int) -> Self:
        """The inverse of :meth:`precisions_cholesky`."""

    @classmethod
    def _check(cls, values: Tensor, n_components: int, n_features: int, what: str) -> None:
        want = cls.factor_shape(n_components, n_features)
        if values.ndim < len(want) or tuple(values.shape[values.ndim - len(want) :]) != want:
            raise InputError(
                f"{cls.name} {what} have shape {tuple(values.shape)}, expected {want} "
                f"for {n_components} components and {n_features} features."
            )

    # --- as arrays ----------------------------------------------------------------------------

    @abstractmethod
    def covariances(self) -> Tensor:
        """In scikit-learn's shape, (*batch, *factor_shape)."""

    @abstractmethod
    def precisions(self) -> Tensor:
        """Inverses of :meth:`covariances`, in the same shape."""

    @abstractmethod
    def precisions_cholesky(self) -> Tensor:
        """Upper triangular U with U Uᵀ the precision (a scale for diagonal structures)."""

    @abstractmethod
    def variances(self) -> Tensor:
        """Variances of each feature; (*batch, K, D)."""

    @abstractmethod
    def scale_tril(self) -> Tensor:
        """The lower triangular factors, dense; (*batch, K, D, D)."""

    def dense(self) -> Tensor:
        """The covariance matrices, dense; (*batch, K, D, D)."""
        factor = self.scale_tril()
        return factor @ factor.transpose(-1, -2)

    # --- density ------------------------------------------------------------------------------

    @abstractmethod
    def whiten(self, difference: Tensor) -> Tensor:
        """Solve L_k y = difference; (*batch, K, S, D) to the same."""

    @abstractmethod
    def colour(self, noise: Tensor) -> Tensor:
        """Multiply by L_k, the inverse of :meth:`whiten`; (*batch, K, S, D) to the same."""

    @abstractmethod
    def log_diagonal(self) -> Tensor:
        """Logarithms of the diagonals of the L_k; (*batch, K, D). Their sum is ½ log det Σ_k."""

    # --- shrinking to fewer features ------------------------------------------------------------

    @abstractmethod
    def marginal(self, features: Tensor) -> Self:
        """The covariances of some features; ``features`` is a 1-D index of distinct features."""

    @abstractmethod
    def condition(self, given: Tensor, rest: Tensor, difference: Tensor) -> tuple[Tensor, Self]:
        """The shift of the mean of ``rest``, and its covariance, when ``given`` is known.

        ``difference`` is the given values less the components' means, (*batch, K, S, G). The shift
        has shape (*batch, K, S, H). The covariance does not depend on the values.
        """

    @abstractmethod
    def scaled(self, log_factor: Tensor) -> Self:
        """Standard deviations multiplied by exp(log_factor), a tensor of the batch shape or ()."""

    @abstractmethod
    def rescaled(self, scales: Tensor) -> Covariance:
        """Those of features multiplied by ``scales`` (D), which are positive.

        Of another structure where this one does not tell features apart.
        """

    @abstractmethod
    def widened(self, variance: Tensor) -> Self:
        """Σ_k + v I, as by adding noise; ``variance`` v ≥ 0 is a tensor of the batch shape or ().

        Computed from the factor without forming Σ_k: v may be far below its rounding.
        """

    # --- a chart for extrapolation and gradients ------------------------------------------------

    @abstractmethod
    def encode(self, reference: Covariance | None = None) -> Tensor:
        """An unconstrained vector for the factor relative to ``reference``; (*batch, n).

        With triangular structures these are the entries of L_ref⁻¹ L with the logarithm on the
        diagonal, so the vector does not depend on the units of the features.
        """

    @classmethod
    @abstractmethod
    def decode(
        cls, values: Tensor, n_components: int, n_features: int, reference: Covariance | None = None
    ) -> Self:
        """The inverse of :meth:`encode`; any real vector gives valid covariances."""

    @classmethod
    def chart_shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        """How the entries of :meth:`encode` are arranged for people; flat, they are the vector."""
        return cls.factor_shape(n_components, n_features)

    @classmethod
    def chart_logarithms(cls, n_features: int) -> Tensor:
        """Which entries of a component's :meth:`encode` are logarithms of scales."""
        return torch.ones(cls.chart_shape(1, n_features), dtype=torch.bool).flatten()

    @classmethod
    def chart_units(cls, scales: Tensor, n_components: int) -> Tensor:
        """What counts as one step in each entry of :meth:`encode`, in :meth:`chart_shape`.

        ``scales`` (D) are those of the features. One for a logarithm, which has no unit; a
        feature's own scale for what is measured in it.
        """
        return scales.new_ones(cls.chart_shape(n_components, len(scales)))

    # --- statistics ---------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def moment(cls, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The structure's part of Σ_s weight · left ⊗ right.

        ``weight`` (*batch, K, S), ``left`` and ``right`` (*batch, K, S, D); the result has the
        shape of ``factor``. This one bilinear map fixes the second-moment statistics.
        """

    @classmethod
    @abstractmethod
    def from_moment(
        cls, moment: Tensor, count: Tensor, n_features: int, floor: Tensor
    ) -> tuple[Self, Tensor]:
        """The maximum-likelihood covariances from a central moment.

        ``count`` (*batch, K) is the weight of each component, ``floor`` (scalar or (*batch)) is
        added to every variance. Returns the covariances and ``ok`` (*batch, K): where it is False
        the covariance is not positive definite, and a stand-in takes its place.
        """

    def recentre(self, stats: Stats, origin: Tensor) -> Stats:
        """The same statistics about another origin, exactly (an affine map)."""
        if stats.origin is origin:
            return stats
        shift = (stats.origin - origin).unsqueeze(-2)  # (*batch, K, 1, D)
        first = stats.first.unsqueeze(-2)
        one = torch.ones_like(stats.count).unsqueeze(-1)  # (*batch, K, 1)
        second = (
            stats.second
            + self.moment(one, first, shift)
            + self.moment(one, shift, first)
            + self.moment(stats.count.unsqueeze(-1), shift, shift)
        )
        moved = stats.first + stats.count.unsqueeze(-1) * shift.squeeze(-2)
        return replace(stats, first=moved, second=second, origin=origin)

    # --- blocks, for distributions over precisions ----------------------------------------------
    # What is free in a precision are p × p matrices, the blocks: one for each component (full), one
    # for all (tied), a number for each feature (diag) or one that serves them all (spherical). A
    # prior of the precisions is a Wishart distribution of each block, Gamma where p = 1.

    @classmethod
    def has_matrices(cls) -> bool:
        """Whether a block is a matrix, else a number."""
        return cls.factor_ndim > cls.block_ndim

    @classmethod
    def block_shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        """How the blocks are arranged: the leading axes of ``factor``."""
        return cls.factor_shape(n_components, n_features)[: cls.block_ndim]

    @classmethod
    def block_size(cls, n_features: int) -> int:
        """The order p of a block."""
        return n_features if cls.has_matrices() else 1

    @classmethod
    def at_blocks(cls, values: Tensor) -> Tensor:
        """Values (*batch, *blocks), with axes of length one to broadcast against ``factor``."""
        return values.reshape(*values.shape, *[1] * (cls.factor_ndim - cls.block_ndim))

    @classmethod
    @abstractmethod
    def block_counts(cls, count: Tensor, n_features: int) -> Tensor:
        """The normal observations that inform each block; (*batch, K) to (*batch, *blocks).

        A row of a component is one observation of the component's matrix, or of each feature's
        number, or D of the number that serves all features.
        """

    @classmethod
    @abstractmethod
    def spread(cls, values: Tensor, n_components: int) -> Tensor:
        """For each component the values of its independent blocks; (*batch, K, G).

        G is D where :attr:`feature_blocks`, else one.
        """

    @classmethod
    def rows_per_block(cls, n_features: int) -> int:
        """The observations of a block that one row of its component is."""
        one = cls.block_counts(torch.ones(1), n_features)
        return int(one.flatten()[0])

    @classmethod
    def component_sum(cls, values: Tensor, n_components: int, n_features: int) -> Tensor:
        """Values of blocks added up over a component's features; (*batch, *blocks) to (*batch, K).

        A block counts once for every p features it serves: with log-determinants of blocks this is
        the log-determinant of the component. The transpose of :meth:`block_counts`.
        """
        each = cls.spread(values, n_components)
        return each.sum(-1) * (n_features // (each.shape[-1] * cls.block_size(n_features)))

    @abstractmethod
    def block_log_det(self) -> Tensor:
        """The log-determinant of each block of the covariances, (*batch, *blocks)."""

    # --- the expanded form, for kernels ---------------------------------------------------------
    # log N(x; μ, Σ) = −½ xᵀΛx + (Λμ)ᵀx + const is one matrix product for all components once
    # "features" of x are at hand. It loses digits far from the origin: kernels must check.

    @abstractmethod
    def features(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """What the quadratic form needs of rows x, (D, S) to (*batch or (), F, S)."""

    @staticmethod
    @abstractmethod
    def feature_pairs(n_features: int) -> list[tuple[int, int]]:
        """Which two columns each of :meth:`features` is the product of, for compiled kernels.

        Column D is one and column D + 1 the sum of all columns' squares. Empty where features are
        not shared: then they are the squares of the whitened columns.
        """

    @abstractmethod
    def precision_diagonal(self) -> Tensor:
        """The diagonals of the Λ_k, (*batch, K, D)."""

    @abstractmethod
    def quadratic_weights(self) -> Tensor:
        """W (*batch, K or 1, F) with W @ features(x) = −½ xᵀΛ_k x."""

    @abstractmethod
    def precision_times(self, vectors: Tensor) -> Tensor:
        """Λ_k v_k for ``vectors`` (*batch, K, D)."""

    @abstractmethod
    def raw_second(
        self, products: Tensor, responsibilities: Tensor | None = None, x: Tensor | None = None
    ) -> Tensor:
        """Second moments about zero; the shape of ``factor``.

        ``products`` (*batch, K, F) are responsibilities @ features(x)ᵀ, which a kernel has from the
        same matrix product as the first moments. Only structures whose features are not shared
        need ``responsibilities`` (*batch, K, S) and ``x`` (D, S); the others may be given the sum
        of many tiles' products.
        """
