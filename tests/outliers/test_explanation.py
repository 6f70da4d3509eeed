"""Contributions: they add up, they are Shapley's values, and they point at what was planted."""

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch

from mogul import Mixture
from mogul.errors import InputError
from mogul.explanation import (
    Explanation,
    energy_contributions,
    feature_orders,
    path_contributions,
)


def mixture_of(kind: str, d: int, k: int = 3, seed: int = 0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(k, d, d, generator=generator, dtype=torch.float64)
    full = draw @ draw.mT + torch.eye(d)
    means = 2 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    variances = torch.diagonal(full, dim1=-2, dim2=-1)
    values = {
        "full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]
    }[kind]  # fmt: skip
    return Mixture.from_parameters(torch.arange(1, k + 1) / (k * (k + 1) / 2), means, values, kind)


def rows_of(n: int, d: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_contributions_add_up_to_the_energy(kind, d):
    mixture, rows = mixture_of(kind, d), rows_of(7, d)
    total = energy_contributions(mixture, rows).sum(1)
    assert torch.allclose(total, -mixture.log_prob(rows), rtol=0, atol=1e-8)


def test_far_rows_add_up_too():
    mixture = mixture_of("full", 4)
    rows = torch.full((1, 4), 1e6, dtype=torch.float64)
    found = energy_contributions(mixture, rows)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.sum(1), -mixture.log_prob(rows), rtol=1e-12, atol=0)


def shapley(mixture: Mixture, rows: torch.Tensor) -> torch.Tensor:
    """From the definition, by marginal densities of every subset."""
    d = mixture.n_features
    energy = {
        s: -mixture.marginal(list(s)).log_prob(rows[:, list(s)]) if s else rows.new_zeros(len(rows))
        for r in range(d + 1) for s in combinations(range(d), r)
    }  # fmt: skip
    found = torch.zeros_like(rows)
    for j in range(d):
        for s in (s for s in energy if j not in s):
            share = factorial(len(s)) * factorial(d - len(s) - 1) / factorial(d)
            found[:, j] += share * (energy[tuple(sorted((*s, j)))] - energy[s])
    return found


@pytest.mark.parametrize("kind", ["full", "diag"])
@pytest.mark.parametrize("d", [2, 4])
def test_all_orders_give_shapleys_values(kind, d):
    mixture, rows = mixture_of(kind, d), rows_of(5, d)
    torch.testing.assert_close(energy_contributions(mixture, rows), shapley(mixture, rows))


def test_drawn_orders_come_near_them():
    mixture, rows = mixture_of("full", 6), rows_of(50, 6)
    exact = shapley(mixture, rows)
    few = energy_contributions(mixture, rows, feature_orders(6, 4)) - exact
    many = energy_contributions(mixture, rows, feature_orders(6, 256)) - exact
    assert many.std() < 0.4 * few.std()  # an eighth if all pairs were independent
    assert many.std() < 0.05 * exact.std()


def test_independent_features_pay_for_themselves():
    mixture = mixture_of("diag", 3, k=1)
    rows = rows_of(6, 3)
    found = energy_contributions(mixture, rows)
    for j in range(3):
        alone = -mixture.marginal([j]).log_prob(rows[:, [j]])
        torch.testing.assert_close(found[:, j], alone)


def test_the_planted_feature_is_named():
    mixture = mixture_of("full", 8, k=2)
    rows = mixture.sample((200,), generator=torch.Generator().manual_seed(3))
    usual = energy_contributions(mixture, rows).mean(0)
    rows[torch.arange(200), torch.arange(200) % 8] += 15 * mixture.variance.sqrt().max()
    told = Explanation(
        (energy_contributions(mixture, rows) - usual).numpy(), tuple(f"f{j}" for j in range(8))
    )
    assert [top[0][0] for top in told.top(1)] == [f"f{i % 8}" for i in range(200)]
    assert np.allclose(told.excess, told.contributions.sum(1))


def test_orders_are_all_of_few_features_and_pairs_of_many():
    assert len(feature_orders(1)) == 1
    assert sorted(map(tuple, feature_orders(3).tolist())) == sorted(permutations(range(3)))
    many = feature_orders(9, 7)
    assert len(many) == 8
    assert torch.equal(many[1], many[0].flip(0))
    assert torch.equal(many, feature_orders(9, 7))
    assert not torch.equal(many, feature_orders(9, 7, seed=1))


def test_many_rows_are_taken_in_tiles(monkeypatch):
    import mogul.explanation

    mixture, rows = mixture_of("full", 3), rows_of(11, 3)
    whole = energy_contributions(mixture, rows)
    monkeypatch.setattr(mogul.explanation, "_TILE_ELEMENTS", 40)
    torch.testing.assert_close(energy_contributions(mixture, rows), whole)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"expected \(N, 3\)"):
        energy_contributions(mixture_of("full", 3), rows_of(2, 4))
    with pytest.raises(InputError, match="n must be a whole number"):
        Explanation(np.zeros((1, 2)), ("a", "b")).top(0)


def test_contributions_along_all_paths_are_shapley_values():
    """By the sum over subsets, of an energy in which features act together."""
    x, start = torch.tensor([2.0, -1.0, 3.0]).double(), torch.tensor([0.5, 1.0, -1.0]).double()

    def energy(rows: torch.Tensor) -> torch.Tensor:
        a, b, c = rows.T
        return a * b * c + a**2 * c - b.exp()

    def of(present: tuple[int, ...]) -> float:
        row = start.clone()
        row[list(present)] = x[list(present)]
        return float(energy(row[None]))

    wanted = []
    for j in range(3):
        others = [i for i in range(3) if i != j]
        terms = [
            factorial(n) * factorial(2 - n) / factorial(3) * (of((*some, j)) - of(some))
            for n in range(3)
            for some in combinations(others, n)
        ]
        wanted.append(sum(terms))
    orders = torch.tensor(list(permutations(range(3))))
    found = path_contributions(energy, x[None], start.expand(6, 3), orders)
    assert np.allclose(found[0].numpy(), wanted, rtol=1e-12)
