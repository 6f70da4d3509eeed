"""The E-step and its sisters, against scipy's densities, sums in NumPy and each other."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

import mogul.kernels
from laws.cases import CASES, draw, draw_one, leaves, rebuild, tensor
from mogul import Mixture
from mogul._threads import in_threads, one_thread_if_small
from mogul.covariances import structure
from mogul.infer.em import m_step
from mogul.kernels import KERNELS, e_step, log_prob, predict, responsibilities
from mogul.kernels.reference import ReferenceKernel
from mogul.stats import Stats

KINDS = list(CASES)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))  # K, D


def sums(name, truth, x, weight=None, at=None):
    """The statistics of rows (N, D), from scipy's densities; ``at`` is the origin, (K, D)."""
    at = truth.means if at is None else at
    weight = np.ones(len(x)) if weight is None else weight
    share = truth.responsibilities(x) * weight[:, None]  # (N, K)
    gap = x[:, None, :] - at  # (N, K, D)
    return {
        "count": share.sum(0),
        "first": np.einsum("nk,nki->ki", share, gap),
        "second": CASES[name].part(np.einsum("nk,nki,nkj->kij", share, gap, gap)),
        "row_weight": weight.sum(),
        "log_likelihood": weight @ truth.log_prob(x),
    }


def assert_stats(stats, expected, rtol=1e-10):
    """Equal sums, each to ``rtol`` of the largest number of its kind."""
    for name, want in expected.items():
        got = getattr(stats, name).detach().numpy() if isinstance(stats, Stats) else stats[name]
        assert got.dtype == np.float64
        np.testing.assert_allclose(
            got, want, rtol=rtol, atol=rtol * (1e-300 + np.abs(want).max(initial=0)), err_msg=name
        )


def as_dict(stats):
    names = ("count", "first", "second", "row_weight", "log_likelihood")
    return {name: getattr(stats, name).detach().numpy() for name in names}


def one(stats, i):
    return as_dict(stats.index(i))


# --- the truth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["auto", *KERNELS])
@given(name=kinds, seed=seeds, size=sizes, weighted=st.booleans())
def test_statistics_are_sums_over_rows(kernel, name, seed, size, weighted):
    mixture, truth = draw_one(name, seed, *size)
    rng = np.random.default_rng(seed)
    x = truth.draw(rng, 25)
    weight = rng.uniform(0, 3, 25) if weighted else None
    stats = e_step(tensor(x), mixture, None if weight is None else tensor(weight), kernel=kernel)
    np.testing.assert_array_equal(stats.origin, truth.means)
    assert_stats(stats, sums(name, truth, x, weight))


@given(name=kinds, seed=seeds, size=sizes, scale=st.integers(-4, 4), offset=st.integers(-3, 3))
def test_reference_and_expanded_agree(name, seed, size, scale, offset):
    """In any units, and about any place: the expanded form is centred first."""
    _, truth = draw_one(name, seed, *size)
    factor, shift = 10.0**scale, 10.0**scale * 10.0**offset
    moved = Mixture.from_parameters(
        truth.weights,
        truth.means * factor + shift,
        CASES[name].estimate(truth.dense * factor**2, np.ones(len(truth.weights))),
        name,
    )
    rows = tensor(truth.draw(np.random.default_rng(seed), 40) * factor + shift)
    found = {kernel: as_dict(e_step(rows, moved, kernel=kernel)) for kernel in KERNELS}
    # The rounding of the rows themselves, in units of the spread.
    assert_stats(found["expanded"], found["reference"], 1e-10 * 10.0 ** max(offset, 0))


