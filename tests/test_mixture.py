"""Mixture as a value: building it, taking it apart, moments, shaping, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch

from laws.cases import CASES, draw, draw_one, leaves, tensor
from mogul import Mixture
from mogul.covariances import STRUCTURES
from mogul.errors import InputError, MogulError, UnknownNameError

structures = pytest.mark.parametrize("name", CASES)


def bivariate(**kwargs) -> Mixture:
    return Mixture.from_parameters(
        [0.25, 0.75], [[0.0, 1.0], [4.0, -1.0]], [[1.0, 2.0], [2.0, 0.5]], "diag", **kwargs
    )


def same_bits(one: Mixture, other: Mixture) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (one.log_weights, other.log_weights),
            (one.means, other.means),
            (one.covariance.factor, other.covariance.factor),
        )
    )


# --- building -------------------------------------------------------------------------------------


@structures
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_parameters_come_back_as_they_went_in(name, batch):
    mixture, truths = draw(name, 0, 3, 2, batch)
    assert mixture.batch_shape == batch
    assert mixture.event_shape == (2,)
    for i in np.ndindex(batch):
        truth = truths[i] if batch else truths.item()
        np.testing.assert_allclose(mixture.weights[i], truth.weights, rtol=1e-13)
        np.testing.assert_allclose(mixture.means[i], truth.means)
        np.testing.assert_allclose(mixture.covariance.dense()[i], truth.dense, rtol=1e-10)
    again = Mixture.from_parameters(mixture.weights, mixture.means, mixture.covariances, name)
    torch.testing.assert_close(again.covariances, mixture.covariances)
    as_arrays = mixture.numpy()
    assert list(as_arrays) == ["weights", "means", "covariances"]
    assert as_arrays["covariances"].shape == (
        *batch,
        *STRUCTURES[name].factor_shape(3, 2),
    )


def test_the_type_is_float64_unless_every_array_is_float32():
    def dtype(w, m, c):
        return Mixture.from_parameters(w, m, c, "diag").dtype

    lists = ([1.0], [[0.0]], [[1.0]])
    assert dtype(*lists) == torch.float64
    assert dtype([1], [[0]], [[1]]) == torch.float64
    assert dtype(*(np.float32(v) for v in lists)) == torch.float32
    assert dtype(*(torch.tensor(v) for v in lists)) == torch.float32
    assert dtype(*(np.float64(v) for v in lists)) == torch.float64


def test_a_callers_array_may_change_afterwards():
    """A mixture is a value: it keeps no window on the arrays that it was built from."""
    arrays = [np.array([1.0]), np.array([[0.0, 0.0]]), np.array([[1.0, 1.0]])]
    mixture = Mixture.from_parameters(*arrays, "diag")
    for array in arrays:
        array += 7.0
    assert mixture.means.tolist() == [[0.0, 0.0]]
    assert mixture.variance.tolist() == [1.0, 1.0]


def test_any_array_is_taken_as_it_is():
    """Read-only memory and negative strides make torch warn or refuse; here they are copied."""
    means = np.arange(6.0).reshape(3, 2)[::-1]
    covariances = np.broadcast_to(np.eye(2), (3, 2, 2))
    weights = np.full(3, 1 / 3)
    weights.flags.writeable = False
    mixture = Mixture.from_parameters(weights, means, covariances)
    assert mixture.means[0].tolist() == [4.0, 5.0]
    assert mixture.log_prob(np.broadcast_to(0.0, (4, 2))).shape == (4,)
    assert mixture.log_prob([[0, 1]]).shape == (1,)


GOOD = {"weights": [0.5, 0.5], "means": [[0.0, 1.0], [2.0, 3.0]], "covariances": [np.eye(2)] * 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.5, 0.6]}, "must add up to 1; they add up to 1.1"),
        ({"weights": [-0.5, 1.5]}, "not negative"),
        ({"weights": [math.nan, 1.0]}, "finite"),
        ({"weights": [math.inf, 1.0]}, "finite"),
        ({"weights": [1.0]}, "expected 2 weights for 2 means"),
        ({"weights": 1.0}, "expected 2 weights"),
        ({"weights": [[0.5, 0.5]]}, "expected .*batch, K"),
        ({"weights": ["a", "b"]}, "array of numbers"),
        ({"weights": None}, "array of numbers"),
        ({"means": [0.0, 1.0]}, "means have shape .*expected .K, D"),
        ({"means": 3.0}, "means have shape"),
        ({"means": [[], []]}, "means have shape"),
        ({"means": [[0.0], [1.0, 2.0]]}, "array of numbers"),
        ({"means": [[0.0, math.nan], [1.0, 2.0]]}, "finite"),
        ({"covariances": np.eye(2)}, r"expected \(2, 2, 2\)"),
        ({"covariances": [np.eye(3)] * 2}, r"expected \(2, 2, 2\)"),
        ({"covariances": [[np.eye(2)] * 2] * 3}, "covariances are for batch shape"),
        ({"covariances": [np.eye(2), -np.eye(2)]}, "positive"),
        ({"covariances": [np.eye(2), np.eye(2) * math.nan]}, "positive"),
        ({"covariances": [np.eye(2), [[1.0, 0.5], [0.2, 1.0]]]}, "symmetric"),
        ({"covariances": [[1.0, 1.0], [1.0, 0.0]], "covariance_type": "diag"}, "positive"),
        ({"covariances": [1.0, -1.0], "covariance_type": "spherical"}, "positive"),
        ({"covariances": -np.eye(2), "covariance_type": "tied"}, "positive"),
        ({"covariances": [1.0, 1.0, 1.0], "covariance_type": "spherical"}, r"expected \(2,\)"),
        ({"covariance_type": "banded"}, "'banded' is unknown; choose one of 'full'"),
        ({"feature_names": ["a"]}, "1 feature names were given for 2 features"),
    ],
)
def test_what_cannot_be_a_mixture_is_refused_in_a_sentence(change, message):
    with pytest.raises(InputError, match=message) as caught:
        Mixture.from_parameters(**{**GOOD, **change})
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 250


def test_errors_are_of_both_families():
    """Callers may catch ValueError, as everywhere, or mogul's own."""
    for family in (ValueError, MogulError):
        with pytest.raises(family):
            Mixture.from_parameters([2.0], [[0.0]], [[[1.0]]])
    with pytest.raises(KeyError, match=r"^The covariance structure 'x' is unknown"):
        Mixture.from_parameters([1.0], [[0.0]], [[[1.0]]], "x")


