"""Colours, marks and words that all pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, told apart with any colour vision; yellow is too pale on white, and
black is kept for the whole mixture."""
MARKERS = ("o", "^", "s", "D", "v")
"""The mark changes each time the colours start over, so 30 components stay distinct."""
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
"""Line styles that change together with the marks."""
INK = "#222222"
"""The whole mixture, and words."""
BARS = "#8c8c8c"
"""Histograms: they are the ground that curves are read against."""
_TINT = "#5f7390"
"""The darkest that a region of stated coverage could be; a slate that no component has."""
_DEEPEST_TINT = 0.5
"""How much of the tint the smallest region takes: points must stay legible on top of it."""


def colour(component: int) -> str:
    """The colour of a component."""
    return COLOURS[component % len(COLOURS)]


def round_of_colours(component: int) -> int:
    """How often the colours started over before this component; picks its mark and dashes."""
    return component // len(COLOURS) % len(MARKERS)


def tints(n: int) -> list[tuple[float, float, float]]:
    """Fills of n nested regions, from the smallest region (darkest) to the largest."""
    strengths = [_DEEPEST_TINT * (n - i) / n for i in range(n)]
    return [_mix_with_white(_TINT, strength) for strength in strengths]


def _mix_with_white(name: str, strength: float) -> tuple[float, float, float]:
    r, g, b = (1 - strength * (1 - c) for c in to_rgb(name))
    return r, g, b


def shares(coverage: Sequence[float]) -> str:
    """Probabilities in words, such as "50 %, 90 %"."""
    return ", ".join(f"{100 * c:g} %" for c in coverage)


def plain(text: str) -> str:
    """Text that matplotlib prints as it is: a pair of dollar signs would start a formula."""
    return text.replace("$", r"\$")


def whole_numbers() -> MaxNLocator:
    """Ticks at whole numbers, even for a single one."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def own_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given Axes, or those of a new figure of the given size in inches."""
    if ax is None:
        return plt.subplots(figsize=size, layout="constrained")[1]
    return ax


def tidy(ax: Axes) -> None:
    """Leave only the two spines that carry ticks, quietly."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(BARS)
    ax.tick_params(color=BARS, labelcolor=INK)
    # A factor such as 1e6 stands above the axis, where the legend starts; end it there instead.
    ax.yaxis.get_offset_text().set_horizontalalignment("right")


_LINE = 64
"""Letters of a legend's line; longer words would make the layout shrink the picture."""

Entry = tuple[Artist | tuple[Artist, ...], str]
"""A legend's mark, or marks side by side, and its words."""


def legend(ax: Axes, entries: Sequence[Entry], letters: int = _LINE, **where) -> Legend:
    """A frameless legend above the Axes, where no data can be, unless ``where`` says otherwise.

    Lines are broken after so many letters.
    """
    above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.02), "borderaxespad": 0.0}
    return ax.legend(
        [mark for mark, _ in entries],
        [fill(words, letters) for _, words in entries],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
        **{"frameon": False, "fontsize": "small", "handlelength": 2.6, **above, **where},
    )
