"""A fitted BayesianGaussianMixture as a header and named tensors, for files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mogul.beliefs import belief_from_state, belief_to_state
from mogul.errors import InputError
from mogul.estimators._state import (
    finite_or_none,
    is_plain,
    settings_from_state,
    settings_to_state,
)
from mogul.infer import METHODS
from mogul.posterior import Posterior, SampledPosterior, VariationalPosterior
from mogul.priors import (
    Dirichlet,
    DirichletProcess,
    IndependentNormalGamma,
    NormalGamma,
    NormalWishart,
)

__all__ = ["from_state", "to_state"]

_NOT_SAVED = ("random_state", "callbacks", "device", "warm_start")
_OBJECTS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Dirichlet,
        DirichletProcess,
        IndependentNormalGamma,
        NormalGamma,
        NormalWishart,
        *METHODS.values(),
    )
}
"""Settings objects that a file may name."""
_POSTERIORS: dict[str, type[VariationalPosterior] | type[SampledPosterior]] = {
    "VariationalPosterior": VariationalPosterior,
    "SampledPosterior": SampledPosterior,
}


def to_state(model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """See :meth:`BayesianGaussianMixture.to_state`."""
    posterior, tensors = model.posterior_.to_state()
    prior, more = belief_to_state(model.prior_, "prior")
    params = model.get_params()
    for name in ("prior", "inference"):
        _refuse_unknown(name, params[name])
    kept = {name: params[name] for name in params if name not in _NOT_SAVED}
    seed = params["random_state"]
    header = {
        "params": {name: settings_to_state(value) for name, value in kept.items()},
        "random_state": seed if is_plain(seed) else None,
        "posterior_kind": type(model.posterior_).__name__,
        "posterior": posterior,
        "prior": prior,
        "converged": bool(model.converged_),
        "n_iter": int(model.n_iter_),
        "elbo": finite_or_none(model.elbo_),
        "rows_seen": model.__dict__.get("_rows_seen"),
    }
    bounds = torch.tensor(model.lower_bounds_, dtype=torch.float64)
    return header, {**tensors, **more, "lower_bounds_": bounds}


def _refuse_unknown(name: str, value: Any) -> None:
    """A class of the user's own would come back as nothing that can be built."""
    plain = value is None or isinstance(value, str)
    if not plain and _OBJECTS.get(type(value).__name__) is not type(value):
        raise InputError(
            f"The {name} of this model is a {type(value).__name__}, which no file can hold; save "
            "model.mixture_, or fit with one of mogul's own."
        )


def from_state(model_class: Any, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """See :meth:`BayesianGaussianMixture.from_state`."""
    params = {k: settings_from_state(v, _OBJECTS) for k, v in header["params"].items()}
    model = model_class(**params, random_state=header["random_state"])
    kind = _POSTERIORS[header["posterior_kind"]]
    posterior: Posterior = kind.from_state(header["posterior"], tensors)
    model.n_features_in_ = posterior.n_features
    if posterior.feature_names is not None:
        model.feature_names_in_ = np.asarray(posterior.feature_names, dtype=object)
    model.converged_, model.n_iter_ = header["converged"], header["n_iter"]
    bound = header["elbo"]
    model.elbo_ = model.lower_bound_ = float("nan") if bound is None else bound
    model.lower_bounds_, model.history_ = tensors["lower_bounds_"].tolist(), []
    if header["rows_seen"] is not None:
        model._rows_seen = header["rows_seen"]
    model._keep(posterior, belief_from_state(header["prior"], tensors, "prior"))
    return model
