"""Priors of a Gaussian mixture, as settings that are filled in from the data.

A prior says what is believed of the weights, the means and the precisions (inverse covariances)
before rows are seen. Every setting is a number or an array; what is left out is scaled to the data.
:class:`NormalWishart` and :class:`NormalGamma` are conjugate: given which row is whose, the
posterior is of the same form. :class:`IndependentNormalGamma` lets the means be uncertain apart
from the precisions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mogul.beliefs import (
    Belief,
    ComponentBelief,
    DirichletWeights,
    IndependentComponents,
    NormalWishartComponents,
    StickBreakingWeights,
    WeightBelief,
    WishartPrecisions,
)
from mogul.covariances import Covariance
from mogul.data.rows import Moments, Rows
from mogul.errors import InputError

__all__ = [
    "Dirichlet",
    "DirichletProcess",
    "IndependentNormalGamma",
    "NormalGamma",
    "NormalWishart",
    "Prior",
]

_STAND_IN = 1e-6
"""Of the mean variance: what stands in for the variance of a column that holds one value."""
_ROUNDINGS = 8.0
"""A column's standard deviation below so many roundings of its values is rounding."""
_LEAST_EIGENVALUE = 1e-10
"""Of a correlation matrix that sums of squares can tell from a singular one."""


class _Settings:
    """A dataclass of numbers and arrays, equal to another of its class with the same values."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return all(_same(mine, theirs) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]  # arrays have none


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    if isinstance(one, _Settings) or isinstance(other, _Settings):
        return type(one) is type(other) and one == other
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


@dataclass(frozen=True, eq=False)
class Dirichlet(_Settings):
    r"""Weights w ~ Dirichlet(c), the prior of a fixed number of components.

    Parameters
    ----------
    concentration : float or array of shape (K,), optional
        c, in rows; one number serves all components. By default 1 / K: less than the free
        parameters of a component divided by two, so that components without rows are emptied
        (Rousseau and Mengersen 2011).

    Examples
    --------
    >>> from mogul import priors
    >>> priors.Dirichlet(2.0)
    Dirichlet(concentration=2.0)
    """

    concentration: Any = None

    def belief(self, n_components: int) -> WeightBelief:
        """With every setting filled in."""
        given = 1 / n_components if self.concentration is None else self.concentration
        found = _array(given, "concentration", [(), (n_components,)], (n_components,), above=0)
        return DirichletWeights(found)


@dataclass(frozen=True, eq=False)
class DirichletProcess(_Settings):
    r"""Weights by breaking a stick, :math:`v_k \sim \mathrm{Beta}(1, \alpha)`, for at most K parts.

    The truncated Dirichlet process: the data decide how many of the K components hold rows
    (Sethuraman 1994; Blei and Jordan 2006). Variational fits keep components in order of their
    size, but for the last, which takes what is left and may be any.

    Parameters
    ----------
    concentration : float, optional
        α. About α log(1 + N / α) components are expected among N rows. 1 / K by default.

    Examples
    --------
    >>> from mogul import priors
    >>> priors.DirichletProcess(0.5)
    DirichletProcess(concentration=0.5)
    """

    concentration: float | None = None

    def belief(self, n_components: int) -> WeightBelief:
        """With every setting filled in."""
        given = 1 / n_components if self.concentration is None else self.concentration
        left = _array(given, "concentration", [()], (n_components - 1,), above=0)
        return StickBreakingWeights(torch.ones_like(left), left)


class Prior(_Settings, ABC):
    """What is believed of a mixture before rows are seen; see the subclasses.

    Their settings are checked when a fit fills them in: one that is no number, not finite, of the
    wrong shape or of the wrong sign raises an ``InputError`` that names it.
    """

    of_matrices: ClassVar[bool]
    """Whether it is a prior of precision matrices, else of precisions that are numbers."""
    weight_concentration: Any

    @abstractmethod
    def _components(self, data: _Data, n_components: int) -> ComponentBelief: ...

    def belief(self, rows: Rows | Moments, n_components: int, kind: type[Covariance]) -> Belief:
        """The prior with every setting filled in, for some rows and a covariance structure."""
        if kind.has_matrices() != self.of_matrices:
            other = _FOR_MATRICES if kind.has_matrices() else _FOR_NUMBERS
            raise InputError(
                f"{type(self).__name__} is no prior of the covariance structure {kind.name!r}; use "
                f"{other}."
            )
        weights = self.weight_concentration
        if not isinstance(weights, (Dirichlet, DirichletProcess)):
            weights = Dirichlet(weights)
        components = self._components(_Data(rows, kind), n_components)
        return Belief(weights.belief(n_components), components)

    def __repr__(self) -> str:
        """The settings that were given."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self)]  # type: ignore[arg-type]
        inside = ", ".join(f"{name}={value!r}" for name, value in given if value is not None)
        return f"{type(self).__name__}({inside})"


