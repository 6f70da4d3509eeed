"""Mixtures trained by gradient, against EM, automatic differentiation and page 000's numbers."""

import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.autograd import gradcheck

from mogul import GaussianMixture, Mixture
from mogul.covariances import STRUCTURES
from mogul.datasets import old_faithful
from mogul.errors import InputError
from mogul.infer.gradient import fit
from mogul.kernels import log_likelihood
from mogul.nn import TrainableMixture

KINDS = list(STRUCTURES)
PAGE = [
    {"x1": (0.2, math.log(0.05)), "x2": (0.1, math.log(0.05)), "x3": (0.9, math.log(0.02))},
    {"x1": (0.3, math.log(0.05)), "x2": (0.5, math.log(0.05)), "x3": (0.7, math.log(0.03))},
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parts(kind, k=3, d=2, dtype=torch.float64, seed=0):
    """Logits, means and chart of a random mixture, as leaves."""
    random = seeded(seed)
    shapes = [(k,), (k, d), STRUCTURES[kind].chart_shape(k, d)]
    sizes = [1.0, 2.0, 0.4]
    return [
        (size * torch.randn(shape, generator=random, dtype=dtype)).requires_grad_()
        for shape, size in zip(shapes, sizes, strict=True)
    ]


def build(kind, logits, means, chart):
    return Mixture(logits, means, STRUCTURES[kind].decode(chart.flatten(), *means.shape))


# --- page 000 -------------------------------------------------------------------------------------


def test_the_numbers_of_the_page():
    model = TrainableMixture.from_components(PAGE)
    assert model.log_prob([0.7, 0.1, 0.6]).dtype == torch.float32
    assert float(model.log_prob([0.7, 0.1, 0.6]).detach()) == pytest.approx(-63.5075, abs=1e-4)
    assert float(model.neglogp([0.7, 0.1, 0.6]).detach()) == pytest.approx(63.5075, abs=1e-4)
    np.testing.assert_allclose(model.mean.detach(), [0.25, 0.3, 0.8], rtol=1e-6)


def test_the_mode_is_a_maximum_of_the_density():
    model = TrainableMixture.from_components(PAGE, dtype=torch.float64)
    mode = model.mode
    # The narrower component is the higher one, unlike that page's argmax of equal weights.
    np.testing.assert_allclose(mode, [0.2, 0.1, 0.9], atol=1e-6)
    x = mode.clone().requires_grad_()
    model.log_prob(x).backward()
    assert float(x.grad.abs().max()) < 1e-5
    near = mode + 0.02 * torch.randn(2000, 3, generator=seeded(), dtype=torch.float64)
    anywhere = torch.rand(20000, 3, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        assert float(model.log_prob(torch.cat([near, anywhere])).max()) <= float(
            model.log_prob(mode)
        )


def test_where_densities_underflow_the_value_is_right_and_has_a_gradient():
    single = TrainableMixture.from_components(PAGE)
    exact = TrainableMixture.from_components(PAGE, dtype=torch.float64)
    far = [50.0, 50.0, 50.0]
    value = single.log_prob(far)
    assert float(value.detach()) == pytest.approx(float(exact.log_prob(far).detach()), rel=1e-6)
    value.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in single.parameters())


def test_samples_come_from_both_components():
    x = TrainableMixture.from_components(PAGE).sample((1000,), generator=seeded())
    from_second = int((x[:, 1] > 0.3).sum())
    assert abs(from_second - 500) < 5 * math.sqrt(250)


def test_names_are_kept_and_shown():
    model = TrainableMixture.from_components(PAGE, [3, 1])
    assert model().feature_names == ("x1", "x2", "x3")
    assert "x1, x2, x3" in repr(model)
    np.testing.assert_allclose(model().weights.detach(), [0.75, 0.25], rtol=1e-6)
    reordered = TrainableMixture.from_components([PAGE[0], dict(reversed(PAGE[1].items()))])
    assert torch.equal(reordered.means, model.means)


@pytest.mark.parametrize(
    ("components", "weights", "says"),
    [
        ([], None, "at least one component"),
        ([{"a": (0, 0)}, {"b": (0, 0)}], None, "Component 1 has the features b"),
        ([{"a": (0, 0, 0)}], None, "expected a pair"),
        ([{"a": 1.0}], None, "expected a pair"),
        ([{"a": (0, math.inf)}], None, "must be finite"),
        ([{"a": (0, 0)}], [0.5, 0.5], "1 numbers"),
    ],
)
def test_bad_components_are_named(components, weights, says):
    with pytest.raises(InputError, match=says):
        TrainableMixture.from_components(components, weights)


# --- the module -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_from_mixture_is_that_mixture(kind):
    known = build(kind, *parts(kind)).detach()
    found = TrainableMixture.from_mixture(known)()
    for one, other in [
        (found.weights, known.weights),
        (found.means, known.means),
        (found.covariances, known.covariances),
    ]:
        torch.testing.assert_close(one.detach(), other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_min_variance_is_added(kind):
    known = build(kind, *parts(kind)).detach()
    wide = TrainableMixture.from_mixture(known, min_variance=0.3)().covariance.dense().detach()
    torch.testing.assert_close(wide, known.covariance.dense() + 0.3 * torch.eye(2).double())


@pytest.mark.parametrize("name", ["logits", "means", "log_scales"])
def test_a_frozen_parameter_stays(name):
    x = np.asarray(old_faithful().values)
    model = TrainableMixture(2, 2, generator=seeded(), dtype=torch.float64)
    getattr(model, name).requires_grad_(False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for optimizer in ("adam", "lbfgs"):
        fit(model, x, optimizer, max_epochs=5)
    for n, p in model.named_parameters():
        assert torch.equal(p.detach(), before[n]) == (n == name)


def test_everything_frozen_is_refused():
    model = TrainableMixture(1, 1).requires_grad_(False)
    with pytest.raises(InputError, match="Every parameter is frozen"):
        fit(model, [[0.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_far_out(kind, dtype):
    """Logit gaps of 1000, and 1e4 standard deviations from every mean."""
    model = TrainableMixture(3, 2, kind, generator=seeded(), dtype=dtype)
    with torch.no_grad():
        model.logits.copy_(torch.tensor([0.0, 1000.0, -1000.0]))
    x = torch.tensor([[1e4, -1e4], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    value = model.log_prob(x)
    value.sum().backward()
    for found in (value, x.grad, *(p.grad for p in model.parameters())):
        assert bool(torch.isfinite(found).all())
    assert float(model.means.grad.abs().max()) > 1e3  # and it is not zero out there


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_log_prob(kind):
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x, *p: build(kind, *p).log_prob(x), (x, *parts(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_rsample(kind):
    uniform = torch.rand(5, 2, generator=seeded(), dtype=torch.float64)
    assert gradcheck(lambda *p: build(kind, *p).rsample((5,), uniform=uniform), parts(kind))


def expectation(kind, leaves):
    """E[x₁² + x₁x₂ + cos x₂] in closed form, in NumPy, one component at a time."""
    logits, means, chart = (leaf.detach() for leaf in leaves)
    weights = np.exp(logits.numpy() - np.logaddexp.reduce(logits.numpy()))
    matrices = STRUCTURES[kind].decode(chart.flatten(), *means.shape).dense().numpy()
    total = 0.0
    for w, (m1, m2), c in zip(weights, means.numpy(), matrices, strict=True):
        total += w * (c[0, 0] + m1**2 + c[0, 1] + m1 * m2 + np.exp(-c[1, 1] / 2) * np.cos(m2))
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_rsample_follows_finite_differences_of_an_expectation(kind):
    leaves = parts(kind, seed=3)
    exact = [torch.zeros_like(leaf) for leaf in leaves]
    step = 1e-5
    for i, leaf in enumerate(leaves):
        for j in range(leaf.numel()):
            sides = []
            for sign in (1, -1):
                moved = [one.detach().clone() for one in leaves]
                moved[i].view(-1)[j] += sign * step
                sides.append(expectation(kind, moved))
            exact[i].view(-1)[j] = (sides[0] - sides[1]) / (2 * step)

    n = 40_000

    def estimate(**how):
        x = build(kind, *leaves).rsample((n,), **how)
        value = x[:, 0].square() + x[:, 0] * x[:, 1] + x[:, 1].cos()
        return torch.autograd.grad(value.mean(), leaves)

    sobol = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(n).double()
    even = estimate(uniform=sobol.clamp(1e-9, 1 - 1e-9))
    random = estimate(generator=seeded(1))
    for want, quasi, plain in zip(exact, even, random, strict=True):
        size = float(want.abs().max())
        # An integral by 40,000 Sobol points, and by as many random ones: 1 / √n is 0.005, times a
        # spread of the gradient of several times its size.
        torch.testing.assert_close(quasi, want, rtol=0, atol=0.01 * size)
        torch.testing.assert_close(plain, want, rtol=0, atol=0.1 * size)


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_numbers_decide_the_draw(kind):
    mixture = build(kind, *parts(kind)).detach()
    uniform = torch.rand(6, 2, generator=seeded(), dtype=torch.float64)
    x = mixture.rsample((6,), uniform=uniform)
    torch.testing.assert_close(mixture.marginal([0]).cdf(x[:, :1]), uniform[:, :1])
    rest = mixture.condition({0: x[:, 0]})
    torch.testing.assert_close(rest.cdf(x[:, 1:]), uniform[:, 1:])
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        mixture.rsample((6,), uniform=uniform.round())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_has_the_gradient_of_its_densities(kind, weighted):
    leaves = parts(kind)
    x = torch.randn(300, 2, generator=seeded(), dtype=torch.float64) * 3
    weight = torch.rand(300, generator=seeded(), dtype=torch.float64) if weighted else None
    total = log_likelihood(x, build(kind, *leaves), weight)
    each = build(kind, *leaves).log_prob(x) * (1.0 if weight is None else weight)
    torch.testing.assert_close(total, each.sum(), rtol=1e-12, atol=0)
    found = torch.autograd.grad(total, leaves)
    want = torch.autograd.grad(each.sum(), leaves)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_likelihoods_of_a_batch_in_float32():
    leaves = [leaf.detach().float() for leaf in parts("full")]
    batch = [torch.stack([leaf, 0.5 * leaf]).requires_grad_() for leaf in leaves]
    mixture = Mixture(batch[0], batch[1], STRUCTURES["full"].decode(batch[2].flatten(1), 3, 2))
    x = torch.randn(50, 2, generator=seeded())
    total = log_likelihood(x, mixture)
    each = mixture.log_prob(x[:, None]).sum(0)
    torch.testing.assert_close(total.float(), each, rtol=1e-5, atol=0)
    found = torch.autograd.grad(total.sum(), batch, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(each.sum(), batch), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # float32 sums of 50 rows


# --- fitting --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return np.asarray(old_faithful().values)


def em_optimum(rows, start):
    settings = {"tol": 1e-12, "max_iter": 10_000, "reg_covar": 0, "acceleration": "none"}
    given = {
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": start.covariance.precisions(),
    }
    given = {name: value.numpy() for name, value in given.items()}
    model = GaussianMixture(
        start.n_components, covariance_type=start.covariance_type, **settings, **given
    )
    return model.fit(rows).lower_bound_


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")  # one step
def test_gradients_reach_the_optimum_of_em(kind, k, rows):
    one_step = GaussianMixture(k, covariance_type=kind, random_state=0, max_iter=1)
    start = one_step.fit(rows).mixture_
    best = em_optimum(rows, start)
    for optimizer in ("adam", "lbfgs"):
        found = fit(TrainableMixture.from_mixture(start), rows, optimizer)
        assert found.converged
        assert -found.loss == pytest.approx(best, abs=1e-4)


def test_the_units_of_the_features_do_not_matter(rows):
    start = GaussianMixture(2, random_state=0).fit(rows).mixture_
    factor = torch.tensor([1e3, 1e-3], dtype=torch.float64)
    moved = Mixture.from_parameters(
        start.weights, start.means * factor, start.covariances * factor * factor[:, None]
    )
    for optimizer in ("adam", "lbfgs"):
        here = fit(TrainableMixture.from_mixture(start), rows, optimizer, max_epochs=20)
        there = fit(
            TrainableMixture.from_mixture(moved), rows * factor.numpy(), optimizer, max_epochs=20
        )
        assert there.loss == pytest.approx(here.loss, abs=1e-6)


def test_minibatches_reach_what_all_rows_reach(rows):
    start = GaussianMixture(2, random_state=0).fit(rows).mixture_
    best = fit(TrainableMixture.from_mixture(start), rows, "lbfgs").loss
    worse = TrainableMixture.from_mixture(start)
    with torch.no_grad():
        worse.means.add_(0.5)
    found = fit(worse, rows, batch_size=64, schedule="cosine", max_epochs=200, patience=200)
    with torch.no_grad():
        loss = float(worse.neglogp(rows).mean())
    assert loss == pytest.approx(best, abs=1e-3)
    assert found.n_passes == pytest.approx(len(found.history))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_weights_are_repetition(optimizer, rows):
    weight = np.random.default_rng(0).integers(0, 4, len(rows))
    start = GaussianMixture(2, random_state=0).fit(rows).mixture_
    weighted = fit(
        TrainableMixture.from_mixture(start), rows, optimizer, sample_weight=weight, max_epochs=15
    )
    repeated = fit(
        TrainableMixture.from_mixture(start), np.repeat(rows, weight, 0), optimizer, max_epochs=15
    )
    assert weighted.loss == pytest.approx(repeated.loss, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_rows_of_weight_zero_change_nothing(optimizer, rows):
    start = GaussianMixture(2, random_state=0).fit(rows).mixture_
    weight = np.r_[np.ones(len(rows)), 0.0]
    more = np.r_[rows, [[math.nan, 1e200]]]
    without = fit(TrainableMixture.from_mixture(start), rows, optimizer, max_epochs=10)
    found = fit(
        TrainableMixture.from_mixture(start), more, optimizer, sample_weight=weight, max_epochs=10
    )
    assert found.loss == pytest.approx(without.loss, abs=1e-9)


def test_a_component_of_weight_zero_stays_one(rows):
    start = Mixture.from_parameters([1.0, 0.0], rows[:2], [[1.0, 90.0], [1.0, 90.0]], "diag")
    model = TrainableMixture.from_mixture(start)
    found = fit(model, rows, "lbfgs")
    alone = GaussianMixture(1, covariance_type="diag", reg_covar=0).fit(rows)
    assert -found.loss == pytest.approx(alone.lower_bound_, abs=1e-6)
    assert model().weights.tolist() == [1.0, 0.0]


def test_a_network_with_a_loss_of_its_own():
    x = torch.linspace(-1, 1, 200)[:, None]
    data = torch.cat([x, 3 * x + 1], 1)
    line = torch.nn.Linear(1, 1)

    def squared(module, rows):
        return (module(rows[:, :1]) - rows[:, 1:]).square().squeeze(-1)

    for optimizer in (lambda tensors: torch.optim.SGD(tensors, lr=0.3), "lbfgs"):
        with torch.no_grad():
            line.weight.zero_()
        assert fit(line, data, optimizer, loss=squared, validation=0.2).loss < 1e-4
    assert float(line.weight.detach()) == pytest.approx(3, abs=0.02)
    with pytest.raises(InputError, match="pass loss="):
        fit(line, data)
    with pytest.raises(InputError, match="one number for each"):
        fit(line, data, loss=lambda module, rows: squared(module, rows).mean())


def test_rows_held_out_choose_the_parameters(rows):
    model = TrainableMixture(8, 2, "full", generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        model.means.copy_(torch.from_numpy(rows[:8]))
    found = fit(model, rows[:60], validation=rows[60:], schedule="constant", patience=30)
    losses = [record.validation_loss for record in found.history]
    assert found.loss == min(losses)
    assert losses[-1] > found.loss  # it went on past the best, and came back
    with torch.no_grad():
        assert float(model.neglogp(rows[60:]).mean()) == pytest.approx(found.loss)


def test_ctrl_c_keeps_the_best_so_far(rows):
    def press(record):
        if record.epoch == 4:
            raise KeyboardInterrupt

    for optimizer in ("adam", "lbfgs"):
        model = TrainableMixture.from_mixture(GaussianMixture(2, random_state=0).fit(rows).mixture_)
        with torch.no_grad():
            model.means.add_(0.5)
        found = fit(model, rows, optimizer, callbacks=[press])
        assert found.reason == "interrupted"
        with torch.no_grad():
            assert float(model.neglogp(rows).mean()) == pytest.approx(found.loss, abs=1e-12)
        assert found.loss == min(record.loss for record in found.history)


def test_a_loss_that_breaks_down_keeps_what_was_best():
    class Cliff(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.height = torch.nn.Parameter(torch.tensor(1.0))

    def loss(module, rows):  # it falls towards zero, and below there is nothing
        return (module.height + 0.0 * rows[:, 0]).sqrt()

    cliff = Cliff()
    found = fit(cliff, [[0.0]], lambda tensors: torch.optim.SGD(tensors, lr=0.3), loss=loss)
    assert "not finite" in found.reason
    assert not found.converged
    assert math.isfinite(found.loss)
    assert float(cliff.height.detach()) >= 0


def test_no_epochs_change_nothing(rows):
    start = GaussianMixture(2, random_state=0).fit(rows)
    found = fit(TrainableMixture.from_mixture(start.mixture_), rows, max_epochs=0)
    assert found.loss == pytest.approx(-start.lower_bound_, abs=1e-9)
    assert found.history == []


def test_progress_is_shown_when_asked_for(rows, capfd, monkeypatch):
    fit(TrainableMixture(2, 2), rows, max_epochs=3)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    fit(TrainableMixture(2, 2), rows, max_epochs=3, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch" in err
    assert "loss" in err


def test_a_callback_ends_the_fit(rows):
    start = TrainableMixture.from_mixture(GaussianMixture(2, random_state=0).fit(rows).mixture_)
    found = fit(start, rows, callbacks=[lambda record: record.epoch == 3])
    assert len(found.history) == 3
    assert not found.converged
    assert "callback" in found.reason


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": [[math.nan, 1.0]]}, "nan at"),
        ({"data": np.zeros((0, 2))}, "at least one"),
        ({"data": np.zeros((5, 3))}, r"expected \(N, 2\)"),
        ({"data": np.zeros(5)}, r"expected \(N, 2\)"),
        ({"data": [["a", "b"]]}, "must be numbers"),
        ({"validation": [[math.inf, 0.0]]}, "validation hold inf"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"optimizer": "sgd"}, "optimizer is"),
        ({"schedule": "steps"}, "schedule is"),
        ({"optimizer": "lbfgs", "batch_size": 2}, "all rows at once"),
        ({"sample_weight": [-1.0] * 272}, "sample_weight must hold"),
        ({"validation": 0.0001}, "sets 0 of"),
        ({"learning_rate": 0}, "learning_rate positive"),
    ],
)
def test_bad_input_is_named(change, says, rows):
    options = {"data": rows, **change}
    with pytest.raises(InputError, match=says):
        fit(TrainableMixture(2, 2), **options)


# --- the estimator --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimator_by_gradient_is_as_likely_as_by_em(kind, rows):
    em = GaussianMixture(2, covariance_type=kind, random_state=0, tol=1e-8, max_iter=1000)
    other = GaussianMixture(
        2, covariance_type=kind, random_state=0, tol=1e-8, algorithm="gradient", n_init=2
    )
    assert other.fit(rows).converged_
    assert other.lower_bound_ == pytest.approx(em.fit(rows).lower_bound_, abs=1e-5)
    assert other.lower_bound_ == pytest.approx(other.score(rows), abs=1e-12)


def test_an_interrupted_estimator_keeps_the_starts_it_tried(rows):
    model = GaussianMixture(
        2, algorithm="gradient", n_init=3, random_state=0, callbacks=[lambda r: r.iteration == 2]
    )
    with pytest.warns(ConvergenceWarning, match="stopped early"):
        model.fit(rows)
    assert len(model.history_) == 2
    assert model.lower_bound_ == pytest.approx(model.score(rows), abs=1e-12)


def test_reg_covar_bounds_the_variances_of_a_gradient_fit():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 2)), 20, 0)
    model = GaussianMixture(
        5, covariance_type="diag", reg_covar=1e-2, algorithm="gradient", random_state=0
    )
    model.fit(x)
    assert model.covariances_.min() >= 1e-2
