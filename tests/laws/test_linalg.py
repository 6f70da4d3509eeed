"""Factors, against NumPy and against exact arithmetic where NumPy itself rounds too much."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mogul._linalg
from laws.cases import random_matrices, tensor
from mogul._linalg import (
    by_parts,
    cholesky_report,
    factor_from_precision,
    factor_from_precision_factor,
    factor_of_rows,
    is_symmetric,
    mahalanobis_whiten,
    precision_factor,
    symmetric,
)

seeds = st.integers(0, 2**32 - 1)


def ill_conditioned(d: int, condition: float, seed: int = 0) -> np.ndarray:
    """A matrix with random axes and eigenvalues from 1/condition to 1."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return (axes * np.geomspace(1 / condition, 1, d)) @ axes.T


@given(seeds, st.integers(1, 6))
def test_cholesky_report_agrees_with_numpy(seed, d):
    matrices = random_matrices(np.random.default_rng(seed), 3, d)
    factor, ok = cholesky_report(tensor(matrices))
    assert bool(ok.all())
    np.testing.assert_allclose(factor, np.linalg.cholesky(matrices), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cholesky_report_says_which_failed_and_leaves_the_rest(dtype):
    good = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=dtype)
    nan, infinite = good * torch.nan, good * torch.inf
    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=dtype)
    singular = torch.ones(2, 2, dtype=dtype)
    zero = torch.zeros(2, 2, dtype=dtype)
    factor, ok = cholesky_report(torch.stack([good, nan, infinite, indefinite, singular, zero]))
    assert ok.tolist() == [True, False, False, False, False, False]
    torch.testing.assert_close(factor[0], torch.linalg.cholesky(good))
    assert bool((factor[1:] == torch.eye(2, dtype=dtype)).all())


@pytest.mark.parametrize("batch", [(10,), (2, 5)])
def test_parts_are_factorised_as_the_whole_is(batch, monkeypatch):
    matrices = random_matrices(np.random.default_rng(0), 10, 3)
    matrices[4] = -matrices[4]
    matrices = tensor(matrices.reshape(*batch, 3, 3))
    seen = []

    def factorise(part):
        seen.append(len(part))
        return cholesky_report(part)

    whole, ok = by_parts(factorise, matrices)
    monkeypatch.setattr(mogul._linalg, "_PART_NUMBERS", 4 * 9)
    parts, fine = by_parts(factorise, matrices)
    assert seen == [batch[0], 4, 4, 2]
    assert fine.flatten().tolist() == [i != 4 for i in range(10)]
    assert torch.equal(parts, whole)
    assert torch.equal(fine, ok)


@pytest.mark.parametrize("exponent", [-120, -20, 0, 20, 120])
def test_cholesky_report_does_not_depend_on_units(exponent):
    """A good matrix stays good, and a singular one bad, in any unit of each feature."""
    units = np.array([10.0**exponent, 1.0, 10.0 ** (exponent / 2)])
    good = ill_conditioned(3, 1e6)
    bad = np.array([[1.0, 1.0, 0.3], [1.0, 1.0, 0.3], [0.3, 0.3, 1.0]])
    _, ok = cholesky_report(tensor(np.stack([good, bad]) * np.outer(units, units)))
    assert ok.tolist() == [True, False]


@given(seeds, st.integers(1, 5))
def test_precisions_and_factors(seed, d):
    covariance = random_matrices(np.random.default_rng(seed), 2, d)
    precision = np.linalg.inv(covariance)
    factor, ok = factor_from_precision(tensor(0.5 * (precision + precision.transpose(0, 2, 1))))
    assert bool(ok.all())
    np.testing.assert_allclose(factor, np.linalg.cholesky(covariance), rtol=1e-8, atol=1e-10)
    upper = precision_factor(factor)
    assert torch.equal(upper, upper.triu())
    np.testing.assert_allclose(upper @ upper.mT, precision, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(factor_from_precision_factor(upper), factor, rtol=1e-9, atol=1e-11)


@given(seeds, st.integers(1, 5), st.integers(0, 3))
def test_factor_of_rows_is_the_cholesky_factor_of_the_gram_matrix(seed, m, more):
    rows = np.random.default_rng(seed).normal(size=(2, m, m + more)) + 3 * np.eye(m, m + more)
    factor = factor_of_rows(tensor(rows))
    gram = rows @ rows.transpose(0, 2, 1)
    assert torch.equal(factor, factor.tril())
    assert bool((factor.diagonal(dim1=-2, dim2=-1) > 0).all())
    np.testing.assert_allclose(factor @ factor.mT, gram, rtol=1e-11, atol=1e-12)


def test_factor_of_rows_keeps_digits_that_the_gram_matrix_loses():
    """Nearly dependent rows: the last pivot is 1e-8, and its square vanishes beside one."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-9]], dtype=torch.float64)
    factor = factor_of_rows(rows)
    assert float(factor[1, 1]) == pytest.approx(1e-9, rel=1e-6)


@pytest.mark.parametrize("condition", [1e2, 1e8])
def test_whitening_is_backward_stable(condition):
    """Against 60-digit arithmetic on the same factor, whose condition sets the error."""
    d = 5
    factor = np.linalg.cholesky(ill_conditioned(d, condition))
    gap = np.random.default_rng(1).normal(size=d)
    with mpmath.workdps(60):
        exact = mpmath.lu_solve(mpmath.matrix(factor.tolist()), mpmath.matrix(gap.tolist()))
        exact = np.array([float(v) for v in exact])
    found = mahalanobis_whiten(tensor(factor), tensor(gap[None]))[0].numpy()
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert error < 1e-15 * np.sqrt(condition) * d


def test_symmetric_and_is_symmetric():
    skew = torch.tensor([[1.0, 0.2], [0.4, 1.0]], dtype=torch.float64)
    assert torch.equal(symmetric(skew), symmetric(skew).mT)
    printed = torch.tensor([[1.0, 0.3333333], [0.33333331, 1.0]], dtype=torch.float64)
    assert is_symmetric(torch.stack([skew, symmetric(skew), printed, 1e-30 * skew])).tolist() == [
        False,
        True,
        True,
        False,
    ]
