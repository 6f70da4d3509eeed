"""Calibration: right predictions pass, wrong ones show how they are wrong; and the pictures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats

from mogul import Mixture, plot
from mogul.calibration import calibration_curve, coverage, pit, sharpness
from mogul.errors import InputError, UnknownNameError
from mogul.nn.density_training import TrainingRecord


def predicted(n=4000, scale=1.0, shift=0.0, d=1, seed=0):
    """Two components for each row, and values of it; the prediction is scaled and shifted."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(n, 1, d)) * 5
    means = np.concatenate([centre, centre + 3], 1)
    weights = np.tile([0.3, 0.7], (n, 1))
    truth = Mixture.from_parameters(weights, means, np.ones((n, 2, d)), "diag")
    y = truth.sample(generator=torch.Generator().manual_seed(seed))
    told = Mixture.from_parameters(weights, means + shift, np.full((n, 2, d), scale**2), "diag")
    return told, y


def test_right_predictions_are_uniform_and_cover_what_they_say():
    mixture, y = predicted(d=2)
    where = pit(mixture, y)
    assert where.shape == (4000, 2)
    for d in range(2):
        assert stats.kstest(where[:, d].numpy(), "uniform").pvalue > 1e-3
    p, share = calibration_curve(mixture, y)
    assert share.shape == (99, 2)
    torch.testing.assert_close(share, p[:, None].expand_as(share), atol=0.03, rtol=0)
    p, share = coverage(mixture, y, [0.5, 0.9])
    torch.testing.assert_close(share, p[:, None].expand_as(share), atol=0.025, rtol=0)
    ends = mixture.interval(0.9)
    inside = ((y >= ends[..., 0]) & (y <= ends[..., 1])).double().mean(0)
    torch.testing.assert_close(share[1], inside)
    torch.testing.assert_close(sharpness(mixture, 0.9), (ends[..., 1] - ends[..., 0]).mean(0))


def test_wrong_predictions_show_how_they_are_wrong():
    narrow, y = predicted(scale=0.4)
    wide, _ = predicted(scale=4.0)
    high, _ = predicted(shift=1.0)
    assert float(coverage(narrow, y, [0.9])[1][0, 0]) < 0.85
    assert float(coverage(wide, y, [0.5])[1][0, 0]) > 0.6
    assert float(calibration_curve(high, y, [0.5])[1][0, 0]) > 0.6  # more lies below than should
    assert float(sharpness(narrow)[0]) < float(sharpness(wide)[0])


def test_what_is_not_known_is_left_out():
    mixture, y = predicted(500, d=2)
    holes = y.clone()
    holes[::2, 0] = torch.nan
    where = pit(mixture, holes)
    assert torch.equal(where.isnan(), holes.isnan())
    _, share = coverage(mixture, holes, [0.8])
    _, alone = coverage(mixture[1::2], y[1::2], [0.8])
    assert float(share[0, 0]) == float(alone[0, 0])


def test_wrong_shapes_and_levels_are_refused():
    mixture, y = predicted(10)
    for ask in (pit, calibration_curve, coverage):
        with pytest.raises(InputError, match=r"y has shape \(9, 1\); expected \(10, 1\)"):
            ask(mixture, y[:9])
        with pytest.raises(InputError, match="a mixture for each row"):
            ask(mixture[0], y)
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        coverage(mixture, y, [90])
    with pytest.raises(InputError, match="y must be numbers"):
        pit(mixture, [["a"]] * 10)


# --- pictures -------------------------------------------------------------------------------------


def artists(ax, name):
    return [one for one in ax.get_children() if one.get_gid() == name]


def words(ax):
    return " ".join(t.get_text().replace("\n", " ") for t in ax.get_legend().get_texts())


def test_a_pit_histogram_is_a_density_with_what_chance_does():
    mixture, y = predicted()
    ax = plot.pit(mixture, y, bins=10)
    bars = [bar for bar in ax.patches if bar.get_gid() == "pit"] or ax.containers[0].patches
    heights = [bar.get_height() for bar in bars]
    expected, _ = np.histogram(pit(mixture, y), 10, (0, 1), density=True)
    np.testing.assert_allclose(heights, expected)
    (band,) = artists(ax, "chance")
    low, high = band.get_y(), band.get_y() + band.get_height()
    np.testing.assert_allclose(
        [low, high], stats.binom.ppf([0.025, 0.975], 4000, 0.1) / 400, rtol=1e-9
    )
    assert "4,000 values seen" in words(ax)


