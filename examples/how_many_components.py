"""How many clusters are there? A Dirichlet process decides, and the bound of each size agrees.

python examples/how_many_components.py [--out components-output] [--rows 4000]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mogul import BayesianGaussianMixture, plot

MOST = 20


def clusters(n_rows: int) -> np.ndarray:
    """Four clusters in five dimensions."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 5)) * 6
    return centres[rng.integers(0, 4, n_rows)] + rng.normal(size=(n_rows, 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("components-output"))
    parser.add_argument("--rows", type=int, default=4000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    x = clusters(options.rows)

    model = BayesianGaussianMixture(MOST, random_state=0).fit(x)
    print(f"A Dirichlet process of at most {MOST} components gives 99 % of the weight to "
          f"{model.n_effective_components_}.")  # fmt: skip
    low, high = model.posterior_ci("weights", correction="linear_response")
    for k in range(model.n_effective_components_):
        print(f"  weight {k}: {model.weights_[k]:.3f}, 95 % interval {low[k]:.3f} to {high[k]:.3f}")
    pruned = model.prune()
    print(pruned.pruned_)

    sizes = range(1, 8)
    bounds = [
        BayesianGaussianMixture(
            k, weight_concentration_prior_type="dirichlet_distribution",
            weight_concentration_prior=1.0, n_init=3, random_state=0,
        ).fit(x).elbo_
        for k in sizes
    ]  # fmt: skip
    best = sizes[int(np.argmax(bounds))]
    print(f"The evidence lower bound of fixed sizes is highest at {best}: "
          + ", ".join(f"{k}: {b:.0f}" for k, b in zip(sizes, bounds, strict=True)))  # fmt: skip

    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    plot.components(model.posterior_, prior=model.prior_, correction="linear_response", ax=axes[0])
    axes[1].plot(sizes, bounds, "o-", color="#0072B2")
    axes[1].plot([best], [max(bounds)], "o", markersize=13, fillstyle="none", color="#222222")
    axes[1].set(xlabel="components, Dirichlet prior", ylabel="evidence lower bound (nats)")
    axes[1].spines[["top", "right"]].set_visible(False)
    plot.convergence(model.history_, ax=axes[2])
    figure.savefig(options.out / "how_many_components.png", dpi=120)
    print(f"Picture: {options.out / 'how_many_components.png'}")


if __name__ == "__main__":
    main()