@given(name=kinds, seed=seeds, size=sizes)
def test_a_batch_of_mixtures_over_shared_rows_is_each_alone(name, seed, size):
    batch, truths = draw(name, seed, *size, (3,))
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(20, size[1])) * 3, rng.uniform(0, 2, (3, 20))
    for kernel in KERNELS:
        together = e_step(tensor(x), batch, kernel=kernel)
        shared = e_step(tensor(x), batch, tensor(weight[0]), kernel=kernel)
        own = e_step(tensor(x), batch, tensor(weight), kernel=kernel)
        for i, truth in enumerate(truths):
            assert_stats(one(together, i), sums(name, truth, x))
            assert_stats(one(shared, i), sums(name, truth, x, weight[0]))
            assert_stats(one(own, i), sums(name, truth, x, weight[i]))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_each_mixture_of_a_batch_may_have_its_own_rows(name, k):
    """A thousand small data sets fitted at once; K = 1 with tied covariances among them."""
    batch, truths = draw(name, 5, k, 2, (4,))
    rng = np.random.default_rng(5)
    x, weight = rng.normal(size=(4, 15, 2)) * 3, rng.uniform(0, 2, (4, 15))
    stats = e_step(tensor(x), batch, tensor(weight))
    for i, truth in enumerate(truths):
        assert_stats(one(stats, i), sums(name, truth, x[i], weight[i]))
    mixture, ok = m_step(stats, type(batch.covariance), 0.0)
    assert mixture.batch_shape == (4,)
    assert ok.all()


