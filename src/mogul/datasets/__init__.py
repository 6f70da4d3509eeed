"""Small data sets of public facts, shipped with mogul for examples and tests."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

__all__ = ["Dataset", "old_faithful"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table of numbers and what they mean.

    Attributes
    ----------
    values : ndarray, shape (N, D), float64
    feature_names : tuple of D strings
    units : tuple of D strings
    description : str
    source : str
        Where it was published.
    """

    values: np.ndarray
    feature_names: tuple[str, ...]
    units: tuple[str, ...]
    description: str
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """The feature names, by the word that estimators look for."""
        return self.feature_names

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=True if copy else None)


def old_faithful() -> Dataset:
    """Eruptions of the Old Faithful geyser, Yellowstone National Park, in August 1985.

    272 rows: how long an eruption lasted and how long the wait was until the next one, both in
    minutes. Two kinds of eruption, short and long, are plain to see.

    References
    ----------
    Azzalini and Bowman (1990), "A look at some data on the Old Faithful geyser", Applied
    Statistics 39; this version of 272 rows is that of Härdle (1991), "Smoothing Techniques with
    Implementation in S".

    Examples
    --------
    >>> from mogul.datasets import old_faithful
    >>> data = old_faithful()
    >>> data.feature_names, data.values.shape
    (('eruption_minutes', 'waiting_minutes'), (272, 2))
    >>> data.values[0]
    array([ 3.6, 79. ])
    """
    text = files(__name__).joinpath("old_faithful.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    return Dataset(
        values=np.array(rows[1:], dtype=np.float64),
        feature_names=("eruption_minutes", "waiting_minutes"),
        units=("min", "min"),
        description="Durations of eruptions of the Old Faithful geyser, and waits until the next.",
        source=(
            'Azzalini and Bowman (1990), "A look at some data on the Old Faithful geyser", Applied '
            "Statistics 39; the version of 272 rows is that of Härdle (1991)."
        ),
    )
