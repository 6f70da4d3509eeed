"""Priors under test, for every structure, and the slow truth that they are held to.

The truth is NumPy and scipy, one component and one block at a time.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats

from mogul import priors
from mogul.beliefs import Belief
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.infer.cavi import coordinate_ascent
from mogul.infer.em import EMSettings
from mogul.infer.maximum_likelihood import initial_mixtures
from mogul.infer.variational import begin

DIRICHLET, PROCESS = "dirichlet", "process"
CASES = [
    (kind, form, weights)
    for kind, form in [
        ("full", "conjugate"),
        ("tied", "conjugate"),
        ("diag", "conjugate"),
        ("spherical", "conjugate"),
        ("diag", "independent"),
        ("spherical", "independent"),
    ]
    for weights in (DIRICHLET, PROCESS)
]
IDS = ["-".join(case) for case in CASES]


def prior_of(kind: str, form: str, weights: str = DIRICHLET, d: int = 2) -> priors.Prior:
    """A prior that is nothing special: no location zero, no scale one."""
    how = priors.Dirichlet(1.5) if weights == DIRICHLET else priors.DirichletProcess(0.8)
    loc = 0.5 + 0.1 * np.arange(d)
    if form == "independent":
        return priors.IndependentNormalGamma(loc, 2.0, 2.5, 1.7, how)
    if kind in ("full", "tied"):
        scale = 1.3 * np.eye(d) + 0.4
        return priors.NormalWishart(loc, 0.7, d + 2.5, scale, how)
    return priors.NormalGamma(loc, 0.7, 2.5, 1.7, how)


def clusters(seed: int = 0, n: int = 150, d: int = 2, apart: float = 3.0) -> np.ndarray:
    """Rows of three clusters that touch."""
    rng = np.random.default_rng(seed)
    centres = apart * rng.normal(size=(3, d))
    return centres[rng.integers(0, 3, n)] + rng.normal(size=(n, d)) * rng.uniform(0.6, 1.4, d)


def rows_of(x: np.ndarray, weight: np.ndarray | None = None) -> Rows:
    return Rows(torch.from_numpy(x), None if weight is None else torch.from_numpy(weight))


def starts(rows: Rows, prior: Belief, kind: str, n: int = 1, seed: int = 0) -> list[Belief]:
    mixtures, _ = initial_mixtures(
        rows,
        prior.components.loc.shape[-2],
        structure(kind),
        EMSettings(floor=1e-8),
        method="kmeans",
        n_init=n,
        random_state=np.random.RandomState(seed),
    )
    found = begin(rows, prior, mixtures)
    return [found.index(i) for i in range(n)]


def fit(
    x: np.ndarray, prior: priors.Prior, kind: str, k: int, *, seed: int = 0, weight=None, **settings
) -> tuple[Rows, Belief, Belief]:
    """Rows, the prior filled in, and the belief at the optimum of coordinate ascent."""
    rows = rows_of(x, weight)
    filled = prior.belief(rows, k, structure(kind))
    how = {"tol": 1e-10, "max_iter": 5000} | settings
    found = coordinate_ascent(rows, filled, starts(rows, filled, kind, seed=seed), **how)
    return rows, filled, found.beliefs[0]


def random_belief(kind: str, form: str, weights: str, k: int = 3, d: int = 2, seed: int = 0):
    """A prior and a belief of the same family, neither at any optimum."""
    x = clusters(seed, 40, d)
    rows = rows_of(x)
    prior = prior_of(kind, form, weights, d).belief(rows, k, structure(kind))
    near = starts(rows, prior, kind, seed=seed)[0]
    noise = torch.randn(
        near.encode(near).shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return prior, near.decode(0.3 * noise)


# --- the slow truth of blocks ---------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One Wishart block: degrees of freedom ν and scale S (p, p)."""

    nu: float
    scale: np.ndarray

    def logpdf(self, precision: np.ndarray) -> float:
        p = len(self.scale)
        if p == 1:
            return stats.gamma(self.nu / 2, scale=2 / self.scale[0, 0]).logpdf(precision[0, 0])
        return stats.wishart(self.nu, np.linalg.inv(self.scale)).logpdf(precision)


def blocks(belief: Belief) -> list[Block]:
    """The blocks of a single belief, in order."""
    precisions = belief.components.precisions
    nu = precisions.degrees.numpy().ravel()
    scale = precisions.scale.covariances().numpy()
    p = scale.shape[-1] if belief.components.kind.name in ("full", "tied") else 1
    return [Block(v, s) for v, s in zip(nu, scale.reshape(-1, p, p), strict=True)]


def block_precisions(covariance, p: int) -> np.ndarray:
    """The precisions of a draw as matrices (blocks, p, p)."""
    return covariance.precisions().numpy().reshape(-1, p, p)


def dense_precisions(covariance) -> np.ndarray:
    """(K, D, D)."""
    return np.linalg.inv(covariance.dense().numpy())


def with_noise(belief: Belief, seed: int, size: float = 0.2) -> Belief:
    """The same belief elsewhere."""
    shape = belief.encode(belief).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return belief.decode(size * noise)


def far_from_origin(x: np.ndarray, prior, shift: float):
    """The prior for rows that are moved by ``shift``."""
    return replace(prior, mean_loc=np.asarray(prior.mean_loc) + shift)
