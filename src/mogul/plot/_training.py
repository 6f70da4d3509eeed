"""The losses of a training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mogul.errors import InputError
from mogul.plot._style import COLOURS, legend, own_axes, tidy, whole_numbers

_SIZE = (6.4, 3.6)


def training(history: Sequence[Any], *, ax: Axes | None = None) -> Axes:
    """Draw the loss of the batches and of the rows held out, against the epoch.

    Means over all networks of the training, those of other levels of noise included.

    Parameters
    ----------
    history : sequence of TrainingRecord
        An estimator's ``history_``.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from mogul import plot
    >>> from mogul.nn.density_training import TrainingRecord
    >>> plot.training([TrainingRecord(1, 1.2, 1.3), TrainingRecord(2, 0.8, 1.0)]).get_xlabel()
    'epoch'
    """
    records = list(history) if isinstance(history, (list, tuple)) else []
    if not records or not all(hasattr(one, "validation_loss") for one in records):
        raise InputError(
            "Expected the records of a training, a fitted regressor's history_; got "
            f"{type(history).__name__} without any."
        )
    ax = own_axes(ax, _SIZE)
    epochs = [one.epoch for one in records]
    ax.plot(epochs, [one.loss for one in records], color=COLOURS[0], linewidth=1.2, gid="loss")
    held_out = [one.validation_loss for one in records]
    ax.plot(epochs, held_out, color=COLOURS[1], linewidth=1.6, gid="held out")
    ax.set(xlabel="epoch", ylabel="loss, y in standard deviations")
    ax.xaxis.set_major_locator(whole_numbers())
    legend(
        ax,
        [
            (Line2D([], [], color=COLOURS[0]), "batches, with noise"),
            (Line2D([], [], color=COLOURS[1]), "rows held out"),
        ],
        ncols=2,
    )
    tidy(ax)
    return ax
