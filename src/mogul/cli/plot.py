"""``mogul plot``: a picture of a saved model, with data or without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mogul._files import atomic_path, check_target
from mogul.cli._arguments import ColumnsOption, ModelArgument, load_mixture, names, rows_for
from mogul.errors import FileFormatError, InputError

if TYPE_CHECKING:
    from mogul import Mixture

__all__ = ["plot"]

_ENDINGS = (".png", ".pdf", ".svg")
_DOTS_PER_INCH = 150


def plot(
    model: ModelArgument,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="A table to draw the model over.", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to write: .png, .pdf or .svg.")
    ] = Path("mixture.png"),
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="A,B,...",
            help="The features to draw; their numbers, from 0, where the model has no names.",
        ),
    ] = None,
    columns: ColumnsOption = None,
) -> None:
    """Draw one feature as a density, two with contours and margins, more as a grid of pairs.

    \b
    Examples:
      mogul plot cars.safetensors cars.csv --out cars.png
      mogul plot cars.safetensors --features power_kw --out power.svg
    """  # noqa: D301 - the escape tells typer to keep the lines
    if out.suffix.lower() not in _ENDINGS:
        raise FileFormatError(
            f"{out} has no ending of a picture; expected one of {', '.join(_ENDINGS)}."
        )
    check_target(out)
    mixture = load_mixture(model)
    rows = None if data is None else rows_for(mixture, data, columns).values
    chosen = _features(mixture, names(features))
    figure = _draw(mixture, rows, chosen)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:].lower(), dpi=_DOTS_PER_INCH)
    print(f"Picture written to {out}")


def _features(mixture: Mixture, chosen: list[str] | None) -> list[Any] | None:
    """Names, or the positions that they are where the mixture has no names."""
    if chosen is None or mixture.feature_names is not None:
        return chosen
    strange = [name for name in chosen if not name.isdigit()]
    if strange:
        raise InputError(
            f"The model has no feature {strange[0]!r}, for its features have no names; give their "
            f"numbers, 0 to {mixture.n_features - 1}."
        )
    return [int(name) for name in chosen]


def _draw(mixture: Mixture, rows: Any, features: list[Any] | None) -> Any:
    """The figure, by the number of features."""
    import matplotlib as mpl

    mpl.use("Agg")  # no screen is needed
    from mogul.plot import density, joint, pairs

    n_features = mixture.n_features if features is None else len(features)
    if n_features > 2:
        return pairs(mixture, rows, features=features)[0, 0].figure
    draw = density if n_features == 1 else joint
    return draw(mixture, rows, features=features).figure
