"""Outlier detectors on the tables of ADBench: areas under ROC curves and average precision.

python benchmarks/outlier_auroc.py --data FOLDER [--tables 38_thyroid,6_cardio] [--seeds 5]
    [--rows mogul,knn] [--protocol normals|halves] [--most-rows 10000]

FOLDER holds tables NUMBER_NAME.npz with X and y (1 for an anomaly), as in
https://github.com/Minqi824/ADBench (of each at most 10,000 rows are drawn). By name it takes
arrhythmia (arrhythmia.mat of http://odds.cs.stonybrook.edu) and kdd_cup (kdd_cup.npz of
https://github.com/danieltan07/dagmm, the tenth of KDD Cup 99, one-hot, in which "normal." is the
class of anomalies, as Zong and others 2018 have it).

Protocols: "normals" trains on half of the normal rows and tests on the other half and all
anomalies; "halves" cuts all rows in two, trains on the normal rows of one half and tests on the
other half. The detectors get standardised columns; mogul's standardise themselves. "untrained" is
AEGMM with networks as they are drawn.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from scipy.io import loadmat
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from mogul import AEGMM, VAEGMM, MixtureOutlierDetector

RESULTS = Path(__file__).parent / "results" / "outlier_auroc.json"
FIGURES = ("auroc", "average precision", "f1")


def table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels, 1 for an anomaly."""
    stored = loadmat(path) if path.suffix == ".mat" else np.load(path)
    if "kdd" in stored:
        return stored["kdd"][:, :-1].astype(float), stored["kdd"][:, -1].astype(int)
    return stored["X"].astype(float), stored["y"].ravel().astype(int)


