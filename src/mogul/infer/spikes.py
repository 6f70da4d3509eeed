"""Components that sit on duplicated or rounded values.

The likelihood of a mixture has no maximum: a component can shrink onto a repeated value and gain
without bound (Day 1969; Kiefer and Wolfowitz 1956). What such a fit says about the data is how it
was rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mogul.data.rows import Rows
from mogul.mixture import Mixture

__all__ = ["Spike", "constant_columns", "find_spikes", "rounding_variance"]

_SPIKE_RATIO = 4.0
"""A component is a spike when in some direction its standard deviation is at most twice that of
rounding and regularisation together: it then covers two neighbouring values at most."""
_FINEST_GAP = 1e-9
"""Gaps below this share of a column's range are rounding of the computer, not of the data."""
_FEW_ROWS = 1000
"""Rows that are looked at before all of them."""


@dataclass(frozen=True)
class Spike:
    """A component at the rounding of the data, and the feature it is narrowest in."""

    component: int
    feature: int
    standard_deviation: float

    def describe(self, names: list[str] | None) -> str:
        feature = f"feature {self.feature}" if names is None else names[self.feature]
        return (
            f"component {self.component} is a spike in {feature} "
            f"(standard deviation {self.standard_deviation:.2g}, the rounding of the data)"
        )


def rounding_variance(rows: Rows) -> Tensor:
    """The variance that rounding adds to each column, (D,), float64.

    A column recorded in steps of δ, its smallest gap between distinct values, carries rounding of
    variance δ²/12 (Sheppard 1898). A column of distinct real numbers has next to none.
    """
    return torch.stack([_column_rounding(column) for column in rows.values.double().T])


def _column_rounding(column: Tensor) -> Tensor:
    values = column.unique()
    gaps = values.diff()
    spread = values[-1] - values[0]
    real = gaps[gaps > _FINEST_GAP * spread]
    return real.min().square() / 12 if len(real) else spread.new_zeros(())


def constant_columns(rows: Rows) -> list[int]:
    """Positions of the columns that hold one value only."""
    few = rows.values[:_FEW_ROWS].cpu().numpy()  # in most columns these are enough to tell
    if rows.weight is not None:
        few = few[(rows.weight[:_FEW_ROWS] > 0).cpu().numpy()]
    places = np.arange(rows.n_features)
    for part in (few[-1:], few):  # the last row rules out most
        places = places[(part[:, places] == few[:1, places]).all(0)]
    if not len(places) or rows.n_rows <= _FEW_ROWS:
        return places.tolist() if len(few) else []
    whole = rows.values[:, torch.as_tensor(places, device=rows.values.device)]
    if rows.weight is not None:
        whole = whole[rows.weight > 0]
    if not len(whole):
        return []
    return places[(whole == whole[0]).all(0).cpu().numpy()].tolist()


def find_spikes(mixture: Mixture, rounding: Tensor, floor: float) -> list[Spike]:
    """The components of a single mixture that are spikes.

    Parameters
    ----------
    rounding : Tensor, shape (D,)
        From :func:`rounding_variance`.
    floor : float
        What the fit added to every variance.
    """
    noise = (rounding + floor).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    scaled = mixture.covariance.dense().double() / noise.unsqueeze(-1) / noise
    values, vectors = torch.linalg.eigh(scaled)  # ascending
    found = []
    for k in (values[:, 0] <= _SPIKE_RATIO).nonzero().flatten().tolist():
        feature = int(vectors[k, :, 0].abs().argmax())
        deviation = float(values[k, 0].sqrt() * noise[feature])
        found.append(Spike(k, feature, deviation))
    return found
