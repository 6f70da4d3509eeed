"""A mixture as a dictionary, its density, mode and samples; then trained by gradient.

python examples/trainable_mixture.py [--out trainable-output] [--rows 2000]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

import mogul
from mogul.infer.gradient import fit
from mogul.nn import TrainableMixture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("trainable-output"))
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(0)

    # Feature: (mean, logarithm of the standard deviation), for each of two components.
    wide, narrow, middle = math.log(0.05), math.log(0.02), math.log(0.03)
    truth = TrainableMixture.from_components(
        [
            {"x1": (0.2, wide), "x2": (0.1, wide), "x3": (0.9, narrow)},
            {"x1": (0.3, wide), "x2": (0.5, wide), "x3": (0.7, middle)},
        ]
    )
    with torch.no_grad():
        print(truth)
        print(f"log-density at (0.7, 0.1, 0.6): {float(truth.log_prob([0.7, 0.1, 0.6])):.4f}")
        print(f"log-density at (50, 50, 50):    {float(truth.log_prob([50.0, 50.0, 50.0])):.6g}")
        print(f"mean: {truth.mean.tolist()}")
        print(f"mode: {truth.mode.tolist()}")
    rows = truth.sample((options.rows,), generator=random)
    labels = truth().predict(rows)
    print(f"{options.rows} samples, {int(labels.sum())} of them from the second component\n")

    # Any loss works; the likelihood of the samples is the simplest. The weights stay frozen.
    model = TrainableMixture(2, 3, feature_names=truth.feature_names, generator=random)
    model.logits.requires_grad_(False)
    with torch.no_grad():
        model.means.copy_(rows[:2])
    found = fit(model, rows, "adam")
    with torch.no_grad():
        gap = float(truth.log_prob(rows).mean()) + found.loss
        print(f"trained: {len(found.history)} epochs, {found.reason}")
        print(f"log-likelihood {-found.loss:.4f} nats a row, {-gap:+.4f} against the truth")
        print(f"means\n{model().means.numpy().round(3)}")
        print(f"standard deviations\n{model.log_scales.exp().numpy().round(3)}")

    axes = mogul.plot.pairs(model().detach(), rows.numpy())
    figure = getattr(axes, "figure", None) or axes.flat[0].figure
    figure.savefig(options.out / "trainable_mixture.png", dpi=120)
    print(f"\nPicture: {options.out / 'trainable_mixture.png'}")


if __name__ == "__main__":
    main()