def test_parts_that_do_not_fit_are_refused():
    covariance = STRUCTURES["diag"](torch.ones(2, 3), 2, 3)
    for logits, means in (
        (torch.zeros(3), torch.zeros(2, 3)),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(4, 2), torch.zeros(4, 2, 3)),
        (torch.zeros(2), torch.zeros(2, 4)),
    ):
        with pytest.raises(InputError):
            Mixture(logits, means, covariance)


@pytest.mark.parametrize("value", [1.0, [1.0], np.zeros((4, 3)), [["a", "b"]]])
def test_values_of_the_wrong_shape_are_refused(value):
    for ask in (bivariate().log_prob, bivariate().cdf, bivariate().crps, bivariate().predict):
        with pytest.raises(InputError, match=r"2 features|array of numbers"):
            ask(value)


def test_normalising_logits():
    """Any logits will do: the weights are their softmax."""
    base = bivariate()
    for shift in (0.0, 1000.0, -1e5):
        mixture = Mixture(tensor([0.0, math.log(3.0)]) + shift, base.means, base.covariance)
        np.testing.assert_allclose(mixture.weights, [0.25, 0.75], rtol=1e-10)


# --- moments --------------------------------------------------------------------------------------


@structures
@pytest.mark.parametrize("batch", [(), (3,)])
def test_moments(name, batch):
    mixture, truths = draw(name, 0, 3, 2, batch)
    for i in np.ndindex(batch):
        truth = truths[i] if batch else truths.item()
        covariance = truth.covariance()
        np.testing.assert_allclose(mixture.mean[i], truth.mean(), rtol=1e-12)
        np.testing.assert_allclose(mixture.covariance_matrix[i], covariance, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(mixture.variance[i], np.diag(covariance), rtol=1e-11)
        np.testing.assert_allclose(mixture.stddev[i], np.sqrt(np.diag(covariance)), rtol=1e-11)


def test_variance_far_from_the_origin_keeps_its_digits():
    """E[x²] − E[x]² would leave none."""
    mixture = Mixture.from_parameters(
        np.float32([0.5, 0.5]), np.float32([[1e5], [1e5 + 2]]), np.float32([[1.0], [3.0]]), "diag"
    )
    assert float(mixture.variance) == pytest.approx(3.0, rel=1e-5)
    assert float(mixture.covariance_matrix) == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("full", 2 + 12 + 3 * 10), ("tied", 2 + 12 + 10), ("diag", 2 + 12 + 12), ("spherical", 17)],
)
def test_n_parameters_of_three_components_in_four_features(name, expected):
    assert draw_one(name, 0, 3, 4)[0].n_parameters == expected


