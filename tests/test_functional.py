"""gmm_params and gmm_energy against the formulas, one row and one component at a time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from mogul.errors import InputError
from mogul.functional import gmm_energy, gmm_params


def inputs(n=40, k=3, d=2, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=random, dtype=dtype) * 2 + 1
    logits = torch.randn(n, k, generator=random, dtype=dtype)
    return z.requires_grad_(), logits.requires_grad_()


def by_loops(z, gamma, at, jitter):
    """The formulas, in NumPy, with explicit sums, inverses and determinants."""
    n, d = z.shape
    parameters, terms = [], np.zeros((len(at), gamma.shape[1]))
    for k in range(gamma.shape[1]):
        total = sum(gamma[i, k] for i in range(n))
        mu = sum(gamma[i, k] * z[i] for i in range(n)) / total
        cov = sum(gamma[i, k] * np.outer(z[i] - mu, z[i] - mu) for i in range(n)) / total
        wide = cov + jitter * np.eye(d)
        log_det = np.log(np.linalg.det(wide))
        parameters.append((total / n, mu, cov, np.linalg.cholesky(wide), log_det))
        for i, x in enumerate(at):
            form = (x - mu) @ np.linalg.inv(wide) @ (x - mu)
            terms[i, k] = total / n * np.exp(-0.5 * (form + d * np.log(2 * np.pi) + log_det))
    penalty = sum(1 / cov[j, j] for _, _, cov, _, _ in parameters for j in range(d))
    return [np.stack(p) for p in zip(*parameters, strict=True)], -np.log(terms.sum(1)), penalty


@pytest.mark.parametrize(("n", "k", "d"), [(40, 3, 2), (30, 1, 1), (60, 4, 5)])
def test_the_formulas(n, k, d):
    z, logits = inputs(n, k, d)
    gamma = logits.softmax(-1)
    found = gmm_params(z, gamma)
    at = z[:10] * 1.5
    energy, penalty = gmm_energy(at, *found, return_mean=False)
    arrays = [t.detach().numpy() for t in (z, gamma, at)]
    want, energies, cov_diag = by_loops(*arrays, 1e-6)
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose(one.detach(), other, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(energy.detach(), energies, rtol=1e-10)
    assert float(penalty.detach()) == pytest.approx(cov_diag, rel=1e-10)
    assert float(gmm_energy(at, *found)[0].detach()) == pytest.approx(energies.mean(), rel=1e-10)


def test_gradcheck():
    z, logits = inputs(10)
    assert gradcheck(lambda z, g: gmm_params(z, g.softmax(-1)), (z, logits))
    assert gradgradcheck(lambda z, g: gmm_energy(z, *gmm_params(z, g.softmax(-1)))[0], (z, logits))
    given = [p.detach().clone().requires_grad_() for p in gmm_params(z, logits.softmax(-1))]
    at, _ = inputs(4, seed=1)

    def energy(at, phi, mu, cov, factor, log_det):
        return gmm_energy(at, phi, mu, cov, factor.tril(), log_det, return_mean=False)

    assert gradcheck(energy, (at, *given))


def test_tiles_change_nothing(monkeypatch):
    z, logits = inputs(200)

    def everything():
        found = gmm_params(z, logits.softmax(-1))
        energy, penalty = gmm_energy(z, *found)
        return [*found, energy, *torch.autograd.grad(energy + penalty, (z, logits))]

    whole = everything()
    monkeypatch.setattr("mogul.functional._TILE_ELEMENTS", 64)
    for one, other in zip(everything(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["empty component", "collapsed dimension", "far point", "all"])
def test_values_and_gradients_are_finite(case, dtype):
    z, logits = (t.detach() for t in inputs(30, dtype=dtype))
    gamma = logits.softmax(-1)
    if case in ("empty component", "all"):
        gamma[:, 2] = 0
    if case in ("collapsed dimension", "all"):
        z[:, 1] = 0.5
    if case in ("far point", "all"):
        z[0] = 1e6
    z.requires_grad_()
    gamma.requires_grad_()
    found = gmm_params(z, gamma)
    energy, penalty = gmm_energy(z, *found)
    (energy + penalty).backward()
    for value in (*found, energy, penalty, z.grad, gamma.grad):
        assert bool(torch.isfinite(value).all())
    if case == "far point":  # which is far: nothing may have been replaced by a stand-in
        assert float(found[2].detach().amax()) > 1e9


def test_a_far_point_has_its_energy():
    z, logits = inputs(30, dtype=torch.float32)
    found = [p.detach() for p in gmm_params(z, logits.softmax(-1))]
    far = torch.full((1, 2), 1e6)
    single, _ = gmm_energy(far, *found)
    exact, _ = gmm_energy(far.double(), *(p.double() for p in found))
    assert float(single) == pytest.approx(float(exact), rel=1e-5)
    assert float(exact) > 1e9


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda z, g: gmm_params(z[:3], g), "with the same N"),
        (lambda z, g: gmm_params(z, g, jitter=-1), "jitter"),
        (lambda z, g: gmm_energy(z[:, :1], *gmm_params(z, g)), "expected"),
        (lambda z, g: gmm_energy(z, *gmm_params(z, g), jitter=0), "jitter"),
    ],
)
def test_bad_input_is_named(call, says):
    z, logits = inputs()
    with pytest.raises(InputError, match=says):
        call(z, logits.softmax(-1))


def test_memory_is_bounded():
    """N = 20,000, K = 4, D = 64 with gradients: under 200 MB beyond the data, in a new process."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory cannot be read here")
    # Torch loads Triton, where it is installed, in a first large backward pass: 70 MB.
    code = """
import sys
sys.modules["triton"] = None
import torch
from mogul.functional import gmm_energy, gmm_params
def megabytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024
def run(z, gamma):
    energy, penalty = gmm_energy(z, *gmm_params(z, gamma))
    (energy + penalty).backward()
z, gamma = torch.randn(20_000, 64).requires_grad_(), torch.rand(20_000, 4)
gamma = (gamma / gamma.sum(-1, keepdim=True)).requires_grad_()
run(z[:500], gamma[:500])
z.grad = gamma.grad = None
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
before = megabytes("VmRSS")
run(z, gamma)
print(megabytes("VmHWM") - before)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert float(answer.stdout) < 200


# --- shrinkage ------------------------------------------------------------------------------------


def test_shrinkage_is_that_of_a_prior_of_so_many_rows():
    rng = np.random.default_rng(0)
    z, gamma = rng.normal(size=(40, 3)), rng.dirichlet([1.0, 1.0], size=40)
    _, mu, cov, factor, log_det = gmm_params(
        torch.from_numpy(z), torch.from_numpy(gamma), shrinkage=5.0, jitter=1e-3
    )
    scatters = [(gamma[:, k, None] * (z - m)).T @ (z - m) for k, m in enumerate(mu.numpy())]
    prior = 5.0 * np.diag(np.diag(sum(scatters)) / 40)
    for k, scatter in enumerate(scatters):
        wanted = (scatter + prior) / (gamma[:, k].sum() + 5.0)
        assert np.allclose(cov[k].numpy(), wanted, rtol=1e-12)
        assert np.allclose((factor[k] @ factor[k].T).numpy(), wanted + 1e-3 * np.eye(3))
        assert float(log_det[k]) == pytest.approx(np.linalg.slogdet(wanted + 1e-3 * np.eye(3))[1])


def test_shrinkage_keeps_covariances_of_few_rows_sound():
    z = torch.randn(6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gamma = torch.full((6, 2), 0.5, dtype=torch.float64)
    bare = gmm_params(z, gamma)[2]
    shrunk = gmm_params(z, gamma, shrinkage=14.0)[2]
    assert torch.linalg.cond(bare).min() > 1e10
    assert torch.linalg.cond(shrunk).max() < 100
    with pytest.raises(InputError, match="shrinkage must not be negative"):
        gmm_params(z, gamma, shrinkage=-1.0)