@pytest.mark.parametrize("name", KINDS)
def test_log_prob_predict_and_responsibilities(name):
    mixture, truth = draw_one(name, 3, 4, 3)
    x = np.random.default_rng(3).normal(size=(500, 3)) * 5
    rows = tensor(x)
    np.testing.assert_allclose(log_prob(rows, mixture), truth.log_prob(x), rtol=1e-10)
    share = responsibilities(rows, mixture)
    np.testing.assert_allclose(share, truth.responsibilities(x), atol=1e-11)
    np.testing.assert_allclose(share.sum(-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(predict(rows, mixture), truth.responsibilities(x).argmax(1))
    np.testing.assert_allclose(log_prob(rows, mixture), mixture.log_prob(rows), rtol=1e-11)
    np.testing.assert_array_equal(predict(rows, mixture), mixture.predict(rows))
    np.testing.assert_allclose(share, mixture.responsibilities(rows), atol=1e-11)


@pytest.mark.parametrize("trouble", [ImportError, RuntimeError])
def test_where_numba_does_not_work_another_kernel_does(monkeypatch, trouble):
    """As beside a NumPy that it does not know, or where it may write nowhere."""

    def fails(name):
        raise trouble("no")

    monkeypatch.setattr(mogul.kernels.importlib, "import_module", fails)
    assert not mogul.kernels._find_compiler.__wrapped__()
    monkeypatch.setattr(mogul.kernels, "_find_compiler", lambda: False)
    mixture, truth = draw_one("full", 3, 4, 3)
    x = np.random.default_rng(3).normal(size=(50, 3))
    np.testing.assert_allclose(log_prob(tensor(x), mixture), truth.log_prob(x), rtol=1e-10)


# --- float32, weights, order, parts ---------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_float32_input_is_summed_in_float64(name):
    mixture, truth = draw_one(name, 1, 3, 2)
    low = mixture.to(dtype=torch.float32)
    x = truth.draw(np.random.default_rng(1), 5000).astype(np.float32)
    wide = as_dict(e_step(tensor(x), mixture))
    assert_stats(e_step(torch.from_numpy(x), mixture), wide, 1e-14)
    assert_stats(e_step(tensor(x), low), as_dict(e_step(tensor(x), low.to(dtype=torch.float64))))
    assert_stats(e_step(torch.from_numpy(x), low), wide, 1e-5)


@given(name=kinds, seed=seeds, data=st.data())
def test_integer_weights_are_repeated_rows_in_any_order(name, seed, data):
    mixture, truth = draw_one(name, seed, 3, 2)
    rng = np.random.default_rng(seed)
    x = truth.draw(rng, 12)
    weight = np.array(data.draw(st.lists(st.integers(0, 4), min_size=12, max_size=12)))
    order = rng.permutation(weight.sum())
    repeated = e_step(tensor(np.repeat(x, weight, 0)[order]), mixture)
    assert_stats(e_step(tensor(x), mixture, tensor(weight)), as_dict(repeated), 1e-12)


@given(name=kinds, seed=seeds, cut=st.integers(0, 30))
def test_batches_merge_by_addition(name, seed, cut):
    mixture, truth = draw_one(name, seed, 2, 2)
    rng = np.random.default_rng(seed)
    x, weight = tensor(truth.draw(rng, 30)), tensor(rng.uniform(0, 2, 30))
    parts = e_step(x[:cut], mixture, weight[:cut]) + e_step(x[cut:], mixture, weight[cut:])
    assert_stats(parts, as_dict(e_step(x, mixture, weight)), 1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", KINDS)
def test_no_rows_add_up_to_nothing(name, kernel):
    mixture, _ = draw_one(name, 0, 3, 2)
    none = torch.empty(0, 2, dtype=torch.float64)
    stats = e_step(none, mixture, kernel=kernel)
    assert all(not value.any() for value in as_dict(stats).values())
    full = e_step(torch.ones(4, 2).double(), mixture, kernel=kernel)
    assert_stats(stats + full, as_dict(full), 0.0)
    assert log_prob(none, mixture).shape == predict(none, mixture).shape == (0,)
    assert responsibilities(none, mixture).shape == (0, 3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", KINDS)
def test_a_component_without_weight_takes_no_part(name, kernel):
    mixture, truth = draw_one(name, 2, 3, 2)
    logits = tensor([0.0, -np.inf, 1.0])
    without = rebuild(mixture, logits, mixture.means, mixture.covariance.factor)
    rows = tensor(truth.draw(np.random.default_rng(2), 50))
    stats = e_step(rows, without, kernel=kernel)
    others = e_step(rows, without.select([0, 2]), kernel=kernel)
    assert float(stats.count[1]) == 0
    assert not stats.first[1].any()
    np.testing.assert_allclose(stats.count[[0, 2]], others.count, rtol=1e-12)
    np.testing.assert_allclose(stats.log_likelihood, others.log_likelihood, rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_spoils_the_sums_and_its_own_row_only(kernel):
    mixture, truth = draw_one("full", 2, 3, 2)
    rows = tensor(truth.draw(np.random.default_rng(2), 50))
    rows[7, 1] = torch.nan
    values = log_prob(rows, mixture)
    assert values.isnan().nonzero().flatten().tolist() == [7]
    assert e_step(rows, mixture, kernel=kernel).log_likelihood.isnan()


# --- far from everything --------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("name", KINDS)
def test_clusters_far_apart_keep_their_covariances(name, gap):
    """The expanded form alone would lose gap² · 1e-16 of each variance."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 300, 2))
    noise -= noise.mean(1, keepdims=True)
    centres = np.array([[0.0, 0.0], [gap, -gap]])
    x = noise + centres[:, None]
    rounded = (x - centres[:, None]).reshape(2, 300, 2)  # what is left of the noise in x
    dense = np.einsum("kni,knj->kij", rounded, rounded) / 300
    mixture = Mixture.from_parameters(
        [0.5, 0.5], centres, CASES[name].estimate(np.stack([np.eye(2)] * 2), np.ones(2)), name
    )
    stats = e_step(tensor(x.reshape(-1, 2)), mixture)
    fitted, ok = m_step(stats, type(mixture.covariance), 0.0)
    assert ok.all()
    mean = rounded.mean(1)
    scatter = 300 * (dense - mean[:, :, None] * mean[:, None, :])
    expected = CASES[name].estimate(scatter, np.full(2, 300.0))
    np.testing.assert_allclose(fitted.covariances, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fitted.means, centres + mean, rtol=1e-15, atol=1e-9)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("name", KINDS)
def test_a_row_far_away_is_as_right_as_one_nearby(name, far):
    mixture, truth = draw_one(name, 4, 3, 2)
    x = truth.draw(np.random.default_rng(4), 40)
    x[11] = [far, -far]
    np.testing.assert_allclose(log_prob(tensor(x), mixture), truth.log_prob(x), rtol=1e-9)
    found = as_dict(e_step(tensor(np.delete(x, 11, 0)), mixture))
    alone = as_dict(e_step(tensor(x[11:12]), mixture))
    np.testing.assert_allclose(found["count"].sum() + alone["count"].sum(), 40, rtol=1e-12)
    both = {key: found[key] + alone[key] for key in found}
    assert_stats(e_step(tensor(x), mixture), both)


@pytest.mark.parametrize("name", KINDS)
def test_a_narrow_component_is_seen_beside_a_wide_one(name):
    """Whether the expanded form may be used depends on the narrowest component, not on the data."""
    narrow = np.array([1e-12, 1.0])
    dense = narrow[:, None, None] * np.eye(2)
    covariances = CASES[name].estimate(dense, np.ones(2))
    means = np.array([[0.3, 0.7], [-40.0, 10.0]])
    mixture = Mixture.from_parameters([0.5, 0.5], means, covariances, name)
    x = means[0] + np.array([[0.0, 0.0], [1e-6, 0.0], [0.0, 5e-6]])
    dense = np.broadcast_to(np.mean(narrow) * np.eye(2), (2, 2, 2)) if name == "tied" else dense
    gap = x - means[0]
    log_det = np.log(2 * np.pi * dense[0, 0, 0])
    expected = np.log(0.5) - log_det - 0.5 * (gap**2).sum(1) / dense[0, 0, 0]
    np.testing.assert_allclose(log_prob(tensor(x), mixture), expected, rtol=1e-9)


@pytest.fixture(params=[1, 3], ids="{} threads".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param  # it is put back
    torch.set_num_threads(before)


@pytest.mark.parametrize("place", [5, 40_000, 119_999])
@pytest.mark.parametrize("name", ["full", "tied"])
def test_one_tile_of_many_falls_back(name, place, threads):
    """Tiles before and after it are summed about another origin; the total must not tell."""
    mixture, truth = draw_one(name, 6, 3, 2)
    x = truth.draw(np.random.default_rng(6), 120_000)
    x[place] = 1e7
    weight = np.random.default_rng(6).uniform(0, 2, len(x))
    kept = np.arange(len(x)) != place
    rest, alone = (
        sums(name, truth, x[kept], weight[kept]),
        sums(name, truth, x[~kept], weight[~kept]),
    )
    stats = e_step(tensor(x), mixture, tensor(weight))
    assert stats.origin.tolist() == mixture.means.tolist()
    assert_stats(stats, {key: rest[key] + alone[key] for key in rest}, 1e-11)
    near = e_step(tensor(x[kept]), mixture, tensor(weight[kept]))
    assert_stats(near, rest)
    np.testing.assert_allclose(log_prob(tensor(x), mixture), truth.log_prob(x), rtol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_neither_tiles_nor_threads_show(name, threads):
    mixture, truth = draw_one(name, 8, 3, 3)
    x = truth.draw(np.random.default_rng(8), 120_001)
    rows = tensor(x)
    stats = e_step(rows, mixture)
    assert_stats(stats, sums(name, truth, x))
    assert_stats(e_step(rows, mixture), as_dict(stats), 0.0)  # the same in every run
    np.testing.assert_allclose(log_prob(rows, mixture), truth.log_prob(x), rtol=1e-10)
    np.testing.assert_array_equal(predict(rows, mixture), truth.responsibilities(x).argmax(1))
    share = responsibilities(rows, mixture)
    np.testing.assert_allclose(share, truth.responsibilities(x), atol=1e-10)


def test_threads_of_their_own_rows_and_a_batch_of_mixtures(threads):
    batch, truths = draw("diag", 8, 3, 2, (2,))
    x = np.random.default_rng(8).normal(size=(2, 60_000, 2)) * 4
    weight = np.random.default_rng(9).uniform(0, 2, (2, 60_000))
    own = e_step(tensor(x), batch, tensor(weight))
    shared = e_step(tensor(x[0]), batch, tensor(weight[0]))
    for i, truth in enumerate(truths):
        assert_stats(one(own, i), sums("diag", truth, x[i], weight[i]))
        assert_stats(one(shared, i), sums("diag", truth, x[0], weight[0]))


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_gradients_flow_through_the_e_step(name):
    mixture, truth = draw_one(name, 9, 3, 2)
    rows = tensor(truth.draw(np.random.default_rng(9), 7))
    _, parts = leaves(mixture)

    triangular = name in ("full", "tied")

    def log_likelihood(logits, means, factor):
        factor = factor.tril() if triangular else factor
        return e_step(rows, rebuild(mixture, logits, means, factor)).log_likelihood

    assert torch.autograd.gradcheck(log_likelihood, parts)


@given(name=kinds, seed=seeds, size=sizes)
def test_the_gradient_of_the_log_likelihood_is_made_of_the_statistics(name, seed, size):
    """Fisher's identity: ∂ℓ/∂μ_k = Σ_k⁻¹ S₁ₖ and ∂ℓ/∂logits = S₀ − N w (DESIGN.md §2)."""
    mixture, truth = draw_one(name, seed, *size)
    rows = tensor(truth.draw(np.random.default_rng(seed), 20))
    tracked, (logits, means, _) = leaves(mixture)
    e_step(rows, tracked).log_likelihood.backward()
    stats = e_step(rows, mixture)
    expected = np.linalg.solve(truth.dense, stats.first.numpy()[..., None])[..., 0]
    np.testing.assert_allclose(means.grad, expected, rtol=1e-9, atol=1e-9)
    gap = stats.count - 20 * mixture.weights
    np.testing.assert_allclose(logits.grad, gap, rtol=1e-9, atol=1e-9)


# --- the M-step -----------------------------------------------------------------------------------


@given(name=kinds, seed=seeds, size=sizes, floor=st.sampled_from([0.0, 1e-3]))
def test_the_m_step_takes_weighted_moments(name, seed, size, floor):
    mixture, truth = draw_one(name, seed, *size)
    rng = np.random.default_rng(seed)
    x, weight = truth.draw(rng, 60), rng.uniform(0.1, 2, 60)
    fitted, ok = m_step(e_step(tensor(x), mixture, tensor(weight)), type(mixture.covariance), floor)
    share = truth.responsibilities(x) * weight[:, None]
    count = share.sum(0)
    means = share.T @ x / count[:, None]
    gap = x[:, None, :] - means
    scatter = np.einsum("nk,nki,nkj->kij", share, gap, gap)
    covariances = CASES[name].estimate(scatter, count)
    eye = CASES[name].estimate(np.stack([np.eye(size[1])] * size[0]), np.ones(size[0]))
    assume(np.linalg.eigvalsh(scatter / count[:, None, None]).min() > 1e-4)
    assert ok.all()
    np.testing.assert_allclose(fitted.weights, count / count.sum(), rtol=1e-10)
    np.testing.assert_allclose(fitted.means, means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fitted.covariances, covariances + floor * eye, rtol=1e-8, atol=1e-9)


# --- a few components at a time -------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, 130, 200])
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("name", KINDS)
def test_components_taken_a_few_at_a_time_are_those_taken_together(
    name, batch, elements, monkeypatch
):
    """Of components with many columns the reference kernel takes a few at a time."""
    mixture, _ = draw(name, 4, 5, 3, batch)
    rng = np.random.default_rng(4)
    x, weight = tensor(3 * rng.normal(size=(50, 3))), tensor(rng.uniform(0, 2, 50))
    uniform = tensor(rng.uniform(size=(*batch, 50)))
    whole = ReferenceKernel(mixture)
    kept, answers = x.clone(), ("log_prob", "labels", "responsibilities")
    together = [whole.collect(x, weight, one) for one in (None, uniform)]
    scores = [whole.score(x, what) for what in answers]
    monkeypatch.setattr(mogul.kernels.reference, "_TILE_ELEMENTS", elements)
    monkeypatch.setattr(mogul.kernels.reference, "_FEWEST_ROWS", 16)
    parts = ReferenceKernel(mixture)
    assert parts.tile_rows == 16
    assert len(parts._components(16)) > 1
    for one, expected in zip((None, uniform), together, strict=True):
        assert_stats(parts.collect(x, weight, one), as_dict(expected), rtol=1e-13)
    for what, expected in zip(answers, scores, strict=True):
        torch.testing.assert_close(parts.score(x, what), expected, rtol=1e-13, atol=1e-15)
    assert torch.equal(x, kept)


def test_gradients_flow_through_components_taken_a_few_at_a_time(monkeypatch):
    mixture, truth = draw_one("full", 4, 5, 3)
    x = tensor(truth.draw(np.random.default_rng(4), 50))
    found = []
    for elements in (1 << 19, 1):
        monkeypatch.setattr(mogul.kernels.reference, "_TILE_ELEMENTS", elements)
        monkeypatch.setattr(mogul.kernels.reference, "_FEWEST_ROWS", 16)
        means = mixture.means.clone().requires_grad_()
        stats = ReferenceKernel(Mixture(mixture.log_weights, means, mixture.covariance)).collect(
            x, None
        )
        (gradient,) = torch.autograd.grad(stats.log_likelihood + stats.second.sum(), means)
        found.append(gradient)
    assert float(found[0].abs().max()) > 1
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("name", KINDS)
def test_shares_near_the_smallest_numbers_are_left_out(name, kernel):
    """Products with them take ten times as long; they are far below the rounding of any sum."""
    means = np.array([[0.0, 0.0], [37.6, 0.0], [30.0, 0.0]])  # shares of e⁻⁷⁰⁷ and e⁻⁴⁵⁰ at zero
    kind, eye = structure(name), np.broadcast_to(np.eye(2), (3, 2, 2))
    ones = {"tied": eye[0], "diag": np.ones((3, 2)), "spherical": np.ones(3)}.get(name, eye)
    covariance = kind.from_covariances(tensor(ones.copy()), 3, 2)
    mixture = Mixture(torch.zeros(3).double(), tensor(means), covariance)
    x = tensor(np.full((40, 2), 1e-3))
    stats = e_step(x, mixture, kernel=kernel)
    numbers = torch.cat([stats.count, stats.first.flatten(), stats.second.flatten()])
    assert not ((numbers != 0) & (numbers.abs() < 1e-300)).any()
    assert stats.count[1] == 0
    assert 0 < stats.count[2] < 1e-190
    np.testing.assert_allclose(stats.count[0], 40, rtol=1e-12)


# --- memory ---------------------------------------------------------------------------------------

PEAK = textwrap.dedent("""
    import contextlib
    import warnings
    import numpy as np
    from mogul import GaussianMixture

    def field(name):
        with open("/proc/self/status") as lines:
            return next(int(l.split()[1]) for l in lines if l.startswith(name)) / 1024

    def use(model, X):
        model.fit(X)
        return model.score(X), model.bic(X), model.icl(X), len(model.predict(X))

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1_000_000, 4))
    X += 6 * rng.integers(0, 5, (len(X), 1))
    use(GaussianMixture(10, max_iter=3, random_state=0), X[:30_000])
    before = field("VmRSS")
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak so far is forgotten
    use(GaussianMixture(10, max_iter=3, random_state=0), X)
    print(field("VmHWM") - before)
""")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_beyond_the_data_is_bounded():
    """N × K alone would be 80 MB of float64, and there would be several of them."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(done.stdout) < 100


def test_who_asks_torch_for_one_thread_gets_one_of_blas_too():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread_if_small(1 << 40):
            pools = [p for p in threadpool_info() if p["user_api"] == "blas"]
            assert [p["num_threads"] for p in pools] == [1] * len(pools)
    finally:
        torch.set_num_threads(before)


def test_callers_in_many_threads_leave_the_numbers_of_threads_as_they_were(threads):
    """In whatever order they come and go, and when one fails."""
    mixture, truth = draw_one("diag", 8, 3, 3)
    x = tensor(truth.draw(np.random.default_rng(8), 20_000))
    alone = log_prob(x, mixture)
    before = sorted(library["num_threads"] for library in blas())

    def score(i):
        if i % 7 == 3:
            with pytest.raises(ZeroDivisionError):
                in_threads(lambda _: 1 / 0, [0])
        return log_prob(x, mixture)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(score, range(60)))
    assert all(torch.allclose(one, alone, rtol=1e-12, atol=0) for one in found)
    assert sorted(library["num_threads"] for library in blas()) == before


def blas():
    return [library for library in threadpool_info() if library["user_api"] == "blas"]