# --- taking apart ---------------------------------------------------------------------------------


@structures
def test_expand(name):
    mixture, _ = draw_one(name, 0, 3, 2)
    wide = mixture.expand((4, 5))
    assert wide.batch_shape == (4, 5)
    assert wide.means.data_ptr() == mixture.means.data_ptr()
    x = tensor(np.random.default_rng(0).normal(size=(7, 1, 1, 2)))
    expected = mixture.log_prob(x).expand(7, 4, 5)
    torch.testing.assert_close(wide.log_prob(x), expected, rtol=1e-13, atol=1e-13)
    column, _ = draw(name, 0, 3, 2, (4, 1))
    assert torch.equal(column.expand((4, 6)).means[2, 5], column.means[2, 0])


@structures
def test_indexing_is_that_of_a_tensor_of_the_batch_shape(name):
    mixture, _ = draw(name, 0, 3, 3, (2, 3))
    places = torch.arange(6).reshape(2, 3)
    mask = places % 2 == 0
    for index in (
        0,
        -1,
        (1, 2),
        slice(1, None),
        (slice(None), 1),
        (..., 0),
        (None, 1),
        [1, 0],
        mask,
        torch.tensor([1]),
        ...,
    ):
        found, want = mixture[index], places[index]
        assert found.batch_shape == want.shape
        torch.testing.assert_close(found.means, mixture.means.reshape(6, 3, 3)[want])
        factor = mixture.covariance.factor
        flat = factor.reshape(6, *factor.shape[2:])
        torch.testing.assert_close(found.covariance.factor, flat[want])
        torch.testing.assert_close(found.weights, mixture.weights.reshape(6, 3)[want])


def test_indexing_beyond_the_batch_is_an_index_error():
    single, batch = bivariate(), bivariate().expand((2,))
    for mixture, index in ((single, 0), (batch, 2), (batch, (0, 0)), (batch, "a")):
        with pytest.raises((IndexError, TypeError)):
            mixture[index]
    assert single[...].batch_shape == ()
    assert single[None].batch_shape == (1,)
    assert len(batch) == 2
    assert [m.batch_shape for m in batch] == [(), ()]
    with pytest.raises(TypeError, match="single mixture has no length"):
        len(single)


def test_gradients_pass_through_indexing():
    mixture, parts = leaves(draw("full", 0, 2, 2, (3,))[0])
    mixture[1].log_prob(torch.zeros(2)).backward()
    assert [float(g) == 0 for g in parts[1].grad.abs().sum((1, 2))] == [True, False, True]


def test_a_batch_of_no_mixtures_answers_with_nothing():
    """As a network's last, empty batch of rows does."""
    empty = bivariate().condition({0: torch.zeros(0)})
    assert empty.batch_shape == (0,)
    x = torch.zeros(5, 0, 1)
    assert empty.log_prob(x).shape == empty.predict(x).shape == (5, 0)
    assert empty.responsibilities(x).shape == (5, 0, 2)
    assert empty.mode.shape == empty.mean.shape == empty.icdf(0.5).shape == (0, 1)
    assert empty.hdr(0.5).shape == (0, 1, 2, 2)
    assert empty.entropy(16).shape == (0,)
    assert empty.sample((3,)).shape == empty.rsample((3,)).shape == (3, 0, 1)
    fresh, _ = leaves(empty)
    assert fresh.rsample((3,)).shape == (3, 0, 1)
    assert empty.expand((4, 0)).condition({}).log_prob(torch.zeros(1)).shape == (4, 0)


