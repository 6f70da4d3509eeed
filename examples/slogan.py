"""Rows like those of a table, drawn by a network that has no density.

python examples/slogan.py [--out slogan-output] [--rows 1000] [--steps 30000] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

import mogul
from mogul import GaussianMixture, Slogan
from mogul.distances import energy_distance, sliced_wasserstein


def sine(n: int, seed: int) -> np.ndarray:
    """Pairs (x, y) on David Ha's inverted sine: a thin band that folds back on itself."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(-10.5, 10.5, n)
    return np.column_stack([7 * np.sin(0.75 * y) + 0.5 * y + rng.normal(size=n), y])


def report(name: str, samples: list[np.ndarray], held_out: np.ndarray) -> None:
    sliced = np.mean([sliced_wasserstein(one, held_out) for one in samples])
    energy = np.mean([energy_distance(one, held_out) for one in samples])
    print(f"{name:<28}{sliced:>20.3f}{energy:>18.3f}")


def draw(model: Slogan, rows: np.ndarray, made: np.ndarray, mixture: np.ndarray, out: Path) -> None:
    _, axes = plt.subplots(1, 3, figsize=(11, 4), sharex=True, sharey=True, layout="constrained")
    for ax, (title, points) in zip(
        axes, {"data": rows, "SLOGAN": made, "mixture": mixture}.items(), strict=True
    ):
        ax.scatter(*points.T, s=3, color="0.2" if title == "data" else "#D55E00")
        ax.set(title=title, xlabel="x")
    axes[0].set(ylabel="y")
    axes[0].figure.savefig(out / "samples.png", dpi=120)

    x, y = np.meshgrid(np.linspace(-20, 20, 201), np.linspace(-15, 15, 151))
    height = model.critic(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    most = np.abs(height).max()
    image = ax.pcolormesh(x, y, height, cmap="RdBu_r", vmin=-most, vmax=most, rasterized=True)
    ax.scatter(*rows.T, s=2, color="0.2")
    ax.set(xlabel="x", ylabel="y", title="Where rows are missing (blue) or too many (red)")
    ax.figure.colorbar(image, label="critic, in standard deviations")
    ax.figure.savefig(out / "critic.png", dpi=120)

    _, (values, penalty) = plt.subplots(2, 1, figsize=(6.4, 4.8), sharex=True, layout="constrained")
    steps = [record.step for record in model.history_]
    values.plot(steps, [record.real for record in model.history_], lw=0.8, label="real rows")
    values.plot(steps, [record.generated for record in model.history_], lw=0.8, label="generated")
    values.set(ylabel="critic, mean over a batch")
    values.legend(frameon=False)
    # A slope may be none too steep for a while: nothing to draw on a logarithmic axis.
    punished = [record.penalty or np.nan for record in model.history_]
    penalty.plot(steps, punished, lw=0.8, color="0.2")
    penalty.set(xlabel="step of the generator", ylabel="penalty", yscale="log")
    values.figure.savefig(out / "losses.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("slogan-output"))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, held_out = sine(options.rows, options.seed), sine(1000, 1000 + options.seed)

    began = perf_counter()
    model = Slogan(options.steps, random_state=options.seed).fit(rows)
    print(f"{len(rows)} rows, {model.n_steps_} steps, {perf_counter() - began:.0f} s.\n")
    mixture = GaussianMixture(20, random_state=options.seed).fit(rows)
    made, of_mixture = model.sample(20_000), mixture.sample(20_000)[0]
    np.random.default_rng(0).shuffle(of_mixture)  # they come ordered by component

    print(f"{'20 times 1000 rows':<28}{'sliced Wasserstein':>20}{'energy distance':>18}")
    report("fresh rows", [sine(1000, 2000 + i) for i in range(20)], held_out)
    report("SLOGAN", np.split(made, 20), held_out)
    report("GaussianMixture, 20 parts", np.split(of_mixture, 20), held_out)
    draw(model, rows, made[:1000], of_mixture[:1000], options.out)
    mogul.save(model, options.out / "model.safetensors")
    print(f"\nPictures and the model are in {options.out}/")


if __name__ == "__main__":
    main()
