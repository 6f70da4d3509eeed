"""A mixture whose weights, means and scales are trainable parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from mogul.covariances import structure
from mogul.errors import InputError
from mogul.mixture import Mixture

__all__ = ["TrainableMixture"]


class TrainableMixture(nn.Module):
    r"""A mixture of Gaussians to train by gradient, alone or inside any network.

    .. math::
        p(x) = \sum_{k=1}^K \operatorname{softmax}(l)_k\, \mathcal{N}(x \mid \mu_k, \Sigma_k)

    Every value of the parameters is a valid mixture. To freeze the weights, the means or the
    scales, call ``requires_grad_(False)`` on the parameter. Calling the module gives the
    :class:`~mogul.Mixture` of its present parameters, with gradients, and so everything that a
    mixture can do.

    Parameters
    ----------
    n_components : int
        K.
    event_size : int
        D, the number of features.
    covariance_type : {"full", "tied", "diag", "spherical"}, default "diag"
    min_variance : float, default 0
        Added to every variance, in squared units of the data, so that no component collapses.
    feature_names : sequence of D strings, optional
    generator : torch.Generator, optional
        Draws the first means, from a standard normal; torch's own by default.
    device, dtype : optional
        Of the parameters; torch's defaults.

    Attributes
    ----------
    logits : Parameter, shape (K,)
        Unnormalised log-weights.
    means : Parameter, shape (K, D)
    log_scales : Parameter
        Logs of standard deviations, (K, D) for "diag" and (K,) for "spherical". For "full" and
        "tied" the rows of the lower Cholesky factor one after another, the diagonal as logarithms:
        (K, D (D + 1) / 2) and (D (D + 1) / 2,).

    Raises
    ------
    InputError
        When sizes are not positive, or names or numbers do not fit.

    References
    ----------
    McLachlan and Peel (2000), *Finite Mixture Models*; for the log-Cholesky parameters Pinheiro and
    Bates (1996).

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import TrainableMixture
    >>> model = TrainableMixture.from_components(
    ...     [{"x1": (0.2, -3.0), "x2": (0.1, -3.0)}, {"x1": (0.3, -3.0), "x2": (0.5, -3.0)}]
    ... )
    >>> model.mean
    tensor([0.2500, 0.3000], grad_fn=<SumBackward1>)
    >>> model.logits.requires_grad_(False)  # the weights stay as they are
    Parameter containing:
    tensor([0., 0.])
    >>> loss = model.neglogp([[0.2, 0.2]]).mean()
    >>> loss.backward()
    >>> model.means.grad.shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        n_components: int,
        event_size: int,
        covariance_type: str = "diag",
        *,
        min_variance: float = 0.0,
        feature_names: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        kind = structure(covariance_type)
        if n_components < 1 or event_size < 1:
            raise InputError(
                f"A mixture needs at least one component and one feature; got {n_components} and "
                f"{event_size}."
            )
        if not 0 <= min_variance < math.inf:
            raise InputError(f"min_variance must be finite and not negative; got {min_variance}.")
        if feature_names is not None and len(feature_names) != event_size:
            raise InputError(
                f"{len(feature_names)} feature names were given for {event_size} features."
            )
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.n_components, self.event_size = n_components, event_size
        self.covariance_type = covariance_type
        self.min_variance = float(min_variance)
        self.feature_names = None if feature_names is None else tuple(feature_names)
        self.logits = nn.Parameter(torch.zeros(n_components, **options))
        first = torch.randn(n_components, event_size, generator=generator, **options)
        self.means = nn.Parameter(first)
        chart = kind.chart_shape(n_components, event_size)
        self.log_scales = nn.Parameter(torch.zeros(chart, **options))

    @classmethod
    def from_mixture(cls, mixture: Mixture, *, min_variance: float = 0.0) -> Self:
        """A module that starts at a known mixture, say an estimator's ``mixture_``.

        Parameters
        ----------
        mixture : Mixture
            A single one, batch shape (). Its device and type are kept.
        min_variance : float, default 0
            Added to its variances.
        """
        if mixture.batch_shape:
            raise InputError(
                f"The mixture has batch shape {tuple(mixture.batch_shape)}; pick one by indexing."
            )
        module = cls(
            mixture.n_components,
            mixture.n_features,
            mixture.covariance_type,
            min_variance=min_variance,
            feature_names=mixture.feature_names,
            device=mixture.device,
            dtype=mixture.dtype,
        )
        with torch.no_grad():
            module.logits.copy_(mixture.log_weights)
            module.means.copy_(mixture.means)
            module.log_scales.copy_(mixture.covariance.encode().reshape(module.log_scales.shape))
        return module

    @classmethod
    def from_components(
        cls,
        components: Sequence[Mapping[str, Sequence[float]]],
        weights: Sequence[float] | None = None,
        *,
        min_variance: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """One dictionary a component: feature name to mean and logarithm of standard deviation.

        Parameters
        ----------
        components : sequence of K mappings from a name to (mean, log_std)
            The same names in each; the first gives their order.
        weights : sequence of K numbers, optional
            Not negative; scaled to add up to one. Equal by default.
        min_variance, device, dtype
            As for the class.

        Examples
        --------
        >>> from mogul.nn import TrainableMixture
        >>> one = {"height": (170.0, 2.0), "mass": (70.0, 2.3)}
        >>> TrainableMixture.from_components([one])
        TrainableMixture(n_components=1, features=[height, mass], covariance_type='diag')
        """
        names = _common_names(components)
        values = torch.tensor(
            [[_mean_and_log_scale(c, n) for n in names] for c in components], dtype=torch.float64
        )
        module = cls(
            len(components),
            len(names),
            "diag",
            min_variance=min_variance,
            feature_names=names,
            device=device,
            dtype=dtype,
        )
        shares = torch.as_tensor([1.0] * len(components) if weights is None else weights)
        if shares.shape != (len(components),) or not bool((shares >= 0).all() and shares.sum() > 0):
            raise InputError(
                f"weights must be {len(components)} numbers, not negative and not all zero; got "
                f"{weights}."
            )
        with torch.no_grad():
            module.logits.copy_(shares.log())
            module.means.copy_(values[..., 0])
            module.log_scales.copy_(values[..., 1])
        return module

    def forward(self) -> Mixture:
        """The mixture of the present parameters; gradients flow from it to them."""
        kind = structure(self.covariance_type)
        flat = self.log_scales.flatten()
        covariance = kind.decode(flat, self.n_components, self.event_size)
        if self.min_variance:
            covariance = covariance.widened(self.means.new_tensor(self.min_variance))
        return Mixture(self.logits, self.means, covariance, self.feature_names)

    def log_prob(self, value: Any) -> Tensor:
        """The log-density in nats; (*sample, D) to (*sample)."""
        return self().log_prob(value)

    def neglogp(self, value: Any) -> Tensor:
        """The negative log-density in nats, a loss for each row; (*sample, D) to (*sample)."""
        return -self.log_prob(value)

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draw, every row from a component of its own, without gradients; (*sample, D)."""
        return self().sample(sample_shape, generator=generator)

    def rsample(
        self,
        sample_shape: Any = (),
        *,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> Tensor:
        """Draw with gradients in weights, means and scales; see :meth:`Mixture.rsample`."""
        return self().rsample(sample_shape, generator=generator, uniform=uniform)

    @property
    def mean(self) -> Tensor:
        """E[x], (D,), with gradients."""
        return self().mean

    @property
    def mode(self) -> Tensor:
        """The highest point of the density, (D,), without gradients."""
        return self().mode

    def parameter_units(self, scales: Tensor) -> dict[str, Tensor]:
        """What counts as one step in each parameter when the features have ``scales``, (D,).

        An optimiser that moves parameters by these units gives the same fit in any units of the
        features.
        """
        kind = structure(self.covariance_type)
        return {
            "means": scales.expand_as(self.means),
            "log_scales": kind.chart_units(scales, self.n_components),
        }

    def extra_repr(self) -> str:
        named = self.feature_names is not None
        features = f"features=[{', '.join(self.feature_names or ())}]"
        return (
            f"n_components={self.n_components}, "
            f"{features if named else f'event_size={self.event_size}'}, "
            f"covariance_type={self.covariance_type!r}"
        )


def _common_names(components: Sequence[Mapping[str, Any]]) -> list[str]:
    if not components or not components[0]:
        raise InputError("Give at least one component with at least one feature.")
    names = list(components[0])
    for k, component in enumerate(components):
        if set(component) != set(names):
            raise InputError(
                f"Component {k} has the features {', '.join(component)}; expected those of "
                f"component 0: {', '.join(names)}."
            )
    return names


def _mean_and_log_scale(component: Mapping[str, Sequence[float]], name: str) -> list[float]:
    try:
        mean, log_scale = (float(value) for value in component[name])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Feature {name!r} has {component[name]!r}; expected a pair (mean, log_std)."
        ) from error
    if not (math.isfinite(mean) and math.isfinite(log_scale)):
        raise InputError(f"Feature {name!r} has {component[name]!r}; both must be finite.")
    return [mean, log_scale]
