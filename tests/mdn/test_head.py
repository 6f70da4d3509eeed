"""The head of a mixture density network: what it parameterises, how it starts, its gradients."""

import numpy as np
import pytest
import torch
from scipy import integrate

from laws.cases import tensor
from mogul import GaussianMixture, Mixture
from mogul.errors import InputError, UnknownNameError
from mogul.nn import MLP, MixtureDensityNetwork, MixtureHead
from mogul.nn.density_losses import LOSSES, known_log_prob, natural_gradient

KINDS = ["diag", "full", "spherical", "tied"]


def head_of(kind="diag", d=2, k=3, width=4, seed=0, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MixtureHead(width, d, k, kind, **settings).double()


def outputs(head, n=6, seed=1, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, sum(head.sizes), generator=generator, dtype=torch.float64)


def noise(n, d, seed=7):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- what it gives --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 3])
def test_a_head_gives_a_mixture_for_each_row(kind, d):
    head = head_of(kind, d)
    mixture = head(torch.zeros(7, 4, dtype=torch.float64))
    assert isinstance(mixture, Mixture)
    assert mixture.batch_shape == (7,)
    assert mixture.event_shape == (d,)
    assert (mixture.n_components, mixture.covariance_type) == (3, kind)
    assert head(torch.zeros(2, 5, 4, dtype=torch.float64)).batch_shape == (2, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_each_row_integrates_to_one(kind):
    head = head_of(kind, 1)
    head.loc.copy_(tensor([100.0]))
    head.scale.copy_(tensor([30.0]))
    mixture = head(noise(3, 4))
    y = torch.linspace(-2000, 2200, 200_001, dtype=torch.float64)
    density = mixture.log_prob(y[:, None, None]).exp()
    np.testing.assert_allclose(torch.trapezoid(density, y, dim=0).detach(), 1, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", [0.0, 0.01, 0.3])
def test_no_component_is_narrower_than_min_scale(kind, least):
    """In standard deviations of y; of each feature given those before it for matrices."""
    head = head_of(kind, 3, min_scale=least)
    raw = outputs(head, 50, size=8.0)
    covariance = head.standard(raw).covariance
    diagonal = covariance.log_diagonal().exp()
    assert float(diagonal.min()) >= least
    assert torch.isfinite(diagonal).all()
    wide = head_of(kind, 3, min_scale=0.0).standard(raw).covariance.log_diagonal().exp()
    far = wide > 50 * max(least, 1e-6)
    np.testing.assert_allclose(diagonal[far], wide[far], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_the_unconditional_mixture_of_y(kind):
    """As good as a fit by EM to all rows, in the units of y, whatever the features are."""
    rng = np.random.default_rng(2)
    place = rng.integers(0, 2, 600)
    y = np.stack([1000 + 40 * place, -5 + 0.3 * place], 1) + rng.normal(size=(600, 2)) * [3, 0.05]
    head = head_of(kind, 2, 2)
    head.initialize(y, shrink=1e-6)
    found = head(noise(600, 4)).log_prob(tensor(y)).mean().detach()
    # The start keeps off components narrower than a tenth of y, by a floor of its square.
    standard = (y - head.loc.numpy()) / head.scale.numpy()
    fitted = GaussianMixture(2, covariance_type=kind, reg_covar=0.01, random_state=0).fit(standard)
    expected = fitted.score(standard) - np.log(head.scale.numpy()).sum()
    assert float(found) == pytest.approx(expected, abs=0.02)
    assert bool(head.scale[0] == head.scale[1]) == (kind == "spherical")  # or it would not be so


def test_missing_values_repeated_values_and_few_rows_can_be_started_from():
    y = np.random.default_rng(3).normal(size=(200, 2))
    y[::3, 0] = np.nan
    for values in (
        y,
        np.repeat([[1.0, 2.0]], 50, 0),
        y[1:3],
        np.array([[5.0, np.nan], [6.0, 1.0]]),
    ):
        head = head_of("full", 2, 4)
        head.initialize(values)
        mixture = head(torch.zeros(1, 4, dtype=torch.float64))
        assert torch.isfinite(mixture.mean).all()
        assert torch.isfinite(mixture.log_prob(torch.zeros(2, dtype=torch.float64))).all()
    head = head_of("diag", 1, 2)
    with pytest.raises(InputError, match="no known value"):
        head.initialize([np.nan, np.nan])
    with pytest.raises(InputError, match=r"expected \(N, 1\)"):
        head.initialize(y)


def test_weights_of_rows_are_repetitions_at_the_start():
    y = np.random.default_rng(4).normal(size=(60, 1)) ** 3
    count = np.random.default_rng(5).integers(0, 4, 60)
    one, other = head_of(d=1), head_of(d=1)
    one.initialize(y, count)
    other.initialize(np.repeat(y, count, 0))
    torch.testing.assert_close(one.loc, other.loc)
    torch.testing.assert_close(one.scale, other.scale)
    torch.testing.assert_close(one.linear.bias, other.linear.bias, rtol=1e-6, atol=1e-6)


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_marginalised(kind):
    head = head_of(kind, 3)
    mixture = head.standard(outputs(head, 40))
    y = noise(40, 3)
    y[::2, 1] = torch.nan
    y[::3, 2] = torch.nan
    y[5] = torch.nan
    found = known_log_prob(mixture, y)
    for i in range(40):
        known = (~y[i].isnan()).nonzero().flatten()
        expected = mixture[i].marginal(known).log_prob(y[i, known]) if len(known) else tensor(0.0)
        torch.testing.assert_close(found[i], expected)
    stacked = head.standard(outputs(head, 40).reshape(2, 20, -1))
    torch.testing.assert_close(known_log_prob(stacked, y.reshape(2, 20, 3)).flatten(), found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_natural_gradient_is_the_gradient_over_the_fisher_information(kind):
    """One component, so that the information is that of a normal density: by its definition,
    the expected outer product of scores, estimated from draws."""
    head = head_of(kind, 2, 1, min_scale=0.0)
    raw = outputs(head, 1, size=0.5)
    n = 60_000
    many = raw.expand(n, -1).clone().requires_grad_()
    y = head.standard(raw).sample((n,), generator=torch.Generator().manual_seed(0))[:, 0]
    (score,) = torch.autograd.grad(head.standard(many).log_prob(y).sum(), many)
    information = (score.T @ score / n)[1:, 1:]  # without the logit, which has none
    at = tensor([[1.5, -2.0]])
    here = raw.clone().requires_grad_()
    (plain,) = torch.autograd.grad(-head.standard(here).log_prob(at).sum(), here)
    found = natural_gradient(head, raw, plain)[0, 1:]
    expected = torch.linalg.solve(information, plain[0, 1:])
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.norm()))
    ready = raw.clone().requires_grad_()
    LOSSES["ngem"](head, ready, at, False).sum().backward()
    torch.testing.assert_close(ready.grad[0, 1:], found)
    assert float(LOSSES["ngem"](head, raw, at, False)) == float(LOSSES["nll"](head, raw, at, False))


def test_the_crps_loss_is_the_integral_it_stands_for():
    head = head_of(d=1)
    raw = outputs(head, 2)
    mixture = head.standard(raw)
    for i, at in enumerate((0.4, -1.7)):

        def squared(x, i=i, at=at):
            return (float(mixture[i].cdf(tensor([x]))[0]) - (x >= at)) ** 2

        exact = sum(integrate.quad(squared, *ends, limit=300)[0] for ends in ((-60, at), (at, 60)))
        found = LOSSES["crps"](head, raw[i : i + 1], tensor([[at]]), False)
        assert float(found) == pytest.approx(exact, abs=1e-6)


# --- never NaN ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("d", [1, 4])
def test_losses_and_gradients_are_finite_far_out(kind, loss, d):
    """y at 1e4 standard deviations, logits 1000 apart, outputs at ± 1000, in float32."""
    head = head_of(kind, d).float()
    for size in (1.0, 30.0, 1000.0):
        for y in (0.0, 1e4, -1e4):
            raw = outputs(head, 8, size=size).float()
            raw[:, 0] += 1000.0
            if kind in ("full", "tied") and size > 1:
                raw[:, -head.sizes[2] :] *= 5 / size  # entries of a Cholesky factor in sd of y
            raw.requires_grad_()
            value = LOSSES[loss](head, raw, torch.full((8, d), y), False)
            assert torch.isfinite(value).all()
            value.sum().backward()
            assert torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_networks_have_finite_losses(kind, half):
    x, y = noise(64, 3).float(), 300 * noise(64, 2, 8).float() + 1e4
    network = MixtureDensityNetwork(3, 2, 4, kind)
    network.initialize(x, y)
    with torch.autocast("cpu", dtype=half):
        loss = network.loss(x, y)
    assert loss.dtype in (torch.float32, torch.float64)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    exact = network.loss(x, y)
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), abs=0.05)


