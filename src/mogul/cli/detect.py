"""``mogul detect``: outliers of a table, with p-values and reasons."""

from __future__ import annotations

import math
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
    told_batches,
    write_in_batches,
)
from mogul.cli._messages import note
from mogul.cli._report import number, print_facts, print_saved, print_table_facts
from mogul.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import numpy as np

    from mogul import AEGMM, VAEGMM, MixtureOutlierDetector
    from mogul.data import Table

    Detector = MixtureOutlierDetector | AEGMM | VAEGMM

__all__ = ["app"]

_REASONS = 3
_METHODS = ("mixture", "aegmm", "vaegmm")

app = typer.Typer(rich_markup_mode=None)

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that mogul detect fit saved.")
]


@app.callback(invoke_without_command=True)
def detect(context: typer.Context) -> None:
    """Find the outliers of a table, each with a p-value and the columns that make it one.

    \b
    Example, from ordinary rows to alarms for new ones:
      mogul detect fit machines.csv --out alarm.safetensors
      mogul detect score alarm.safetensors today.csv --fdr 0.05 --out alarms.csv
    """  # noqa: D301 - the escape tells typer to keep the lines
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def fit(
    data: FilesArgument,
    columns: ColumnsOption = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A column that is 1 in rows known to be outliers."),
    ] = None,
    weight_column: WeightOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="mixture, or an autoencoder's energy: aegmm, vaegmm."),
    ] = "mixture",
    components: Annotated[
        int | None,
        typer.Option(
            "--components",
            "-k",
            min=1,
            metavar="K",
            help="By default the best of 1, 2, 4, ..., 128; for autoencoders 2.",
        ),
    ] = None,
    covariance: Annotated[
        str | None,
        typer.Option(
            "--covariance",
            "-c",
            metavar="TYPE",
            help="Of mixture: full, tied, diag or spherical; else the best.",
        ),
    ] = None,
    trim: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Of mixture: fit without this share, the strangest."),
    ] = 0.0,
    memory: MemoryOption = None,
) -> None:
    """Learn what ordinary rows look like.

    \b
    Examples:
      mogul detect fit machines.csv --out alarm.safetensors
      mogul detect fit machines.parquet --label broken --columns heat,noise --out alarm.safetensors
      mogul detect fit mixed.csv --trim 0.05 --out alarm.safetensors
      mogul detect fit wide.csv --method aegmm --out alarm.safetensors
      mogul detect fit 'logs/*.parquet' --memory 1GB --out alarm.safetensors

    Rows that --label marks are left out. Structure and size of the mixture are those under which
    rows that it was not fitted to are likeliest. An autoencoder can find outliers among many
    columns that depend on each other; where there are few columns, mixture is the better choice.
    A folder or a quoted pattern of Parquet files is read in batches, by as many processes as
    torchrun starts; a mixture can then be fitted, to rows without labels.
    """  # noqa: D301 - the escape tells typer to keep the lines
    import mogul
    from mogul.io import check_destination

    if out is not None:
        check_destination(out)
    model = _model(method, components, covariance, trim, seed)
    if memory or n_processes() > 1 or is_many(data):
        _fit_files(model, data, columns, label, weight_column, memory, out)
        return
    table = _ordinary(data, names(columns), label, weight_column)
    began = perf_counter()
    model.fit(table, sample_weight=table.sample_weight)
    lapse = perf_counter() - began
    print_table_facts(data, table)
    print()
    _print_model(model, lapse)
    print_saved(None if out is None else mogul.save(model, out))


def _print_model(model: Detector, lapse: float) -> None:
    print_facts(
        [
            *_found(model, lapse),
            ("threshold", f"{number(model.offset_)} nats"),
            ("least p-value", number(1 / (model.n_calibration_ + 1))),
        ]
    )


def _fit_files(
    model: Detector,
    data: Path,
    columns: str | None,
    label: str | None,
    weight_column: str | None,
    memory: str | None,
    out: str | None,
) -> None:
    """Learn from rows that are read in batches, by as many processes as torchrun started."""
    import mogul

    if not isinstance(model, mogul.MixtureOutlierDetector) or label is not None:
        raise InputError(
            "Files that are read in batches take --method mixture and no --label; choose ordinary "
            "rows by ParquetSource(filters=...) in Python, or give one file."
        )
    rows = data, names(columns), weight_column, memory
    fit_in_group(model, model.fit, *rows, out, lambda _, lapse: _print_model(model, lapse))


