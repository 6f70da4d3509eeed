"""EM on growing samples before all rows, beside EM on all rows: time, and how high they end.

    python benchmarks/growing_samples.py [--seeds 3] [--out FILE]

``GaussianMixture(algorithm="auto")`` and ``"em"`` from the same seeds on simulated tables whose
clusters overlap, in turn, at two tolerances. A ratio below one is time saved; a gain is the
log-likelihood of "auto" less that of "em", in nats a row.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings

from whole_fits import overlapping

from mogul import GaussianMixture

CASES = [
    ("full", 1_000_000, 4, 10),
    ("full", 1_000_000, 8, 20),
    ("diag", 1_000_000, 10, 10),
    ("tied", 1_000_000, 8, 8),
    ("spherical", 1_000_000, 4, 8),
    ("diag", 2_000_000, 4, 6),
]
"""Of fewer rows than 200 times a start's sample the two are the same."""
TOLERANCES = [1e-3, 1e-5]


def fit(x, kind: str, k: int, tol: float, algorithm: str, seed: int) -> tuple[float, float]:
    model = GaussianMixture(
        k, covariance_type=kind, tol=tol, max_iter=2000, algorithm=algorithm, random_state=seed
    )
    began = time.perf_counter()
    model.fit(x)
    return time.perf_counter() - began, model.lower_bound_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="tables of each shape")
    parser.add_argument("--out", help="write the figures here as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for kind, n, d, k in CASES:
        ratios: dict[float, list[float]] = {tol: [] for tol in TOLERANCES}
        gains: dict[float, list[float]] = {tol: [] for tol in TOLERANCES}
        seconds: dict[tuple[float, str], list[float]] = {}
        for seed in range(100, 100 + options.seeds):
            x = overlapping(n, d, k, seed)
            for tol in TOLERANCES:
                fit(x, kind, k, tol, "em", seed)  # what is loaded once does not count
                runs = [fit(x, kind, k, tol, how, seed) for how in ("auto", "em") * 2]
                own, plain = (min(runs[i][0], runs[i + 2][0]) for i in (0, 1))
                ratios[tol].append(own / plain)
                gains[tol].append(runs[0][1] - runs[1][1])
                seconds.setdefault((tol, "auto"), []).append(own)
                seconds.setdefault((tol, "em"), []).append(plain)
        row = {"covariance_type": kind, "n_rows": n, "n_features": d, "n_components": k}
        for tol in TOLERANCES:
            row[f"tol {tol:g}"] = {
                "ratio": round(statistics.geometric_mean(ratios[tol]), 3),
                "ratios": [round(one, 3) for one in ratios[tol]],
                "gains": [round(one, 6) for one in gains[tol]],
                "auto_ms": round(1e3 * statistics.median(seconds[tol, "auto"]), 1),
                "em_ms": round(1e3 * statistics.median(seconds[tol, "em"]), 1),
            }
        rows.append(row)
        print(kind, n, d, k, {tol: row[f"tol {tol:g}"] for tol in TOLERANCES}, flush=True)
    means = {}
    for tol in TOLERANCES:
        of = [row[f"tol {tol:g}"] for row in rows]
        means[f"tol {tol:g}"] = math.exp(sum(math.log(one["ratio"]) for one in of) / len(of))
        every = [gain for one in of for gain in one["gains"]]
        higher, lower = sum(g > 1e-4 for g in every), sum(g < -1e-4 for g in every)
        print(f"tol {tol:g}: {means[f'tol {tol:g}']:.2f} of the time; ends higher in {higher},")
        print(f"    lower in {lower}, the same to 1e-4 nats a row in {len(every) - higher - lower}")
    if options.out:
        with open(options.out, "w") as file:
            json.dump({"geometric_means_of_ratios": means, "figures": rows}, file, indent=1)


if __name__ == "__main__":
    main()
