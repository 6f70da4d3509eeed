"""The kernel of accelerators, on the CPU: it is torch code that runs on either."""

import numpy as np
import pytest
import torch

from laws.cases import CASES, draw, draw_one, tensor
from mogul import GaussianMixture, Mixture
from mogul.kernels import draw_step, e_step
from mogul.kernels.device import DeviceKernel, type_of_products

CPU = torch.device("cpu")
names = pytest.mark.parametrize("name", list(CASES))
PARTS = ("count", "first", "second", "row_weight", "log_likelihood")


def assert_near(found, expected, rtol):
    for part in PARTS:
        got, want = getattr(found, part), getattr(expected, part)
        assert got.dtype == torch.float64
        scale = float(want.abs().max())
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale, err_msg=part)


def statistics(mixture, x, weight=None, uniform=None, dtype=torch.float64):
    kernel = DeviceKernel(mixture, CPU, dtype)
    assert kernel.applies
    stats = kernel.collect(x, weight, uniform)
    return mixture.covariance.recentre(stats, mixture.means)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(0, 2, 3), (1, 1, 1), (70, 2, 3), (9001, 5, 9)])
@names
def test_statistics_are_those_of_the_reference(name, n, d, k, weighted, dtype):
    mixture, truth = draw_one(name, 3, k, d)
    rng = np.random.default_rng(3)
    x = tensor(truth.draw(rng, n), dtype)
    weight = tensor(rng.uniform(0, 2, n)) if weighted else None
    expected = e_step(x.double(), mixture, weight, kernel="reference")
    found = statistics(mixture, x, weight, dtype=dtype)
    assert_near(found, expected, 1e-10 if dtype == torch.float64 else 2e-4)


@names
def test_batches_and_drawn_labels(name):
    batch, truths = draw(name, 5, 3, 2, (4,))
    rng = np.random.default_rng(2)
    x, uniform = tensor(truths[0].draw(rng, 500)), tensor(rng.uniform(size=(4, 500)))
    for weight in (None, tensor(rng.uniform(0, 2, 500)), tensor(rng.uniform(0, 2, (4, 500)))):
        expected = e_step(x, batch, weight, kernel="reference")
        assert_near(statistics(batch, x, weight), expected, 1e-10)
    expected = draw_step(x, batch, uniform, kernel="reference")
    assert_near(statistics(batch, x, None, uniform), expected, 1e-10)


@names
def test_a_row_out_of_reach_goes_to_the_reference(name, monkeypatch):
    """Each tile by itself, and the others stay where they are."""
    monkeypatch.setattr("mogul.kernels.device._TILE_BYTES", 1)
    monkeypatch.setattr("mogul.kernels.device._UNIT", 64)
    mixture, truth = draw_one(name, 3, 3, 2)
    x = tensor(truth.draw(np.random.default_rng(3), 300))
    x[100] = 1e8
    expected = e_step(x, mixture, kernel="reference")
    assert_near(statistics(mixture, x), expected, 1e-10)
    kernel = DeviceKernel(mixture, CPU, torch.float64)
    np.testing.assert_allclose(
        kernel.score(x, "log_prob"), mixture.log_prob(x), rtol=1e-10
    )  # fmt: skip


def test_means_far_apart_are_not_for_float32():
    mixture = Mixture.from_parameters([0.5, 0.5], [[0.0], [1000.0]], [[1.0], [1.0]], "diag")
    assert not DeviceKernel(mixture, CPU, torch.float32).applies
    assert DeviceKernel(mixture, CPU, torch.float64).applies


@names
def test_answers_of_rows(name):
    mixture, truth = draw_one(name, 4, 3, 2)
    x = tensor(truth.draw(np.random.default_rng(4), 50))
    kernel = DeviceKernel(mixture, CPU, torch.float64)
    shares = mixture.responsibilities(x)
    np.testing.assert_allclose(kernel.score(x, "log_prob"), mixture.log_prob(x), atol=1e-10)
    np.testing.assert_allclose(kernel.score(x, "responsibilities"), shares, atol=1e-10)
    np.testing.assert_array_equal(kernel.score(x, "labels"), shares.argmax(-1))


def test_only_accelerators_that_are_fast_at_it_compute_in_float64(monkeypatch):
    for capability, expected in (((9, 0), torch.float64), ((8, 9), torch.float32)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert type_of_products(torch.device("cuda")) == expected
    assert type_of_products(torch.device("mps")) == torch.float32


@names
def test_a_fit_by_it_is_that_of_the_compiled_kernel(name, monkeypatch):
    _, truth = draw_one(name, 8, 3, 4)
    x = truth.draw(np.random.default_rng(8), 1000)
    options = {"covariance_type": name, "random_state": 0, "max_iter": 500, "tol": 1e-8}
    expected = GaussianMixture(3, **options).fit(x)
    monkeypatch.setattr("mogul.infer.em.compiles", lambda *_: False)
    monkeypatch.setattr("mogul.kernels.has_compiler", lambda: False)
    monkeypatch.setattr(
        "mogul.kernels._fast_kernel", lambda _: lambda m: DeviceKernel(m, CPU, torch.float64)
    )
    found = GaussianMixture(3, **options).fit(x)
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-7)
    np.testing.assert_allclose(found.means_, expected.means_, atol=1e-3)