def _model(
    method: str, components: int | None, covariance: str | None, trim: float, seed: int
) -> Detector:
    """The detector that the options ask for."""
    import mogul

    if method not in _METHODS:
        raise UnknownNameError(
            f"The method {method!r} is unknown; choose one of {', '.join(_METHODS)}."
        )
    if method == "mixture":
        return mogul.MixtureOutlierDetector(
            "auto" if components is None else components,
            covariance_type="auto" if covariance is None else covariance,
            trim=trim,
            random_state=seed,
        )
    if covariance is not None or trim:
        raise InputError(f"--covariance and --trim are for --method mixture, not for {method}.")
    kind = mogul.AEGMM if method == "aegmm" else mogul.VAEGMM
    return kind(2 if components is None else components, random_state=seed)


def _found(model: Detector, lapse: float) -> list[tuple[str, str]]:
    """What a fit found, in words."""
    from mogul import MixtureOutlierDetector

    if isinstance(model, MixtureOutlierDetector):
        form, count = model.form_, len(model.held_out_)
        best = number(max(value for _, value in model.held_out_))
        return [
            ("mixture", f"{form.n_components} components, {form.covariance_type} covariances"),
            ("chosen from", f"{count} form{'s' * (count != 1)}, {lapse:.1f} s"),
            ("held out", f"{best} nats a row, standardised"),
        ]
    count = len(model.networks_)
    epochs = model.history_[-1].epoch if model.history_ else 0
    loss = f", loss {number(model.history_[-1].loss)} nats a row" if epochs else ""
    size = model.networks_[0].latent_size
    return [
        ("networks", f"{count}, each of {size} latent number{'s' * (size != 1)}, {lapse:.1f} s"),
        ("training", f"{epochs} epochs{loss}"),
        ("held out", f"{model.n_calibration_} rows, for the calibration"),
    ]


def _ordinary(
    data: Path, columns: list[str] | None, label: str | None, weight_column: str | None
) -> Table:
    """The rows to learn from."""
    from mogul.data import read_table

    if label is not None and columns is None:
        every = read_table(data, None, weight_column)
        columns = [name for name in every.names if name != label]
        note_left_out([name for name in every.skipped if name != label])
    table = read_table(data, columns, weight_column)
    if label is None:
        note_left_out(table.skipped)
        return table
    if label in table.names:
        raise InputError(f"{label} is the label, so it cannot be a feature too.")
    ordinary = read_table(data, [label]).values[:, 0] == 0
    n_out = len(ordinary) - int(ordinary.sum())
    if n_out == len(ordinary):
        raise InputError(f"Every row of {data} is marked by {label}; ordinary rows are needed.")
    note(f"{n_out} {'row' if n_out == 1 else 'rows'} marked by {label} left out.")
    return table.rows(ordinary)


