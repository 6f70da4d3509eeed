"""``mogul regress``: the distribution of a column given others."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
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
)
from mogul.cli._files import (
    BatchMemoryOption,
    MemoryOption,
    files_for,
    fit_in_group,
    is_many,
    n_processes,
    refuse_several,
    write_in_batches,
)
from mogul.cli._messages import note
from mogul.cli._report import number, print_facts, print_saved, print_table_facts
from mogul.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from mogul import MixtureDensityRegressor
    from mogul.data import ParquetSource, Table

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)

TargetOption = Annotated[
    str,
    typer.Option("--target", "-t", metavar="A,B,...", help="The column to predict, or several."),
]
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that mogul regress fit saved.")
]


@app.callback(invoke_without_command=True)
def regress(context: typer.Context) -> None:
    """Predict the whole distribution of a column from others, by mixture density networks.

    \b
    Example, from a table to intervals for new rows:
      mogul regress fit houses.csv --target price --out price.safetensors
      mogul regress predict price.safetensors new_houses.csv --interval 0.9 --out prices.csv
    """  # noqa: D301 - the escape tells typer to keep the lines
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def fit(
    data: FilesArgument,
    target: TargetOption,
    columns: ColumnsOption = None,
    weight_column: WeightOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    components: Annotated[
        int | None,
        typer.Option("--components", "-k", min=1, metavar="K", help="Of each network; 10."),
    ] = None,
    covariance: Annotated[
        str | None,
        typer.Option("--covariance", "-c", metavar="TYPE", help="Of several targets; diag."),
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks, each with rows held out; 10.")
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(metavar="auto|LEVEL", help="Noise in training; auto tries six levels."),
    ] = None,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the rows.")] = None,
    memory: MemoryOption = None,
) -> None:
    """Fit mixture density networks to a table.

    \b
    Examples:
      mogul regress fit houses.csv --target price --out price.safetensors
      mogul regress fit houses.csv -t price --columns area,rooms --weight-column count
      mogul regress fit boats.parquet -t drag,lift -c full --members 5 --noise 0.1
      torchrun --nproc-per-node=2 -m mogul regress fit 'trips/*.parquet' -t fare

    The features are all other numeric columns, or those of --columns. A target may be missing in
    some rows: what is known of a row counts, and rows without any target are left out. The held-out
    loss is the mean negative log-density of rows that a network did not see, in nats and in the
    units of the target. A folder or a quoted pattern of Parquet files, in which no target is
    missing, is read in batches, by as many processes as torchrun starts.
    """  # noqa: D301 - the escape tells typer to keep the lines
    import mogul
    from mogul.io import check_destination

    settings = {
        "n_components": components,
        "covariance_type": covariance,
        "n_ensemble": members,
        "noise": None if noise is None else _level(noise),
        "max_epochs": max_epochs,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    targets = names(target) or []
    if not targets:
        raise InputError("--target names no column.")
    if out is not None:
        check_destination(out)
    if memory or n_processes() > 1 or is_many(data):
        _fit_files(data, targets, names(columns), weight_column, memory, out, seed, given)
        return
    features, answers = _read(data, targets, names(columns), weight_column)
    began = perf_counter()
    model = mogul.MixtureDensityRegressor(random_state=seed, **given)
    model.fit(features, answers, sample_weight=features.sample_weight)
    lapse = perf_counter() - began
    print_table_facts(data, features)
    print()
    _print_model(model, targets, lapse)
    print_saved(None if out is None else mogul.save(model, out))


def _print_model(model: MixtureDensityRegressor, targets: list[str], lapse: float) -> None:
    print_facts(
        [
            ("target", ", ".join(targets)),
            ("networks", f"{len(model.networks_)} of {model.n_components} components"),
            ("noise", f"{number(model.noise_)} standard deviations"),
            ("held-out loss", f"{number(model.held_out_loss_)} nats a row"),
            ("training", f"{len(model.history_)} epochs, {lapse:.1f} s"),
        ]
    )


def _fit_files(
    data: Path,
    targets: list[str],
    features: list[str] | None,
    weight_column: str | None,
    memory: str | None,
    out: str | None,
    seed: int,
    settings: dict[str, Any],
) -> None:
    """Train on rows that are read in batches, by as many processes as torchrun started."""
    import mogul

    model = mogul.MixtureDensityRegressor(random_state=seed, **settings)
    outputs = targets[0] if len(targets) == 1 else targets
    both = None if features is None else [*features, *targets]
    rows = data, both, weight_column, memory

    def told(_: ParquetSource, lapse: float) -> None:
        _print_model(model, targets, lapse)

    fit_in_group(model, lambda source: model.fit(source, outputs), *rows, out, told)


@app.command()
def predict(
    model: ModelPath,
    data: FilesArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; CSV is printed without it."),
    ] = None,
    quantiles: Annotated[
        str, typer.Option(metavar="P,Q,...", help="Quantiles to write.")
    ] = "0.05,0.5,0.95",
    interval: Annotated[
        float | None, typer.Option(metavar="LEVEL", help="An equal-tailed interval to write.")
    ] = None,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary", help="The targets are in DATA too: print how well they were predicted."
        ),
    ] = False,
    memory: BatchMemoryOption = None,
) -> None:
    """Write the mean, standard deviation and quantiles of the target for each row of a table.

    \b
    The columns written, with the target's name before them when there are several:
      mean, std           of the distribution
      q0.05, q0.5, ..     quantiles
      low, high           with --interval: the ends that hold it with that probability

    \b
    Examples:
      mogul regress predict price.safetensors new_houses.csv --out prices.csv
      mogul regress predict price.safetensors new_houses.csv --quantiles 0.1,0.9 --interval 0.8
      mogul regress predict price.safetensors sold_houses.csv --summary
    """  # noqa: D301 - the escape tells typer to keep the lines
    from mogul import MixtureDensityRegressor, load
    from mogul.data import check_table_destination, read_table, write_csv, write_table

    refuse_several()
    if out is not None:
        check_table_destination(out)
    asked = [_probability(text, "--quantiles") for text in names(quantiles) or []]
    found = load(model)
    if not isinstance(found, MixtureDensityRegressor):
        raise InputError(
            f"{model} holds a {type(found).__name__}; mogul regress predict takes a model of mogul "
            "regress fit."
        )
    wanted: Any = getattr(found, "feature_names_in_", None)
    if memory or is_many(data):
        if summary:
            raise InputError("--summary is for one file; write predictions and compare them.")
        n_written = found.n_outputs_ * (4 + len(asked)) + len(found.networks_) * sum(
            found.networks_[0].head.sizes
        )
        source = files_for(data, wanted, found.n_features_in_, None, memory, n_written)
        rate = write_in_batches(source, lambda batch: _columns(found, batch, asked, interval), out)
        if out is not None:
            print(f"{source.n_rows} rows written to {out}, {number(rate)} a second")
        return
    table = read_table(data, None if wanted is None else [str(name) for name in wanted])
    if summary:
        _print_summary(found, table, data)
        return
    written = _columns(found, table, asked, interval)
    if out is None:
        write_csv(sys.stdout.buffer, written)
    else:
        write_table(out, written)
        print(f"{len(table)} rows written to {out}")


def _columns(
    model: MixtureDensityRegressor, table: Table, asked: list[float], interval: float | None
) -> dict[str, np.ndarray]:
    """What is written for each row."""
    mean, deviation = (values.reshape(len(table), -1) for values in model.predict(table, True))
    quantiles = model.predict_quantiles(table, asked) if asked else None
    ends = None if interval is None else model.predict_interval(table, interval)
    found: dict[str, np.ndarray] = {}
    for d, before in enumerate(_prefixes(model)):
        found[f"{before}mean"], found[f"{before}std"] = mean[:, d], deviation[:, d]
        if quantiles is not None:
            own = quantiles.reshape(len(table), -1, len(asked))[:, d]
            found |= {f"{before}q{q:g}": own[:, i] for i, q in enumerate(asked)}
        if ends is not None:
            own = ends.reshape(len(table), -1, 2)[:, d]
            found[f"{before}low"], found[f"{before}high"] = own.T
    return found


def _prefixes(model: MixtureDensityRegressor) -> list[str]:
    if model.n_outputs_ == 1:
        return [""]
    known = model.target_names_ or [f"y{d}" for d in range(model.n_outputs_)]
    return [f"{name}_" for name in known]


def _print_summary(model: MixtureDensityRegressor, table: Table, data: Path) -> None:
    from mogul.calibration import coverage
    from mogul.data import read_table

    if model.target_names_ is None:
        raise InputError("The model does not know the names of its targets, so none can be found.")
    names_of = list(model.target_names_)
    answers = read_table(data, names_of, may_be_missing=names_of)
    table, answers = _with_answers(table, answers, data)
    targets = answers.values.astype(float)
    mixture = model.predict_mixture(table)
    inside = coverage(mixture, targets, [0.9])[1][0].tolist()
    print_facts(
        [
            ("rows", len(table)),
            ("log-density", f"{number(model.score(table, targets))} nats a row"),
            ("CRPS", number(model.crps(table, targets))),
            ("in intervals of 90 %", ", ".join(f"{100 * share:.1f} %" for share in inside)),
        ]
    )


def _read(
    data: Path, targets: list[str], features: list[str] | None, weight_column: str | None
) -> tuple[Table, Table]:
    """The features, with the weights of the rows, and the targets."""
    from mogul.data import read_table

    answers = read_table(data, targets, may_be_missing=targets)
    both = set(targets) & set(features or [])
    if both:
        raise InputError(f"{', '.join(sorted(both))} is a target, so it cannot be a feature too.")
    if features is None:
        every = read_table(data, None, weight_column, targets)
        features = [name for name in every.names if name not in targets]
        note_left_out([name for name in every.skipped if name not in targets])
        if not features:
            raise InputError(f"{data} has no other numeric column to predict from.")
    return _with_answers(read_table(data, features, weight_column), answers, data)


def _with_answers(table: Table, answers: Table, data: Path) -> tuple[Table, Table]:
    """The rows of which a target at least is known."""
    known = (answers.values == answers.values).any(1)  # NaN is not equal to itself
    n_unknown = len(known) - int(known.sum())
    if n_unknown == len(known):
        raise InputError(f"No row of {data} has a value of {', '.join(answers.names)}.")
    if not n_unknown:
        return table, answers
    rows = "row has no target and is" if n_unknown == 1 else "rows have no target and are"
    note(f"{n_unknown} {rows} left out.")
    return table.rows(known), answers.rows(known)


def _level(text: str) -> str | float:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--noise must be auto or a number; got {text!r}.") from None


def _probability(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} must be numbers with commas between; got {text!r}.") from None
