"""Training side by side: as one after another, held-out rows unseen, best networks kept."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from mogul.nn import MLP, MixtureDensityNetwork
from mogul.nn.density_training import TrainingData, TrainingSettings, train

SETTINGS = TrainingSettings(
    max_epochs=6, patience=100, batch_size=32, learning_rate=0.01, weight_decay=0.1
)


class Plain(torch.nn.Module):
    """A backbone like the default one, which is not known to be it."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n=200, seed=0):
    x = torch.randn(n, 2, generator=generator(seed))
    y = x[:, :1].sin() + 0.2 * torch.randn(n, 1, generator=generator(seed + 1))
    return TrainingData(x, y, torch.ones(n), torch.arange(n) % 5)


def networks(n=3, **settings):
    found = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(n):
            torch.manual_seed(seed)
            found.append(MixtureDensityNetwork(2, 1, 2, hidden=(8,), **settings))
    return found


def run(team, data, *, noise=0.0, settings=SETTINGS, seed=3, **options):
    n = len(team)
    return train(team, data, held=[m % 5 for m in range(n)], noise=[noise] * n, settings=settings,
                 generator=generator(seed), **options)  # fmt: skip


@pytest.mark.parametrize("loss", ["nll", "ngem", "crps"])
def test_stacked_networks_learn_what_each_would_in_a_loop(loss):
    data, together = rows(), networks(loss=loss)
    apart = deepcopy(together)
    for one in apart:
        one.backbone = Plain(one.backbone)  # no MLP: trained in a loop
    first, second = run(together, data), run(apart, data)
    torch.testing.assert_close(first.losses, second.losses, rtol=1e-4, atol=1e-4)
    assert torch.equal(first.epochs, second.epochs)
    for one, other in zip(together, apart, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_training_lowers_the_held_out_loss_and_reports_it():
    data, team = rows(), networks()
    before = [float(one.row_losses(one.outputs(data.x), data.y).mean().detach()) for one in team]
    result = run(team, data, settings=TrainingSettings(60, 100, 32, 0.01, 0.0))
    for m, one in enumerate(team):
        held = data.fold == m
        found = one.row_losses(one.outputs(data.x[held]), data.y[held]).mean()
        assert float(result.losses[m]) == pytest.approx(float(found.detach()), abs=1e-5)
        assert float(result.losses[m]) < before[m] - 0.5
    assert len(result.history) == 60
    assert result.history[-1].loss < result.history[0].loss
    assert (result.epochs > 0).all()
    assert not any(one.training for one in team)


def test_a_network_does_not_see_the_rows_it_is_judged_by():
    """Their y is nonsense, and training knows nothing of it."""
    data, one = rows(), networks(1)
    other = deepcopy(one)
    spoilt = TrainingData(
        data.x, torch.where((data.fold == 0)[:, None], 50.0, data.y), data.weight, data.fold
    )
    keep_all = TrainingSettings(1, 100, 32, 0.01, 0.0)
    seen = []
    run(one, data, settings=keep_all, on_epoch=lambda r: seen.append(r.loss))
    run(other, spoilt, settings=keep_all, on_epoch=lambda r: seen.append(r.loss))
    assert seen[0] == seen[1]


def test_rows_of_no_weight_and_missing_outputs_change_nothing():
    data, one = rows(), networks(1)
    other = deepcopy(one)
    n = len(data.x)
    more = TrainingData(
        torch.cat([data.x, torch.full((5, 2), 1e3)]),
        torch.cat([data.y, torch.full((5, 1), 1e3)]),
        torch.cat([data.weight, torch.zeros(5)]),
        torch.cat([data.fold, torch.zeros(5, dtype=torch.long)]),  # held out, and judged by nothing
    )
    first, second = run(one, data), run(other, more)
    torch.testing.assert_close(first.losses, second.losses, rtol=1e-5, atol=1e-6)
    assert n + 5 == len(more.x)


def test_the_best_epoch_is_kept_and_patience_ends_it():
    data, team = rows(60), networks(2)
    greedy = TrainingSettings(400, 15, 8, 0.05, 0.0)
    result = run(team, data, settings=greedy)
    assert len(result.history) < 400
    assert len(result.history) - int(result.epochs.max()) == 15
    for m, one in enumerate(team):
        held = data.fold == m
        now = one.row_losses(one.outputs(data.x[held]), data.y[held]).mean()
        assert float(now.detach()) == pytest.approx(float(result.losses[m]), abs=1e-5)


def test_a_callback_may_stop_it_and_ctrl_c_keeps_the_best():
    data = rows()
    result = run(networks(), data, on_epoch=lambda record: record.epoch == 2)
    assert result.interrupted
    assert len(result.history) == 2

    def interrupt(record):
        if record.epoch == 3:
            raise KeyboardInterrupt

    result = run(networks(), data, on_epoch=interrupt)
    assert result.interrupted
    assert torch.isfinite(result.losses).all()


def test_noise_is_fresh_and_as_large_as_told(monkeypatch):
    data, team = rows(), networks(2)
    seen = []
    original = MixtureDensityNetwork.row_losses

    def spy(self, outputs, y, missing=None):
        if outputs.requires_grad:
            seen.append(y.detach().clone())
        return original(self, outputs, y, missing)

    monkeypatch.setattr(MixtureDensityNetwork, "row_losses", spy)
    train(team, data, held=[0, 0], noise=[0.0, 3.0], settings=SETTINGS, generator=generator(1))
    own = torch.cat([y[0].flatten() for y in seen])
    noisy = torch.cat([y[1].flatten() for y in seen])
    assert set(own.tolist()) <= set(data.y.flatten().tolist())
    assert len(set(noisy.tolist())) > 0.99 * len(noisy)
    assert float(noisy.std()) == pytest.approx(np.hypot(3.0, float(own.std())), rel=0.05)


def test_a_network_that_runs_away_does_not_take_the_others_along():
    """Its gradients are not finite: it stays as it was, and its loss is known for what it is."""
    data, team = rows(), networks(3)
    with torch.no_grad():
        team[1].backbone.layers[0].weight.fill_(float("nan"))
    result = run(team, data)
    assert result.losses[1] == torch.inf
    assert torch.isfinite(result.losses[[0, 2]]).all()
    assert (result.epochs[[0, 2]] > 0).all()


def test_dropout_and_batch_normalisation_work():
    data = rows()
    assert torch.isfinite(run(networks(dropout=0.2), data).losses).all()
    backbones = [
        torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.SiLU())
        for _ in range(2)
    ]
    team = [MixtureDensityNetwork(2, backbone=one) for one in backbones]
    result = run(team, data)
    assert torch.isfinite(result.losses).all()
    for m, one in enumerate(team):  # running means are those of the best epoch too
        held = data.fold == m
        now = one.row_losses(one.outputs(data.x[held]), data.y[held]).mean()
        assert float(now.detach()) == pytest.approx(float(result.losses[m]), abs=1e-5)
    assert isinstance(networks(1)[0].backbone, MLP)