@structures
def test_select(name):
    mixture, truth = draw_one(name, 0, 4, 2)
    for chosen, order in (
        ([2, 0], [2, 0]),
        (3, [3]),
        ([-1], [3]),
        (slice(1, 3), [1, 2]),
        (torch.tensor([1]), [1]),
        (np.array([True, False, False, True]), [0, 3]),
    ):
        found = mixture.select(chosen)
        part = truth.weights[order]
        np.testing.assert_allclose(found.weights, part / part.sum(), rtol=1e-12)
        np.testing.assert_allclose(found.means, truth.means[order])
        np.testing.assert_allclose(found.covariance.dense(), truth.dense[order], rtol=1e-9)
    batch, _ = draw(name, 0, 3, 2, (5,))
    assert batch.select([0, 1]).batch_shape == (5,)


def test_components_without_weight_cannot_stand_alone():
    mixture = Mixture.from_parameters([0.0, 1.0], [[0.0], [1.0]], [[1.0], [1.0]], "diag")
    with pytest.raises(InputError, match="no weight"):
        mixture.select([0])
    assert mixture.select([0, 1]).weights.tolist() == [0.0, 1.0]


@structures
def test_to_and_detach(name):
    mixture, _ = leaves(draw(name, 0, 2, 2, (3,))[0])
    single = mixture.to(dtype=torch.float32)
    assert single.dtype == single.log_prob(torch.zeros(2)).dtype == torch.float32
    assert single.covariance.factor.dtype == torch.float32
    assert single.to("cpu").device == torch.device("cpu")
    assert same_bits(mixture.to(torch.float32), single)
    free = mixture.detach()
    assert same_bits(free, mixture.detach())
    assert not free.log_prob(torch.zeros(2)).requires_grad
    assert mixture.log_prob(torch.zeros(2)).requires_grad
    assert set(mixture.numpy()) == {"weights", "means", "covariances"}


@structures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_state_rebuilds_the_same_bits(name, dtype, batch):
    mixture = draw(name, 0, 3, 2, batch)[0].to(dtype=dtype)
    header, tensors = mixture.to_state()
    header = json.loads(json.dumps(header))
    again = Mixture.from_state(header, tensors)
    assert same_bits(mixture, again)
    assert again.covariance_type == name
    assert again.feature_names is None
    x = mixture.sample((20,))
    assert torch.equal(again.log_prob(x), mixture.log_prob(x))
    assert same_bits(again, Mixture.from_state(*again.to_state()))


def test_a_state_does_not_normalise_weights_again():
    """Normalising twice moves a last bit now and then."""
    moved = 0
    for seed in range(30):
        mixture = draw_one("spherical", seed, 20, 1)[0].to(dtype=torch.float32)
        again = torch.log_softmax(mixture.log_weights, -1)
        moved += not torch.equal(again, mixture.log_weights)
        assert same_bits(mixture, Mixture.from_state(*mixture.to_state()))
    assert moved > 0  # the law above has something to say


def test_a_state_keeps_names_and_weights_of_zero():
    mixture = Mixture.from_parameters(
        [0.0, 1.0], [[0.0], [1.0]], [[1.0], [1.0]], "diag", feature_names=["x"]
    )
    again = Mixture.from_state(*mixture.to_state())
    assert same_bits(mixture, again)
    assert again.feature_names == ("x",)


def test_states_of_views_are_whole_arrays():
    header, tensors = bivariate().expand((3,)).to_state()
    assert all(t.is_contiguous() and not t.requires_grad for t in tensors.values())
    assert Mixture.from_state(header, tensors).batch_shape == (3,)


