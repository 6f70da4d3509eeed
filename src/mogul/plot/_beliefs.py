"""What pictures of posteriors are given, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mogul.beliefs import Belief
from mogul.errors import InputError, UnknownNameError
from mogul.posterior import Posterior

__all__ = ["checked_names", "checked_posterior", "checked_prior", "positions"]


def checked_posterior(value: Any) -> Posterior:
    if not isinstance(value, Posterior):
        raise InputError(
            f"Expected a posterior; got {type(value).__name__} (an estimator's is its posterior_)."
        )
    return value


def checked_prior(value: Any) -> Belief | None:
    if value is not None and not isinstance(value, Belief):
        raise InputError(
            "Expected a prior with every setting filled in, as an estimator's prior_; got "
            f"{type(value).__name__}."
        )
    return value


def checked_names(posterior: Posterior, given: Any) -> list[str]:
    """The names of all D features: those given, the posterior's own, or positions."""
    d = posterior.n_features
    if given is None:
        return list(posterior.feature_names or [f"feature {i}" for i in range(d)])
    names = [given] if isinstance(given, str) else list(given)
    if len(names) != d or any(not isinstance(name, str) for name in names):
        raise InputError(f"Feature names are {d} strings here, one a feature; got {names!r}.")
    return names


def positions(features: Any, names: Sequence[str]) -> list[int]:
    """Which features are meant, by position or name."""
    single = isinstance(features, (str, int, np.integer))
    chosen = [features] if single else list(features)
    found = [_position(one, names) for one in chosen]
    if not found or len(set(found)) != len(found):
        raise InputError(f"Choose at least one feature, and each but once; got {chosen!r}.")
    return found


def _position(feature: Any, names: Sequence[str]) -> int:
    if isinstance(feature, str) and feature in names:
        return list(names).index(feature)
    if isinstance(feature, (int, np.integer)) and -len(names) <= feature < len(names):
        return int(feature) % len(names)
    raise UnknownNameError(
        f"There is no feature {feature!r}; there are {len(names)}: {', '.join(names[:8])}"
        f"{' and so on' if len(names) > 8 else ''}."
    )
