"""``mogul fit``: a mixture from a table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul.cli._arguments import (
    ColumnsOption,
    FilesArgument,
    OutOption,
    SeedOption,
    WeightOption,
    names,
    note_left_out,
    table_rows,
)
from mogul.cli._bayes import fit_posterior, inference_settings
from mogul.cli._files import (
    CheckpointOption,
    MemoryOption,
    ResumeOption,
    fit_files,
    is_many,
    n_processes,
)
from mogul.cli._report import number, print_facts, print_mixture, print_saved, print_table_facts
from mogul.errors import InputError

if TYPE_CHECKING:
    from mogul import GaussianMixture
    from mogul.data import Table

__all__ = ["fit"]


_INFERENCE_ALONE = "--inference says how to find a posterior; add --bayes."


class Criterion(StrEnum):
    """What select compares by."""

    bic = "bic"
    icl = "icl"
    aic = "aic"


class Acceleration(StrEnum):
    """How EM may be sped up."""

    auto = "auto"
    squarem = "squarem"
    none = "none"


class Inference(StrEnum):
    """How a posterior may be found."""

    cavi = "cavi"
    svi = "svi"
    vi_adam = "vi-adam"
    gibbs = "gibbs"


ComponentsOption = Annotated[
    str, typer.Option("--components", "-k", metavar="K", help="A number, or a range such as 1-6.")
]
CovarianceOption = Annotated[
    str,
    typer.Option(
        "--covariance",
        "-c",
        metavar="TYPE",
        help="full, tied, diag, spherical; several with commas between, or all.",
    ),
]
CriterionOption = Annotated[
    Criterion | None,
    typer.Option(help="Chooses among several; the lowest wins. BIC unless another is given."),
]
BayesOption = Annotated[
    bool,
    typer.Option("--bayes", help="Infer a posterior; the data choose how many of K are needed."),
]
InferenceOption = Annotated[
    Inference | None, typer.Option(help="How to find the posterior; with --bayes, cavi by default.")
]
StartsOption = Annotated[
    int | None, typer.Option(min=1, help="Starts of each model; the likeliest end is kept.")
]
TolOption = Annotated[
    float | None,
    typer.Option(
        help="Stop when a step gains less, in nats a row; with --bayes, of all rows, by cavi. One "
        "model only."
    ),
]
IterationsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The most iterations; passes of svi and vi-adam, draws of each chain of gibbs. One "
        "model only.",
    ),
]
FloorOption = Annotated[float | None, typer.Option(help="Added to every variance. One model only.")]
AccelerationOption = Annotated[
    Acceleration | None, typer.Option(help="How to speed EM or cavi up. One model only.")
]


def fit(
    data: FilesArgument,
    components: ComponentsOption = "1-6",
    covariance: CovarianceOption = "full",
    criterion: CriterionOption = None,
    columns: ColumnsOption = None,
    weight_column: WeightOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    n_init: StartsOption = None,
    tol: TolOption = None,
    max_iter: IterationsOption = None,
    reg_covar: FloorOption = None,
    acceleration: AccelerationOption = None,
    bayes: BayesOption = False,
    inference: InferenceOption = None,
    memory: MemoryOption = None,
    checkpoint: CheckpointOption = None,
    resume: ResumeOption = False,
) -> None:
    """Fit a mixture of Gaussians to the numeric columns of a table.

    \b
    Examples:
      mogul fit cars.csv --out cars.safetensors
      mogul fit cars.csv -k 1-6 -c all --criterion icl --out cars.safetensors
      mogul fit cars.parquet -k 3 -c tied --columns power_kw,weight_kg --weight-column count
      mogul fit cars.csv --bayes -k 10 --out cars.safetensors
      mogul fit 'cars/*.parquet' -k 8 -c diag --memory 1GB --checkpoint state --out cars.safetensors
      mogul fit cars/ --bayes -k 10 -c diag --inference svi --out cars.safetensors
      torchrun --nproc-per-node=2 -m mogul fit cars/ -k 8 -c diag --out cars.safetensors

    With a range of K or several covariance types every combination is fitted, a table of the
    criterion is printed and the best is kept.

    With --bayes the highest K is the most there may be: a Dirichlet process gives weight to those
    that are needed. Intervals of 95 % are printed, corrected for what mean field leaves out; of
    several covariance types the one of the highest evidence lower bound is kept.

    A folder or a quoted pattern of Parquet files, which need not fit in memory, is read in batches,
    by as many processes as torchrun starts; one K and one covariance type can then be fitted.
    """  # noqa: D301 - the escape tells typer to keep the lines
    sizes, kinds = _sizes(components), _kinds(covariance)
    speed = acceleration and acceleration.value
    one_only = _given(tol=tol, max_iter=max_iter, reg_covar=reg_covar, acceleration=speed)
    settings = _given(random_state=seed, n_init=n_init, **one_only)
    if out is not None:
        _check_destination(out)
    if memory or checkpoint or resume or n_processes() > 1 or is_many(data):
        if not (len(sizes) == len(kinds) == 1) or criterion:
            raise InputError(
                "Files that are read in batches take one model at a time; give one K and one "
                "covariance type, without --criterion."
            )
        if bayes:
            settings = inference_settings(inference and inference.value, settings)
        elif inference is not None:
            raise InputError(_INFERENCE_ALONE)
        where = {"columns": columns, "weight_column": weight_column, "memory": memory}
        keep = {"checkpoint": checkpoint, "resume": resume, "out": out, "bayes": bayes}
        fit_files(data, sizes[0], kinds[0], settings, **where, **keep)
        return
    if bayes:
        _refuse_with_bayes(criterion)
        asked = inference_settings(inference and inference.value, settings)
        table = _read(data, columns, weight_column)
        fit_posterior(data, table, sizes[-1], kinds, asked, out)
        return
    if inference is not None:
        raise InputError(_INFERENCE_ALONE)
    if len(sizes) == len(kinds) == 1:
        table = _read(data, columns, weight_column)
        model, choice = _single(table, sizes[0], kinds[0], settings), None
    else:
        _refuse_for_several(one_only)
        table = _read(data, columns, weight_column)
        chosen_by = _given(criterion=criterion and criterion.value)
        model, choice = _best(table, sizes, kinds, {**chosen_by, **settings})
    saved = None if out is None else _save(model, out)
    _print_all(data, table, choice, model, saved)


def _given(**settings: Any) -> dict[str, Any]:
    """The settings that were given; the library has defaults for the rest."""
    return {name: value for name, value in settings.items() if value is not None}


def _refuse_with_bayes(criterion: Criterion | None) -> None:
    if criterion is not None:
        raise InputError(
            "--criterion chooses among fits by maximum likelihood; with --bayes the evidence lower "
            "bound does, so leave it out."
        )


def _refuse_for_several(one_only: dict[str, Any]) -> None:
    if one_only:
        option = "--" + next(iter(one_only)).replace("_", "-")
        raise InputError(f"{option} is for fitting one model; give one K and one covariance type.")


def _sizes(text: str) -> range:
    """The numbers of components in "3" or "1-6"."""
    first, dash, last = text.partition("-")
    ends = [first, last] if dash else [first, first]
    if not all(end.strip().isdecimal() for end in ends):
        raise InputError(f"-k {text!r} is not understood; give a number, or a range such as 1-6.")
    low, high = map(int, ends)
    if not 1 <= low <= high:
        raise InputError(f"-k {text!r} holds no number of components; they start at 1, as in 1-6.")
    return range(low, high + 1)


def _kinds(text: str) -> list[str]:
    from mogul.covariances import STRUCTURES, structure

    kinds = list(STRUCTURES) if text == "all" else names(text) or []
    for kind in kinds:
        structure(kind)  # refuses an unknown name and lists the known ones
    return list(dict.fromkeys(kinds))


def _check_destination(out: str) -> None:
    from mogul.io import check_destination

    check_destination(out)


def _read(data: Path, columns: str | None, weight_column: str | None) -> Table:
    from mogul.data import read_table

    table = read_table(data, names(columns), weight_column)
    note_left_out(table.skipped)
    _refuse_constant(table, data)
    return table


def _refuse_constant(table: Table, data: Path) -> None:
    """Data of which no density can be told: the estimator, as scikit-learn's, would only warn."""
    from mogul.infer.spikes import constant_columns

    if len(table) == 1:
        raise InputError(f"{data} holds a single row; a mixture is fitted to two or more.")
    constant = [table.names[j] for j in constant_columns(table_rows(table))]
    if len(constant) == len(table.names):
        raise InputError(f"All rows of {data} are the same, so there is nothing to fit.")
    if constant:
        raise InputError(
            f"Every value of column {', '.join(map(repr, constant))} of {data} is the same, so it "
            "has no density; leave it out with --columns."
        )