def test_repr():
    assert repr(bivariate()) == "Mixture(n_components=2, n_features=2, covariance_type='diag')"
    assert repr(bivariate().expand((3, 1))) == (
        "Mixture(n_components=2, n_features=2, covariance_type='diag', batch_shape=(3, 1))"
    )


def test_names_stay_with_the_mixture():
    named = bivariate(feature_names=["a", "b"])
    batch = named.expand((2,))
    for other in (
        named.to(dtype=torch.float32),
        named.detach(),
        batch,
        batch[0],
        named.select([1]),
        named.sharpen(0.5),
    ):
        assert other.feature_names == ("a", "b")
    with pytest.raises(UnknownNameError):
        bivariate().marginal("a")


# --- shaping --------------------------------------------------------------------------------------


@structures
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(("weight_bias", "scale_bias"), [(0, 0), (1.5, 0), (0, 0.7), (0.5, -0.3)])
def test_sharpen(name, batch, weight_bias, scale_bias):
    """Graves (2013): weights ∝ w^(1 + b), standard deviations × e^(−c), means unmoved."""
    mixture, truths = draw(name, 0, 3, 2, batch)
    found = mixture.sharpen(weight_bias, scale_bias)
    for i in np.ndindex(batch):
        truth = truths[i] if batch else truths.item()
        powered = truth.weights ** (1 + weight_bias)
        np.testing.assert_allclose(found.weights[i], powered / powered.sum(), rtol=1e-12)
        np.testing.assert_allclose(found.means[i], truth.means)
        np.testing.assert_allclose(
            found.covariance.dense()[i], truth.dense * np.exp(-2 * scale_bias), rtol=1e-9
        )


def test_a_mixture_is_a_torch_distribution():
    """It serves where torch.distributions are served."""
    mixture = draw_one("full", 0, 2, 3)[0]
    assert isinstance(mixture, torch.distributions.Distribution)
    independent = torch.distributions.Independent(mixture.expand((4,)), 1)
    assert independent.log_prob(torch.zeros(4, 3)).shape == ()
    shifted = torch.distributions.TransformedDistribution(
        mixture,
        torch.distributions.transforms.AffineTransform(torch.zeros(3), torch.full((3,), 2.0), 1),
    )
    x = torch.ones(3, dtype=torch.float64)
    expected = mixture.log_prob(x / 2) - 3 * math.log(2)
    torch.testing.assert_close(shifted.log_prob(x), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@structures
def test_another_device_gives_the_same_answers(name):
    mixture, _ = draw(name, 0, 3, 3, (2,))
    there = mixture.to("cuda")
    x = tensor(np.random.default_rng(0).normal(size=(5, 2, 3)))
    for ask in (
        lambda m: m.log_prob(x.to(m.device)),
        lambda m: m.responsibilities(x.to(m.device)),
        lambda m: m.cdf(x.to(m.device)),
        lambda m: m.crps(x.to(m.device)),
        lambda m: m.icdf(0.3),
        lambda m: m.interval(0.9),
        lambda m: m.hdr(0.9),
        lambda m: m.mode,
        lambda m: m.covariance_matrix,
        lambda m: m.entropy(64),
        lambda m: m.kl_divergence(m.select([1, 0])).value,
        lambda m: m.marginal([2, 0]).log_prob(x[..., :2].to(m.device)),
        lambda m: m.condition({1: 0.3}).log_prob(x[..., :2].to(m.device)),
        lambda m: m.sharpen(0.3, 0.2)[1].mean,
        lambda m: m.covariance.decode(m.covariance.encode(), 3, 3).dense(),
    ):
        torch.testing.assert_close(
            ask(there).cpu(), ask(mixture), rtol=1e-8, atol=1e-8, equal_nan=True
        )
    fresh, parts = leaves(there)
    drawn = fresh.rsample((4,), generator=torch.Generator("cuda").manual_seed(0))
    assert all(g.is_cuda for g in torch.autograd.grad(drawn.sum(), parts))
    _, tensors = there.to_state()
    assert all(t.device.type == "cpu" for t in tensors.values())
