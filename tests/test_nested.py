"""EM on growing samples, then on all rows."""

import numpy as np
import pytest
import torch
from numpy.random import RandomState

import mogul.infer.nested
from laws.cases import CASES, tensor
from mogul import GaussianMixture
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.infer.em import EMSettings, fit_em, stack
from mogul.infer.nested import fit_nested, sample_sizes
from mogul.infer.starts import start_mixtures

names = pytest.mark.parametrize("name", list(CASES))


def overlapping(n, d=3, k=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(k, d))
    return centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))


def begin(rows, name, k=4, seed=0):
    kind, rng = structure(name), RandomState(seed)
    starts, _ = start_mixtures(
        rows, k, kind, EMSettings(), method="kmeans", n_init=1, random_state=rng
    )
    return starts


def test_samples_grow_from_that_of_a_start_as_far_as_rows_and_memory_allow():
    assert sample_sizes(799_999, 4, 3) == []
    assert sample_sizes(800_000, 4, 3) == [4000, 64_000]
    assert sample_sizes(10**8, 4, 3) == [4000, 64_000, 1_024_000]
    assert sample_sizes(10**7, 100, 3) == [20_000, 320_000]
    # No more than 32 megabytes, unless components have fewer than 200 rows or two a column.
    assert sample_sizes(10**8, 4, 16) == [4000, 64_000, 262_144]
    assert sample_sizes(10**8, 100, 200) == [40_000]


@pytest.fixture
def soon(monkeypatch):
    """Samples of 40,000 rows too, so that tests are quick."""
    monkeypatch.setattr(mogul.infer.nested, "_MANY", 8)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("weighted", [False, True])
@names
def test_it_ends_as_high_as_em_and_all_rows_begin_higher(name, weighted):
    x = overlapping(40_000)
    weight = np.random.default_rng(1).uniform(0.2, 2, len(x)) if weighted else None
    rows = Rows(tensor(x), None if weight is None else tensor(weight))
    settings, start = EMSettings(1e-6, 2000), begin(rows, name)
    plain = fit_em(rows, start, settings)
    nested = fit_nested(rows, start, settings, seed=0)
    assert nested.log_likelihood > plain.log_likelihood - 1e-4
    assert nested.traces[0].converged
    begun = [ran.traces[0].records[0].log_likelihood for ran in (nested, plain)]
    assert begun[0] > begun[1]  # all rows begin nearer the end
    # What it ends at is a fixed point of EM on all rows, and its value is theirs.
    again = fit_em(rows, stack([nested.mixture[0]]), EMSettings(0.0, 1, acceleration="none"))
    assert 0 <= float(again.log_likelihood - nested.log_likelihood) < 1e-6
    values = nested.mixture[0].log_prob(tensor(x)).numpy()
    np.testing.assert_allclose(nested.log_likelihood, np.average(values, weights=weight))


@pytest.mark.usefixtures("soon")
def test_the_default_goes_through_samples_and_repeats_itself():
    x = overlapping(40_000)
    model = GaussianMixture(4, tol=1e-5, random_state=3).fit(x)
    again = GaussianMixture(4, tol=1e-5, random_state=3).fit(x)
    np.testing.assert_array_equal(model.means_, again.means_)
    plain = GaussianMixture(4, tol=1e-5, random_state=3, algorithm="em").fit(x)
    assert model.lower_bounds_[0] > plain.lower_bounds_[0]  # all rows begin nearer the end
    assert model.lower_bound_ > plain.lower_bound_ - 1e-4
    np.testing.assert_allclose(model.lower_bound_, model.score(x), rtol=1e-12)
    assert [record.iteration for record in model.history_] == list(range(1, model.n_iter_ + 1))


@pytest.mark.usefixtures("soon")
def test_a_given_start_is_where_all_rows_begin():
    x = overlapping(40_000)
    means = x[:4]
    fits = [
        GaussianMixture(4, means_init=means, random_state=0, algorithm=how).fit(x)
        for how in ("auto", "em")
    ]
    assert fits[0].lower_bounds_ == fits[1].lower_bounds_
    going_on = GaussianMixture(4, warm_start=True, random_state=0, tol=1e-3).fit(x)
    last = going_on.lower_bound_
    going_on.set_params(tol=1e-6, max_iter=500).fit(x)
    assert going_on.lower_bounds_[0] == pytest.approx(last, abs=1e-12)


@pytest.mark.usefixtures("soon")
def test_to_be_told_more_changes_nothing(capsys):
    """Starts then run one after another, on the same samples."""
    x = overlapping(40_000, 2, 8)
    fits = [
        GaussianMixture(
            8, n_init=3, init_params="random_from_data", random_state=3, verbose=verbose
        ).fit(x)
        for verbose in (0, 1)
    ]
    assert "Initialization 2" in capsys.readouterr().out
    np.testing.assert_allclose(fits[0].lower_bound_, fits[1].lower_bound_, rtol=1e-12)


def test_few_rows_are_fitted_as_ever():
    x = overlapping(2000)
    fits = [
        GaussianMixture(3, random_state=0, algorithm=how).fit(x).means_ for how in ("auto", "em")
    ]
    np.testing.assert_array_equal(*fits)


@pytest.mark.usefixtures("soon")
def test_ctrl_c_on_a_sample_ends_the_fit(monkeypatch):
    def interrupted(rows, start, settings, **more):
        ran = fit_em(rows, start, settings, **more)
        return type(ran)(ran.mixture, ran.log_likelihood, ran.traces, interrupted=True)

    monkeypatch.setattr(mogul.infer.nested, "fit_em", interrupted)
    rows = Rows(torch.from_numpy(overlapping(40_000)))
    with pytest.raises(KeyboardInterrupt):
        fit_nested(rows, begin(rows, "full"), EMSettings(), seed=0)