def load(
    path: Path, seed: int, protocol: str, most_rows: int = 10_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, all normal, and test rows with their labels."""
    x, y = table(path)
    rng = np.random.default_rng(seed)
    if len(x) > most_rows:
        kept = rng.permutation(len(x))[:most_rows]
        x, y = x[kept], y[kept]
    if protocol == "normals":
        normal = rng.permutation(np.flatnonzero(y == 0))
        half = len(normal) // 2
        test = np.concatenate([normal[half:], np.flatnonzero(y == 1)])
        return x[normal[:half]], x[test], y[test]
    order = rng.permutation(len(x))
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    return x[train][y[train] == 0], x[test], y[test]


def mogul(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return -MixtureOutlierDetector(random_state=seed).fit(train).score_samples(test)


def aegmm(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return AEGMM(random_state=seed).fit(train).score(test)


def untrained(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return AEGMM(max_epochs=0, random_state=seed).fit(train).score(test)


def vaegmm(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return VAEGMM(random_state=seed).fit(train).score(test)


def knn(train: np.ndarray, test: np.ndarray, _seed: int) -> np.ndarray:
    n = min(5, len(train))
    return NearestNeighbors(n_neighbors=n).fit(train).kneighbors(test)[0][:, -1]


def forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def sklearn_mixture(n_components: int) -> Callable[..., np.ndarray]:
    def scores(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        k = min(n_components, len(train) // 2)
        model = GaussianMixture(k, reg_covar=0.1, random_state=seed).fit(train)
        return -model.score_samples(test)

    return scores


SIZES = (1, 5, 10, 20, 40)
ROWS: dict[str, Callable[..., np.ndarray]] = {
    "mogul": mogul,
    "aegmm": aegmm,
    "vaegmm": vaegmm,
    "untrained": untrained,
    "knn": knn,
    "isolation forest": forest,
    **{f"sklearn {k}": sklearn_mixture(k) for k in SIZES},
}
OURS = ("mogul", "aegmm", "vaegmm", "untrained")
BEST = "best of the five by the labels"


def judged(scores: np.ndarray, y: np.ndarray, lapse: float) -> dict[str, float]:
    n = int(y.sum())
    worst = np.argsort(-scores, kind="stable")[:n]
    return {
        "auroc": float(roc_auc_score(y, scores)),
        "average precision": float(average_precision_score(y, scores)),
        "f1": float(y[worst].mean()),  # at the true count precision and recall are the same
        "seconds": lapse,
    }


def run(
    path: Path, rows: list[str], seed: int, protocol: str, most_rows: int
) -> dict[str, dict[str, float]]:
    train, test, y = load(path, seed, protocol, most_rows)
    if not y.any():
        print(f"seed {seed} {path.stem:<16} left out: its test half has no anomaly")
        return {}
    scaler = StandardScaler().fit(train)
    standard = scaler.transform(train), scaler.transform(test)
    found = {}
    for name in rows:
        began = perf_counter()
        given = (train, test) if name in OURS else standard
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that did not converge
            scores = ROWS[name](*given, seed)
        found[name] = judged(scores, y, perf_counter() - began)
    return found


def report(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    """Means over tables and their spread over seeds, and how often training helped."""
    names = [
        name for name in ROWS if any(name in one for t in found.values() for one in t.values())
    ]
    print(f"\n{'':<32}{'AUROC':>16}{'AP':>8}{'F1':>16}{'seconds':>9}")
    for name in [*names, BEST]:
        seeds: dict[str, list[dict[str, float]]] = {}
        for table in found.values():
            for seed, one in table.items():
                if name == BEST:
                    five = [one[f"sklearn {k}"] for k in SIZES if f"sklearn {k}" in one]
                    if len(five) == len(SIZES):
                        seeds.setdefault(seed, []).append(max(five, key=lambda r: r["auroc"]))
                elif name in one:
                    seeds.setdefault(seed, []).append(one[name])
        if not seeds:
            continue
        means = {
            f: [np.mean([row[f] for row in every]) for every in seeds.values()]
            for f in (*FIGURES, "seconds")
        }
        spread = {f: f"{np.mean(means[f]):.4f} ± {np.std(means[f]):.4f}" for f in FIGURES}
        precise = np.mean(means["average precision"])
        print(
            f"{name:<32}{spread['auroc']:>16}{precise:>8.4f}{spread['f1']:>16}"
            f"{np.mean(means['seconds']):>9.1f}"
        )
    pairs = [
        [(one["aegmm"]["auroc"], one["untrained"]["auroc"]) for one in t.values() if both(one)]
        for t in found.values()
    ]
    means_of = [np.mean(pair, axis=0) for pair in pairs if pair]
    if means_of:
        better = sum(trained > drawn for trained, drawn in means_of)
        print(f"\naegmm beats its untrained networks on {better} of {len(means_of)} tables")


def both(one: dict[str, dict[str, float]]) -> bool:
    return "aegmm" in one and "untrained" in one


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", help="all NUMBER_NAME.npz by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", default=",".join(ROWS), help="others stay as they are in --out")
    parser.add_argument("--protocol", choices=("normals", "halves"), default="normals")
    parser.add_argument("--most-rows", type=int, default=10_000, help="drawn of larger tables")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    paths = sorted(options.data.glob("[0-9]*_*.npz"), key=lambda p: int(p.stem.split("_")[0]))
    if options.tables:
        every = [*paths, *(options.data / name for name in ("arrhythmia.mat", "kdd_cup.npz"))]
        paths = [p for p in every if p.stem in options.tables.split(",")]
    rows = options.rows.split(",")
    for seed in range(options.seeds):
        for path in paths:
            new = run(path, rows, seed, options.protocol, options.most_rows)
            every = json.loads(options.out.read_text()) if options.out.exists() else {}
            kept = every.setdefault(options.protocol, {}).setdefault(path.stem, {})
            kept.setdefault(str(seed), {}).update(new)
            options.out.parent.mkdir(exist_ok=True)
            options.out.write_text(json.dumps(every, indent=1) + "\n")
            said = {name: round(one["auroc"], 3) for name, one in new.items()}
            print(f"seed {seed} {path.stem:<16}", said, flush=True)
    stored = json.loads(options.out.read_text())[options.protocol]
    for alone in ("arrhythmia", "kdd_cup"):  # not of the tables that means are taken over
        if alone in stored:
            print(f"\n{alone}", end="")
            report({alone: stored.pop(alone)})
    if stored:
        report(stored)


if __name__ == "__main__":
    main()
