"""scikit-learn's names for a prior's settings, and for what prior and posterior are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from mogul.beliefs import Belief
from mogul.covariances import structure
from mogul.errors import InputError
from mogul.priors import Dirichlet, DirichletProcess, NormalGamma, NormalWishart, Prior

__all__ = ["SETTINGS", "posterior_attributes", "prior_attributes", "prior_of"]

SETTINGS = (
    "weight_concentration_prior",
    "mean_precision_prior",
    "mean_prior",
    "degrees_of_freedom_prior",
    "covariance_prior",
)


def prior_of(model: Any, n_features: int) -> Prior:
    """The prior that an estimator was given, as an object or by scikit-learn's settings."""
    given = [name for name in SETTINGS if getattr(model, name) is not None]
    if model.prior is not None:
        if given:
            raise InputError(
                f"prior and {given[0]} were both given; put everything into the prior object."
            )
        return model.prior
    kind = structure(model.covariance_type)
    process = model.weight_concentration_prior_type == "dirichlet_process"
    weights = (DirichletProcess if process else Dirichlet)(model.weight_concentration_prior)
    strength = 1.0 if model.mean_precision_prior is None else model.mean_precision_prior
    degrees = _degrees(model.degrees_of_freedom_prior, n_features)
    location = _array(model.mean_prior, "mean_prior", (n_features,))
    scale = _scale(model.covariance_prior, kind, n_features)
    if kind.has_matrices():
        return NormalWishart(location, strength, degrees, scale, weights)
    # A row informs a precision by one number, or by all its features when they share it.
    half = kind.rows_per_block(n_features) / 2
    return NormalGamma(
        location,
        strength,
        None if degrees is None else degrees * half,
        None if scale is None else scale * half,
        weights,
    )


def _degrees(given: float | None, n_features: int) -> float | None:
    if given is not None and given <= n_features - 1:
        raise InputError(
            "The parameter 'degrees_of_freedom_prior' should be greater than "
            f"{n_features - 1}, but got {given:.3f}."
        )
    return given


def _scale(given: Any, kind: Any, n_features: int) -> np.ndarray | None:
    shape = (n_features,) * (2 if kind.has_matrices() else 1 if kind.feature_blocks else 0)
    found = _array(given, "covariance_prior", shape)
    if found is not None and not kind.has_matrices() and not (found > 0).all():
        raise InputError(f"covariance_prior must be positive; got {found.tolist()}.")
    return found


def _array(given: Any, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if given is None:
        return None
    try:
        found = np.array(given, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers; got {given!r}.") from None
    if found.shape != shape or not np.isfinite(found).all():
        raise InputError(
            f"{name} must be finite and of shape {shape} for these rows; got "
            f"{'numbers that are not finite' if found.shape == shape else found.shape}."
        )
    return found


def prior_attributes(model: Any, prior: Belief) -> dict[str, Any]:
    """The settings of a prior, filled in, of its first component; by attribute."""
    components, weights = prior.components, prior.weights
    kind, d = components.kind, components.loc.shape[-1]
    found: dict[str, Any] = {"mean_prior_": _numpy(components.loc[0])}
    *others, last = weights.concentrations()
    whole = others and weights.n_components == 1  # such a stick has no breaks to ask
    found["weight_concentration_prior_"] = _given(model) if whole else float(last[0])
    own = components.hyperparameters()
    if own:
        scale = components.precisions.scale.covariances() / kind.rows_per_block(d)
        found["covariance_prior_"] = _numpy(scale[0] if kind.block_ndim else scale)
        found["mean_precision_prior_"] = float(own["mean_precision"][0])
        found["degrees_of_freedom_prior_"] = float(own["degrees_of_freedom"].flatten()[0])
    return found


def _given(model: Any) -> float:
    """The concentration of a process as it was asked for; 1 / K by default, for K = 1."""
    prior, setting = model.prior, model.weight_concentration_prior
    given = setting if prior is None else prior.weight_concentration.concentration
    return 1.0 if given is None else float(given)


def posterior_attributes(belief: Belief) -> dict[str, Any]:
    """What a conjugate posterior is made of; by attribute."""
    parts = [_numpy(part) for part in belief.weights.concentrations()]
    found: dict[str, Any] = {"weight_concentration_": tuple(parts) if len(parts) > 1 else parts[0]}
    for name, value in belief.components.hyperparameters().items():
        array = _numpy(value)
        if array.ndim == 2 and (array == array[:, :1]).all():
            array = array[:, 0]  # scikit-learn's has one for all features
        found[f"{name}_"] = array
    return found


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
