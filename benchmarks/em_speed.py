"""One EM iteration, side by side with scikit-learn in one process, and its memory.

    python benchmarks/em_speed.py [--repeats 5] [--quick] [--out benchmarks/results/em_speed.json]

Both fit the same simulated data from the same parameters. The time of one iteration is that of a
fit of several iterations less that of a fit of one, divided by the difference, so that what each
does once is not counted. The two are measured in turn and medians are reported, because the cores
may be shared. Memory is the peak of a fresh process while mogul fits, beyond what it held before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np

CASES = [
    ("full", 100_000, 16, 32),
    ("full", 1_000_000, 4, 10),
    ("diag", 200_000, 32, 64),
    ("tied", 200_000, 16, 32),
    ("spherical", 200_000, 16, 32),
]
FEW, MANY = 1, 6


def simulate(kind: str, n: int, d: int, k: int):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, d)) * 2
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


def seconds(estimator, x, kind, k, start, n_iter, **more) -> float:
    model = estimator(k, covariance_type=kind, max_iter=n_iter, tol=0.0, **start, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not meant to converge
        began = time.perf_counter()
        model.fit(x)
        return time.perf_counter() - began


class Clock:
    """Times of one estimator on one case, short and long fits in turn."""

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


def compare(kind: str, n: int, d: int, k: int, repeats: int) -> dict:
    from sklearn.mixture import GaussianMixture as Theirs

    from mogul import GaussianMixture as Ours

    x, start = simulate(kind, n, d, k)
    case = (x, kind, k, start)
    seconds(Ours, *case, 1, acceleration="none")  # imports and caches
    ours, theirs = Clock(Ours, case, acceleration="none"), Clock(Theirs, case)
    for _ in range(repeats):
        ours.tick()
        theirs.tick()
    ours_ms, theirs_ms = ours.milliseconds(), theirs.milliseconds()
    return {
        "covariance_type": kind,
        "n_rows": n,
        "n_features": d,
        "n_components": k,
        "mogul_ms": round(ours_ms, 1),
        "scikit_learn_ms": round(theirs_ms, 1),
        "ratio": round(theirs_ms / ours_ms, 1),
        "mogul_whole_fit_ms_per_iteration": ours.spread(),
        "scikit_learn_whole_fit_ms_per_iteration": theirs.spread(),
    }


MEMORY_PROBE = """
import sys, warnings
sys.path.insert(0, {folder!r})
from em_speed import seconds, simulate
from mogul import GaussianMixture

def megabytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

small, start = simulate({kind!r}, 2_000, {d}, {k})
seconds(GaussianMixture, small, {kind!r}, {k}, start, 2)
x, start = simulate({kind!r}, {n}, {d}, {k})
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # the peak starts anew: making the data had one of its own
before = megabytes("VmRSS")
seconds(GaussianMixture, x, {kind!r}, {k}, start, 3)
print(megabytes("VmHWM") - before)
"""


def memory_mb(kind: str, n: int, d: int, k: int) -> float | None:
    """Peak of a fresh process while it fits, beyond what it held; None where it cannot be read."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    folder = os.path.dirname(os.path.abspath(__file__))
    code = MEMORY_PROBE.format(folder=folder, kind=kind, n=n, d=d, k=k)
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return round(float(answer.stdout), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--out", help="write the figures here as JSON")
    options = parser.parse_args()
    rows = []
    print(
        f"{'':10}{'N':>10}{'D':>4}{'K':>4}{'mogul ms':>10}{'sklearn ms':>12}{'ratio':>7}{'MB':>7}"
    )
    for kind, n, d, k in CASES:
        n = n // 10 if options.quick else n
        row = compare(kind, n, d, k, options.repeats) | {"memory_mb": memory_mb(kind, n, d, k)}
        rows.append(row)
        print(
            f"{kind:10}{n:>10}{d:>4}{k:>4}{row['mogul_ms']:>10}{row['scikit_learn_ms']:>12}"
            f"{row['ratio']:>7}{row['memory_mb'] or '':>7}",
            flush=True,
        )
    if options.out:
        record = {"machine": platform.machine(), "cores": os.cpu_count(), "figures": rows}
        with open(options.out, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
