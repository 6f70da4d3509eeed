"""The structures under law, and the slow dense truth that they are held to.

A new covariance structure joins every law by one line in ``CASES``. Nothing here uses mogul except
to build the mixture under test: the truth is NumPy and scipy in float64, one component at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

from mogul import Mixture

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """How one structure looks to someone who only knows dense matrices."""

    draw: Callable[[np.random.Generator, int, int], Array]
    """Random covariances of K components in D features, in the structure's shape."""
    dense: Callable[[Array, int, int], Array]
    """Those covariances (or precisions) as matrices (K, D, D)."""
    part: Callable[[Array], Array]
    """What the structure keeps of second moments (K, D, D)."""
    estimate: Callable[[Array, Array], Array]
    """Maximum-likelihood covariances from scatter (K, D, D) and weight (K) of each component."""
    n_free: Callable[[int, int], int]
    """The number of free parameters for K components in D features."""


def random_matrices(rng: np.random.Generator, n: int, d: int, spread: float = 1.0) -> Array:
    """Covariances (n, d, d) with random axes and standard deviations exp(±spread)."""
    axes = np.linalg.qr(rng.normal(size=(n, d, d)))[0]
    deviations = np.exp(rng.uniform(-spread, spread, (n, d)))
    root = axes * deviations[:, None, :]
    return root @ root.transpose(0, 2, 1)


CASES: dict[str, Case] = {
    "full": Case(
        draw=random_matrices,
        dense=lambda c, k, d: c,
        part=lambda m: m,
        estimate=lambda s, n: s / n[:, None, None],
        n_free=lambda k, d: k * d * (d + 1) // 2,
    ),
    "tied": Case(
        draw=lambda rng, k, d: random_matrices(rng, 1, d)[0],
        dense=lambda c, k, d: np.stack([c] * k),
        part=lambda m: m.sum(0),
        estimate=lambda s, n: s.sum(0) / n.sum(),
        n_free=lambda k, d: d * (d + 1) // 2,
    ),
    "diag": Case(
        draw=lambda rng, k, d: np.exp(rng.uniform(-2, 2, (k, d))),
        dense=lambda c, k, d: np.stack([np.diag(v) for v in c]),
        part=lambda m: np.stack([np.diag(one) for one in m]),
        estimate=lambda s, n: np.stack([np.diag(one) for one in s]) / n[:, None],
        n_free=lambda k, d: k * d,
    ),
    "spherical": Case(
        draw=lambda rng, k, d: np.exp(rng.uniform(-2, 2, k)),
        dense=lambda c, k, d: np.stack([v * np.eye(d) for v in c]),
        part=lambda m: np.array([np.trace(one) for one in m]),
        estimate=lambda s, n: np.array([np.trace(one) for one in s]) / (n * s.shape[-1]),
        n_free=lambda k, d: k,
    ),
}


def assert_equal_sums(found, expected, rtol: float = 1e-10) -> None:
    """Statistics of two kernels, to ``rtol`` of each number or of the largest of its part."""
    for part in ("count", "first", "second", "row_weight", "log_likelihood"):
        got, want = getattr(found, part).numpy(), getattr(expected, part).numpy()
        scale = np.abs(want).max(initial=0)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale, err_msg=part)


@dataclass(frozen=True)
class Truth:
    """A mixture the slow way: weights (K), means (K, D), covariance matrices (K, D, D)."""

    weights: Array
    means: Array
    dense: Array

    def component_log_prob(self, x: Array) -> Array:
        """Log w_k + log N(x; μ_k, Σ_k) for rows x (N, D); (N, K)."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        columns = [
            multivariate_normal(mean, matrix).logpdf(x).reshape(-1)
            for mean, matrix in zip(self.means, self.dense, strict=True)
        ]
        return np.stack(columns, -1) + log_weights

    def log_prob(self, x: Array) -> Array:
        return logsumexp(self.component_log_prob(x), axis=-1)

    def responsibilities(self, x: Array) -> Array:
        return softmax(self.component_log_prob(x), axis=-1)

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        """``n`` rows of the mixture, (n, D)."""
        labels = rng.choice(len(self.weights), n, p=self.weights)
        root = np.linalg.cholesky(self.dense)
        noise = rng.normal(size=(n, self.means.shape[-1]))
        return self.means[labels] + np.einsum("nij,nj->ni", root[labels], noise)

    def mean(self) -> Array:
        return self.weights @ self.means

    def covariance(self) -> Array:
        gap = self.means - self.mean()
        outer = gap[:, :, None] * gap[:, None, :]
        return np.einsum("k,kij->ij", self.weights, self.dense + outer)


def draw(
    name: str, seed: int, k: int, d: int, batch: tuple[int, ...] = ()
) -> tuple[Mixture, Array]:
    """A random mixture, or a batch of them, and the truth for each: an object array (*batch)."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(batch, dtype=int))
    weights = rng.dirichlet(np.full(k, 2.0), n)
    means = rng.normal(size=(n, k, d)) * 3.0
    covariances = np.stack([CASES[name].draw(rng, k, d) for _ in range(n)])
    truths = np.empty(n, dtype=object)
    for i in range(n):
        truths[i] = Truth(weights[i], means[i], CASES[name].dense(covariances[i], k, d))
    mixture = Mixture.from_parameters(
        weights.reshape(*batch, k),
        means.reshape(*batch, k, d),
        covariances.reshape(*batch, *covariances.shape[1:]),
        name,
    )
    return mixture, truths.reshape(batch)


def draw_one(name: str, seed: int, k: int, d: int) -> tuple[Mixture, Truth]:
    """A random mixture without batch axes, and its truth."""
    mixture, truth = draw(name, seed, k, d)
    return mixture, truth.item()


def tensor(values, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.array(values)).to(dtype)


def leaves(mixture: Mixture) -> tuple[Mixture, list[torch.Tensor]]:
    """The same mixture over fresh leaves: logits, means and the covariance's factor."""
    covariance = mixture.covariance
    parts = [
        t.detach().clone().requires_grad_()
        for t in (mixture.log_weights, mixture.means, covariance.factor)
    ]
    return rebuild(mixture, *parts), parts


def rebuild(mixture: Mixture, logits, means, factor) -> Mixture:
    """A mixture of the same structure from its parts."""
    kind = type(mixture.covariance)
    return Mixture(logits, means, kind(factor, mixture.n_components, mixture.n_features))


def broad_start(x, name, seed, k=3):
    """Means at rows, the spread of the data everywhere: a poor but healthy start."""
    rng = np.random.default_rng(seed)
    dense = np.stack([np.cov(x.T).reshape(x.shape[1], -1)] * k)
    means = x[rng.choice(len(x), k, replace=False)]
    return Mixture.from_parameters(
        np.full(k, 1 / k), means, CASES[name].estimate(dense, np.ones(k)), name
    )
