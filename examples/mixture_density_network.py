"""The whole distribution of y given x, where one x has up to five different y.

python examples/mixture_density_network.py [--out mdn-output] [--rows 1000] [--epochs 20]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

import mogul
from mogul import MixtureDensityRegressor, plot


def curve(y: np.ndarray) -> np.ndarray:
    return 7 * np.sin(0.75 * y) + 0.5 * y


def sine(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """David Ha's inverted sine: x is a function of y, with noise, and not the other way round."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(-10.5, 10.5, n)
    return (curve(y) + rng.normal(size=n))[:, None], y


def true_log_prob(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log p(y | x) of the generator: a flat prior of y times the noise of x, normalised."""
    grid = np.linspace(-10.5, 10.5, 4001)
    evidence = np.trapezoid(np.exp(-0.5 * (x - curve(grid)) ** 2), grid, axis=1)
    return -0.5 * (x[:, 0] - curve(y)) ** 2 - np.log(evidence)


def report(name: str, model: MixtureDensityRegressor, x: np.ndarray, y: np.ndarray) -> None:
    low, high = model.predict_interval(x, 0.9).T
    print(
        f"{name:<22}{-model.score(x, y):>8.3f}{model.crps(x, y):>8.3f}"
        f"{100 * np.mean((low <= y) & (y <= high)):>11.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("mdn-output"))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, help="fewer than by default, for a quick look")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    x, y = sine(options.rows, 0)
    x_new, y_new = sine(4000, 1)

    began = perf_counter()
    quick = {} if options.epochs is None else {"max_epochs": options.epochs}
    model = MixtureDensityRegressor(random_state=0, **quick).fit(x, y)
    print(f"{len(x)} rows, {len(model.history_)} epochs, {perf_counter() - began:.1f} s; noise of "
          f"{model.noise_:.3f} standard deviations.\n")  # fmt: skip
    tutorial = MixtureDensityRegressor(
        20, hidden=(32,), activation="tanh", n_ensemble=5, noise=None, weight_decay=0.0,
        max_epochs=min(200, options.epochs or 200), random_state=0,
    ).fit(x, y)  # fmt: skip
    print(f"{'4000 new rows':<22}{'NLL':>8}{'CRPS':>8}{'in 90 %':>13}")
    report("mogul's defaults", model, x_new, y_new)
    report("the tutorial's network", tutorial, x_new, y_new)
    print(f"{'the truth itself':<22}{-true_log_prob(x_new, y_new).mean():>8.3f}")

    wide = np.random.default_rng(2).uniform(-15, 15, (1000, 1))
    drawn, clean = model.sample(wide)[:, 0], model.sample(wide, scale_bias=10.0)[:, 0]
    means = model.predict_mixture(wide).means[..., 0].numpy()
    away = np.abs(clean[:, None] - means).min(1).max()
    print(f"\nSamples with scale_bias=10 lie on the means of components, to {away:.1g}.")
    _, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    ax.scatter(x, y, s=4, label="data")
    ax.scatter(wide, drawn, s=6, color="#D55E00", label="samples")
    ax.scatter(wide, clean, s=6, color="#009E73", label="samples, scale_bias=10")
    ax.set(xlabel="x", ylabel="y")
    ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    ax.figure.savefig(options.out / "samples.png", dpi=120)
    plot.conditional(model.predict_mixture, x, y).figure.savefig(
        options.out / "density.png", dpi=120
    )
    at = np.array([[-8.0], [0.0], [8.0]])
    ax = plot.conditional_density(model.predict_mixture(at), [f"x = {v:g}" for v in at[:, 0]])
    ax.figure.savefig(options.out / "at.png", dpi=120)
    seen = model.predict_mixture(x_new)
    plot.pit(seen, y_new).figure.savefig(options.out / "pit.png", dpi=120)
    plot.coverage(seen, y_new).figure.savefig(options.out / "coverage.png", dpi=120)
    plot.training(model.history_).figure.savefig(options.out / "loss.png", dpi=120)
    mogul.save(model, options.out / "model.safetensors")
    print(f"Pictures and the model are in {options.out}/")


if __name__ == "__main__":
    main()
