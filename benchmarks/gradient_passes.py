"""Passes over the data until a fit is within 1e-6 nats a row of its own best: EM, SQUAREM, L-BFGS.

    python benchmarks/gradient_passes.py [--seeds 5] [--out benchmarks/results/gradient_passes.json]

Five clusters in four dimensions, 3,000 rows, full covariances; the centres lie ``separation``
standard deviations apart or so. All three climb from the same k-means start. A pass is one look at
all rows, whether for an E-step or for a loss and its gradient; rejected proposals and line
searches are counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings

import numpy as np
import torch

from mogul import GaussianMixture
from mogul.infer import em as em_module
from mogul.infer.gradient import fit
from mogul.nn import TrainableMixture

N, D, K = 3_000, 4, 5
CLOSE = 1e-6


def simulate(separation: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(K, D)) * separation
    x = np.empty((N, D))
    labels = rng.integers(K, size=N)
    for k in range(K):
        root = np.linalg.qr(rng.normal(size=(D, D)))[0] * rng.uniform(0.5, 1.5, D)
        mine = labels == k
        x[mine] = centres[k] + rng.normal(size=(mine.sum(), D)) @ root.T
    return x


def em_passes(x: np.ndarray, start, acceleration: str) -> tuple[int, float]:
    """Passes counted where they are made; each value belongs to a pass."""
    values: list[float] = []
    collect = em_module.collect

    def counted(batches, mixture):
        stats = collect(batches, mixture)
        values.append(float(stats.mean_log_likelihood()[0]))
        return stats

    em_module.collect = counted
    try:
        settings = em_module.EMSettings(1e-12, 20_000, 0.0, acceleration)
        rows = [(torch.from_numpy(x), None)]
        em_module.fit_em(rows, em_module.stack([start]), settings)
    finally:
        em_module.collect = collect
    best = max(values)
    return 1 + next(i for i, v in enumerate(values) if v >= best - CLOSE), best


def gradient_passes(x: np.ndarray, start) -> tuple[float, float]:
    found = fit(TrainableMixture.from_mixture(start), x, "lbfgs", tol=1e-11, max_epochs=5_000)
    best = -found.loss
    return next(r.n_passes for r in found.history if -r.loss >= best - CLOSE), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", help="write the figures here as JSON")
    options = parser.parse_args()
    table = []
    print(f"{'separation':>10}{'seed':>6}{'EM':>8}{'SQUAREM':>9}{'L-BFGS':>8}   best, nats a row")
    for separation in (2.0, 1.0, 0.6):
        for seed in range(options.seeds):
            x = simulate(separation, seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                start = GaussianMixture(K, random_state=seed, max_iter=1).fit(x).mixture_
            plain, first = em_passes(x, start, "none")
            squarem, second = em_passes(x, start, "squarem")
            lbfgs, third = gradient_passes(x, start)
            row = {"separation": separation, "seed": seed, "em": plain, "squarem": squarem}
            table.append(row | {"lbfgs": lbfgs, "best": [first, second, third]})
            print(
                f"{separation:>10}{seed:>6}{plain:>8}{squarem:>9}{lbfgs:>8.0f}   "
                f"{first:.6f} {second:.6f} {third:.6f}",
                flush=True,
            )
        mine = [r for r in table if r["separation"] == separation]
        ratio = statistics.median(r["em"] / r["lbfgs"] for r in mine)
        print(f"separation {separation}: EM needs {ratio:.1f} times the passes of L-BFGS (median)")
    if options.out:
        with open(options.out, "w") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
