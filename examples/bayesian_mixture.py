"""A Bayesian mixture: fit three clusters, ask the posterior, and see what mean field leaves out.

python examples/bayesian_mixture.py [--out bayesian-output] [--draws 1000]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch

import mogul
from mogul import BayesianGaussianMixture, plot, priors
from mogul.infer import Gibbs


def three_clusters() -> np.ndarray:
    """Three clusters of 1000 points, as in two well-known tutorials."""
    rng = np.random.RandomState(12345)
    x = rng.randn(3000, 2).astype("float32")
    x[:1000] += [2, 0]
    x[1000:2000] -= [2, 4]
    x[2000:] += [-2, 4]
    return x


def density_over_points(model: BayesianGaussianMixture, x: np.ndarray, file: Path) -> None:
    """The posterior predictive density on a grid, over the points."""
    side = np.linspace(-7, 7, 120)
    grid = np.stack(np.meshgrid(side, side), -1)
    density = model.prob(grid.reshape(-1, 2)).reshape(120, 120)
    _, ax = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    image = ax.imshow(density, extent=(-7, 7, -7, 7), origin="lower", cmap="viridis")
    ax.plot(*x[::6].T, ".", color="white", markersize=1.5, alpha=0.5)
    ax.set(xlabel="$x_0$", ylabel="$x_1$", xlim=(-7, 7), ylim=(-7, 7))
    ax.figure.colorbar(image, label="posterior predictive density")
    ax.figure.savefig(file, dpi=120)


def identifiability(x: np.ndarray, draws: int) -> None:
    """Chains that start anywhere end in different labellings of one and the same posterior."""
    model = BayesianGaussianMixture(
        3,
        covariance_type="diag",
        weight_concentration_prior_type="dirichlet_distribution",
        init_params="random_from_data",
        inference=Gibbs(draws=draws // 4, warmup=200, chains=4),
        random_state=4,
    ).fit(x)
    order = model.posterior_.permutations[:, 0].tolist()
    raw = model.posterior_.draws.reorder(model.posterior_.permutations.argsort(-1))
    print(f"\nWhere four chains have the three components: {order}.")
    as_drawn = float(raw.means.flatten(0, 1).std(0).max())
    relabelled = float(model.posterior_.std("means").max())
    print(f"Deviation of means over all draws: {as_drawn:.2f}; relabelled: {relabelled:.3f}.")
    far = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    same = [float(m.predictive().log_prob(far)) for m in
            (model.posterior_, model.posterior_.relabel("ordering"))]  # fmt: skip
    print(f"The predictive density does not care: {same[0]:.6f} and {same[1]:.6f} at the origin.")


def overlap(folder: Path) -> None:
    """Two clusters three deviations apart: mean field is half as wide as the posterior."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random(1000) < 0.5, 0.0, 3.0)[:, None] + rng.normal(size=(1000, 1))
    settings = {"covariance_type": "diag", "prior": priors.NormalGamma(weight_concentration=1.0)}
    model = BayesianGaussianMixture(2, random_state=0, tol=1e-6, **settings).fit(x)
    posterior = model.posterior_
    exact = BayesianGaussianMixture(2, inference=Gibbs(draws=1500), random_state=0, **settings)
    truth = exact.fit(x).posterior_.std("means").flatten()
    order = exact.means_[:, 0].argsort()
    mine = model.means_[:, 0].argsort()
    worst = 100 * float(posterior.doubt.max())
    print(f"\nOverlapping clusters: up to {worst:.0f} % of a component's rows are in doubt.")
    corrected = posterior.std("means", "linear_response").flatten()[mine]
    own = torch.diagonal(posterior.belief.components.mean_covariance(), dim1=-2, dim2=-1)
    own = own.sqrt().flatten()[mine]
    print(f"{'':>24}{'mean field':>12}{'corrected':>12}{'Gibbs':>12}")
    for k in range(2):
        row = f"{own[k]:>12.3f}{corrected[k]:>12.3f}{truth[order][k]:>12.3f}"
        print(f"deviation of the mean {k:>2}{row}")
    ax = plot.joint_posterior(posterior, (0, 0), (1, 0), correction="linear_response")
    ax.figure.savefig(folder / "overlap.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bayesian-output"))
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    x = three_clusters()
    prior = priors.IndependentNormalGamma(
        mean_loc=0, mean_scale=1, precision_concentration=5, precision_rate=5,
        weight_concentration=2,
    )  # fmt: skip
    began = perf_counter()
    model = BayesianGaussianMixture(3, covariance_type="diag", prior=prior, random_state=0).fit(x)
    lapse = perf_counter() - began
    posterior = model.posterior_
    print(f"{len(x)} points, {model.n_iter_} iterations, {lapse:.2f} s; evidence lower bound "
          f"{model.elbo_:.1f} nats.")  # fmt: skip
    for what, values in (
        ("Gamma shapes", posterior["precisions"].concentration),
        ("Dirichlet counts", posterior["weights"].concentration),
        ("Deviations of the means", posterior["means"].scale),
    ):
        print(f"{what}:", ", ".join(f"{v:.5g}" for v in values.flatten().tolist()))
    print(posterior.pareto_k(options.draws))
    low, high = model.posterior_ci("standard_deviations", correction="linear_response")
    print(f"95 % interval of the first standard deviation: {low[0, 0]:.3f} to {high[0, 0]:.3f}")

    density_over_points(model, x, options.out / "density.png")
    figure = model.posterior_plot("standard_deviations", correction="linear_response")[0].figure
    figure.savefig(options.out / "standard_deviations.png", dpi=120)
    ax = plot.joint_posterior(posterior, (0, 0), (0, 1), correction="linear_response")
    ax.figure.savefig(options.out / "joint_mean.png", dpi=120)
    model.prior_plot("standard_deviations")[0].figure.savefig(options.out / "prior.png", dpi=120)
    mogul.save(model, options.out / "model.safetensors")

    identifiability(x[::10], options.draws)
    overlap(options.out)
    print(f"\nPictures and the model are in {options.out}/")


if __name__ == "__main__":
    main()
