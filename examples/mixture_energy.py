"""An outlier score learnt by gradient: memberships from a network, energy from their mixture.

python examples/mixture_energy.py [--out energy-output] [--steps 300]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import mogul
from mogul.functional import gmm_energy, gmm_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("energy-output"))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    data = mogul.datasets.old_faithful()
    values = torch.as_tensor(np.asarray(data.values), dtype=torch.float32)
    z = (values - values.mean(0)) / values.std(0)
    outliers = torch.rand(40, 2) * 6 - 3  # planted, never trained on

    memberships = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2), nn.Softmax(-1))
    optimizer = torch.optim.Adam(memberships.parameters(), lr=0.01)

    def energies(rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            parameters = gmm_params(z, memberships(z))
            return gmm_energy(rows, *parameters, return_mean=False)[0]

    def report(when: str) -> None:
        inside, outside = energies(z), energies(outliers)
        truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
        score = roc_auc_score(truth, torch.cat([inside, outside]).numpy())
        print(
            f"{when:>9}: mean energy {float(inside.mean()):6.3f} of the rows, "
            f"{float(outside.mean()):7.3f} of planted outliers; area under the ROC {score:.3f}"
        )

    report("untrained")
    for _ in range(options.steps):
        energy, penalty = gmm_energy(z, *gmm_params(z, memberships(z)))
        loss = energy + 0.005 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    report("trained")
    phi, mu, *_ = gmm_params(z, memberships(z))
    minutes = mu * values.std(0) + values.mean(0)
    for weight, mean in zip(phi.tolist(), minutes.tolist(), strict=True):
        print(f"component of weight {weight:.3f} at {mean[0]:.2f} and {mean[1]:.1f} minutes")

    side = torch.linspace(-3, 3, 121)
    grid = torch.cartesian_prod(side, side)
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    height = energies(grid).reshape(121, 121).T
    filled = axes.contourf(side, side, height, levels=20, cmap="viridis")
    axes.scatter(*z.T, s=8, color="white", label="eruptions")
    axes.scatter(*outliers.T, s=14, color="tab:red", marker="x", label="planted")
    first, second = (f"{name}, standardised" for name in data.feature_names)
    axes.set(xlabel=first, ylabel=second)
    axes.legend(loc="upper left", facecolor="0.3", labelcolor="white")
    figure.colorbar(filled, label="energy (nats)")
    figure.savefig(options.out / "mixture_energy.png", dpi=120)
    print(f"Picture: {options.out / 'mixture_energy.png'}")


if __name__ == "__main__":
    main()
