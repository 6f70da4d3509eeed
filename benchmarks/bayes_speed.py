"""One iteration of variational inference, side by side with scikit-learn in one process.

    python benchmarks/bayes_speed.py [--repeats 5] [--quick] [--out FILE]

Full covariances and a Dirichlet prior, where both make the same updates, and the other structures,
where scikit-learn's are not exact. The time of one iteration is that of a fit of several less that
of a fit of one, as in em_cases.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform

from em_cases import Clock, seconds, simulate

CASES = [
    ("full", 100_000, 16, 32),
    ("full", 1_000_000, 4, 10),
    ("tied", 100_000, 16, 32),
    ("diag", 200_000, 32, 64),
    ("spherical", 200_000, 16, 32),
]
SETTINGS = {
    "weight_concentration_prior_type": "dirichlet_distribution",
    "init_params": "random_from_data",
    "random_state": 0,
}


def compare(kind: str, n: int, d: int, k: int, repeats: int) -> dict:
    from sklearn.mixture import BayesianGaussianMixture as Theirs

    from mogul import BayesianGaussianMixture

    def ours(k, **settings):
        return BayesianGaussianMixture(k, acceleration="none", **settings)

    def theirs(k, **settings):
        return Theirs(n_components=k, **settings)

    x, _ = simulate(kind, n, d, k)
    case = (x, kind, k, SETTINGS)
    seconds(ours, *case, 1)  # imports and caches
    clocks = Clock(ours, case), Clock(theirs, case)
    for _ in range(repeats):
        for clock in clocks:
            clock.tick()
    mine, other = (clock.milliseconds() for clock in clocks)
    return {
        "covariance_type": kind,
        "n_rows": n,
        "n_features": d,
        "n_components": k,
        "mogul_ms": round(mine, 1),
        "scikit_learn_ms": round(other, 1),
        "ratio": round(other / mine, 1),
        "mogul_whole_fit_ms_per_iteration": clocks[0].spread(),
        "scikit_learn_whole_fit_ms_per_iteration": clocks[1].spread(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--out", help="write the figures here as JSON")
    options = parser.parse_args()
    rows = []
    print(f"{'':10}{'N':>10}{'D':>4}{'K':>4}{'mogul ms':>10}{'sklearn ms':>12}{'ratio':>7}")
    for kind, n, d, k in CASES:
        row = compare(kind, n // 10 if options.quick else n, d, k, options.repeats)
        rows.append(row)
        print(
            f"{kind:10}{row['n_rows']:>10}{d:>4}{k:>4}{row['mogul_ms']:>10}"
            f"{row['scikit_learn_ms']:>12}{row['ratio']:>7}",
            flush=True,
        )
    if options.out:
        record = {"machine": platform.machine(), "cores": os.cpu_count(), "figures": rows}
        with open(options.out, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