def _best(
    table: Table, sizes: Sequence[int], kinds: Sequence[str], settings: dict[str, Any]
) -> tuple[GaussianMixture, str]:
    """The best of several, and the table that it was chosen from."""
    import mogul

    weight = table.sample_weight
    found = mogul.select(table, sizes, kinds, sample_weight=weight, **settings)
    return found.best, str(found)


def _single(table: Table, k: int, kind: str, settings: dict[str, Any]) -> GaussianMixture:
    import mogul

    model = mogul.GaussianMixture(k, covariance_type=kind, **settings)
    return model.fit(table, sample_weight=table.sample_weight)


def _print_all(
    data: Path, table: Table, choice: str | None, model: GaussianMixture, saved: Path | None
) -> None:
    print_table_facts(data, table)
    print()
    if choice is not None:
        print(f"{choice}\n")
    _print_model(model, table)
    print_saved(saved)


def _print_model(model: GaussianMixture, table: Table) -> None:
    from mogul.infer.criteria import information_criterion, mean_log_likelihood

    mixture, rows = model.mixture_, table_rows(table)
    state = "converged" if model.converged_ else "not converged"
    print_facts(
        [
            ("covariance type", mixture.covariance_type),
            ("components", mixture.n_components),
            ("parameters", mixture.n_parameters),
            ("log-likelihood", f"{number(mean_log_likelihood(rows, mixture))} nats a row"),
            ("BIC", number(information_criterion("bic", rows, mixture))),
            ("EM", f"{state} after {model.n_iter_} iterations"),
        ]
    )
    print_mixture(mixture)


def _save(model: GaussianMixture, out: str) -> Path:
    import mogul

    return mogul.save(model, out)
