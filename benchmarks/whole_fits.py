"""Whole fits to the same likelihood: mogul beside scikit-learn, with their own starts.

    python benchmarks/whole_fits.py [--seeds 8] [--pause 0.02] [--out FILE]

A fit succeeds when its log-likelihood is within 1e-4 nats a row of the best that any fit of either
library found, some of them with twenty starts. What is compared is the time until one succeeds: the
time of all fits from as many seeds, divided by how many of them succeeded, as of one who tries seed
after seed. Each library has the loosest tolerance of 1e-3, 1e-4, … at which half of its fits
succeed, or else the best of all; what else it does is its default, but for ``max_iter``. The two
work in processes of their own and take turns, at once or after ``--pause``: threads of the one
before may still be waiting for work in a loop, and its own may have gone to sleep meanwhile.

Data: five tables of scikit-learn (columns standardised), Old Faithful, and five simulated tables
whose clusters overlap. The structures and numbers of components were set before anything was timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings

import numpy as np

TOLERANCES = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
NEAR = 1e-4
LIBRARIES = ("mogul", "scikit-learn")
CASES = {
    "iris": ("full", 3),
    "wine": ("diag", 3),
    "breast cancer": ("tied", 2),
    "diabetes": ("diag", 4),
    "digits": ("spherical", 10),
    "Old Faithful": ("full", 2),
    "1,000 × 2": ("full", 4),
    "3,000 × 5": ("full", 6),
    "10,000 × 8": ("diag", 8),
    "20,000 × 4": ("full", 6),
    "30,000 × 10": ("tied", 8),
}


def rows_of(name: str) -> np.ndarray:
    from sklearn import datasets

    tables = {
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
        "breast cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
        "digits": datasets.load_digits,
    }
    if name in tables:
        x = tables[name]().data
        deviation = x.std(0)
        return (x - x.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    if name == "Old Faithful":
        from mogul.datasets import old_faithful

        return old_faithful().values
    n, d = (int(part.replace(",", "")) for part in name.split(" × "))
    return overlapping(n, d, CASES[name][1], seed=n)


def overlapping(n: int, d: int, k: int, seed: int) -> np.ndarray:
    """Rows of k clusters of different shapes and sizes that overlap."""
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.normal(size=(k, d)) / math.sqrt(d / 2)
    spread = np.eye(d) + 0.5 * rng.normal(size=(k, d, d)) / math.sqrt(d)
    labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, 5.0)))
    return centres[labels] + np.einsum("nij,nj->ni", spread[labels], rng.normal(size=(n, d)))


def fit(library: str, x: np.ndarray, kind: str, k: int, seed: int, tol: float, n_init: int):
    settings = {"covariance_type": kind, "tol": tol, "max_iter": 10_000, "n_init": n_init}
    if library == "mogul":
        from mogul import GaussianMixture
    else:
        from sklearn.mixture import GaussianMixture
    began = time.perf_counter()
    model = GaussianMixture(k, random_state=seed, **settings).fit(x)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "value": float(model.score(x)), "n_iter": int(model.n_iter_)}


def work(library: str) -> None:
    """Answer orders, as lines of JSON, until there are no more."""
    warnings.simplefilter("ignore")
    tables: dict[str, np.ndarray] = {}
    for line in sys.stdin:
        order = json.loads(line)
        name = order["case"]
        x = tables.setdefault(name, rows_of(name))
        answer = fit(library, x, *CASES[name], order["seed"], order["tol"], order["n_init"])
        print(json.dumps(answer), flush=True)


class Worker:
    def __init__(self, library: str, pause: float):
        self.pause = pause
        unset = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # meant for old builds
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--worker", library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key not in unset},
        )

    def fit(self, case: str, seed: int, tol: float, n_init: int = 1):
        time.sleep(self.pause)
        order = {"case": case, "seed": seed, "tol": tol, "n_init": n_init}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def compare(workers: dict[str, Worker], case: str, n_seeds: int) -> dict:
    runs: dict[str, dict[float, list[dict]]] = {library: {} for library in LIBRARIES}
    for library in LIBRARIES:  # what is loaded once does not count
        workers[library].fit(case, 0, 1e-3)
    best = max(
        workers["mogul"].fit(case, 1000, 1e-8, n_init=20)["value"],
        workers["scikit-learn"].fit(case, 1000, 1e-5, n_init=5)["value"],
    )
    small = len(rows_of(case)) < 3_000
    for tol in TOLERANCES:
        wanted = [name for name in LIBRARIES if not _settled(runs[name], best)]
        for seed in range(5 * n_seeds if small else n_seeds):
            for library in wanted:
                found = workers[library].fit(case, seed, tol)
                runs[library].setdefault(tol, []).append(found)
                best = max(best, found["value"])
    row: dict = {"best": best}
    for library, by_tol in runs.items():
        chosen = min(by_tol, key=lambda tol: _expected(by_tol[tol], best))
        fits = by_tol[chosen]
        row[library] = {
            "seconds": _expected(fits, best),
            "tol": chosen,
            "successes": _successes(fits, best),
            "fits": len(fits),
            "median_seconds_of_a_fit": float(np.median([f["seconds"] for f in fits])),
            "median_iterations": float(np.median([f["n_iter"] for f in fits])),
        }
    row["ratio"] = row["scikit-learn"]["seconds"] / row["mogul"]["seconds"]
    return row


def _successes(fits: list[dict], best: float) -> int:
    return sum(found["value"] >= best - NEAR for found in fits)


def _expected(fits: list[dict], best: float) -> float:
    """Seconds until a fit succeeds; of all of them where none did, which is too little."""
    total = sum(found["seconds"] for found in fits)
    return total / max(1, _successes(fits, best)) + (0 if _successes(fits, best) else total)


def _settled(by_tol: dict[float, list[dict]], best: float) -> bool:
    return any(2 * _successes(fits, best) >= len(fits) for fits in by_tol.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=6, help="five times as many below 3,000 rows")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each fit")
    parser.add_argument("--out", help="write the figures here as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    workers = {library: Worker(library, options.pause) for library in LIBRARIES}
    rows = {}
    for case, (kind, k) in CASES.items():
        row = rows[case] = compare(workers, case, options.seeds)
        print(f"{case:14} {kind:9} K={k:<3} x {row['ratio']:<8.1f}", end="")
        for library in LIBRARIES:
            one = row[library]
            print(
                f"  {library} {1e3 * one['seconds']:.1f} ms "
                f"({one['successes']} of {one['fits']} at tol {one['tol']:g}, "
                f"{one['median_iterations']:.0f} iterations)",
                end="",
            )
        print(flush=True)
        ratios = [one["ratio"] for one in rows.values()]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        if options.out:
            with open(options.out, "w") as file:
                json.dump({"geometric_mean_of_ratios": mean, "figures": rows}, file, indent=1)
    print(f"geometric mean of the ratios: {mean:.1f}; least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
