"""What the speed benchmarks fit: simulated rows, and parameters that all libraries start from."""

from __future__ import annotations

import statistics
import time
import warnings

import numpy as np

FEW, MANY = 1, 6

HEADLINE = [
    ("full", 100_000, 16, 32),
    ("full", 1_000_000, 4, 10),
    ("full", 50_000, 64, 16),
    ("diag", 200_000, 32, 64),
    ("diag", 1_000_000, 2, 3),
    ("diag", 100_000, 128, 256),
    ("tied", 200_000, 16, 32),
    ("spherical", 200_000, 16, 32),
    ("full", 50_000, 64, 16, 0.5),
    ("diag", 100_000, 128, 256, 0.5),
]
"""Kind of covariance, rows, features, components, and where it is not two how many standard
deviations centres are apart in each column."""
GRID = [
    (kind, n, d, k)
    for kind in ("full", "diag")
    for n in (20_000, 200_000)
    for d in (2, 8, 32, 64)
    for k in (2, 8, 32, 128)
    if n * k * d * d < 3e10
]
"""Shapes between which no cliff may lie."""


def simulate(kind: str, n: int, d: int, k: int, apart: float = 2.0):
    """Rows around centres some standard deviations apart, and means to start from near these."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, d)) * apart
    x = centres[rng.integers(k, size=n)]
    x += rng.normal(size=(n, d))
    precisions = {
        "full": np.stack([np.eye(d)] * k),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[kind]
    means = centres + 0.3 * rng.normal(size=(k, d))
    start = {"weights_init": np.full(k, 1 / k), "means_init": means, "precisions_init": precisions}
    return x, start


def n_operations(kind: str, n: int, d: int, k: int, apart: float = 2.0) -> float:
    """Floating-point operations of one iteration, as two products of rows, features and components.

    The features are the products that the structure needs, the columns and one; 2 N K F operations
    for all log-densities and as many for all statistics.
    """
    features = {"full": d * (d + 1) // 2, "diag": d, "tied": 0, "spherical": 1}[kind] + d + 1
    return 4.0 * n * k * features


def seconds(estimator, x, kind, k, start, n_iter, **more) -> float:
    model = estimator(k, covariance_type=kind, max_iter=n_iter, tol=0.0, **start, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not meant to converge
        began = time.perf_counter()
        model.fit(x)
        return time.perf_counter() - began


class Clock:
    """Times of one estimator on one case in this process, short and long fits in turn."""

    def __init__(self, estimator, case, **more):
        self.arguments, self.more = (estimator, *case), more
        self.short, self.long = [], []

    def tick(self) -> None:
        self.short.append(seconds(*self.arguments, FEW, **self.more))
        self.long.append(seconds(*self.arguments, MANY, **self.more))

    def milliseconds(self) -> float:
        """One iteration: the medians apart, since a delay may hit either."""
        longer = statistics.median(self.long) - statistics.median(self.short)
        return 1e3 * longer / (MANY - FEW)

    def spread(self) -> list[float]:
        return [round(1e3 * t / MANY, 1) for t in sorted(self.long)]
