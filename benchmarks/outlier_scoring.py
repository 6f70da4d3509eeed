"""Scoring a million rows: MixtureOutlierDetector beside scikit-learn's GaussianMixture.

python benchmarks/outlier_scoring.py [--rows 1000000] [--repeats 5]

Twenty full components in 32 columns both: five folds of four here. Interleaved repeats in one
process for the times; for memory a process each, beyond what the rows themselves take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture

from mogul import MixtureOutlierDetector

RESULTS = Path(__file__).parent / "results" / "outlier_scoring.json"
D, FITTED = 32, 5000
NAMES = ("mogul", "scikit-learn")


def drawn(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = 3 * np.random.default_rng(1).normal(size=(8, D))
    rows = np.empty((n, D))
    for block in np.array_split(rows, max(1, n // 10_000)):  # views: no memory but the rows' own
        block[:] = rng.normal(size=block.shape) + centres[rng.integers(0, 8, len(block))]
    return rows


def model(name: str) -> Any:
    rows = drawn(FITTED)
    if name == "mogul":
        return MixtureOutlierDetector(4, covariance_type="full", random_state=0).fit(rows)
    return GaussianMixture(20, reg_covar=0.1, random_state=0).fit(rows)


def peak() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory(name: str, rows: int) -> float:
    """Megabytes that scoring takes in a process of its own."""
    command = [sys.executable, __file__, "--rows", str(rows), "--memory-of", name]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", choices=NAMES, help="one process' part of the measurement")
    options = parser.parse_args()
    if options.memory_of:
        found, rows = model(options.memory_of), drawn(options.rows)
        before = peak()
        found.score_samples(rows)
        print(peak() - before)
        return
    # First: a child's peak begins at what its parent holds.
    memory = {name: _memory(name, options.rows) for name in NAMES}
    models, rows = {name: model(name) for name in NAMES}, drawn(options.rows)
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(options.repeats):
        for name, one in models.items():
            began = perf_counter()
            one.score_samples(rows)
            times[name].append(perf_counter() - began)
    figures = {}
    for name in NAMES:
        figures[name] = {"seconds": median(times[name]), "spread": [min(times[name]),
                         max(times[name])], "megabytes": memory[name]}  # fmt: skip
        print(f"{name:<14}{median(times[name]):>8.2f} s  ({min(times[name]):.2f} to "
              f"{max(times[name]):.2f}){memory[name]:>8.0f} MB more")  # fmt: skip
    ratio = figures["scikit-learn"]["seconds"] / figures["mogul"]["seconds"]
    print(f"{ratio:.1f} times as fast")
    figures |= {"rows": options.rows, "columns": D}
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
