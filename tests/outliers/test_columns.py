"""Units of columns: plain where nothing was said, robust where some rows may be outliers."""

import numpy as np
import pytest

from mogul import MixtureOutlierDetector
from mogul.estimators._columns import column_units


def rows(n: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal([0.0, 1000.0], [1.0, 1e-3], size=(n, 2))


def test_plain_units_are_moments():
    x = rows()
    loc, scale = column_units(x, None)
    assert np.allclose(loc, x.mean(0), rtol=1e-14)
    assert np.allclose(scale, x.std(0), rtol=1e-9)


def test_weights_are_repeated_rows():
    x, times = rows(60), np.random.default_rng(1).integers(1, 4, 60)
    for clipped in (0.0, 0.1):
        given = column_units(x, times.astype(float), clipped)
        assert np.allclose(given, column_units(np.repeat(x, times, 0), None, clipped), rtol=1e-9)


def test_winsorised_units_are_those_of_clipped_columns():
    x = rows(200)
    low, high = np.sort(x, 0)[[19, 179]]
    loc, scale = column_units(x, None, 0.1)
    assert np.allclose(loc, x.clip(low, high).mean(0), rtol=1e-14)
    assert np.allclose(scale, x.clip(low, high).std(0), rtol=1e-9)


def test_a_few_far_rows_do_not_set_the_unit():
    x = rows()
    x[:30] += 1e5
    assert (column_units(x, None)[1] > 1e4).all()
    loc, scale = column_units(x, None, 0.05)
    assert (np.abs(loc - [0, 1000]) < [0.2, 2e-4]).all()
    assert ((scale > [0.7, 7e-4]) & (scale < [1.1, 1.1e-3])).all()


def test_constant_columns_have_a_unit():
    x = np.column_stack([np.full(50, 5.0), np.zeros(50), np.r_[7.0, np.zeros(49)]])
    for clipped in (0.0, 0.05):
        loc, scale = column_units(x, None, clipped)
        assert loc[:2].tolist() == [5.0, 0.0]
        assert scale[:2].tolist() == [0.05, 1.0]
        assert scale[2] == pytest.approx(x[:, 2].std())  # winsorised it would be constant


def test_trim_finds_the_structure_under_far_outliers():
    rng = np.random.default_rng(0)
    ordinary = np.vstack([rng.normal(-3, 0.3, (300, 2)), rng.normal(3, 0.3, (300, 2))])
    spoilt = np.vstack([ordinary, rng.normal(0, 1e4, (20, 2))])
    between = np.zeros((1, 2))
    settings = {"n_components": 4, "covariance_type": "full", "random_state": 0}
    plain = MixtureOutlierDetector(**settings).fit(spoilt)
    trimmed = MixtureOutlierDetector(**settings, trim=0.05).fit(spoilt)
    typical = np.quantile(trimmed.score_samples(ordinary), 0.01)
    assert trimmed.score_samples(between) < typical
    assert plain.score_samples(between) > np.quantile(plain.score_samples(ordinary), 0.01)
