"""Writing the names of components where they are, without printing one over another."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import BoxStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from mogul.plot._scene import Scene
from mogul.plot._style import INK, colour, plain

_CROWD = 12
"""Above so many components their names are written smaller."""
_LETTER = 0.62
"""The width of a letter, in font sizes."""
_PADDING = 1.0
"""What a box adds to the width of its letters, in font sizes."""
_HEIGHT = 1.75
"""The height of a box, in font sizes."""
_DESCENT = 0.22
"""The part of a letter below the line, in font sizes."""
_CLEARANCE = 1.15
"""How far boxes are kept apart, in boxes; corners of neighbours still fit between."""
_ROUNDS = 200
"""Rounds of pushing names apart; 30 components settle in a few dozen."""


def draw_labels(ax: Axes, scene: Scene, places: np.ndarray, *, lift: float = 0.0) -> None:
    """Write each component's name at its place, (K, 2) in data coordinates, or beside it.

    The limits of the Axes must be final: a place out of sight is moved to the edge. ``lift`` is how
    far above their places names are wanted, in font sizes.
    """
    kept = scene.components if scene.labels else []
    if not kept:
        return
    letters = max(len(scene.labels[k]) for k in kept)
    size = 6.5 if len(kept) > _CROWD else 8.5
    box = size * np.array([_LETTER * letters + _PADDING, _HEIGHT])
    to_points = ax.transData + ax.figure.dpi_scale_trans.inverted() + Affine2D().scale(72)
    corners = np.transpose([ax.get_xlim(), ax.get_ylim()])
    places = np.clip(places, *corners)
    at = to_points.transform(places[kept])
    lower, upper = to_points.transform(corners)
    wanted = np.clip(at + np.array([0.0, lift * size]), lower + box / 2, upper - box / 2)
    moved = push_apart(wanted / box, _CLEARANCE) * box
    for k, offset in zip(kept, moved - at, strict=True):
        _write(ax, plain(scene.labels[k]), places[k], offset, colour(k), size)


def _write(ax: Axes, text: str, place, offset, edge: str, size: float) -> None:
    ax.annotate(
        text,
        tuple(place),
        xytext=tuple(offset),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=INK,
        bbox={
            "boxstyle": _digits_box if text.isdigit() else _box,
            "fc": "white",
            "ec": edge,
            "lw": 1.2,
        },
        arrowprops={"arrowstyle": "-", "color": edge, "lw": 0.8},
        annotation_clip=False,
    )


# Matplotlib's types do not know that what this makes is a function.
_box = cast("Callable[..., Path]", BoxStyle("round", pad=0.25))


def _digits_box(x: float, y: float, width: float, height: float, size: float) -> Path:
    """A box without the room below the line that letters such as g take, and digits do not."""
    below = _DESCENT * size
    return _box(x, y + below, width, height - below, size)


def push_apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Move places (K, 2) as little as it takes for them to be ``gap`` apart."""
    # Equal places have no direction to part in; a spiral too small to see gives them one.
    turn = 2.4 * np.arange(len(places))
    found = places + 1e-3 * gap * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for _ in range(_ROUNDS):
        away = found[:, None] - found[None]
        distance = np.linalg.norm(away, axis=-1) + np.eye(len(found)) * gap
        short = np.maximum(gap - distance, 0.0)
        if not short.any():
            break
        found = found + 0.5 * (away / distance[..., None] * short[..., None]).sum(axis=1)
    return found if np.abs(found - places).max() > 0.01 * gap else places
