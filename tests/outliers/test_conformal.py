"""Conformal p-values hold what they promise, and Benjamini and Hochberg's list is theirs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from mogul.conformal import benjamini_hochberg, conformal_p_values, cross_conformal_p_values
from mogul.errors import InputError


def test_p_values_count_the_calibration_at_or_below_and_the_row_itself():
    calibration = np.array([3.0, 1.0, 2.0, 2.0])
    found = conformal_p_values([0.0, 1.0, 2.0, 2.5, 9.0], calibration)
    assert found.tolist() == [1 / 5, 2 / 5, 4 / 5, 4 / 5, 1.0]


def test_minus_infinity_is_the_strangest_score():
    assert conformal_p_values([-np.inf], [0.0, 1.0, 2.0]).tolist() == [0.25]


def test_one_fold_is_the_plain_p_value():
    rng = np.random.default_rng(0)
    scores, calibration = rng.normal(size=30), rng.normal(size=17)
    both = cross_conformal_p_values(scores[None], [calibration])
    assert np.array_equal(both, conformal_p_values(scores, calibration))


def test_folds_are_counted_by_their_own_models():
    scores = np.array([[0.0, 5.0], [10.0, 0.0]])
    found = cross_conformal_p_values(scores, [[1.0, 2.0, 3.0], [4.0]])
    assert found.tolist() == [(1 + 0 + 1) / 5, (1 + 3 + 0) / 5]


@pytest.mark.parametrize("n", [1, 19, 99, 250])
def test_the_share_of_small_p_values_is_exact(n):
    # Ranks of n + 1 exchangeable scores are uniform: P(p <= a) = floor(a (n + 1)) / (n + 1).
    rng = np.random.default_rng(n)
    rounds = 4000
    draws = rng.normal(size=(rounds, n + 1))
    p = np.array([conformal_p_values(row[:1], row[1:])[0] for row in draws])
    for alpha in (0.01, 0.05, 0.1, 0.5):
        exact = np.floor(alpha * (n + 1) + 1e-9) / (n + 1)
        assert abs(np.mean(p <= alpha + 1e-12) - exact) <= 4 * np.sqrt(exact / rounds) + 1e-12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_the_list_is_scipys(p_values, fdr):
    values = np.array(p_values)
    adjusted = false_discovery_control(values, method="bh")
    clear = np.abs(adjusted - fdr) > 1e-9  # on the edge, rounding decides
    assert np.array_equal(benjamini_hochberg(values, fdr)[clear], (adjusted <= fdr)[clear])


def test_no_rows_give_no_list():
    assert benjamini_hochberg([], 0.1).tolist() == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: conformal_p_values([0.0, np.nan], [1.0]), "scores must be numbers; 1 are NaN"),
        (lambda: conformal_p_values([0.0], []), "no calibration scores"),
        (lambda: cross_conformal_p_values([[0.0]], [[1.0], [2.0]]), "do not fit 2 folds"),
        (lambda: benjamini_hochberg([0.5, 1.5]), "from 0 to 1"),
        (lambda: benjamini_hochberg([0.5], 1.0), "strictly between 0 and 1"),
        (lambda: benjamini_hochberg([[0.5]]), "from 0 to 1"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(call, said):
    with pytest.raises(InputError, match=said):
        call()