_FOR_MATRICES = "priors.NormalWishart"
_FOR_NUMBERS = "priors.NormalGamma or priors.IndependentNormalGamma"


@dataclass(frozen=True, repr=False, eq=False)
class NormalWishart(Prior):
    r"""The conjugate prior of full and tied covariances.

    .. math::
        \mu_k \mid \Lambda_k \sim \mathcal{N}(m_k, (\kappa_k \Lambda_k)^{-1}), \qquad
        \Lambda_k \sim \mathcal{W}(\nu, S^{-1}), \qquad E[\Lambda_k] = \nu S^{-1}

    Parameters
    ----------
    mean_loc : array of shape (D,) or (K, D), or float, optional
        m. The mean of the rows by default.
    mean_precision : float or array of shape (K,), default 1.0
        κ: how many rows the prior of a mean is worth.
    degrees_of_freedom : float or array of shape (K,), optional
        ν > D − 1: how many rows the prior of a precision is worth; one number when tied. D by
        default.
    scale : array of shape (D, D) or (K, D, D), optional
        S. The sample covariance of the rows by default, so that a component is expected to be
        narrower than the data: :math:`E[\Lambda]^{-1}` is the covariance divided by D.
    weight_concentration : float, array of shape (K,), Dirichlet or DirichletProcess, optional
        The prior of the weights; a number or array is that of :class:`Dirichlet`.

    References
    ----------
    Bishop (2006), *Pattern Recognition and Machine Learning*, §10.2; DeGroot (1970).

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets, priors
    >>> rows = datasets.old_faithful().values
    >>> prior = priors.NormalWishart(mean_precision=0.1, weight_concentration=2.0)
    >>> model = BayesianGaussianMixture(2, prior=prior, random_state=0).fit(rows)
    >>> sorted(model.posterior_["weights"].concentration.round().int().tolist())
    [99, 177]
    """

    mean_loc: Any = None
    mean_precision: Any = 1.0
    degrees_of_freedom: Any = None
    scale: Any = None
    weight_concentration: Any = None

    of_matrices: ClassVar[bool] = True

    def _components(self, data: _Data, n_components: int) -> ComponentBelief:
        k, d, kind = n_components, data.n_features, data.kind
        blocks = kind.block_shape(k, d)
        degrees = _or(self.degrees_of_freedom, float(d))
        degrees = _array(
            degrees, "degrees_of_freedom", [(), blocks], blocks, above=d - 1, unit="D − 1"
        )
        scale = _or(self.scale, data.covariance)
        whole = kind.factor_shape(k, d)
        scale = _array(scale, "scale", [(d, d), whole], whole)
        return NormalWishartComponents(
            data.locations(self.mean_loc, k),
            _array(self.mean_precision, "mean_precision", [(), (k,)], (k,), above=0),
            WishartPrecisions(degrees, _covariance(kind, scale, k, d)),
        )


