"""``mogul show``: what a saved model is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul.cli._arguments import ModelArgument, feature_names, single_mixture
from mogul.cli._bayes import intervals, print_posterior
from mogul.cli._report import print_facts, print_mixture

if TYPE_CHECKING:
    from mogul import Mixture

__all__ = ["show"]


def show(
    model: ModelArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, for programs.")
    ] = False,
) -> None:
    """Print a model's weights, means and covariances; of a posterior, intervals too.

    \b
    Examples:
      mogul show cars.safetensors
      mogul show cars.safetensors --json | jq .weights
    """  # noqa: D301 - the escape tells typer to keep the lines
    from mogul import load

    found = load(model)
    for attribute, facts_of in (("networks_", _regressor), ("generator_", _slogan)):
        if hasattr(found, attribute):
            _print_facts(facts_of(found), as_json)
            return
    mixture = single_mixture(found, model)
    facts = {"kind": type(found).__name__, **_facts(mixture), **_training(found)}
    if as_json:
        parts: dict[str, Any] = {n: value.tolist() for n, value in mixture.numpy().items()}
        if hasattr(found, "posterior_"):
            parts |= intervals(found)
        print(json.dumps({**facts, **parts}, allow_nan=False))
        return
    facts["feature_names"] = ", ".join(feature_names(mixture))
    print_facts((_LABELS[name], value) for name, value in facts.items())
    if hasattr(found, "posterior_"):
        print_posterior(found)
        print("\nThe mixture of the expected parameters:")
    print_mixture(mixture)


def _regressor(found: Any) -> dict[str, Any]:
    return {
        "kind": type(found).__name__,
        "covariance_type": found.covariance_type,
        "n_components": found.n_components,
        "n_networks": len(found.networks_),
        "feature_names": _names(getattr(found, "feature_names_in_", None)),
        "target_names": _names(found.target_names_),
        "n_parameters": sum(p.numel() for one in found.networks_ for p in one.parameters()),
        "noise": found.noise_,
        "held_out_loss": found.held_out_loss_,
    }


def _slogan(found: Any) -> dict[str, Any]:
    networks = (found.generator_, found.critic_)
    return {
        "kind": type(found).__name__,
        "n_features": found.n_features_in_,
        "feature_names": _names(getattr(found, "feature_names_in_", None)),
        "n_parameters": sum(p.numel() for one in networks for p in one.parameters()),
        "n_steps": found.n_steps_,
        "distance": found.history_[-1].distance,
    }


def _names(given: Any) -> list[str] | None:
    return None if given is None else [str(name) for name in given]


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, allow_nan=False))
        return
    lists = {"feature_names", "target_names"} & facts.keys()
    said = {name: ", ".join(facts[name] or ["none"]) for name in lists}
    print_facts((_LABELS[name], value) for name, value in (facts | said).items())


def _facts(mixture: Mixture) -> dict[str, Any]:
    return {
        "covariance_type": mixture.covariance_type,
        "n_components": mixture.n_components,
        "n_features": mixture.n_features,
        "feature_names": None if mixture.feature_names is None else list(mixture.feature_names),
        "n_parameters": mixture.n_parameters,
        "dtype": str(mixture.dtype).removeprefix("torch."),
    }


def _training(found: Any) -> dict[str, Any]:
    """How the fit of an estimator ended; nothing for a mixture, which may be of no fit."""
    bound = "elbo" if hasattr(found, "posterior_") else "log_likelihood"
    names = {"converged": "converged_", "n_iterations": "n_iter_", bound: "lower_bound_"}
    values = {name: getattr(found, attribute, None) for name, attribute in names.items()}
    return {name: value for name, value in values.items() if value is not None and value == value}


_LABELS = {
    "kind": "kind",
    "covariance_type": "covariance type",
    "n_components": "components",
    "n_features": "features",
    "n_networks": "networks",
    "target_names": "target",
    "noise": "noise, in standard deviations",
    "held_out_loss": "held-out loss, in nats a row",
    "n_steps": "steps of the generator",
    "distance": "distance by the critic, in standard deviations",
    "feature_names": "feature names",
    "n_parameters": "parameters",
    "dtype": "numbers",
    "converged": "converged",
    "n_iterations": "iterations",
    "log_likelihood": "log-likelihood, in nats a row",
    "elbo": "evidence lower bound, in nats",
}
"""How the facts are called in print."""