# --- networks -------------------------------------------------------------------------------------


def test_the_loss_is_in_the_units_of_y():
    x, y = noise(100, 2).float(), 50 * noise(100, 2, 8).float() + 7
    network = MixtureDensityNetwork(2, 2, 3)
    network.initialize(x, y)
    nll = -network(x).log_prob(y).mean()
    assert float(network.loss(x, y).detach()) == pytest.approx(float(nll.detach()), rel=1e-4)
    weight = noise(100, 1, 9)[:, 0].abs().float()
    weighted = -(weight * network(x).log_prob(y)).sum() / weight.sum()
    found = network.loss(x, y, weight)
    assert float(found.detach()) == pytest.approx(float(weighted.detach()), rel=1e-4)


def test_any_backbone_is_taken_and_one_that_does_not_fit_is_refused():
    class Wide(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x, x.square()], -1)

    network = MixtureDensityNetwork(3, backbone=Wide())
    assert network.head.in_features == 6
    assert MixtureDensityNetwork(3, hidden=()).head.in_features == 3
    with pytest.raises(InputError, match=r"does not take x of shape \(B, 3\)"):
        MixtureDensityNetwork(3, backbone=torch.nn.Linear(4, 8))
    with pytest.raises(InputError, match=r"features of shape \(B, F\)"):
        MixtureDensityNetwork(3, backbone=torch.nn.Unflatten(1, (3, 1)))
    with pytest.raises(InputError, match=r"must be an nn\.Module"):
        MixtureDensityNetwork(3, backbone=len)
    with pytest.raises(UnknownNameError, match="loss 'mse' is unknown"):
        MixtureDensityNetwork(3, loss="mse")
    with pytest.raises(UnknownNameError, match="covariance"):
        MixtureDensityNetwork(3, covariance_type="round")
    with pytest.raises(UnknownNameError, match="activation 'step'"):
        MLP(3, activation="step")
    for settings in ({"hidden": (0,)}, {"dropout": 1.0}, {"input_gain": 0.0}):
        with pytest.raises(InputError):
            MLP(3, **settings)
    for settings in ({"event_size": 0}, {"n_components": 0}, {"min_scale": -1.0}):
        with pytest.raises(InputError):
            MixtureHead(3, **settings)