@dataclass(frozen=True, repr=False, eq=False)
class NormalGamma(Prior):
    r"""The conjugate prior of diag and spherical covariances.

    .. math::
        \tau_{kd} \sim \mathrm{Gamma}(a, b), \qquad
        \mu_{kd} \mid \tau_{kd} \sim \mathcal{N}(m_{kd}, (\kappa_k \tau_{kd})^{-1})

    with one precision τ for each component and feature (diag) or each component (spherical).

    Parameters
    ----------
    mean_loc : array of shape (D,) or (K, D), or float, optional
        m. The mean of the rows by default.
    mean_precision : float or array of shape (K,), default 1.0
        κ: how many rows the prior of a mean is worth.
    precision_concentration : float or array, optional
        a: half the number of observations that the prior is worth. By default those of D rows:
        D / 2 (diag), D² / 2 (spherical).
    precision_rate : float or array, optional
        b. By default half the variance of the column (diag), or half the sum of the columns'
        variances (spherical): a component is expected to be narrower than the data.
    weight_concentration : float, array of shape (K,), Dirichlet or DirichletProcess, optional
        The prior of the weights; a number or array is that of :class:`Dirichlet`.

    Notes
    -----
    Concentration and rate have shape (), (D,) or (K, D) for diag, () or (K,) for spherical.

    References
    ----------
    DeGroot (1970), §9.6.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets, priors
    >>> rows = datasets.old_faithful().values
    >>> model = BayesianGaussianMixture(
    ...     2, covariance_type="diag", prior=priors.NormalGamma(), random_state=0
    ... ).fit(rows)
    >>> model.posterior_["precisions"]
    Gamma(concentration: torch.Size([2, 2]), rate: torch.Size([2, 2]))
    """

    mean_loc: Any = None
    mean_precision: Any = 1.0
    precision_concentration: Any = None
    precision_rate: Any = None
    weight_concentration: Any = None

    of_matrices: ClassVar[bool] = False

    def _components(self, data: _Data, n_components: int) -> ComponentBelief:
        k = n_components
        return NormalWishartComponents(
            data.locations(self.mean_loc, k),
            _array(self.mean_precision, "mean_precision", [(), (k,)], (k,), above=0),
            data.gammas(self.precision_concentration, self.precision_rate, k),
        )


@dataclass(frozen=True, repr=False, eq=False)
class IndependentNormalGamma(Prior):
    r"""Normal means and Gamma precisions that are independent, for diag and spherical covariances.

    .. math::
        \mu_{kd} \sim \mathcal{N}(m_{kd}, s_{kd}^2), \qquad \tau_{kd} \sim \mathrm{Gamma}(a, b)

    Parameters
    ----------
    mean_loc : array of shape (D,) or (K, D), or float, optional
        m. The mean of the rows by default.
    mean_scale : array of shape (D,) or (K, D), or float, optional
        s, a standard deviation. That of the rows by default.
    precision_concentration, precision_rate : float or array, optional
        a and b, of the shapes and with the defaults of :class:`NormalGamma`.
    weight_concentration : float, array of shape (K,), Dirichlet or DirichletProcess, optional
        The prior of the weights; a number or array is that of :class:`Dirichlet`.

    References
    ----------
    Gelman and others (2013), *Bayesian Data Analysis*, §3.3 and §22.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets, priors
    >>> rows = datasets.old_faithful().values
    >>> prior = priors.IndependentNormalGamma([3.5, 70.0], [1.0, 15.0], weight_concentration=2.0)
    >>> model = BayesianGaussianMixture(
    ...     2, covariance_type="diag", prior=prior, random_state=0
    ... ).fit(rows)
    >>> model.posterior_["means"]
    Normal(loc: torch.Size([2, 2]), scale: torch.Size([2, 2]))
    """

    mean_loc: Any = None
    mean_scale: Any = None
    precision_concentration: Any = None
    precision_rate: Any = None
    weight_concentration: Any = None

    of_matrices: ClassVar[bool] = False

    def _components(self, data: _Data, n_components: int) -> ComponentBelief:
        k, d = n_components, data.n_features
        scale = _or(self.mean_scale, data.variance.sqrt())
        return IndependentComponents(
            data.locations(self.mean_loc, k),
            _array(scale, "mean_scale", [(), (d,), (k, d)], (k, d), above=0),
            data.gammas(self.precision_concentration, self.precision_rate, k),
        )


