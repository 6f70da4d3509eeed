"""The accelerator's kernel in Triton's interpreter, on the CPU: the same code, row by row."""

import os

import numpy as np
import pytest
import torch

from laws.cases import CASES, draw, draw_one, tensor
from mogul import Mixture
from mogul.kernels import e_step
from mogul.kernels.device import OneByOne

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is loaded
pytest.importorskip("triton")

from mogul.kernels.triton_diagonal import TritonKernel
from mogul.kernels.triton_softmax import softmax_over_components

CPU = torch.device("cpu")
names = pytest.mark.parametrize("name", ["diag", "spherical"])


def assert_near(found, expected, rtol):
    for part in ("count", "first", "second", "row_weight", "log_likelihood"):
        got, want = getattr(found, part), getattr(expected, part)
        assert got.dtype == torch.float64
        scale = float(want.abs().max())
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale, err_msg=part)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 1, 1), (70, 2, 3), (200, 5, 70), (130, 40, 4), (90, 3, 150)]
)
@names
def test_sums_are_those_of_the_reference(name, n, d, k, weighted):
    mixture, truth = draw_one(name, 3, k, d)
    rng = np.random.default_rng(3)
    x = torch.from_numpy(truth.draw(rng, n).astype(np.float32))
    weight = tensor(rng.uniform(0, 2, n)) if weighted else None
    kernel = TritonKernel(mixture, CPU)
    expected = e_step(x, mixture, weight, kernel="reference")
    assert_near(kernel.collect(x, weight), expected, 2e-4)
    np.testing.assert_allclose(
        kernel.score(x, "log_prob"), mixture.log_prob(x.double()), rtol=1e-4, atol=1e-4
    )


@names
def test_float32_far_from_zero_is_honest(name):
    """Law 3: unit variance about 1e4, where float32 has steps of 0.001."""
    mixture = Mixture.from_parameters(
        [0.5, 0.5],
        [[1e4, 1e4], [1e4 + 8, 1e4]],
        CASES[name].estimate(np.stack([np.eye(2)] * 2), np.ones(2)),
        name,
    )
    rng = np.random.default_rng(0)
    centres = mixture.means.numpy()[rng.integers(2, size=400)]
    x = torch.from_numpy((centres + rng.normal(size=(400, 2))).astype(np.float32))
    kernel = TritonKernel(mixture, CPU)
    assert kernel.applies
    assert_near(kernel.collect(x, None), e_step(x, mixture, kernel="reference"), 1e-4)


def test_clusters_too_far_apart_are_left_to_the_reference():
    mixture = Mixture.from_parameters([0.5, 0.5], [[0.0], [1000.0]], [[1.0], [1.0]], "diag")
    assert not TritonKernel(mixture, CPU).applies
    nearer = Mixture.from_parameters([0.5, 0.5], [[0.0], [60.0]], [[1.0], [1.0]], "diag")
    assert TritonKernel(nearer, CPU).applies


def test_what_it_takes():
    diag, _ = draw_one("diag", 0, 2, 3)
    full, _ = draw_one("full", 0, 2, 3)
    rows = torch.zeros(5, 3)
    assert TritonKernel.takes(rows, diag)
    assert not TritonKernel.takes(rows.double(), diag)
    assert not TritonKernel.takes(rows, full)
    wide, _ = draw_one("diag", 0, 2, 65)
    assert not TritonKernel.takes(torch.zeros(5, 65), wide)


def test_a_component_without_weight_and_no_rows():
    mixture, truth = draw_one("diag", 2, 3, 2)
    logits = torch.tensor([0.0, -torch.inf, 1.0]).double()
    without = Mixture(logits, mixture.means, mixture.covariance)
    x = torch.from_numpy(truth.draw(np.random.default_rng(2), 50).astype(np.float32))
    stats = TritonKernel(without, CPU).collect(x, None)
    assert float(stats.count[1]) == 0
    assert torch.isfinite(stats.log_likelihood)
    assert float(TritonKernel(mixture, CPU).collect(x[:0], None).row_weight) == 0


def test_other_answers_are_the_references():
    mixture, truth = draw_one("diag", 4, 3, 2)
    x = torch.from_numpy(truth.draw(np.random.default_rng(4), 50).astype(np.float32))
    kernel = TritonKernel(mixture, CPU)
    expected = truth.responsibilities(x.double().numpy())
    np.testing.assert_allclose(kernel.score(x, "responsibilities"), expected, atol=1e-4)
    np.testing.assert_array_equal(kernel.score(x, "labels"), expected.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 40), (70, 65)])
def test_softmax_over_components(k, n, dtype):
    rng = np.random.default_rng(k)
    terms = torch.from_numpy(rng.normal(size=(k, 2 * n)) * 100).to(dtype)[:, :n]
    if k > 1:
        terms[0] = -torch.inf
    expected, total = terms.softmax(0), terms.logsumexp(0)
    found = softmax_over_components(terms)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(found, total, rtol=rtol)
    np.testing.assert_allclose(terms, expected, rtol=100 * rtol, atol=1e-30)


@names
def test_a_batch_is_each_alone(name):
    batch, truths = draw(name, 5, 3, 2, (2,))
    rng = np.random.default_rng(5)
    x = torch.from_numpy(truths[0].draw(rng, 50).astype(np.float32))
    kernel = OneByOne(batch, [TritonKernel(batch[i], CPU) for i in range(len(batch))])
    assert kernel.applies
    for weight in (None, tensor(rng.uniform(0, 2, 50)), tensor(rng.uniform(0, 2, (2, 50)))):
        assert_near(kernel.collect(x, weight), e_step(x, batch, weight, kernel="reference"), 2e-4)
    np.testing.assert_allclose(
        kernel.score(x, "log_prob"),
        torch.stack([batch[i].log_prob(x.double()) for i in range(2)]),
        atol=1e-4,
    )
