"""Constructor arguments and results as what JSON can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import validate_parameter_constraints
from torch import Tensor, nn

from mogul.infer.team import Team

__all__ = [
    "fill_network",
    "finite_or_none",
    "is_plain",
    "network_tensors",
    "remembered_checks",
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


@lru_cache(maxsize=4096)
def _check_once(kind: type[BaseEstimator], name: str, value: Any, _type: type) -> None:
    _check(kind, name, value)


def _check(kind: type[BaseEstimator], name: str, value: Any) -> None:
    constraints = {name: kind._parameter_constraints[name]}
    validate_parameter_constraints(constraints, {name: value}, caller_name=kind.__name__)


def remembered_checks(self: BaseEstimator) -> None:
    """scikit-learn's ``_validate_params``, which takes half as long as to fit few rows.

    What has passed once, of the same type and value, is not looked at again, where to remember it
    keeps nothing alive.
    """
    kind = type(self)
    for name in self._get_param_names():
        value = getattr(self, name)
        if name not in kind._parameter_constraints:
            continue
        if is_plain(value):
            _check_once(kind, name, value, type(value))
        else:
            _check(kind, name, value)


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
