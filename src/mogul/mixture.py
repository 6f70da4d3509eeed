"""The value that everything in mogul produces: a mixture of Gaussians."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from mogul import _univariate
from mogul._divergence import (
    KLDivergence,
    entropy_bounds,
    gaussian_kl,
    normal_quasi_sample,
    variational_kl,
)
from mogul._implicit import attach_gradient, rosenblatt
from mogul._linalg import merge_axis
from mogul._modes import global_mode
from mogul.covariances import Covariance, structure
from mogul.errors import InputError, UnknownNameError

__all__ = ["Mixture"]

_TILE_ELEMENTS = 1 << 20
"""Rows × components × features that one tile of a density evaluation holds, about 8 MB."""
_WEIGHT_TOLERANCE = 1e-5
"""How far weights may be from adding up to one: float32 parameters printed and read back pass."""


class Mixture(Distribution):
    r"""A mixture of K Gaussians in D dimensions, or a batch of such mixtures.

    .. math::
        p(x) = \sum_{k=1}^K w_k\, \mathcal{N}(x \mid \mu_k, \Sigma_k)

    A ``torch.distributions.Distribution`` with any ``batch_shape`` and ``event_shape`` (D,). It is
    a value: nothing changes it, and its tensors may require gradients. Most users build one with
    :meth:`from_parameters` or take an estimator's ``mixture_``.

    Parameters
    ----------
    logits : Tensor, shape (*batch, K)
        Unnormalised log-weights; −inf is a weight of zero.
    means : Tensor, shape (*batch, K, D)
    covariance : Covariance
        Covariances of K components and the same batch shape, from ``mogul.covariances``.
    feature_names : sequence of D strings, optional
        Names to speak of features by, in :meth:`marginal` and :meth:`condition` and in plots.

    Raises
    ------
    InputError
        When shapes do not fit together.

    References
    ----------
    McLachlan and Peel (2000), *Finite Mixture Models*.

    Examples
    --------
    >>> import torch
    >>> from mogul import Mixture
    >>> mixture = Mixture.from_parameters(
    ...     weights=[0.25, 0.75], means=[[0.0], [4.0]], covariances=[[1.0], [2.0]],
    ...     covariance_type="diag",
    ... )
    >>> mixture.mean
    tensor([3.0000], dtype=torch.float64)
    >>> round(float(mixture.cdf(torch.tensor([4.0], dtype=torch.float64))), 4)
    0.625
    """

    has_rsample = True

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}  # arguments are checked where they are given, by from_parameters

    def __init__(
        self,
        logits: Tensor,
        means: Tensor,
        covariance: Covariance,
        feature_names: Sequence[str] | None = None,
    ):
        if means.ndim < 2 or logits.shape != means.shape[:-1]:
            raise InputError(
                f"logits have shape {tuple(logits.shape)} and means {tuple(means.shape)}; "
                "expected (*batch, K) and (*batch, K, D)."
            )
        n_components, n_features = means.shape[-2:]
        if covariance.batch_shape != means.shape[:-2] or (
            covariance.n_components,
            covariance.n_features,
        ) != (n_components, n_features):
            raise InputError(
                f"The covariances are for batch shape {tuple(covariance.batch_shape)}, "
                f"{covariance.n_components} components and {covariance.n_features} features; the "
                f"means for {tuple(means.shape[:-2])}, {n_components} and {n_features}."
            )
        if feature_names is not None and len(feature_names) != n_features:
            raise InputError(
                f"{len(feature_names)} feature names were given for {n_features} features."
            )
        self.log_weights = torch.log_softmax(logits, -1)
        self.means = means
        self.covariance = covariance
        self.feature_names = None if feature_names is None else tuple(feature_names)
        super().__init__(means.shape[:-2], means.shape[-1:], validate_args=False)

    @classmethod
    def from_parameters(
        cls,
        weights: Any,
        means: Any,
        covariances: Any,
        covariance_type: str = "full",
        *,
        feature_names: Sequence[str] | None = None,
    ) -> Mixture:
        """Build from weights, means and covariances, arrays or tensors, in scikit-learn's shapes.

        Parameters
        ----------
        weights : array-like, shape (*batch, K)
            Not negative, adding up to one.
        means : array-like, shape (*batch, K, D)
        covariances : array-like
            (*batch, K, D, D) for "full", (*batch, D, D) for "tied", (*batch, K, D) for "diag" (the
            variances), (*batch, K) for "spherical".
        covariance_type : {"full", "tied", "diag", "spherical"}, default "full"
        feature_names : sequence of D strings, optional

        Raises
        ------
        InputError
            When shapes do not fit, weights do not add up, or a covariance is not positive definite.

        Examples
        --------
        >>> from mogul import Mixture
        >>> Mixture.from_parameters([1.0], [[0.0, 0.0]], [[2.0, 3.0]], "diag").variance
        tensor([2.0000, 3.0000], dtype=torch.float64)
        """
        kind = structure(covariance_type)
        w, m, c = _as_common_tensors(weights, means, covariances)
        if m.ndim < 2 or m.shape[-1] == 0:
            raise InputError(
                f"means have shape {tuple(m.shape)}, expected (K, D), or (*batch, K, D)."
            )
        _check_weights(w, m.shape[-2])
        if not bool(torch.isfinite(m).all()):
            raise InputError("means must be finite; they hold NaN or infinity.")
        # A copy of the means, so that a change of the caller's array does not change the mixture.
        return cls(w.log(), m.clone(), kind.from_covariances(c, *m.shape[-2:]), feature_names)

    # --- shape and storage --------------------------------------------------------------------

    @property
    def n_components(self) -> int:
        return self.means.shape[-2]

    @property
    def n_features(self) -> int:
        return self.means.shape[-1]

    @property
    def covariance_type(self) -> str:
        return self.covariance.name

    @property
    def dtype(self) -> torch.dtype:
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def weights(self) -> Tensor:
        """Mixture weights, (*batch, K)."""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Tensor:
        """Covariances in scikit-learn's shape for the structure; see :meth:`from_parameters`."""
        return self.covariance.covariances()

    @property
    def n_parameters(self) -> int:
        """The number of free parameters of one mixture: weights, means and covariances."""
        k, d = self.n_components, self.n_features
        return k - 1 + k * d + self.covariance.n_free(k, d)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Mixture:
        """The same mixture on another device or in another floating-point type.

        As for tensors, the type may also stand alone: ``mixture.to(torch.float32)``.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        change = {"device": torch.device(device or self.device), "dtype": dtype or self.dtype}
        if change == {"device": self.device, "dtype": self.dtype}:
            return self
        return Mixture(
            self.log_weights.to(**change),
            self.means.to(**change),
            self.covariance.to(**change),
            self.feature_names,
        )

    def numpy(self) -> dict[str, np.ndarray]:
        """Weights, means and covariances as NumPy arrays."""
        parts = {"weights": self.weights, "means": self.means, "covariances": self.covariances}
        return {name: value.detach().cpu().numpy() for name, value in parts.items()}

    def detach(self) -> Mixture:
        """The same mixture, cut off from the graph of gradients."""
        parts = self.log_weights, self.means, self.covariance.factor
        if not any(part.requires_grad for part in parts):
            return self
        covariance = type(self.covariance)(
            self.covariance.factor.detach(), self.n_components, self.n_features
        )
        return Mixture(
            self.log_weights.detach(), self.means.detach(), covariance, self.feature_names
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> Mixture:
        """The same mixture for every member of a larger batch, without copying."""
        shape = torch.Size(batch_shape)
        return Mixture(
            self.log_weights.expand(*shape, self.n_components),
            self.means.expand(*shape, self.n_components, self.n_features),
            self.covariance.expand(shape),
            self.feature_names,
        )

    def __getitem__(self, index: Any) -> Mixture:
        """Some of a batch of mixtures, as by indexing a tensor of the batch shape."""
        if isinstance(index, int) and self.batch_shape:  # the most frequent case by far
            covariance = self.covariance.index(index)
            return Mixture(
                self.log_weights[index], self.means[index], covariance, self.feature_names
            )
        places = torch.arange(self.batch_shape.numel()).reshape(self.batch_shape)[index]
        whole = self if self.batch_shape else self.expand((1,))
        at = torch.unravel_index(places.to(self.device), whole.batch_shape)
        return Mixture(
            whole.log_weights[at], whole.means[at], whole.covariance.index(at), self.feature_names
        )

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("A single mixture has no length; it has n_components.")
        return self.batch_shape[0]

    def select(self, components: Any) -> Mixture:
        """Some components, in the given order, their weights scaled to add up to one again."""
        index = torch.arange(self.n_components, device=self.device)[components].reshape(-1)
        if not bool(torch.isfinite(self.log_weights[..., index]).any(-1).all()):
            raise InputError("The selected components have no weight; select one that has.")
        return Mixture(
            self.log_weights[..., index],
            self.means[..., index, :],
            self.covariance.select(index),
            self.feature_names,
        )

    def merged(self, axis: int | None = None) -> Mixture:
        """One mixture of all the components of a batch: the average of its densities.

        Parameters
        ----------
        axis : int, optional
            Of the batch, the only one to average over; all of them by default.

        Examples
        --------
        >>> from mogul import Mixture
        >>> batch = Mixture.from_parameters(
        ...     [[1.0], [1.0]], [[[0.0]], [[4.0]]], [[[1.0]], [[1.0]]], "diag"
        ... )
        >>> batch.merged().mean
        tensor([2.], dtype=torch.float64)
        """
        n_batch = len(self.batch_shape)
        if axis is not None and not -n_batch <= axis < n_batch:
            raise InputError(f"axis must be one of {n_batch} batch axes; got {axis}.")
        return Mixture(
            merge_axis(self.log_weights, n_batch, axis),
            merge_axis(self.means, n_batch, axis),
            self.covariance.merged(axis),
            self.feature_names,
        )

    def reorder(self, order: Tensor) -> Mixture:
        """The components of each member of a batch in an order of its own.

        Parameters
        ----------
        order : Tensor, shape (*batch, K)
            Component k of the answer is component ``order[..., k]`` of this mixture.
        """
        index = order.to(self.device)
        if index.shape != self.log_weights.shape:
            raise InputError(
                f"order has shape {tuple(index.shape)}; expected {tuple(self.log_weights.shape)}: "
                "a permutation for each mixture of the batch."
            )
        return Mixture(
            self.log_weights.take_along_dim(index, -1),
            self.means.take_along_dim(index.unsqueeze(-1), -2),
            self.covariance.reorder(index),
            self.feature_names,
        )

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, from which :meth:`from_state` rebuilds this."""
        header = {
            "covariance_type": self.covariance_type,
            "n_components": self.n_components,
            "n_features": self.n_features,
            "feature_names": None if self.feature_names is None else list(self.feature_names),
        }
        tensors = {
            "log_weights": self.log_weights,
            "means": self.means,
            "factor": self.covariance.factor,
        }
        return header, {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    @classmethod
    def from_state(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mixture:
        """Rebuild what :meth:`to_state` took apart, bit for bit."""
        kind = structure(header["covariance_type"])
        covariance = kind(tensors["factor"], header["n_components"], header["n_features"])
        mixture = cls(tensors["log_weights"], tensors["means"], covariance, header["feature_names"])
        mixture.log_weights = tensors["log_weights"]  # normalising twice could change a last bit
        return mixture

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return (
            f"Mixture(n_components={self.n_components}, n_features={self.n_features}, "
            f"covariance_type={self.covariance_type!r}{batch})"
        )

    # --- moments ------------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """E[x], (*batch, D)."""
        return (self.weights.unsqueeze(-1) * self.means).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The variance of each feature, within and between components; (*batch, D)."""
        between = (self.means - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-1) * (self.covariance.variances() + between)).sum(-2)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance of the whole mixture, (*batch, D, D)."""
        gap = self.means - self.mean.unsqueeze(-2)
        weighted = self.weights.unsqueeze(-1) * gap
        within = (self.weights[..., None, None] * self.covariance.dense()).sum(-3)
        return within + weighted.transpose(-1, -2) @ gap

    @property
    def mode(self) -> Tensor:
        """The highest point of the density, (*batch, D): the global mode, found by ascent.

        It need not be near any component's mean. Ascents start from every mean and from points
        between pairs of means, see Ray and Lindsay (2005).
        """
        k, d = self.n_components, self.n_features
        with torch.no_grad():
            found = global_mode(
                self.log_weights.reshape(-1, k).double(),
                self.means.reshape(-1, k, d).double(),
                self.covariance.scale_tril().reshape(-1, k, d, d).double(),
            )
        return found.reshape(*self.batch_shape, d).to(self.means)

    # --- density ------------------------------------------------------------------------------

    def log_prob(self, value: Any) -> Tensor:
        r"""The log-density in nats, :math:`\log p(x)`.

        Differences are whitened by triangular solves with the stored Cholesky factors, and
        components are combined by log-sum-exp: no inverse is formed and nothing underflows.

        Parameters
        ----------
        value : array-like, shape (*sample, *batch, D)

        Returns
        -------
        Tensor, shape (*sample, *batch)
        """
        return self._by_row(value, lambda terms: torch.logsumexp(terms, -2))

    def component_log_prob(self, value: Any) -> Tensor:
        """Log w_k + log N(x; μ_k, Σ_k) for every component, (*sample, *batch, K)."""
        return self._by_row(value, lambda terms: terms.transpose(-1, -2))

    def responsibilities(self, value: Any) -> Tensor:
        """The probability of each component given x, (*sample, *batch, K)."""
        return self._by_row(value, lambda terms: torch.softmax(terms, -2).transpose(-1, -2))

    def predict(self, value: Any) -> Tensor:
        """The most probable component given x, (*sample, *batch)."""
        return self._by_row(value, lambda terms: terms.argmax(-2))

    def _by_row(self, value: Any, answer) -> Tensor:
        """Apply ``answer`` to the terms (*batch, K, S) of tiles of rows and restore the shape."""
        x = self._as_value(value)
        shape = torch.broadcast_shapes(x.shape[:-1], self.batch_shape)
        n_batch = len(self.batch_shape)
        sample_shape, batch_shape = shape[: len(shape) - n_batch], shape[len(shape) - n_batch :]
        if batch_shape != self.batch_shape:  # an axis of length one meets a longer one of x
            return self.expand(batch_shape)._by_row(x, answer)
        rows = x.expand(*shape, self.n_features)
        rows = rows.reshape(sample_shape.numel(), *batch_shape, self.n_features)
        rows = rows.movedim(0, -2)  # (*batch, S, D)
        per_row = self.batch_shape.numel() * self.n_components * self.n_features
        tile = max(1, _TILE_ELEMENTS // max(1, per_row))
        if self._tracks_gradients(x) or rows.shape[-2] <= tile:
            found = answer(self.component_terms(rows))
        else:
            found = torch.cat(
                [answer(self.component_terms(part)) for part in rows.split(tile, -2)], n_batch
            )
        found = found.movedim(n_batch, 0)  # (S, *batch, …)
        return found.reshape(sample_shape + found.shape[1:])

    def component_terms(self, rows: Tensor, components: Tensor | None = None) -> Tensor:
        """Log w_k + log N(x; μ_k, Σ_k) for rows (*batch, S, D); (*batch, K, S).

        Of all components, or of those with these indices.
        """
        log_weights, means, covariance = self.log_weights, self.means, self.covariance
        if components is not None:
            log_weights, means = log_weights[..., components], means[..., components, :]
            covariance = covariance.select(components)
        gap = rows.unsqueeze(-3) - means.unsqueeze(-2)  # (*batch, K, S, D)
        distance = covariance.whiten(gap).square().sum(-1)
        constant = log_weights - covariance.log_diagonal().sum(-1)
        constant = constant - 0.5 * self.n_features * math.log(2 * math.pi)
        return constant.unsqueeze(-1) - 0.5 * distance

    def _tracks_gradients(self, *others: Tensor) -> bool:
        mine = (self.log_weights, self.means, self.covariance.factor)
        return torch.is_grad_enabled() and any(t.requires_grad for t in (*mine, *others))

    def _as_value(self, value: Any) -> Tensor:
        x = _as_tensor(value).to(self.means)
        if x.ndim == 0 or x.shape[-1] != self.n_features:
            raise InputError(
                f"The values have shape {tuple(x.shape)}; expected the last axis to hold "
                f"{self.n_features} features."
            )
        return x

    # --- sampling -----------------------------------------------------------------------------

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draw; (*sample, *batch, D). ``generator`` seeds the draw, else torch's own is used."""
        with torch.no_grad():
            return self.sample_with_labels(sample_shape, generator=generator)[0]

    def rsample(
        self,
        sample_shape: Any = (),
        *,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> Tensor:
        """Draw so that gradients reach weights, means and scales; (*sample, *batch, D).

        The gradient is exact for every parameter, by implicit reparameterisation of the conditional
        distribution functions (Figurnov, Mohamed and Mnih 2018). It costs D backward passes.

        Parameters
        ----------
        sample_shape : shape, default ()
        generator : torch.Generator, optional
        uniform : Tensor, shape (*sample, *batch, D), optional
            Numbers strictly between 0 and 1 that decide the draw, one conditional quantile after
            another (Rosenblatt 1952). It is then a continuous function of the parameters, for
            common random numbers and for points of a Sobol sequence, and takes longer.
        """
        n_rows = torch.Size(sample_shape).numel()
        if uniform is None:
            drawn = self.sample(sample_shape, generator=generator)
        else:
            drawn = self._at_uniform(uniform, torch.Size(sample_shape))
        if not self._tracks_gradients():
            return drawn

        def transform(x: Tensor) -> Tensor:
            rows = x.reshape(n_rows, *self.batch_shape, self.n_features).movedim(0, -2)
            gap = rows.unsqueeze(-3) - self.means.unsqueeze(-2)
            uniform = rosenblatt(
                self.log_weights.unsqueeze(-1),
                self.covariance.whiten(gap),
                self.covariance.log_diagonal().unsqueeze(-2),
            )
            return uniform.movedim(-2, 0).reshape(x.shape)

        return attach_gradient(drawn, transform)

    @torch.no_grad()
    def _at_uniform(self, uniform: Tensor, sample_shape: torch.Size) -> Tensor:
        """The point whose conditional distribution functions are ``uniform``, in float64."""
        shape = (*sample_shape, *self.batch_shape, self.n_features)
        if uniform.shape != shape or not bool(((uniform > 0) & (uniform < 1)).all()):
            raise InputError(
                f"uniform has shape {tuple(uniform.shape)}; expected {shape}, with numbers "
                "strictly between 0 and 1."
            )
        factor = self.covariance.scale_tril().double()
        means, log_shares = self.means.double(), self.log_weights.double()
        found: list[Tensor] = []
        white = means.new_zeros((*shape[:-1], self.n_components, 0))
        for d in range(self.n_features):
            centre = means[..., d] + (white * factor[..., d, :d]).sum(-1)  # (*sample, *batch, K)
            scale = factor[..., d, d].expand_as(centre)
            shares = torch.softmax(log_shares, -1).expand_as(centre)
            found.append(_univariate.icdf(uniform[..., d].double(), shares, centre, scale))
            y = (found[-1].unsqueeze(-1) - centre) / scale
            log_shares = log_shares - 0.5 * y.square() - scale.log()
            white = torch.cat([white, y.unsqueeze(-1)], -1)
        return torch.stack(found, -1).to(self.means)

    def sample_with_labels(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw values (*sample, *batch, D) and the components they came from (*sample, *batch)."""
        shape = torch.Size(sample_shape) + self.batch_shape
        n_rows = torch.Size(sample_shape).numel()
        flat = self.weights.detach().reshape(-1, self.n_components)
        labels = flat.new_zeros((flat.shape[0], 0), dtype=torch.long)
        if n_rows:
            labels = torch.multinomial(flat, n_rows, replacement=True, generator=generator)
        labels = labels.T.reshape(shape)
        noise = torch.randn(
            *shape, self.n_features, dtype=self.dtype, device=self.device, generator=generator
        )
        return self.place(noise, labels), labels

    def place(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Move standard normal draws (*sample, *batch, D) to the components in ``labels``."""
        if not self.batch_shape:
            out = torch.empty_like(noise)
            for k in range(self.n_components):
                mine = labels == k
                out[mine] = self._colour_component(noise[mine], k)
            return out
        factor = self.covariance.scale_tril().detach()
        index = labels[..., None]
        means = self.means.detach().expand(*labels.shape, *self.means.shape[-2:])
        centre = means.take_along_dim(index[..., None], -2).squeeze(-2)
        factors = factor.expand(*labels.shape, *factor.shape[-3:])
        chosen = factors.take_along_dim(index[..., None, None], -3).squeeze(-3)
        return centre + (chosen @ noise.unsqueeze(-1)).squeeze(-1)

    def _colour_component(self, noise: Tensor, k: int) -> Tensor:
        one = self.covariance.select(torch.tensor([k], device=self.device))
        return self.means[k] + one.colour(noise.unsqueeze(-3)).squeeze(-3)

    # --- fewer features -----------------------------------------------------------------------

    def marginal(self, features: Any) -> Mixture:
        """The mixture of some features, in the given order.

        Parameters
        ----------
        features : int, str, or a sequence of them
            Positions, or names where the mixture has ``feature_names``.
        """
        index = self._feature_index(features)
        names = None if self.feature_names is None else [self.feature_names[i] for i in index]
        return Mixture(
            self.log_weights,
            self.means[..., index],
            self.covariance.marginal(index),
            names,
        )

    def condition(self, known: Mapping[Any, Any]) -> Mixture:
        """The mixture of the remaining features once some are known.

        Parameters
        ----------
        known : mapping from a feature (position or name) to its value
            Values are numbers, or tensors of one shape that broadcasts with the batch shape, say
            (N,) for N rows: the answer is then a batch of mixtures.

        Examples
        --------
        >>> from mogul import Mixture
        >>> m = Mixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> m.condition({0: 2.0}).mean
        tensor([1.], dtype=torch.float64)
        """
        if not known:
            return self
        given = self._feature_index(list(known))
        rest = torch.tensor([i for i in range(self.n_features) if i not in set(given.tolist())])
        if len(rest) == 0:
            raise InputError("Every feature is given; leave at least one to speak of.")
        values = torch.stack(
            torch.broadcast_tensors(*(_as_tensor(v).to(self.means) for v in known.values())), -1
        )  # (*rows, G)
        shape = torch.broadcast_shapes(values.shape[:-1], self.batch_shape)
        n_batch = len(self.batch_shape)
        batch, rows = shape[len(shape) - n_batch :], shape[: len(shape) - n_batch]
        whole = self.expand(batch)
        x = values.expand(*shape, len(given)).reshape(rows.numel(), *batch, len(given))
        x = x.movedim(0, -2)  # (*batch, S, G)
        gap = x.unsqueeze(-3) - whole.means[..., given].unsqueeze(-2)  # (*batch, K, S, G)
        shift, covariance = whole.covariance.condition(given, rest, gap)
        means = (whole.means[..., rest].unsqueeze(-2) + shift).movedim(-2, 0)  # (S, *batch, K, H)
        names = None if self.feature_names is None else [self.feature_names[i] for i in rest]
        return Mixture(
            whole.marginal(given).component_log_prob(values),
            means.reshape(*rows, *means.shape[1:]),
            covariance.expand(shape),
            names,
        )

    def _feature_index(self, features: Any) -> Tensor:
        single = isinstance(features, (int, str, np.integer))
        wanted = [features] if single else list(features)
        index = [self._feature_position(f) for f in wanted]
        if not index or len(set(index)) != len(index):
            raise InputError(f"Features must be named once each, at least one; got {wanted}.")
        return torch.tensor(index)

    def _feature_position(self, feature: Any) -> int:
        names = self.feature_names
        if isinstance(feature, str):
            if names is not None and feature in names:
                return names.index(feature)
            have = "it has no feature names" if names is None else f"it has {', '.join(names)}"
            raise UnknownNameError(f"The mixture has no feature {feature!r}; {have}.")
        position = _as_position(feature)
        if not -self.n_features <= position < self.n_features:
            raise UnknownNameError(
                f"Feature {position} does not exist; the mixture has {self.n_features} features, "
                "counted from 0."
            )
        return position % self.n_features

    # --- one dimension at a time ----------------------------------------------------------------

    def _marginals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and scales of each feature's own mixture, (*batch, D, K)."""
        shape = (*self.batch_shape, self.n_features, self.n_components)
        scales = self.covariance.variances().sqrt()
        return (
            self.weights.unsqueeze(-2).expand(shape),
            self.means.transpose(-1, -2),
            scales.transpose(-1, -2),
        )

    def cdf(self, value: Any) -> Tensor:
        """P(x_d ≤ value_d) for each feature's marginal; (*sample, *batch, D)."""
        return _univariate.cdf(self._as_value(value), *self._marginals())

    def icdf(self, value: Any) -> Tensor:
        """The quantile of each feature's marginal; (*sample, *batch, D).

        ``value`` holds probabilities, a number or (*sample, *batch, D). The result is accurate to
        rounding in both tails and differentiable.
        """
        probability = _as_tensor(value).to(self.means)
        if bool(((probability < 0) | (probability > 1) | probability.isnan()).any()):
            raise InputError("Probabilities must lie between 0 and 1.")
        shape = torch.broadcast_shapes(probability.shape, (*self.batch_shape, self.n_features))
        return _univariate.icdf(probability.expand(shape), *self._marginals())

    def interval(self, level: float = 0.95) -> Tensor:
        """The equal-tailed interval of each feature's marginal; (*batch, D, 2)."""
        _check_level(level)
        weights, means, scales = self._marginals()
        tail = means.new_full(means.shape[:-1], 0.5 - level / 2)
        # The upper end is the lower one of −x: no probability near one is ever rounded.
        upper = -_univariate.icdf(tail, weights, -means, scales)
        return torch.stack([_univariate.icdf(tail, weights, means, scales), upper], -1)

    def hdr(self, level: float = 0.95) -> Tensor:
        """The highest-density region of each feature's marginal; (*batch, D, K, 2).

        The smallest set that holds ``level`` of the probability: up to K intervals in ascending
        order, the unused ones NaN (Hyndman 1996).
        """
        _check_level(level)
        with torch.no_grad():
            parts = [part.double() for part in self._marginals()]
            return _univariate.hdr(level, *parts).to(self.dtype)

    def crps(self, value: Any) -> Tensor:
        """The continuous ranked probability score of each feature's marginal, lower is better.

        In closed form, in the units of the features (Grimit and others 2006);
        (*sample, *batch, D).
        """
        return _univariate.crps(self._as_value(value), *self._marginals())

    # --- information --------------------------------------------------------------------------

    def entropy(self, n_samples: int = 1024, seed: int = 0) -> Tensor:
        r"""An estimate of the differential entropy :math:`-\int p \log p`, in nats; (*batch).

        There is no closed form. Each component contributes its weight times the average of
        −log p over ``n_samples`` scrambled Sobol points mapped to it; the result is held between
        :meth:`entropy_bounds`. It is deterministic given ``seed`` and differentiable.
        """
        noise = normal_quasi_sample(n_samples, self.n_features, self.means, seed)
        each = -self._at_points_of_components(self._coloured(noise)).mean(0)  # (*batch, K)
        estimate = (self.weights * each).sum(-1)
        lower, upper = self.entropy_bounds()
        return torch.maximum(torch.minimum(estimate, upper), lower)

    def entropy_bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the entropy, in nats (Kolchinsky and Tracey 2017)."""
        return entropy_bounds(self.log_weights, self.means, self.covariance.scale_tril())

    def kl_divergence(self, other: Mixture, n_samples: int = 4096, seed: int = 0) -> KLDivergence:
        """KL(self ‖ other) in nats: an estimate, its standard error and an upper bound.

        The estimate averages log p − log q over ``n_samples`` draws from each component of
        ``self``, weighted; the bound is the variational one of Hershey and Olsen (2007). Both
        mixtures have the same batch shape.
        """
        if other.event_shape != self.event_shape or other.batch_shape != self.batch_shape:
            raise InputError(
                f"The mixtures differ in shape: {tuple(self.batch_shape)} × "
                f"{tuple(self.event_shape)} against {tuple(other.batch_shape)} × "
                f"{tuple(other.event_shape)}."
            )
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n_samples, self.n_features, generator=generator, dtype=torch.float64)
        points = self._coloured(noise.to(self.means))
        gap = self._at_points_of_components(points) - other._at_points_of_components(points)
        each = (self.weights * gap).sum(-1)  # (S, *batch); the components share their noise
        value, error = each.mean(0), each.std(0) / math.sqrt(n_samples)
        pairwise = gaussian_kl(
            self.means, self.covariance.scale_tril(), other.means, other.covariance.scale_tril()
        )
        bound = variational_kl(self.log_weights, other.log_weights, pairwise)
        return KLDivergence(value, error, bound)

    def _at_points_of_components(self, points: Tensor) -> Tensor:
        """Log p at points (S, *batch, J, D), J of them for each mixture; (S, *batch, J)."""
        columns = [self.log_prob(points[..., j, :]) for j in range(points.shape[-2])]
        return torch.stack(columns, -1)

    def _coloured(self, noise: Tensor) -> Tensor:
        """The same noise (S, D) moved to every component; (S, *batch, K, D)."""
        every = noise.expand(*self.batch_shape, self.n_components, *noise.shape)
        placed = self.means.unsqueeze(-2) + self.covariance.colour(every)
        return placed.movedim(-2, 0)

    # --- shaping ------------------------------------------------------------------------------

    def affine(self, loc: Any, scale: Any) -> Mixture:
        """The distribution of loc + scale · x, feature by feature: another unit and origin.

        Parameters
        ----------
        loc : array-like, shape (D,), or a number
        scale : array-like, shape (D,), or a number
            Positive. With different scales a spherical mixture becomes a diagonal one.

        Examples
        --------
        >>> from mogul import Mixture
        >>> celsius = Mixture.from_parameters([1.0], [[20.0]], [[4.0]], "diag")
        >>> fahrenheit = celsius.affine(32.0, 1.8)
        >>> fahrenheit.mean, fahrenheit.stddev
        (tensor([68.], dtype=torch.float64), tensor([3.6000], dtype=torch.float64))
        """
        try:
            shift, by = (
                _as_tensor(part).to(self.means).expand(self.n_features) for part in (loc, scale)
            )
        except RuntimeError:
            raise InputError(
                f"loc and scale must be numbers, or {self.n_features}, one a feature."
            ) from None
        if not bool(((by > 0) & torch.isfinite(by) & torch.isfinite(shift)).all()):
            raise InputError("loc must be finite and scale positive and finite.")
        return Mixture(
            self.log_weights,
            shift + by * self.means,
            self.covariance.rescaled(by),
            self.feature_names,
        )

    def sharpen(self, weight_bias: float = 0.0, scale_bias: float = 0.0) -> Mixture:
        """Graves' biasing for cleaner samples (Graves 2013).

        Weights become proportional to w^(1 + weight_bias), standard deviations are multiplied by
        exp(−scale_bias). Zero leaves the mixture as it is.
        """
        scale = torch.as_tensor(-scale_bias, dtype=self.dtype, device=self.device)
        return Mixture(
            self.log_weights * (1 + weight_bias),
            self.means,
            self.covariance.scaled(scale),
            self.feature_names,
        )


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        # torch refuses negative strides and warns of read-only memory: both are copied.
        return torch.from_numpy(np.require(value, requirements=["C", "W", "ENSUREARRAY"]))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"An array of numbers is needed; this {type(value).__name__} holds something else, or "
            "rows of unequal length."
        ) from error


def _as_position(feature: Any) -> int:
    """An integer; booleans and fractions would be taken for positions that nobody meant."""
    try:
        if not isinstance(feature, bool):
            return operator.index(feature)
    except TypeError:
        pass
    raise InputError(f"A feature is a whole number or a name; got {feature!r}.")


def _as_common_tensors(*values: Any) -> list[Tensor]:
    """Tensors of one floating-point type and device: float64 where no tensor says otherwise."""
    given = [v for v in values if isinstance(v, Tensor)]
    device = given[0].device if given else torch.device("cpu")
    tensors = [_as_tensor(v) for v in values]
    floats = [t.dtype for t in tensors if t.is_floating_point()]
    dtype = torch.float64
    if floats and all(f == torch.float32 for f in floats):
        dtype = torch.float32
    return [t.to(device=device, dtype=dtype) for t in tensors]


def _check_weights(weights: Tensor, n_components: int) -> None:
    if weights.ndim < 1 or weights.shape[-1] != n_components:
        raise InputError(
            f"weights have shape {tuple(weights.shape)}, expected {n_components} weights for "
            f"{n_components} means."
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise InputError("weights must be finite and not negative.")
    total = weights.detach().sum(-1)
    if bool(((total - 1).abs() > _WEIGHT_TOLERANCE).any()):
        worst = float(total.flatten()[(total - 1).abs().flatten().argmax()])
        raise InputError(f"weights must add up to 1; they add up to {worst:.6g}.")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level must lie strictly between 0 and 1; got {level}.")