@app.command()
def score(
    model: ModelPath,
    data: FilesArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; CSV is printed without it."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Flag p-values up to it: of ordinary rows this share."),
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Flag so that this share of the flags is false."),
    ] = None,
    memory: BatchMemoryOption = None,
) -> None:
    """Write each row's score, p-value and flag, and why it is flagged.

    \b
    The columns written:
      score        the log-density, or minus the energy, in nats; the lower, the stranger
      p_value      how often ordinary rows look as strange
      outlier      1 or 0: a score below the model's threshold, or by --alpha or --fdr
      reason_1..3  of outliers: the columns that add most to it, and how many nats

    \b
    Examples:
      mogul detect score alarm.safetensors today.csv --out alarms.parquet
      mogul detect score alarm.safetensors today.csv --alpha 0.001
      mogul detect score alarm.safetensors today.csv --fdr 0.05
      mogul detect score alarm.safetensors 'logs/*.parquet' --fdr 0.05 --out alarms.parquet

    A folder or a quoted pattern of Parquet files is read and written in batches; with --fdr it is
    read twice, for which rows are flagged depends on all.
    """  # noqa: D301 - the escape tells typer to keep the lines
    from mogul import AEGMM, VAEGMM, MixtureOutlierDetector, load
    from mogul.data import check_table_destination, read_table, write_csv, write_table

    refuse_several()
    if out is not None:
        check_table_destination(out)
    if alpha is not None and fdr is not None:
        raise InputError("Give either --alpha or --fdr, not both.")
    found = load(model)
    if not isinstance(found, MixtureOutlierDetector | AEGMM | VAEGMM):
        raise InputError(
            f"{model} holds a {type(found).__name__}; mogul detect score takes a model of mogul "
            "detect fit."
        )
    wanted: Any = getattr(found, "feature_names_in_", None)
    if memory or is_many(data):
        _score_files(found, data, wanted, out, alpha, fdr, memory)
        return
    table = read_table(data, None if wanted is None else [str(name) for name in wanted])
    written = _columns(found, table, alpha, fdr)
    if fdr is not None and not written["outlier"].any():
        _note_resolution(found, len(table), fdr)
    if out is None:
        write_csv(sys.stdout.buffer, written)
    else:
        write_table(out, written)
        print(f"{len(table)} rows written to {out}, {int(written['outlier'].sum())} outliers")


def _score_files(
    model: Detector,
    data: Path,
    wanted: Any,
    out: Path | None,
    alpha: float | None,
    fdr: float | None,
    memory: str | None,
) -> None:
    """Batch after batch: memory holds one of them, and a p-value of each row for ``fdr``."""
    import numpy as np

    from mogul.conformal import benjamini_hochberg

    n_written = 3 + 8 * _REASONS + len(getattr(model, "calibration_scores_", ()))
    source = files_for(data, wanted, model.n_features_in_, None, memory, n_written)
    flags: np.ndarray | None = None
    if fdr is not None:
        p_values = [model.p_values(batch) for batch in told_batches(source)[1]]
        flags = benjamini_hochberg(np.concatenate(p_values) if p_values else np.empty(0), fdr)
        if not flags.any():
            _note_resolution(model, len(flags), fdr)
    n_rows = n_outliers = 0

    def answered(rows: Table) -> dict[str, np.ndarray]:
        nonlocal n_rows, n_outliers
        own = model.predict(rows, alpha) == -1 if flags is None else flags[n_rows:][: len(rows)]
        n_rows, n_outliers = n_rows + len(rows), n_outliers + int(own.sum())
        return _answers(model, rows, own)

    rate = write_in_batches(source, answered, out)
    if out is not None:
        said = f"{n_outliers} outliers, {number(rate / 1e6)} million rows a second"
        print(f"{n_rows} rows written to {out}, {said}")


def _note_resolution(model: Detector, n_rows: int, fdr: float) -> None:
    """Tell when the calibration is too short for a list of one row at this level."""
    fewest = math.ceil(n_rows / (fdr * (model.n_calibration_ + 1)))
    if fewest > 1:
        note(
            f"With {model.n_calibration_} calibration rows a list from {n_rows} rows at --fdr "
            f"{fdr:g} has at least {fewest} or none; fit to more rows, or score fewer at once."
        )


def _columns(
    model: Detector, table: Table, alpha: float | None, fdr: float | None
) -> dict[str, np.ndarray]:
    """What is written for each row of a table."""
    flags = model.predict(table, alpha) == -1 if fdr is None else model.detect(table, fdr)
    return _answers(model, table, flags)


def _answers(model: Detector, table: Table, flags: np.ndarray) -> dict[str, np.ndarray]:
    """What is written for each row, of which some are flagged."""
    import numpy as np

    n_reasons = min(_REASONS, len(table.names))
    reasons = np.full((len(table), n_reasons), "", dtype=object)
    if flags.any():
        top = model.explain(table.rows(flags)).top(n_reasons)
        reasons[flags] = [[f"{name} {nats:+.1f}" for name, nats in one] for one in top]
    return {
        "score": model.score_samples(table),
        "p_value": model.p_values(table),
        "outlier": flags.astype(int),
        **{f"reason_{i + 1}": reasons[:, i].astype(str) for i in range(n_reasons)},
    }