class _Data:
    """What defaults are scaled to: mean, variances and covariance of the rows."""

    def __init__(self, rows: Rows | Moments, kind: type[Covariance]):
        moments = rows.moments() if isinstance(rows, Rows) else rows
        self.kind, self.n_features = kind, moments.n_features
        self.mean = moments.mean
        # Less one for the mean, as for a sample; weights that add up to next to nothing have none
        # to give away.
        freedom = max(moments.total_weight - 1, moments.total_weight / 2)
        covariance = moments.scatter / freedom
        if not bool(torch.isfinite(covariance).all()):
            raise InputError(
                "The rows are too large for their squares to be added up; scale the data."
            )
        variance = covariance.diagonal()
        # A column of one value may have a variance of rounding, which says nothing.
        real = variance > (_ROUNDINGS * torch.finfo(variance.dtype).eps * self.mean).square()
        typical = variance[real].mean() if bool(real.any()) else variance.new_ones(())
        self.variance = torch.where(real, variance, _STAND_IN * typical)
        scale = self.variance.sqrt()
        correlation = covariance / scale / scale.unsqueeze(-1)
        # Fewer rows than columns, or columns that follow from others, leave directions in which
        # rounding is all there is: the variances alone are then the guess.
        regular = bool(torch.linalg.eigvalsh(correlation)[0] > _LEAST_EIGENVALUE)
        self.covariance = covariance if regular else torch.diag(self.variance)

    def locations(self, given: Any, n_components: int) -> Tensor:
        k, d = n_components, self.n_features
        return _array(_or(given, self.mean), "mean_loc", [(), (d,), (k, d)], (k, d))

    def gammas(self, concentration: Any, rate: Any, n_components: int) -> WishartPrecisions:
        """Gamma beliefs of precisions, one a component or one a component and feature."""
        k, d = n_components, self.n_features
        blocks = self.kind.block_shape(k, d)
        each = self.kind.feature_blocks
        spread = self.variance if each else self.variance.sum()
        allowed = [(), (d,), blocks] if each else [(), blocks]
        a = _or(concentration, d * self.kind.rows_per_block(d) / 2)
        a = _array(a, "precision_concentration", allowed, blocks, above=0)
        b = _array(_or(rate, spread / 2), "precision_rate", allowed, blocks, above=0)
        return WishartPrecisions(2 * a, self.kind.from_covariances(2 * b, k, d))


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given


def _array(
    value: Any,
    name: str,
    allowed: list[tuple[int, ...]],
    shape: tuple[int, ...],
    *,
    above: float | None = None,
    unit: str = "",
) -> Tensor:
    """A setting as float64 of ``shape``, when it has one of the shapes that are allowed."""
    try:
        like = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        array = np.array(like, dtype=np.float64)
    except (TypeError, ValueError):
        or_object = " or priors.DirichletProcess()" if name == "concentration" else ""
        raise InputError(
            f"{name} of the prior must be numbers{or_object}; got {value!r}."
        ) from None
    if array.shape not in allowed:
        words = " or ".join(str(one) for one in dict.fromkeys(allowed))
        raise InputError(
            f"{name} of the prior has shape {array.shape}; expected {words} here, for "
            f"{_dimensions(shape)}."
        )
    told = " ".join(str(array).split())
    if not np.isfinite(array).all():
        raise InputError(f"{name} of the prior must be finite; got {told}.")
    if above is not None and not (array > above).all():
        bound = f"{unit} = {above:g}" if unit else f"{above:g}"
        raise InputError(f"{name} of the prior must be above {bound}; got {told}.")
    return torch.from_numpy(array).expand(shape).clone()


def _dimensions(shape: tuple[int, ...]) -> str:
    words = {0: "a single number", 1: f"{shape[0] if shape else 0} values"}
    return words.get(len(shape), f"an array of shape {shape}")


def _covariance(kind: type[Covariance], scale: Tensor, k: int, d: int) -> Covariance:
    try:
        return kind.from_covariances(scale, k, d)
    except InputError:
        raise InputError(
            "scale of the prior must be symmetric and positive-definite; it is not, so check its "
            "eigenvalues."
        ) from None
