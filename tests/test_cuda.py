"""On a GPU: the same statistics, the same fits, and nothing silently in fewer digits."""

import warnings

import numpy as np
import pytest
import torch

from laws.cases import CASES, draw, draw_one, tensor
from mogul import (
    AEGMM,
    BayesianGaussianMixture,
    GaussianMixture,
    MixtureDensityRegressor,
)
from mogul.data import ArraySource
from mogul.data.rows import Rows
from mogul.infer import em
from mogul.kernels import draw_step, e_step, log_likelihood, log_prob, predict, responsibilities
from mogul.nn import TrainableMixture

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

names = pytest.mark.parametrize("name", list(CASES))
types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
PARTS = ("count", "first", "second", "row_weight", "log_likelihood")


def assert_near(found, expected, rtol):
    for part in PARTS:
        got, want = getattr(found, part), getattr(expected, part)
        assert got.dtype == torch.float64
        assert got.device.type == "cuda"
        scale = float(want.abs().max())
        np.testing.assert_allclose(got.cpu(), want, rtol=rtol, atol=rtol * scale, err_msg=part)


def data(truth, n, dtype, seed=1):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(truth.draw(rng, n)).to(dtype), tensor(rng.uniform(0, 2, n))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 1, 1), (70, 2, 3), (5000, 5, 70), (3001, 40, 4), (9000, 100, 130)]
)
@types
@names
def test_statistics_are_those_of_the_cpu(name, dtype, n, d, k, weighted):
    mixture, truth = draw_one(name, 3, k, d)
    x, weight = data(truth, n, dtype)
    expected = e_step(x.double(), mixture, weight if weighted else None, kernel="reference")
    found = e_step(x.cuda(), mixture.to(device="cuda"), weight.cuda() if weighted else None)
    assert_near(found, expected, 1e-10 if dtype == torch.float64 else 2e-4)


@types
@names
def test_batches_and_drawn_labels(name, dtype):
    batch, truths = draw(name, 5, 3, 2, (4,))
    x, weight = data(truths[0], 500, dtype)
    uniform = tensor(np.random.default_rng(2).uniform(size=(4, 500)))
    there = batch.to(device="cuda")
    rtol = 1e-10 if dtype == torch.float64 else 2e-4
    expected = e_step(x.double(), batch, weight, kernel="reference")
    assert_near(e_step(x.cuda(), there, weight.cuda()), expected, rtol)
    own = torch.stack([x + i for i in range(4)])
    expected = e_step(own.double(), batch, kernel="reference")
    assert_near(e_step(own.cuda(), there), expected, rtol)
    if dtype == torch.float64:
        expected = draw_step(x, batch, uniform, kernel="reference")
        assert_near(draw_step(x.cuda(), there, uniform.cuda()), expected, rtol)


@types
@names
def test_far_clusters_and_large_numbers_keep_their_covariances(name, dtype):
    """Law 3: clusters 1000 standard deviations apart, and unit variance about 1e4."""
    for far in (1000.0, 0.0):
        rng = np.random.default_rng(0)
        means = np.array([[1e4, 1e4], [1e4 + 8 + far, 1e4]])
        x = torch.from_numpy(means[rng.integers(2, size=4000)] + rng.normal(size=(4000, 2)))
        x = x.to(dtype)
        options = {"covariance_type": name, "means_init": means, "tol": 1e-6, "max_iter": 20}
        exact = GaussianMixture(2, **options).fit(x.double().numpy())
        found = GaussianMixture(2, device="cuda", dtype="float64", **options).fit(x.numpy())
        np.testing.assert_allclose(found.covariances_, exact.covariances_, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.weights_, exact.weights_, rtol=1e-4)


@types
@names
def test_scores_labels_and_responsibilities(name, dtype):
    mixture, truth = draw_one(name, 4, 5, 3)
    x, _ = data(truth, 3000, dtype)
    exact, rows, there = x.double(), x.cuda(), mixture.to(device="cuda")
    atol = 1e-10 if dtype == torch.float64 else 2e-4
    np.testing.assert_allclose(log_prob(rows, there).cpu(), mixture.log_prob(exact), atol=atol)
    shares = mixture.responsibilities(exact)
    np.testing.assert_allclose(responsibilities(rows, there).cpu(), shares, atol=atol)
    clear = (shares.max(-1).values > 0.6).numpy()
    np.testing.assert_array_equal(
        predict(rows, there).cpu().numpy()[clear], shares.argmax(-1).numpy()[clear]
    )