def test_the_first_layer_begins_as_many_times_as_large():
    found = {}
    for gain in (1.0, 4.0):
        torch.manual_seed(0)
        found[gain] = MLP(3, (5, 4), input_gain=gain).state_dict()
    for name, value in found[1.0].items():
        factor = 4.0 if name.startswith("layers.0.") else 1.0
        torch.testing.assert_close(found[4.0][name], factor * value, rtol=0, atol=0)
    assert MLP(3, ()).out_features == 3
    network = MixtureDensityNetwork(3, input_gain=2.0)
    assert network.form is not None
    assert MixtureDensityNetwork(**network.form).form == network.form


@pytest.mark.parametrize("kind", ["diag", "spherical", "full", "tied"])
@pytest.mark.parametrize("least", [0.0, 0.05])
@pytest.mark.parametrize("d", [1, 3])
def test_the_loss_in_closed_form_is_that_of_the_mixture(kind, least, d):
    """Value and gradient, for narrow and wide components, rows far out and far logits."""
    head = head_of(kind, d, 4, min_scale=least)
    for size in (0.3, 3.0, 40.0):
        raw = outputs(head, 30, size=size)
        y = noise(30, d) * torch.tensor([1.0, 10.0, 1e3]).repeat(10)[:, None]
        one, other = raw.clone().requires_grad_(), raw.clone().requires_grad_()
        found, expected = LOSSES["nll"](head, one, y, False), -head.standard(other).log_prob(y)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        weight = noise(30, 1, 3)[:, 0]
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-8)
    small = outputs(head, 3, size=0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: LOSSES["nll"](head, r, noise(3, d), False), small)
