"""Fitting and telling a posterior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mogul.cli._messages import note
from mogul.cli._report import number, print_facts, print_saved, print_table, print_table_facts
from mogul.errors import InputError

if TYPE_CHECKING:
    from mogul import BayesianGaussianMixture
    from mogul.data import Table
    from mogul.posterior import VariationalPosterior

__all__ = [
    "fit_posterior",
    "inference_settings",
    "intervals",
    "posterior_facts",
    "print_posterior",
]

_MOST_FEATURES = 8
"""More intervals side by side do not fit a line."""
_QUICK = 2e10
"""Rows times squared coordinates up to which linear response is a matter of seconds. Beyond, it is
asked for where components overlap, so that it makes a difference."""


def inference_settings(inference: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an estimator, with ``max_iter`` put where the way of inference has it."""
    if inference is None or inference == "cavi":
        return settings
    for name in ("tol", "acceleration"):
        if name in settings:
            raise InputError(f"--{name} is of cavi, and --inference is {inference}; leave it out.")
    from mogul.infer import SVI, AdamVI, Gibbs

    if "max_iter" not in settings:
        return {**settings, "inference": inference}
    n: int = settings["max_iter"]
    methods = {
        "svi": SVI(passes=n),
        "vi-adam": AdamVI(epochs=n),
        "gibbs": Gibbs(draws=n, warmup=max(n // 2, 1)),
    }
    rest = {name: value for name, value in settings.items() if name != "max_iter"}
    return {**rest, "inference": methods[inference]}


def fit_posterior(
    data: Path,
    table: Table,
    n_components: int,
    kinds: Sequence[str],
    settings: dict[str, Any],
    out: str | None,
) -> None:
    """Fit, print and save; of several structures the one of the highest bound."""
    import mogul

    sampled = _name_of(settings.get("inference", "cavi")) == "gibbs"
    if len(kinds) > 1 and sampled:
        raise InputError("A sampler has no bound to choose a covariance type by; give one with -c.")
    models = [
        mogul.BayesianGaussianMixture(n_components, covariance_type=kind, **settings).fit(
            table, sample_weight=table.sample_weight
        )
        for kind in kinds
    ]
    best = max(models, key=lambda model: model.elbo_) if len(models) > 1 else models[0]
    print_table_facts(data, table)
    if len(models) > 1:
        _print_choice(models, best)
    print()
    print_facts(posterior_facts(best, best.score(table, sample_weight=table.sample_weight)))
    print_posterior(best)
    print_saved(None if out is None else mogul.save(best, out))


def posterior_facts(model: BayesianGaussianMixture, score: float) -> list[tuple[str, Any]]:
    """What was inferred, in short; ``score`` is the mean log-density of the rows."""
    held = f"{model.n_effective_components_} hold 99 % of the weight, of at most"
    return [
        ("covariance type", model.covariance_type),
        ("components", f"{held} {model.n_components}"),
        ("evidence lower bound", _bound(model)),
        ("log-density", f"{number(score)} nats a row, posterior predictive"),
        ("inference", _inference(model)),
    ]


def _bound(model: BayesianGaussianMixture) -> str:
    return f"{model.elbo_:.6f} nats" if model.elbo_ == model.elbo_ else "none, for a sampler"


def _name_of(inference: Any) -> str:
    return inference if isinstance(inference, str) else inference.name


def _inference(model: BayesianGaussianMixture) -> str:
    from mogul.posterior import SampledPosterior

    name, posterior = _name_of(model.inference), model.posterior_
    if isinstance(posterior, SampledPosterior):
        chains, draws = posterior.draws.batch_shape
        agree = "agree" if model.converged_ else "do not agree"
        return f"{name}, {chains} chains of {draws} draws {agree} (R̂ {posterior.r_hat():.3f})"
    state = "converged" if model.converged_ else "not converged"
    one, many = ("iteration", "iterations") if name == "cavi" else ("pass", "passes")
    return f"{name}, {state} after {model.n_iter_} {one if model.n_iter_ == 1 else many}"


def _print_choice(models: Sequence[BayesianGaussianMixture], best: BayesianGaussianMixture) -> None:
    rows = [
        [m.covariance_type, f"{m.elbo_:.2f}{' *' if m is best else '  '}",
         str(m.n_effective_components_)]
        for m in models
    ]  # fmt: skip
    print_table("Evidence lower bounds", ["covariance", "nats", "components"], rows)
    print(f"Higher is better; * best ({best.covariance_type}).")


def print_posterior(model: BayesianGaussianMixture) -> None:
    """Weights and means of the components that matter, with their intervals."""
    correction = _correction(model)
    posterior, features = model.posterior_, _features(model)
    kept = sorted(range(len(model.weights_)), key=lambda k: -model.weights_[k])
    kept = kept[: model.n_effective_components_]
    of_weights = posterior.interval("weights", 0.95, correction)
    how = {"linear_response": "corrected by linear response", "none": _uncorrected(model)}
    rows = [[str(k), number(model.weights_[k]), *map(number, of_weights[k].tolist())] for k in kept]
    title = f"Weights, with intervals of 95 % ({how[correction]})"
    print_table(title, ["component", "weight", "from", "to"], rows)
    left = len(model.weights_) - len(kept)
    if left:
        share = 1 - float(model.weights_[kept].sum())
        print(f"{left} more hold {100 * share:.2g} % of the weight together.")
    if len(features) > _MOST_FEATURES:
        print(f"\nMeans of {len(features)} features: posterior_.interval('means') in Python")
        return
    of_means = posterior.interval("means", 0.95, correction)
    rows = [
        [str(k), name, number(model.means_[k, d]), *map(number, of_means[k, d].tolist())]
        for k in kept
        for d, name in enumerate(features)
    ]
    print_table("Means, with intervals of 95 %", ["component", "feature", "mean", "from", "to"],
                rows)  # fmt: skip


def intervals(model: BayesianGaussianMixture) -> dict[str, Any]:
    """Intervals of 95 % of weights and means, and how they were made, for programs."""
    correction = _correction(model)
    found = {
        f"{name}_interval": model.posterior_.interval(name, 0.95, correction).tolist()
        for name in ("weights", "means")
    }
    return {"interval_level": 0.95, "interval_correction": correction, **found}


def _correction(model: BayesianGaussianMixture) -> str:
    """Linear response where it can be had: then it is also kept in the file."""
    from mogul.errors import MogulError
    from mogul.posterior import VariationalPosterior

    posterior = model.posterior_
    if not isinstance(posterior, VariationalPosterior):
        return "none"
    if not posterior.is_narrow and _work(posterior) > _QUICK:
        return "none"
    try:
        for name in ("weights", "means"):
            posterior.std(name, "linear_response")
    except MogulError as error:
        if posterior.is_narrow:  # else a correction would change little
            note(f"Intervals are those of mean field, not corrected: {error}")
        return "none"
    return "linear_response"


def _work(posterior: VariationalPosterior) -> float:
    rows = posterior.some_rows or posterior.rows
    return (
        float(getattr(rows, "n_rows", 0)) * posterior.belief.encode(posterior.belief).numel() ** 2
    )


def _uncorrected(model: BayesianGaussianMixture) -> str:
    from mogul.posterior import VariationalPosterior

    if not isinstance(model.posterior_, VariationalPosterior):
        return "of draws"
    return "mean field" if model.posterior_.is_narrow else "mean field; components are apart"


def _features(model: BayesianGaussianMixture) -> list[str]:
    names = getattr(model, "feature_names_in_", None)
    return [f"x{i}" for i in range(model.n_features_in_)] if names is None else list(names)