def test_matrix_products_are_not_tf32_whatever_the_program_asked_for():
    mixture, truth = draw_one("full", 6, 8, 20)
    x, _ = data(truth, 4000, torch.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = e_step(x.cuda(), mixture.to(device="cuda"))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert_near(found, e_step(x.double(), mixture, kernel="reference"), 2e-4)


@names
def test_gradients_of_the_likelihood(name):
    mixture, truth = draw_one(name, 7, 3, 4)
    x, _ = data(truth, 300, torch.float64)
    gradients = []
    for device in ("cpu", "cuda"):
        there = mixture.to(device=device)
        means = there.means.detach().clone().requires_grad_()
        moved = type(there)(there.log_weights, means, there.covariance)
        log_likelihood(x.to(device), moved).backward()
        gradients.append(means.grad.cpu())
    np.testing.assert_allclose(*gradients, rtol=1e-8, atol=1e-8)


@types
@names
def test_a_fit_is_that_of_the_cpu(name, dtype):
    _, truth = draw_one(name, 8, 3, 4)
    x, weight = (part.numpy() for part in data(truth, 2000, dtype))
    options = {"covariance_type": name, "max_iter": 3000, "dtype": "float64"}
    options["means_init"] = truth.means
    options["tol"] = 1e-11 if dtype == torch.float64 else 1e-7  # what float32 can tell of a mean
    here = GaussianMixture(3, **options).fit(x, sample_weight=weight)
    there = GaussianMixture(3, device="cuda", **options).fit(x, sample_weight=weight)
    # Where two runs to one end stop: on a CPU, those to 1e-7 and to 1e-11 are 0.003 apart if tied.
    rtol = 1e-4 if dtype == torch.float64 else 5e-3
    np.testing.assert_allclose(there.lower_bound_, here.lower_bound_, rtol=1e-6)
    np.testing.assert_allclose(there.means_, here.means_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(there.covariances_, here.covariances_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(there.score(x), here.score(x), rtol=1e-5)
    np.testing.assert_allclose(there.predict_proba(x), here.predict_proba(x), atol=1e-2)
    assert there.sample(5)[0].shape == (5, 4)
    assert there.bic(x) == pytest.approx(here.bic(x), rel=1e-5)


@names
def test_large_mixtures_are_maximised_where_their_rows_are(name, monkeypatch):
    """Not run on a GPU yet; fits of this kind were, for their speed."""
    monkeypatch.setattr(em, "_HOST_NUMBERS", 0)
    mixture, truth = draw_one(name, 8, 3, 4)
    x, weight = data(truth, 2000, torch.float64)
    settings = em.EMSettings(0.0, 3, 1e-6, "none")
    here = em.fit_em(Rows(x, weight), em.stack([mixture]), settings).mixture
    there = em.fit_em(Rows(x.cuda(), weight.cuda()), em.stack([mixture]), settings).mixture
    assert there.device.type == "cuda"
    np.testing.assert_allclose(there.means.cpu(), here.means, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(there.covariances.cpu(), here.covariances, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
def test_every_start(init):
    _, truth = draw_one("full", 8, 3, 4)
    x = data(truth, 2000, torch.float64)[0].numpy()
    model = GaussianMixture(
        3, init_params=init, n_init=2, device="cuda", random_state=0, max_iter=500
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x)
    assert np.isfinite(model.score(x))


@pytest.mark.parametrize("algorithm", ["gradient", "em"])
def test_other_algorithms(algorithm):
    _, truth = draw_one("diag", 8, 3, 4)
    x = data(truth, 2000, torch.float64)[0].numpy()
    options = {"covariance_type": "diag", "algorithm": algorithm, "random_state": 0, "tol": 1e-8}
    here = GaussianMixture(3, **options).fit(x)
    there = GaussianMixture(3, device="cuda", **options).fit(x)
    assert there.lower_bound_ == pytest.approx(here.lower_bound_, abs=1e-3)


def test_bayesian_mixtures_and_networks():
    _, truth = draw_one("full", 9, 3, 3)
    x = data(truth, 600, torch.float64)[0].numpy()
    for inference in ("cavi", "svi", "gibbs"):
        here = BayesianGaussianMixture(3, inference=inference, random_state=0, max_iter=300).fit(x)
        there = BayesianGaussianMixture(
            3, inference=inference, random_state=0, max_iter=300, device="cuda"
        ).fit(x)
        assert there.score(x) == pytest.approx(here.score(x), abs=0.05)  # Gibbs draws others
        assert np.isfinite(there.predict_proba(x)).all()
    y = x[:, 0] + 0.1 * x[:, 1] ** 2
    network = MixtureDensityRegressor(device="cuda", random_state=0, max_epochs=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert network.fit(x, y).predict(x).shape == (600,)
        energies = AEGMM(device="cuda", random_state=0, max_epochs=5).fit(x)
    assert energies.predict(x).shape == (600,)


def test_a_trainable_mixture():
    _, truth = draw_one("full", 10, 3, 3)
    x = data(truth, 500, torch.float32)[0].cuda()
    layer = TrainableMixture(3, 3, device="cuda")
    loss = -layer().log_prob(x).mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_a_source_is_worked_on_there():
    _, truth = draw_one("full", 11, 3, 3)
    x = data(truth, 3000, torch.float64)[0].numpy()
    options = {"random_state": 0, "tol": 1e-9, "max_iter": 1000}
    here = GaussianMixture(3, **options).fit(x)
    source = ArraySource(x, batch_rows=700)
    there = GaussianMixture(3, device="cuda", **options).fit(source)
    np.testing.assert_allclose(there.means_, here.means_, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(there.score_samples(source), here.score_samples(x), atol=1e-4)
