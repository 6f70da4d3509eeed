"""Latent rows of an autoencoder among the energies of their mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mogul.errors import InputError
from mogul.mixture import Mixture
from mogul.plot._style import BARS, COLOURS, INK, Entry, legend, own_axes, tidy

__all__ = ["latent"]

_SHAPE = (5.6, 4.8)
_GRID = 160
_VIEW = 0.005
"""The view ends at this quantile of ordinary rows at each end, and a third of it beyond."""
_BEYOND = 0.35
_LEVELS = 8


def latent(z: Any, mixture: Mixture, labels: Any = None, *, ax: Axes | None = None) -> Axes:
    """Draw latent rows and contours of their energy, seen from where they spread most.

    The two directions are the principal ones of the mixture; contours are the energy of the mixture
    projected on them, −log of its marginal density, in nats.

    Parameters
    ----------
    z : array-like, shape (N, L)
        As of ``AEGMM.latent``.
    mixture : Mixture
        Of z: one of ``AEGMM.mixtures_``.
    labels : array-like, shape (N,), optional
        1 for rows known to be outliers: they are drawn apart.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Rows outside of the view are counted at its edge.

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import AEGMM, plot
    >>> X = np.random.default_rng(0).normal(size=(100, 4))
    >>> model = AEGMM(n_ensemble=1, max_epochs=2, random_state=0).fit(X)
    >>> plot.latent(model.latent(X), model.mixtures_[0]).get_xlabel()
    'z, first principal direction'
    """
    rows = np.asarray(z, dtype=np.float64)
    d = mixture.n_features
    if rows.ndim != 2 or rows.shape[1] != d or not len(rows) or not np.isfinite(rows).all():
        raise InputError(
            f"z has shape {rows.shape}; expected finite rows of {d} numbers, as the mixture has."
        )
    if d < 2:
        raise InputError("The mixture has one feature; at least two are needed for a plane.")
    known = np.zeros(len(rows), bool) if labels is None else np.asarray(labels) == 1
    if known.shape != (len(rows),):
        raise InputError(f"labels has shape {known.shape}; expected ({len(rows)},).")
    directions = _principal(mixture)
    flat = rows @ directions
    ax = own_axes(ax, _SHAPE)
    usual = flat[~known] if (~known).any() else flat
    low, high = np.quantile(usual, [_VIEW, 1 - _VIEW], axis=0)
    room = np.maximum(_BEYOND * (high - low), 1e-6)
    low, high = low - room, high + room
    entries = [_draw_energy(ax, _projected(mixture, directions), low, high)]
    for some, shade, mark, said in (
        (~known, COLOURS[0], "o", "rows" if labels is None else "ordinary rows"),
        (known, COLOURS[1], "X", "outliers"),
    ):
        if some.any():
            x, y = flat[some].T
            size = 8.0 if mark == "o" else 22.0
            ax.scatter(x, y, s=size, c=shade, marker=mark, alpha=0.6, linewidths=0, gid=said)
            dot = Line2D([], [], color=shade, marker=mark, linestyle="", markersize=4)
            entries.append((dot, f"{int(some.sum()):,} {said}"))
    outside = int(((flat < low) | (flat > high)).any(1).sum())
    if outside:
        ax.annotate(
            f"{outside:,} further out", (0.01, 0.98), xycoords="axes fraction", va="top",
            color=INK, fontsize="small",
        )  # fmt: skip
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    ax.set(xlabel="z, first principal direction", ylabel="z, second principal direction")
    legend(ax, entries)
    tidy(ax)
    return ax


def _principal(mixture: Mixture) -> np.ndarray:
    """The two directions of largest variance of a mixture, (D, 2), of settled sign."""
    _, vectors = np.linalg.eigh(mixture.covariance_matrix.detach().cpu().numpy())
    found = vectors[:, [-1, -2]]
    largest = np.take_along_axis(found, np.abs(found).argmax(0)[None], 0)
    return found * np.sign(largest)


def _projected(mixture: Mixture, directions: np.ndarray) -> Mixture:
    onto = torch.from_numpy(directions)
    wide = mixture.to("cpu", torch.float64).detach()
    covariances = onto.T @ wide.covariance.dense() @ onto
    return Mixture.from_parameters(wide.weights, wide.means @ onto, covariances)


def _draw_energy(ax: Axes, mixture: Mixture, low: np.ndarray, high: np.ndarray) -> Entry:
    x, y = (np.linspace(a, b, _GRID) for a, b in zip(low, high, strict=True))
    across, up = np.meshgrid(x, y)
    places = torch.from_numpy(np.stack([across.ravel(), up.ravel()], 1))
    energy = -mixture.log_prob(places).numpy().reshape(_GRID, _GRID)
    least = energy.min()
    # Closer near the bottom, where the rows are.
    levels = least + (energy.max() - least) * (np.arange(1, _LEVELS + 1) / _LEVELS) ** 2
    drawn = ax.contour(x, y, energy, levels=levels, colors=BARS, linewidths=0.8, zorder=0.5)
    drawn.set_gid("energy")
    ax.clabel(drawn, fmt="%.3g", fontsize=7, colors=INK)
    return Line2D([], [], color=BARS, linewidth=0.8), "energy, nats"
