"""How near Slogan's draws come to held-out rows, beside a mixture's and beside fresh rows.

python benchmarks/slogan_quality.py [--sets NAME …] [--seeds 3] [--steps 30000] [--out FILE]

Distances of 1000 rows from 1000 held-out ones, in the units of the data, averaged over 20 draws.
Settings were looked for with seeds 0 to 2, so that the first here is 10.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from mogul import GaussianMixture, Slogan
from mogul.distances import energy_distance, sliced_wasserstein

N_ROWS, N_DRAWS = 1000, 20
ANGLES = 2 * np.pi * np.arange(8) / 8
CENTRES = 5 * np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])


def sine(n: int, rng: np.random.Generator) -> np.ndarray:
    y = rng.uniform(-10.5, 10.5, n)
    return np.column_stack([7 * np.sin(0.75 * y) + 0.5 * y + rng.normal(size=n), y])


def ring(n: int, rng: np.random.Generator) -> np.ndarray:
    return CENTRES[rng.integers(0, 8, n)] + 0.2 * rng.normal(size=(n, 2))


def correlated(n: int, rng: np.random.Generator) -> np.ndarray:
    """Five columns, of a Gaussian with a curved sixth and a skewed seventh."""
    z = rng.normal(size=(n, 5)) @ np.linalg.cholesky(0.7 + 0.3 * np.eye(5)).T
    return np.column_stack([z, z[:, 0] ** 2 + 0.3 * rng.normal(size=n), rng.exponential(size=n)])


SETS = {"inverted sine": sine, "ring of 8": ring, "seven columns": correlated}


def distances(draws: list[np.ndarray], held_out: np.ndarray) -> dict[str, float]:
    return {
        "sliced_wasserstein": float(np.mean([sliced_wasserstein(d, held_out) for d in draws])),
        "energy_distance": float(np.mean([energy_distance(d, held_out) for d in draws])),
    }


def mode_shares(made: np.ndarray) -> list[float]:
    """Of draws within five standard deviations of a mode of the ring."""
    away = np.linalg.norm(made[:, None] - CENTRES, axis=2)
    near = away[away.min(1) < 1.0].argmin(1)
    return (np.bincount(near, minlength=8) / len(made)).tolist()


def one(name: str, seed: int, steps: int) -> dict:
    rng = np.random.default_rng(seed)
    draw = SETS[name]
    rows, held_out = draw(N_ROWS, rng), draw(N_ROWS, rng)
    began = perf_counter()
    model = Slogan(steps, random_state=seed).fit(rows)
    seconds = perf_counter() - began
    mixture = GaussianMixture(20, random_state=seed, n_init=3).fit(rows)
    made, of_mixture = model.sample(N_ROWS * N_DRAWS), mixture.sample(N_ROWS * N_DRAWS)[0]
    rng.shuffle(of_mixture)  # they come ordered by component
    row = {
        "data": name,
        "seed": seed,
        "seconds": seconds,
        "slogan": distances(np.split(made, N_DRAWS), held_out),
        "mixture": distances(np.split(of_mixture, N_DRAWS), held_out),
        "fresh": distances([draw(N_ROWS, rng) for _ in range(N_DRAWS)], held_out),
        "training_rows": distances([rows], held_out),
    }
    if draw is ring:
        row["mode_shares"] = mode_shares(made)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    columns = ("slogan", "mixture", "training_rows")
    print(f"{'sliced Wasserstein, over that of fresh rows':<44}{'seconds':>8}", end="")
    print("".join(f"{name.replace('_', ' '):>15}" for name in columns), flush=True)
    rows = []
    for name in options.sets:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            row = one(name, seed, options.steps)
            rows.append(row)
            fresh = row["fresh"]["sliced_wasserstein"]
            print(f"{name + f', seed {seed}':<44}{row['seconds']:>8.0f}", end="")
            over = [row[c]["sliced_wasserstein"] / fresh for c in columns]
            print("".join(f"{value:>15.2f}" for value in over), flush=True)
            if "mode_shares" in row:
                said = ", ".join(f"{share:.3f}" for share in row["mode_shares"])
                print(f"    shares of the modes: {said}", flush=True)
    if options.out:
        facts = {"torch": torch.__version__, "steps": options.steps, "rows": N_ROWS}
        options.out.write_text(json.dumps({**facts, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
