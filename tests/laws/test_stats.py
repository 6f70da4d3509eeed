"""Law 2: statistics are a vector space, about any origin, for every structure."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laws.cases import CASES, tensor
from mogul.covariances import STRUCTURES
from mogul.stats import Stats

structures = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)
SUMS = [f.name for f in fields(Stats) if f.name != "origin"]


def statistics(name: str, x, share, origin, log_density) -> Stats:
    """By the definition, one dense sum after another."""
    gap = x[:, None] - origin  # (N, K, D)
    second = np.einsum("nk,nki,nkj->kij", share, gap, gap)
    return Stats(
        count=tensor(share.sum(0)),
        first=tensor(np.einsum("nk,nkd->kd", share, gap)),
        second=tensor(CASES[name].part(second)),
        origin=tensor(origin),
        row_weight=tensor(share.sum()),
        log_likelihood=tensor(log_density.sum()),
    )


def sample(name: str, seed: int, n: int = 30, k: int = 3, d: int = 2):
    """Rows, shares with row weights, and an origin near each component."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * 2 + 5
    share = rng.dirichlet(np.ones(k), n) * rng.exponential(size=(n, 1))
    return x, share, rng.normal(size=(k, d)) + 5, rng.normal(size=n)


def assert_same(one: Stats, other: Stats, tolerance: float = 1e-11) -> None:
    for name in (*SUMS, "origin"):
        found, expected = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=name)


@structures
@given(seeds, st.integers(0, 30))
def test_parts_add_up_to_the_whole_and_zero_is_neutral(name, seed, cut):
    x, share, origin, density = sample(name, seed)
    whole = statistics(name, x, share, origin, density)
    left = statistics(name, x[:cut], share[:cut], origin, density[:cut])
    right = statistics(name, x[cut:], share[cut:], origin, density[cut:])
    assert_same(left + right, whole)
    assert_same(right + left, left + right, 0)
    assert_same(whole - right, left)
    assert_same(whole + whole.zero(), whole, 0)
    assert_same(whole + whole, 2 * whole, 0)
    assert_same(2.0 * whole, whole * 2.0, 0)
    assert_same((left + right) * 0.3, left * 0.3 + right * 0.3)
    mean = float(whole.mean_log_likelihood())
    assert mean == pytest.approx(density.sum() / share.sum(), rel=1e-12)


@structures
@given(seeds)
def test_pack_and_unpack(name, seed):
    one, other = (statistics(name, *sample(name, s)) for s in (seed, seed ^ 1))
    buffer = one.pack()
    assert buffer.dtype == torch.float64
    assert buffer.ndim == 1
    assert_same(one.unpack(buffer), one, 0)
    reduced = one.pack() + other.pack()  # what an all-reduce does
    assert_same(one.unpack(reduced), one + other, 1e-15)
    single = Stats(**{f.name: getattr(one, f.name).float() for f in fields(Stats)})
    assert single.pack().dtype == torch.float64
    assert single.unpack(single.pack()).count.dtype == torch.float32
    assert_same(single.unpack(single.pack()), single, 0)


@structures
@given(seeds, st.floats(-100, 100))
def test_recentring_is_exact_and_composes(name, seed, far):
    x, share, origin, density = sample(name, seed)
    k, d = origin.shape
    rng = np.random.default_rng(seed)
    middle, end = origin + far, origin + rng.normal(size=origin.shape)
    covariance = STRUCTURES[name].from_covariances(tensor(CASES[name].draw(rng, k, d)), k, d)
    start = statistics(name, x, share, origin, density)
    direct = covariance.recentre(start, tensor(end))
    assert_same(direct, statistics(name, x, share, end, density), 1e-10)
    through = covariance.recentre(covariance.recentre(start, tensor(middle)), tensor(end))
    assert_same(through, direct, 1e-9)
    assert_same(covariance.recentre(start, start.origin), start, 0)


@structures
def test_recentring_a_batch_recentres_each_member(name):
    parts = [statistics(name, *sample(name, s)) for s in (0, 1)]
    batch = Stats(
        **{f.name: torch.stack([getattr(p, f.name) for p in parts]) for f in fields(Stats)}
    )
    assert_same(batch.index(1), parts[1], 0)
    kind = STRUCTURES[name]
    rng = np.random.default_rng(0)
    values = np.stack([CASES[name].draw(rng, 3, 2) for _ in range(2)])
    covariance = kind.from_covariances(tensor(values), 3, 2)
    moved = covariance.recentre(batch, torch.zeros(2, 3, 2).double())
    for i, part in enumerate(parts):
        alone = covariance.index(i).recentre(part, torch.zeros(3, 2).double())
        assert_same(moved.index(i), alone, 1e-13)
    assert_same(batch.unpack(batch.pack()), batch, 0)


@structures
def test_the_m_step_from_one_pass_equals_two_passes(name):
    """Σ' = S₂/S₀ − ddᵀ with d = S₁/S₀, written as a move to the new means."""
    x, share, origin, density = sample(name, 4)
    kind, case = STRUCTURES[name], CASES[name]
    stats = statistics(name, x, share, origin, density)
    means = tensor(origin) + stats.first / stats.count.unsqueeze(-1)
    np.testing.assert_allclose(means, (share.T @ x) / share.sum(0)[:, None], rtol=1e-12)
    any_covariance = kind.from_covariances(tensor(case.draw(np.random.default_rng(0), 3, 2)), 3, 2)
    central = any_covariance.recentre(stats, means)
    assert float(central.first.abs().max()) < 1e-12
    found, ok = kind.from_moment(central.second, stats.count, 2, torch.zeros(()).double())
    gap = x[:, None] - means.numpy()
    scatter = np.einsum("nk,nki,nkj->kij", share, gap, gap)
    expected = case.dense(case.estimate(scatter, share.sum(0)), 3, 2)
    assert bool(ok.all())
    np.testing.assert_allclose(found.dense(), expected, rtol=1e-10)


def test_zero_is_neutral_even_beside_infinity():
    """A log-likelihood of −∞ must not turn the neutral element into NaN."""
    stats = statistics("diag", *sample("diag", 0))
    infinite = torch.tensor(-torch.inf, dtype=torch.float64)
    assert float(replace(stats, log_likelihood=infinite).zero().log_likelihood) == 0.0
