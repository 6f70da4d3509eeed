"""Marginals and conditionals, against dense formulas and against each other."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laws.cases import CASES, Truth, draw, draw_one, tensor
from mogul import Mixture
from mogul.errors import InputError, UnknownNameError

structures = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)


def split(random, d: int) -> tuple[list[int], list[int]]:
    """Some features to give, in any order, and the rest in ascending order."""
    order = random.sample(range(d), d)
    n_given = random.randint(1, d - 1)
    return order[:n_given], sorted(order[n_given:])


def conditioned(truth: Truth, given_: list[int], rest: list[int], value: np.ndarray) -> Truth:
    """Textbook conditioning of every component, with explicit inverses."""
    known = Truth(truth.weights, truth.means[:, given_], truth.dense[:, given_][:, :, given_])
    s_gg, s_rg = known.dense, truth.dense[:, rest][:, :, given_]
    gain = s_rg @ np.linalg.inv(s_gg)
    means = truth.means[:, rest] + np.einsum("krg,kg->kr", gain, value - known.means)
    dense = truth.dense[:, rest][:, :, rest] - gain @ s_rg.transpose(0, 2, 1)
    return Truth(known.responsibilities(value[None])[0], means, dense)


def assert_same_mixture(found: Mixture, truth: Truth, tolerance: float = 1e-9) -> None:
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(found.weights, truth.weights, **close)
    np.testing.assert_allclose(found.means, truth.means, **close)
    np.testing.assert_allclose(found.covariance.dense(), truth.dense, **close)


@structures
@given(seeds, st.integers(2, 5), st.randoms(use_true_random=False))
def test_marginal(name, seed, d, random):
    mixture, truth = draw_one(name, seed, 3, d)
    keep, _ = split(random, d)
    expected = Truth(truth.weights, truth.means[:, keep], truth.dense[:, keep][:, :, keep])
    found = mixture.marginal(keep)
    assert_same_mixture(found, expected)
    assert found.covariance_type == name
    assert_same_mixture(mixture.marginal([i - d for i in keep]), expected)
    assert_same_mixture(mixture.marginal(np.array(keep)), expected)
    assert_same_mixture(mixture.marginal(torch.tensor(keep)), expected)


@structures
@given(seeds, st.integers(2, 5), st.randoms(use_true_random=False))
def test_condition(name, seed, d, random):
    mixture, truth = draw_one(name, seed, 3, d)
    given_, rest = split(random, d)
    value = truth.draw(np.random.default_rng(seed), 1)[0, given_]
    found = mixture.condition(dict(zip(given_, value, strict=True)))
    assert found.event_shape == (len(rest),)
    assert_same_mixture(found, conditioned(truth, given_, rest, value))


@structures
@given(seeds, st.integers(2, 5), st.randoms(use_true_random=False))
def test_joint_is_marginal_times_conditional(name, seed, d, random):
    """Log p(x) = log p(x_given) + log p(x_rest | x_given), row by row."""
    mixture, truth = draw_one(name, seed, 3, d)
    given_, rest = split(random, d)
    x = tensor(truth.draw(np.random.default_rng(seed), 12))
    of_rest = mixture.condition({i: x[:, i] for i in given_})
    assert of_rest.batch_shape == (12,)
    total = mixture.marginal(given_).log_prob(x[:, given_]) + of_rest.log_prob(x[:, rest])
    torch.testing.assert_close(total, mixture.log_prob(x), rtol=1e-10, atol=1e-10)


@structures
@pytest.mark.parametrize(
    ("batch", "values", "answer"),
    [((), (5,), (5,)), ((), (2, 5), (2, 5)), ((3,), (), (3,)), ((3,), (3,), (3,)),
     ((3,), (5, 3), (5, 3)), ((3,), (5, 1), (5, 3)), ((2, 3), (3,), (2, 3)),
     ((2, 1), (3,), (2, 3)), ((1,), (4,), (4,))],
)  # fmt: skip
def test_condition_row_by_row_on_batches(name, batch, values, answer):
    mixture, truths = draw(name, 0, 2, 3, batch)
    rng = np.random.default_rng(0)
    first, third = rng.normal(size=(2, *values))
    found = mixture.condition({2: third, 0: tensor(first)})
    assert found.batch_shape == answer
    assert found.event_shape == (1,)
    value = np.broadcast_to(np.stack([third, first], -1), (*answer, 2))
    truth = np.broadcast_to(truths, answer)
    for i in np.ndindex(answer):
        assert_same_mixture(found[i], conditioned(truth[i], [2, 0], [1], value[i]))


def test_condition_on_values_of_several_shapes():
    """A number and a column broadcast together."""
    mixture, truth = draw_one("full", 0, 2, 3)
    column = np.array([0.0, 1.0])
    found = mixture.condition({0: 0.5, 1: column})
    assert found.batch_shape == (2,)
    for i, v in enumerate(column):
        assert_same_mixture(found[i], conditioned(truth, [0, 1], [2], np.array([0.5, v])))


@structures
def test_conditioning_twice_is_conditioning_once(name):
    mixture, _ = draw_one(name, 0, 3, 4)
    at_once = mixture.condition({0: 0.3, 2: -1.0})
    in_turn = mixture.condition({2: -1.0}).condition({0: 0.3})
    torch.testing.assert_close(at_once.log_weights, in_turn.log_weights)
    torch.testing.assert_close(at_once.means, in_turn.means)
    torch.testing.assert_close(at_once.covariance.dense(), in_turn.covariance.dense())


@structures
def test_conditioning_a_thousand_deviations_away_stays_finite(name):
    mixture, _ = draw_one(name, 0, 3, 2)
    found = mixture.condition({0: 1e4})
    assert float(found.weights.sum()) == pytest.approx(1)
    assert bool(torch.isfinite(found.means).all())


def test_the_gradient_of_a_conditional_mean_is_the_regression_slope():
    """One Gaussian: E[y | x] = ρ σ_y/σ_x x, so the derivative is that slope."""
    mixture = Mixture.from_parameters([1.0], [[0.0, 0.0]], [[[4.0, 1.5], [1.5, 9.0]]])
    x = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    mixture.condition({0: x}).mean.sum().backward()
    np.testing.assert_allclose(x.grad, [1.5 / 4.0] * 2)


def test_names():
    dense = [[[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]]]
    mixture = Mixture.from_parameters(
        [1.0], [[1.0, 2.0, 3.0]], dense, feature_names=["age", "dose", "time"]
    )
    pair = mixture.marginal(["time", "age"])
    assert pair.feature_names == ("time", "age")
    assert pair.means.tolist() == [[3.0, 1.0]]
    assert mixture.marginal("dose").feature_names == ("dose",)
    rest = mixture.condition({"dose": 2.0})
    assert rest.feature_names == ("age", "time")
    assert rest.means.tolist() == [[1.0, 3.0]]
    np.testing.assert_allclose(
        mixture.condition({"dose": 0.0, 0: 1.0}).means,
        mixture.condition({1: 0.0, "age": 1.0}).means,
    )


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("weight", "no feature 'weight'; it has a, b"),
        (2, "Feature 2 does not exist; the mixture has 2 features"),
        (-3, "Feature -3 does not exist"),
        ([0, 0], "once each"),
        ([0, -2], "once each"),
        ([0, "a"], "once each"),
        ([], "at least one"),
        ([True, False], "whole number or a name"),
        (np.array([True, False]), "whole number or a name"),
        ([0.5], "whole number or a name"),
    ],
)
def test_features_that_cannot_be_meant_are_refused(features, message):
    mixture = Mixture.from_parameters(
        [1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag", feature_names=["a", "b"]
    )
    with pytest.raises(InputError, match=message):
        mixture.marginal(features)


def test_names_of_a_mixture_without_names():
    mixture = Mixture.from_parameters([1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag")
    with pytest.raises(UnknownNameError, match="it has no feature names"):
        mixture.marginal("a")
    with pytest.raises(InputError, match="Every feature is given"):
        mixture.condition({0: 1.0, 1: 1.0})
    assert mixture.condition({}) is mixture
