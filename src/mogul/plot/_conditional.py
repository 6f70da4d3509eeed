"""The distribution of y given x, over one input or at chosen places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mogul._checks import check_level
from mogul.calibration import check_predicted
from mogul.errors import InputError
from mogul.mixture import Mixture
from mogul.plot._beliefs import positions
from mogul.plot._style import COLOURS, INK, Entry, colour, legend, own_axes, plain, shares, tidy

_SIZE = (6.4, 4.4)
_WIDE = (6.4, 3.8)
_COLUMNS, _LINES = 300, 400
_MARGIN = 0.06
_POINTS = 400
_TAIL = 5e-4
_MOST_CURVES = 12


def conditional(
    predict: Callable[[np.ndarray], Mixture],
    x: Any,
    y: Any = None,
    *,
    output: int | str = 0,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    mean: bool = True,
    name: str = "x",
    ax: Axes | None = None,
) -> Axes:
    """Draw the density of y given one input x as an image, with data, mean and quantiles.

    Parameters
    ----------
    predict : callable
        From inputs (N, 1) to a mixture of batch shape (N,): ``model.predict_mixture``.
    x : array-like, shape (N,) or (N, 1)
        Where to draw: over the range of these.
    y : array-like, shape (N,) or (N, D), optional
        What was seen there, drawn as points.
    output : int or str, default 0
        Of several outputs, the one to draw.
    quantiles : sequence of float, default (0.05, 0.5, 0.95)
        Drawn as lines; none when empty.
    mean : bool, default True
        Whether to draw the mean, dashed.
    name : str, default "x"
        Of the input.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import torch
    >>> from mogul import Mixture, plot
    >>> def predict(x):
    ...     means = torch.as_tensor(x).unsqueeze(1)
    ...     ones = torch.ones_like(means)
    ...     return Mixture.from_parameters(ones[..., 0], means, ones, "diag")
    >>> plot.conditional(predict, [0.0, 5.0]).get_xlabel()
    'x'
    """
    inputs = np.asarray(x, dtype=float)
    if inputs.ndim == 2 and inputs.shape[1] == 1:
        inputs = inputs[:, 0]
    if inputs.ndim != 1 or not len(inputs) or not np.isfinite(inputs).all():
        raise InputError(
            f"The picture is over one input, x of shape (N,) or (N, 1); got {np.shape(x)}."
        )
    levels = [check_level(q, "A quantile") for q in quantiles]
    low, high = inputs.min(), inputs.max()
    margin = _MARGIN * (high - low) or 0.5
    columns = np.linspace(low - margin, high + margin, _COLUMNS)
    mixture = predict(columns[:, None])
    if not isinstance(mixture, Mixture) or tuple(mixture.batch_shape) != (len(columns),):
        raise InputError("predict must give a mixture for each row, as model.predict_mixture does.")
    names = _output_names(mixture)
    place = positions(output, names)[0]
    one = mixture.marginal([place]).detach()
    seen = None if y is None else _outputs(y, len(inputs), mixture.n_features)[:, place]
    lines = _view(one, seen)
    at = torch.from_numpy(lines).to(one.means).reshape(-1, 1, 1)
    density = one.log_prob(at).exp().cpu().numpy()
    ax = own_axes(ax, _SIZE)
    top = np.quantile(density.max(0), 0.9)  # one narrow column would leave all others white
    image = ax.imshow(
        density, extent=(columns[0], columns[-1], lines[0], lines[-1]), origin="lower",
        aspect="auto", cmap="Greys", vmin=0, vmax=top, interpolation="bilinear", gid="density",
    )  # fmt: skip
    ax.figure.colorbar(image, ax=ax, label=f"density of {plain(names[place])} given {plain(name)}",
                       extend="max")  # fmt: skip
    entries: list[Entry] = []
    if seen is not None:
        (points,) = ax.plot(
            inputs, seen, linestyle="", marker=".", markersize=3, color=COLOURS[1], alpha=0.6,
            gid="data",
        )  # fmt: skip
        entries.append((points, f"{len(inputs):,} rows"))
    for q in levels:
        curve = one.icdf(q)[:, 0].cpu().numpy()
        ax.plot(columns, curve, color=COLOURS[0], linewidth=1.3, gid=f"quantile {q:g}")
    if levels:
        entries.append((Line2D([], [], color=COLOURS[0]), f"quantiles {shares(levels)}"))
    if mean:
        ax.plot(columns, one.mean[:, 0].cpu().numpy(), color=INK, linewidth=1.3, linestyle="--",
                gid="mean")  # fmt: skip
        entries.append((Line2D([], [], color=INK, linestyle="--"), "mean"))
    ax.set(xlabel=plain(name), ylabel=plain(names[place]), ylim=(lines[0], lines[-1]),
           xlim=(columns[0], columns[-1]))  # fmt: skip
    if entries:
        legend(ax, entries, ncols=3)
    tidy(ax)
    return ax


def conditional_density(
    mixture: Mixture,
    labels: Sequence[str] | None = None,
    *,
    output: int | str = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the density of y at chosen x, a curve for each.

    Parameters
    ----------
    mixture : Mixture, batch shape (N,)
        ``model.predict_mixture`` of the rows of interest, twelve at most.
    labels : sequence of N strings, optional
        What each row is; its number by default.
    output : int or str, default 0
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    check_predicted(mixture)
    if len(mixture) > _MOST_CURVES:
        raise InputError(f"{len(mixture)} curves are too many for one picture; choose 12 at most.")
    words = [f"row {i}" for i in range(len(mixture))] if labels is None else list(labels)
    if len(words) != len(mixture):
        raise InputError(f"{len(words)} labels were given for {len(mixture)} rows.")
    names = _output_names(mixture)
    place = positions(output, names)[0]
    one = mixture.marginal([place]).detach()
    ends = one.icdf(_TAIL), one.icdf(1 - _TAIL)
    x = np.linspace(float(ends[0].min()), float(ends[1].max()), _POINTS)
    at = torch.from_numpy(x).to(one.means).reshape(-1, 1, 1)
    heights = one.log_prob(at).exp().cpu().numpy()
    ax = own_axes(ax, _WIDE)
    for i, said in enumerate(words):
        ax.plot(x, heights[:, i], color=colour(i), linewidth=1.6, label=said, gid=f"curve {i}",
                linestyle="-" if i < len(COLOURS) else "--")  # fmt: skip
    entries: list[Entry] = [(line, plain(said)) for line, said in zip(ax.lines, words, strict=True)]
    ax.set(xlabel=plain(names[place]), ylabel="density", ylim=(0, None))
    legend(ax, entries, ncols=min(4, len(entries)))
    tidy(ax)
    return ax


def _output_names(mixture: Mixture) -> list[str]:
    if mixture.feature_names is None and mixture.n_features == 1:
        return ["y"]
    return list(mixture.feature_names or (f"y{i}" for i in range(mixture.n_features)))


def _outputs(y: Any, n_rows: int, n_outputs: int) -> np.ndarray:
    values = np.asarray(y, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    if values.shape != (n_rows, n_outputs):
        raise InputError(f"y has shape {values.shape}; expected ({n_rows}, {n_outputs}).")
    return values


def _view(one: Mixture, seen: np.ndarray | None) -> np.ndarray:
    """Lines of the image: from the least to the greatest that is likely or was seen."""
    low, high = float(one.icdf(0.005).min()), float(one.icdf(0.995).max())
    if seen is not None:
        low, high = min(low, float(np.nanmin(seen))), max(high, float(np.nanmax(seen)))
    margin = _MARGIN * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, _LINES)