def test_curves_are_those_of_the_figures():
    mixture, y = predicted(d=2)
    for draw, figures in ((plot.calibration, calibration_curve), (plot.coverage, coverage)):
        ax = draw(mixture, y)
        p, share = figures(mixture, y)
        for d in range(2):
            (line,) = artists(ax, f"curve {d}")
            np.testing.assert_allclose(line.get_xdata(), p)
            np.testing.assert_allclose(line.get_ydata(), share[:, d])
        assert "output 1 of 4,000 rows" in words(ax)
    assert f"{float(sharpness(mixture, 0.9)[1]):.3g} wide" in words(ax)


def moving(x):
    """One y that follows x, and another that does not."""
    x = torch.as_tensor(np.asarray(x))
    means = torch.stack([2 * x[:, 0], torch.zeros_like(x[:, 0])], 1).unsqueeze(1)
    ones = torch.ones_like(means)
    return Mixture(torch.zeros(len(x), 1), means, _diag(ones), ["up", "flat"])


def _diag(ones):
    from mogul.covariances import structure

    return structure("diag").from_covariances(ones, 1, 2)


def test_a_conditional_density_is_an_image_with_its_quantiles():
    x = np.linspace(0, 10, 30)
    y = np.stack([2 * x, 0 * x], 1)
    ax = plot.conditional(moving, x, y, quantiles=[0.1, 0.9], name="time")
    (low,), (high,), (mean,) = (artists(ax, n) for n in ("quantile 0.1", "quantile 0.9", "mean"))
    np.testing.assert_allclose(mean.get_ydata(), 2 * mean.get_xdata(), atol=1e-12)
    gap = high.get_ydata() - low.get_ydata()
    np.testing.assert_allclose(gap, 2 * stats.norm.ppf(0.9), rtol=1e-6)
    (image,) = artists(ax, "density")
    grid = image.get_array()
    left, right, bottom, top = image.get_extent()
    column = grid[:, 150]
    at = np.linspace(bottom, top, len(column))
    centre = left + (right - left) * 150 / (grid.shape[1] - 1)
    assert at[column.argmax()] == pytest.approx(2 * centre, abs=0.1)
    assert np.trapezoid(column, at) == pytest.approx(1, abs=0.01)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time", "up")
    assert "30 rows" in words(ax)
    assert (
        plot.conditional(moving, x, output="flat", quantiles=(), mean=False).get_ylabel() == "flat"
    )


def test_densities_at_chosen_rows():
    ax = plot.conditional_density(moving([[0.0], [3.0]]), ["zero", "three"])
    for i in range(2):
        (line,) = artists(ax, f"curve {i}")
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1, abs=2e-3)
    assert "zero three" in words(ax)
    assert words(plot.conditional_density(moving([[0.0]]))) == "row 0"


def test_a_training_is_drawn_as_its_records():
    records = [TrainingRecord(e, 2.0 - e / 10, 2.1 - e / 10) for e in range(1, 9)]
    ax = plot.training(records)
    (line,) = artists(ax, "held out")
    np.testing.assert_allclose(line.get_ydata(), [r.validation_loss for r in records])


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda m, y: plot.pit(m, y[:3]), "y has shape"),
        (lambda m, y: plot.coverage(m[0], y), "a mixture for each row"),
        (lambda m, y: plot.conditional(moving, np.ones((4, 2))), "over one input"),
        (lambda m, y: plot.conditional(moving, [0.0, 1.0], [1.0]), r"y has shape \(1, 1\)"),
        (lambda m, y: plot.conditional(moving, [0.0, 1.0], output="side"), "no feature 'side'"),
        (lambda m, y: plot.conditional(lambda x: m, [0.0, 1.0]), "a mixture for each row"),
        (lambda m, y: plot.conditional(moving, [0.0, 1.0], quantiles=[5]), "strictly between"),
        (lambda m, y: plot.conditional_density(m), "40 curves are too many"),
        (lambda m, y: plot.conditional_density(m[:3], ["a"]), "1 labels were given for 3 rows"),
        (lambda m, y: plot.training([]), "records of a training"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_before_a_figure_is_made(draw, says):
    plt.close("all")
    mixture, y = predicted(40)
    with pytest.raises((InputError, UnknownNameError), match=says):
        draw(mixture, y)
    assert not plt.get_fignums()
