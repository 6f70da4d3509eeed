"""What a covariance structure answers, against dense matrices in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laws.cases import CASES, draw, draw_one, random_matrices, tensor
from mogul.covariances import STRUCTURES, Covariance, structure
from mogul.errors import InputError, UnknownNameError

structures = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 5))  # components, features
TIGHT = {"rtol": 1e-11, "atol": 1e-12}


def pair(name: str, seed: int, k: int, d: int) -> tuple[Covariance, np.ndarray]:
    """Covariances under test and their matrices (K, D, D)."""
    values = CASES[name].draw(np.random.default_rng(seed), k, d)
    covariance = STRUCTURES[name].from_covariances(tensor(values), k, d)
    return covariance, CASES[name].dense(values, k, d)


def rows(seed: int, *shape: int) -> torch.Tensor:
    return tensor(np.random.default_rng(seed + 1).normal(size=shape))


def test_every_registered_structure_is_under_law():
    assert set(CASES) == set(STRUCTURES)
    for name, kind in STRUCTURES.items():
        assert kind.name == name
        assert structure(name) is kind


@pytest.mark.parametrize("name", ["fool", "", None, 3, ["full"]])
def test_an_unknown_structure_is_refused_by_name(name):
    with pytest.raises(UnknownNameError, match=r"unknown; choose one of .*'full'.*\."):
        structure(name)


@structures
@given(seeds, sizes)
def test_arrays(name, seed, size):
    k, d = size
    case = CASES[name]
    covariance, dense = pair(name, seed, k, d)
    shape = covariance.factor_shape(k, d)
    assert tuple(covariance.factor.shape) == shape
    assert covariance.factor.ndim == covariance.factor_ndim
    assert covariance.n_free(k, d) == case.n_free(k, d)
    for values, truth in (
        (covariance.covariances(), dense),
        (covariance.precisions(), np.linalg.inv(dense)),
    ):
        assert tuple(values.shape) == shape
        np.testing.assert_allclose(case.dense(values.numpy(), k, d), truth, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(covariance.dense(), dense, **TIGHT)
    np.testing.assert_allclose(
        covariance.variances(), np.diagonal(dense, axis1=1, axis2=2), **TIGHT
    )
    np.testing.assert_allclose(covariance.scale_tril(), np.linalg.cholesky(dense), **TIGHT)
    np.testing.assert_allclose(
        covariance.log_diagonal().sum(-1), 0.5 * np.linalg.slogdet(dense)[1], **TIGHT
    )
    np.testing.assert_allclose(
        covariance.precision_diagonal(),
        np.diagonal(np.linalg.inv(dense), axis1=1, axis2=2),
        rtol=1e-9,
    )


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_precision_factors_are_those_of_scikit_learn(name):
    from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

    covariance, _ = pair(name, 3, 3, 4)
    theirs = _compute_precision_cholesky(covariance.covariances().numpy(), name)
    np.testing.assert_allclose(covariance.precisions_cholesky(), theirs, **TIGHT)


@structures
@given(seeds, sizes)
def test_ways_to_build_the_same(name, seed, size):
    covariance, dense = pair(name, seed, *size)
    kind = type(covariance)
    for again in (
        kind.from_covariances(covariance.covariances(), *size),
        kind.from_precisions(covariance.precisions(), *size),
        kind.from_precisions_cholesky(covariance.precisions_cholesky(), *size),
    ):
        np.testing.assert_allclose(again.scale_tril(), np.linalg.cholesky(dense), rtol=1e-9)


@structures
@given(seeds, sizes)
def test_whiten_and_colour(name, seed, size):
    k, d = size
    covariance, dense = pair(name, seed, k, d)
    root = np.linalg.cholesky(dense)
    x = rows(seed, k, 7, d)
    truth = np.linalg.solve(root, x.numpy().transpose(0, 2, 1)).transpose(0, 2, 1)
    np.testing.assert_allclose(covariance.whiten(x), truth, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(covariance.colour(x), x.numpy() @ root.transpose(0, 2, 1), **TIGHT)


@structures
def test_batch_axes_are_independent(name):
    """Everything asked of a batch equals what its members say alone."""
    k, d, batch = 3, 2, (2, 4)
    case, kind = CASES[name], STRUCTURES[name]
    rng = np.random.default_rng(0)
    values = np.stack([case.draw(rng, k, d) for _ in range(8)])
    values = tensor(values).reshape(*batch, *values.shape[1:])
    whole = kind.from_covariances(values, k, d)
    x = rows(0, *batch, k, 5, d)
    log_factor = rows(1, *batch)
    given_, rest = torch.tensor([1]), torch.tensor([0])
    vector = rows(2, *batch, k, d)
    moment = kind.moment(x[..., 0].exp(), x, x)
    count = rows(3, *batch, k).exp()
    floor = rows(4, *batch).exp()
    assert whole.batch_shape == batch
    for i in np.ndindex(batch):
        one = kind.from_covariances(values[i], k, d)
        pairs = {
            "index": (whole.index(i).factor, one.factor),
            "dense": (whole.dense()[i], one.dense()),
            "variances": (whole.variances()[i], one.variances()),
            "precisions": (whole.precisions()[i], one.precisions()),
            "log_diagonal": (whole.log_diagonal()[i], one.log_diagonal()),
            "whiten": (whole.whiten(x)[i], one.whiten(x[i])),
            "colour": (whole.colour(x)[i], one.colour(x[i])),
            "marginal": (whole.marginal(rest).factor[i], one.marginal(rest).factor),
            "condition": (
                whole.condition(given_, rest, x[..., :1])[0][i],
                one.condition(given_, rest, x[i][..., :1])[0],
            ),
            "scaled": (whole.scaled(log_factor).factor[i], one.scaled(log_factor[i]).factor),
            "encode": (whole.encode()[i], one.encode()),
            "moment": (moment[i], kind.moment(x[i][..., 0].exp(), x[i], x[i])),
            "from_moment": (
                kind.from_moment(moment, count, d, floor)[0].factor[i],
                kind.from_moment(moment[i], count[i], d, floor[i])[0].factor,
            ),
            "precision_times": (whole.precision_times(vector)[i], one.precision_times(vector[i])),
            "quadratic_weights": (whole.quadratic_weights()[i], one.quadratic_weights()),
            "select": (whole.select(torch.tensor([2, 0])).dense()[i], one.dense()[[2, 0]]),
        }
        for what, (found, expected) in pairs.items():
            torch.testing.assert_close(found, expected, msg=what)


@structures
@given(seeds, sizes, st.data())
def test_select_expand_and_to(name, seed, size, data):
    k, d = size
    covariance, dense = pair(name, seed, k, d)
    order = data.draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=5))
    chosen = covariance.select(torch.tensor(order))
    assert chosen.n_components == len(order)
    np.testing.assert_allclose(chosen.dense(), dense[order], **TIGHT)
    wide = covariance.expand(torch.Size((2, 3)))
    assert wide.batch_shape == (2, 3)
    assert torch.equal(wide.dense()[1, 2], covariance.dense())
    assert covariance.to(dtype=torch.float32).factor.dtype == torch.float32


@structures
@given(seeds, sizes, st.randoms(use_true_random=False))
def test_marginal_and_condition(name, seed, size, random):
    k, d = size[0], size[1] + 1
    covariance, dense = pair(name, seed, k, d)
    order = random.sample(range(d), d)
    n_given = random.randint(1, d - 1)
    given_, rest = order[:n_given], order[n_given:]
    np.testing.assert_allclose(
        covariance.marginal(torch.tensor(rest)).dense(),
        dense[:, rest][:, :, rest],
        rtol=1e-10,
        atol=1e-12,
    )
    gap = rows(seed, k, 6, n_given)
    shift, left = covariance.condition(torch.tensor(given_), torch.tensor(rest), gap)
    s_gg = dense[:, given_][:, :, given_]
    gain = dense[:, rest][:, :, given_] @ np.linalg.inv(s_gg)
    schur = dense[:, rest][:, :, rest] - gain @ dense[:, given_][:, :, rest]
    np.testing.assert_allclose(shift, gap.numpy() @ gain.transpose(0, 2, 1), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(left.dense(), schur, rtol=1e-9, atol=1e-10)


@structures
@given(seeds, sizes, st.floats(-3, 3))
def test_scaled(name, seed, size, amount):
    covariance, dense = pair(name, seed, *size)
    np.testing.assert_allclose(
        covariance.scaled(tensor(amount)).dense(), dense * np.exp(2 * amount), **TIGHT
    )


# --- the chart ------------------------------------------------------------------------------------


@structures
@given(seeds, sizes)
def test_encode_and_decode_are_inverse(name, seed, size):
    k, d = size
    covariance, dense = pair(name, seed, k, d)
    reference, _ = pair(name, seed ^ 1, k, d)
    kind = type(covariance)
    for base in (None, reference):
        code = covariance.encode(base)
        assert code.shape == (covariance.n_free(k, d),)
        np.testing.assert_allclose(kind.decode(code, k, d, base).dense(), dense, rtol=1e-10)
        anywhere = 2 * rows(seed, covariance.n_free(k, d))
        np.testing.assert_allclose(
            kind.decode(anywhere, k, d, base).encode(base), anywhere, rtol=1e-8, atol=1e-8
        )
    assert torch.allclose(covariance.encode(covariance), torch.zeros(()).double(), atol=1e-12)


@structures
@given(seeds, sizes)
def test_any_real_vector_decodes_to_covariances(name, seed, size):
    k, d = size
    reference, _ = pair(name, seed, k, d)
    code = 3 * rows(seed, reference.n_free(k, d))
    for base in (None, reference):
        factor = reference.decode(code, k, d, base).scale_tril()
        assert torch.equal(factor, factor.tril())
        assert bool((factor.diagonal(dim1=-2, dim2=-1) > 0).all())


@structures
def test_the_chart_does_not_depend_on_units(name):
    k, d = 3, 4
    covariance, dense = pair(name, 0, k, d)
    reference, dense_reference = pair(name, 1, k, d)
    units = np.full(d, 1e3) if name == "spherical" else np.array([1e-3, 1.0, 1e3, 7.0])
    kind = type(covariance)

    def rescaled(matrices):
        part = CASES[name].estimate(matrices * np.outer(units, units), np.ones(k))
        return kind.from_covariances(tensor(part), k, d)

    np.testing.assert_allclose(
        rescaled(dense).encode(rescaled(dense_reference)), covariance.encode(reference), atol=1e-10
    )


# --- statistics -----------------------------------------------------------------------------------


@structures
@given(seeds, sizes)
def test_moment_is_the_structures_part_of_the_dense_sum(name, seed, size):
    k, d = size
    kind, part = STRUCTURES[name], CASES[name].part
    weight, left, right = rows(seed, k, 9), rows(seed + 1, k, 9, d), rows(seed + 2, k, 9, d)
    truth = part(np.einsum("ks,ksi,ksj->kij", *(t.numpy() for t in (weight, left, right))))
    np.testing.assert_allclose(kind.moment(weight, left, right), truth, **TIGHT)


@structures
@given(seeds, sizes)
def test_from_moment_is_the_weighted_sample_covariance(name, seed, size):
    """Against numpy.cov with weights, pooled as the structure pools."""
    k, d = size
    n = 40
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ random_matrices(rng, 1, d)[0]
    share = rng.dirichlet(np.ones(k), n) * rng.exponential(size=(n, 1))
    count = share.sum(0)
    each = [np.atleast_2d(np.cov(x.T, aweights=share[:, j], bias=True)) for j in range(k)]
    scatter = count[:, None, None] * np.stack(each)
    means = (share.T @ x) / count[:, None]
    gap = tensor(x[None] - means[:, None])  # (K, N, D)
    kind = STRUCTURES[name]
    for floor in (0.0, 0.3):
        found, ok = kind.from_moment(
            kind.moment(tensor(share.T), gap, gap), tensor(count), d, tensor(floor)
        )
        estimate = CASES[name].dense(CASES[name].estimate(scatter, count), k, d)
        assert ok.shape == (k,)
        assert bool(ok.all())
        np.testing.assert_allclose(
            found.dense(), estimate + floor * np.eye(d), rtol=1e-9, atol=1e-12
        )


@structures
@pytest.mark.parametrize("spoil", ["empty", "flat", "nan", "negative"])
def test_from_moment_reports_what_is_not_positive_definite(name, spoil):
    """A bad component has ok False and a usable stand-in; the others are not touched."""
    k, d = 3, 2
    rng = np.random.default_rng(0)
    moment, count = random_matrices(rng, k, d) * 10, np.full(k, 10.0)
    if spoil == "empty":
        moment[1], count[1] = 0.0, 0.0
    else:
        moment[1] = {"flat": 0.0, "nan": np.nan, "negative": -np.eye(d) * 100}[spoil]
    kind, case = STRUCTURES[name], CASES[name]
    found, ok = kind.from_moment(
        tensor(case.part(moment)), tensor(count), d, torch.zeros((), dtype=torch.float64)
    )
    assert bool(torch.isfinite(found.factor).all())
    assert bool((found.scale_tril().diagonal(dim1=-2, dim2=-1) > 0).all())
    if name == "tied":  # one matrix for all: it is good or bad for all
        assert ok.tolist() == [spoil in ("empty", "flat")] * k
        return
    assert ok.tolist() == [True, False, True]
    good = [0, 2]
    expected = case.dense(case.estimate(moment[good], count[good]), 2, d)
    np.testing.assert_allclose(found.dense()[good], expected, **TIGHT)


# --- the expanded form ----------------------------------------------------------------------------


@structures
@given(seeds, sizes)
def test_expanded_form(name, seed, size):
    k, d = size
    covariance, dense = pair(name, seed, k, d)
    precision = np.linalg.inv(dense)
    x = rows(seed, d, 8)
    features = covariance.features(x)
    truth = -0.5 * np.einsum("is,kij,js->ks", x.numpy(), precision, x.numpy())
    found = (covariance.quadratic_weights() @ features).expand(k, 8)
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-11)
    into = torch.empty_like(features)
    covariance.features(x, out=into)
    assert torch.equal(into, features)
    vectors = rows(seed + 3, k, d)
    np.testing.assert_allclose(
        covariance.precision_times(vectors),
        np.einsum("kij,kj->ki", precision, vectors.numpy()),
        rtol=1e-8,
        atol=1e-10,
    )


@structures
@given(seeds, sizes)
def test_raw_second_moments(name, seed, size):
    k, d = size
    covariance, _ = pair(name, seed, k, d)
    x, share = rows(seed, d, 8), rows(seed + 1, k, 8).softmax(0)
    products = share @ covariance.features(x).transpose(-1, -2)
    found = covariance.raw_second(products, share, x)
    raw = np.einsum("ks,is,js->kij", share.numpy(), x.numpy(), x.numpy())
    np.testing.assert_allclose(found, CASES[name].part(raw), **TIGHT)


@structures
@given(seeds, sizes, st.floats(0, 10))
def test_widened_adds_to_every_variance(name, seed, size, variance):
    covariance, _ = pair(name, seed, *size)
    wide = covariance.widened(torch.tensor(variance, dtype=torch.float64)).dense()
    want = covariance.dense() + variance * torch.eye(size[1], dtype=torch.float64)
    np.testing.assert_allclose(wide, want, **TIGHT)


@structures
@given(seeds, sizes)
def test_units_of_the_chart(name, seed, size):
    """A step of one unit moves the same share of a factor in any units of the features."""
    k, d = size
    covariance, _ = pair(name, seed, k, d)
    kind = STRUCTURES[name]
    scales = rows(seed, d, 1).flatten().exp()
    units = kind.chart_units(scales, k)
    assert units.shape == kind.chart_shape(k, d)
    assert units.numel() == covariance.encode().numel()
    if name == "spherical":  # one scale cannot follow several features
        assert bool((units == 1).all())
        return
    step = 0.1 * rows(seed + 1, 1, units.numel()).flatten()
    one = torch.ones(d, dtype=torch.float64)
    plain = kind.decode(step * kind.chart_units(one, k).flatten(), k, d)
    scaled = kind.decode(step * units.flatten(), k, d)
    # Off the diagonal entries are measured in the row's feature; the diagonal is a ratio.
    shape = (k, d, d)
    lower = torch.tril(torch.ones(d, d), -1).bool().expand(shape)
    expected = plain.scale_tril() * scales[:, None]
    np.testing.assert_allclose(scaled.scale_tril()[lower], expected[lower], **TIGHT)
    diagonal = torch.eye(d).bool().expand(shape)
    np.testing.assert_allclose(scaled.scale_tril()[diagonal], plain.scale_tril()[diagonal])


def test_features_depend_on_rows_alone_where_a_structure_says_so():
    for name, kind in STRUCTURES.items():
        one, other = pair(name, 0, 2, 3)[0], pair(name, 1, 2, 3)[0]
        x = rows(0, 3, 5)
        assert torch.equal(one.features(x), other.features(x)) == kind.shared_features


# --- bad input ------------------------------------------------------------------------------------


def spoiled(name: str) -> dict[str, np.ndarray]:
    good = CASES[name].draw(np.random.default_rng(0), 2, 2)
    bad = {"nan": good * np.nan, "infinite": good * np.inf, "zero": good * 0, "negative": -good}
    if good.shape[-2:] == (2, 2) and name in ("full", "tied"):
        bad["asymmetric"] = good + np.array([[0, 0.1], [0, 0]])
        bad["singular"] = np.broadcast_to(np.ones((2, 2)), good.shape)
        bad["indefinite"] = np.broadcast_to(np.array([[1.0, 2.0], [2.0, 1.0]]), good.shape)
    return bad


@structures
def test_bad_covariances_and_precisions_are_refused(name):
    kind = STRUCTURES[name]
    for what, values in spoiled(name).items():
        for build in (kind.from_covariances, kind.from_precisions):
            with pytest.raises(InputError, match=name):  # noqa: PT012
                build(tensor(values), 2, 2)
                pytest.fail(what)
    shape = kind.factor_shape(2, 2)
    with pytest.raises(InputError, match="expected"):
        kind.from_covariances(torch.ones((*shape[:-1], 7), dtype=torch.float64), 2, 2)


@structures
def test_one_bad_component_among_good_ones_is_seen(name):
    values = CASES[name].draw(np.random.default_rng(0), 3, 2)
    values[(1,) * values.ndim] = -5.0
    with pytest.raises(InputError):
        STRUCTURES[name].from_covariances(tensor(values), 3, 2)


@structures
def test_a_mixture_reports_its_structure(name):
    mixture, truth = draw_one(name, 0, 3, 4)
    assert mixture.covariance_type == name
    assert mixture.n_parameters == 2 + 3 * 4 + CASES[name].n_free(3, 4)
    assert len(truth.weights) == 3


@pytest.mark.parametrize("name", CASES)
def test_another_unit_and_origin_do_the_same_to_the_density(name):
    mixture, _ = draw_one(name, 3, 3, 2)
    for scale in ([2.0, 2.0], [0.1, 30.0]):
        loc, by = tensor([5.0, -3.0]), tensor(scale)
        moved = mixture.affine(loc, by)
        x = tensor(np.random.default_rng(3).normal(size=(20, 2)))
        expected = mixture.log_prob(x) - by.log().sum()
        torch.testing.assert_close(moved.log_prob(loc + by * x), expected)
        torch.testing.assert_close(moved.mean, loc + by * mixture.mean)
    for loc, scale in ((0.0, -1.0), (0.0, [1.0, 2.0, 3.0]), (np.nan, 1.0)):
        with pytest.raises(InputError, match="loc"):
            mixture.affine(loc, scale)


@pytest.mark.parametrize("name", CASES)
def test_merging_along_an_axis_averages_the_densities(name):
    mixture, _ = draw(name, 4, 3, 2, (2, 5))
    x = tensor(np.random.default_rng(4).normal(size=(7, 1, 2)))
    each = mixture.log_prob(x.unsqueeze(1))  # (7, 2, 5)
    for axis, batch in ((0, (5,)), (1, (2,)), (-1, (2,))):
        merged = mixture.merged(axis)
        assert merged.batch_shape == batch
        assert merged.n_components == 3 * mixture.batch_shape[axis]
        n = mixture.batch_shape[axis]
        expected = each.movedim(1 + axis % 2, 0).logsumexp(0) - np.log(n)
        torch.testing.assert_close(merged.log_prob(x), expected)
    with pytest.raises(InputError, match="one of 2 batch axes"):
        mixture.merged(2)
