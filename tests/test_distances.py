"""Distances of samples, against SciPy, closed forms and each other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mogul import distances
from mogul.distances import energy_distance, sliced_wasserstein
from mogul.errors import InputError

numbers = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(numbers, numbers)
def test_on_a_line_both_are_those_of_scipy(x, y):
    wide = 1e-9 * (1 + max(map(abs, x + y)))
    assert sliced_wasserstein(x, y) == pytest.approx(stats.wasserstein_distance(x, y), abs=wide)
    # The square of the distance is what digits are lost of.
    expected = stats.energy_distance(x, y)
    assert energy_distance(x, y) ** 2 == pytest.approx(expected**2, abs=wide)


def test_in_the_plane_the_energy_distance_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    mean = [[np.mean([math.dist(a, b) for a in one for b in two]) for two in (x, y)]
            for one in (x, y)]  # fmt: skip
    expected = math.sqrt(2 * mean[0][1] - mean[0][0] - mean[1][1])
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_a_shift_costs_its_mean_length_along_directions():
    x = np.random.default_rng(0).normal(size=(50, 2))
    # |cos| of a uniform angle has mean 2/π and variance 1/2 − 4/π².
    error = 5 * math.sqrt((0.5 - 4 / math.pi**2) / 20_000)
    found = sliced_wasserstein(x, x + np.array([3.0, 4.0]), n_projections=20_000)
    assert found == pytest.approx(5 * 2 / math.pi, abs=5 * error)


def test_sizes_may_differ_and_rows_may_repeat():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(4, 2))
    for distance in (energy_distance, sliced_wasserstein):
        once = distance(x, y)
        assert distance(np.repeat(x, 3, axis=0), y) == pytest.approx(once, rel=1e-12)
        assert distance(y, x) == pytest.approx(once, rel=1e-12)
        assert distance(x[::-1], x) == pytest.approx(0, abs=1e-7)


def test_many_rows_are_taken_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(45, 3))
    whole = energy_distance(x, y), sliced_wasserstein(x, y)
    monkeypatch.setattr(distances, "_NUMBERS_TOGETHER", 200)
    np.testing.assert_allclose((energy_distance(x, y), sliced_wasserstein(x, y)), whole)


def test_near_rows_far_from_zero_keep_their_digits():
    x = torch.tensor([[1e6, 1e6], [1e6 + 1e-3, 1e6]], dtype=torch.float64)
    assert energy_distance(x[:1], x[1:]) == pytest.approx(math.sqrt(2e-3), rel=1e-6)


@pytest.mark.parametrize("distance", [energy_distance, sliced_wasserstein])
@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([[1.0, 2.0]], [[1.0]], "2 features and y has 1"),
        ([[1.0], [math.nan]], [1.0], "x holds NaN"),
        ([1.0], [], "y must be rows"),
        ([[1.0], [2.0, 3.0]], [1.0], "x must be numbers"),
        ([1.0], np.zeros((2, 2, 2)), "y must be rows"),
    ],
)
def test_what_has_no_distance_is_refused(distance, x, y, says):
    with pytest.raises(InputError, match=says):
        distance(x, y)
