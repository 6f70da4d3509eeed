"""Constructor arguments and results as what JSON can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from mogul.infer.team import Team

__all__ = [
    "fill_network",
    "finite_or_none",
    "is_plain",
    "network_tensors",
    "remembered_names",
    "settings_from_state",
    "settings_to_state",
    "take_over",
    "unchanged_on_error",
]

_KIND = "$kind"


@contextmanager
def unchanged_on_error(estimator: Any) -> Iterator[None]:
    """What fails inside leaves the estimator as it was: fitted before, it stays so."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def take_over(estimator: Any, team: Team, work: Callable[[], object]) -> None:
    """Let the first process do some work on an estimator; all then have what it found."""

    def fitted() -> dict[str, Any]:
        work()
        params = estimator.get_params(deep=False)
        return {name: value for name, value in vars(estimator).items() if name not in params}

    estimator.__dict__.update(team.decide(fitted))


@cache
def _param_names(kind: type[BaseEstimator]) -> tuple[str, ...]:
    return tuple(BaseEstimator._get_param_names.__func__(kind))


@classmethod
def remembered_names(cls: type[BaseEstimator]) -> list[str]:
    """Names of constructor arguments: to read them from a signature takes longer than few rows."""
    return list(_param_names(cls))


def is_plain(value: Any) -> bool:
    """Whether a constructor argument can be written down; arrays and callables are left out."""
    return value is None or isinstance(value, (bool, int, float, str))


def finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def settings_to_state(value: Any) -> Any:
    """A settings object as a dictionary that names its kind, and arrays as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        inside = {f.name: settings_to_state(getattr(value, f.name)) for f in fields(value)}
        return {_KIND: type(value).__name__, **inside}
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return value if is_plain(value) else np.asarray(value).tolist()


def settings_from_state(value: Any, kinds: Mapping[str, type]) -> Any:
    """The settings object again, of one of the ``kinds``."""
    if isinstance(value, dict):
        inside = {k: settings_from_state(v, kinds) for k, v in value.items() if k != _KIND}
        return kinds[value[_KIND]](**inside)
    return value


def network_tensors(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """What a network has learnt, by names that begin alike."""
    return {f"{prefix}{name}": value for name, value in network.state_dict().items()}


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Give a network of the same form what :func:`network_tensors` took, ready to be asked."""
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    network.load_state_dict(own)
    network.eval()
