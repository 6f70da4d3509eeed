"""Pictures say what is true: shares, levels, rows, exclusions, and refusals in one sentence."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.path import Path
from sklearn.base import clone

from mogul import BayesianGaussianMixture, Mixture, plot
from mogul.errors import InputError, MeanFieldWarning, UnknownNameError
from mogul.infer import Gibbs
from mogul.plot._labels import push_apart
from mogul.plot._line import bin_edges

MONTE_CARLO = 0.015
"""Four standard errors of a share of 20,000 draws, plus that of the threshold itself."""
N_DRAWS = 20_000
NAMES = ["length_cm", "width_cm"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def two_clusters() -> Mixture:
    covariances = [[[1.0, 0.8], [0.8, 2.0]], [[2.0, -0.5], [-0.5, 0.5]]]
    means = [[0.0, 0.0], [3.0, 1.0]]
    return Mixture.from_parameters([0.3, 0.7], means, covariances, feature_names=NAMES)


def many_features(n_features: int) -> Mixture:
    means = np.arange(2 * n_features).reshape(2, n_features)
    return Mixture.from_parameters([0.5, 0.5], means, [1.0, 2.0], "spherical")


def draws(mixture: Mixture, n: int = N_DRAWS, seed: int = 1) -> np.ndarray:
    return mixture.sample((n,), generator=torch.Generator().manual_seed(seed)).numpy()


def artists(ax, gid: str) -> list:
    return [a for a in ax.get_children() if a.get_gid() == gid]


def words(ax) -> str:
    """The legend, each line unbroken."""
    return "\n".join(t.get_text().replace("\n", " ") for t in ax.get_legend().get_texts())


def share_inside(paths: list[Path], points: np.ndarray) -> float:
    """The share of points inside any of the outlines; holes count as outside."""
    crossings = sum(
        Path(polygon).contains_points(points).astype(int)
        for path in paths
        for polygon in path.to_polygons()
    )
    return float((np.asarray(crossings) % 2 == 1).mean())


def inside_fills(ax, gid: str, values: np.ndarray) -> np.ndarray:
    """Which values lie under a filled stretch of a curve."""
    within = np.zeros(len(values), dtype=bool)
    for region in artists(ax, gid):
        for path in region.get_paths():
            low, high = path.vertices[:, 0].min(), path.vertices[:, 0].max()
            within |= (values >= low) & (values <= high)
    return within


# --- shares -----------------------------------------------------------------------------------


@pytest.mark.parametrize("coverage", [0.3, 0.9, 0.99])
def test_an_ellipse_holds_its_share_of_its_component(coverage):
    mixture = two_clusters()
    ax = plot.density(mixture, coverage=[coverage])
    for k in range(2):
        (ellipse,) = artists(ax, f"ellipse {k} {coverage:g}")
        outline = ellipse.get_patch_transform().transform_path(ellipse.get_path())
        found = share_inside([outline], draws(mixture.select([k])))
        assert found == pytest.approx(coverage, abs=MONTE_CARLO)


def test_a_thin_ellipse_keeps_its_width():
    covariance = [[1.0, 1.0 - 1e-9], [1.0 - 1e-9, 1.0]]
    mixture = Mixture.from_parameters([1.0], [[0.0, 0.0]], [covariance])
    (ellipse,) = artists(plot.density(mixture, coverage=[0.5]), "ellipse 0 0.5")
    assert ellipse.width / ellipse.height == pytest.approx(np.sqrt((2 - 1e-9) / 1e-9), rel=1e-3)


@pytest.mark.parametrize(
    "mixture",
    [
        pytest.param(two_clusters(), id="overlapping"),
        pytest.param(
            Mixture.from_parameters(
                [0.5, 0.5], [[0.0, 0.0], [2.0, 3.0]], [[9.0, 9.0], [1e-6, 1e-6]], "diag"
            ),
            id="a spike far below the spacing of pixels",
        ),
    ],
)
def test_a_region_holds_its_share_of_the_mixture(mixture):
    ax = plot.density(mixture, coverage=(0.5, 0.9))
    rows = draws(mixture)
    for coverage in (0.5, 0.9):
        (region,) = artists(ax, f"region {coverage:g}")
        found = share_inside(region.get_paths(), rows)
        assert found == pytest.approx(coverage, abs=MONTE_CARLO)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e9])
def test_a_region_of_one_feature_holds_its_share(scale):
    mixture = Mixture.from_parameters(
        [0.4, 0.6], [[-3.0 * scale], [2.0 * scale]], [[scale**2], [4 * scale**2]], "diag"
    )
    ax = plot.density(mixture, coverage=(0.5, 0.9))
    values = draws(mixture)[:, 0]
    for coverage in (0.5, 0.9):
        found = inside_fills(ax, f"region {coverage:g}", values).mean()
        assert found == pytest.approx(coverage, abs=MONTE_CARLO)


def test_coverage_is_stated():
    for ax in (plot.density(two_clusters(), coverage=[0.95, 0.6]), plot.joint(two_clusters())):
        legend = next(a for a in (ax, *ax.child_axes) if a.get_legend())
        stated = "60 %, 95 %" if legend is ax else "50 %, 90 %"
        assert f"regions that hold {stated} of the mixture" in words(legend)
        assert f"ellipses that hold {stated} of their component" in words(legend)


def test_no_coverage_draws_neither_regions_nor_ellipses():
    ax = plot.density(two_clusters(), draws(two_clusters(), 50), coverage=())
    assert not ax.patches
    assert "hold" not in words(ax)


# --- curves and histograms ----------------------------------------------------------------------


def test_the_curve_is_the_density_and_its_parts_add_up():
    mixture = two_clusters().marginal("length_cm")
    ax = plot.density(mixture, coverage=())
    whole, *parts = ax.lines
    assert whole.get_gid() == "density"
    x, height = whole.get_data()
    np.testing.assert_allclose(height, mixture.log_prob(x[:, None]).exp().numpy(), rtol=1e-12)
    total = np.nansum([line.get_ydata() for line in parts], axis=0)
    np.testing.assert_allclose(total, height, atol=0.01 * height.max())


def test_a_spike_is_on_the_curve_and_does_not_flatten_the_rest():
    mixture = Mixture.from_parameters([0.1, 0.9], [[60.0], [70.0]], [[1e-8], [100.0]], "diag")
    rows = np.concatenate([np.full(30, 60.0), np.linspace(50, 90, 270)])
    ax = plot.density(mixture, rows)
    (curve,) = artists(ax, "density")
    peak = float(mixture.log_prob(np.array([60.0])).exp())
    assert curve.get_ydata().max() == pytest.approx(peak)
    assert ax.get_ylim()[1] < 0.01 * peak
    assert "its peak, 399, is out of the picture" in words(ax)


def test_bars_have_unit_area_and_count_every_row_by_its_weight():
    mixture = two_clusters().marginal(0)
    rows = draws(mixture, 8000)
    weight = (rows[:, 0] > 0).astype(float)
    (bars,) = artists(plot.density(mixture, rows, sample_weight=weight), "histogram")
    heights, edges, _ = bars.get_data()
    assert (heights * np.diff(edges)).sum() == pytest.approx(1.0)
    assert heights[edges[1:] < 0].sum() == 0.0
    shares = np.histogram(rows[:, 0], edges, weights=weight)[0] / weight.sum()
    np.testing.assert_allclose(heights * np.diff(edges), shares, atol=1e-12)


@pytest.mark.parametrize(("step", "origin"), [(1.0, 40), (0.1, 4.3), (5.0, 0)])
def test_bars_of_rounded_values_hold_the_same_number_of_recorded_values(step, origin):
    values = origin + step * np.repeat(np.arange(50), np.random.default_rng(0).integers(1, 9, 50))
    edges = bin_edges(values, (values.min(), values.max()))
    recorded = np.histogram(np.unique(values), edges)[0]
    assert len(set(recorded[:-1])) == 1
    assert recorded.sum() == 50
    assert np.abs(edges[:, None] - values).min() > step / 4


def test_one_repeated_value_is_one_bar():
    mixture = Mixture.from_parameters([1.0], [[5.0]], [[1e-6]], "diag")
    (bars,) = artists(plot.density(mixture, np.full(40, 5.0)), "histogram")
    heights, edges, _ = bars.get_data()
    assert (len(heights), edges.mean()) == (1, pytest.approx(5.0))


# --- points -------------------------------------------------------------------------------------


def test_points_have_the_colour_of_their_most_probable_component():
    mixture, rows = two_clusters(), draws(two_clusters(), 300)
    ax = plot.density(mixture, rows)
    (points,) = artists(ax, "rows")
    colours = [tuple(c[:3]) for c in points.get_facecolors()]
    component = mixture.predict(points.get_offsets()).tolist()
    assert len(set(zip(colours, component, strict=True))) == 2
    assert sorted(map(tuple, points.get_offsets())) == sorted(map(tuple, rows))


def test_large_data_are_thinned_out_the_same_way_each_time():
    mixture, rows = two_clusters(), draws(two_clusters(), 6000)
    first, second = (artists(plot.density(mixture, rows), "rows")[0] for _ in range(2))
    assert len(first.get_offsets()) == 5000
    np.testing.assert_array_equal(first.get_offsets(), second.get_offsets())
    assert "5,000 of 6,000 rows" in words(first.axes)


def test_heavy_rows_are_larger():
    rows = draws(two_clusters(), 3)
    ax = plot.density(two_clusters(), rows, sample_weight=[1.0, 2.0, 3.0])
    (points,) = artists(ax, "rows")
    order = [np.flatnonzero((rows == p).all(axis=1))[0] for p in points.get_offsets()]
    sizes = points.get_sizes()[np.argsort(order)]
    np.testing.assert_allclose(sizes / sizes[0], [1.0, 2.0, 3.0])


def test_a_component_without_weight_is_not_drawn():
    mixture = Mixture.from_parameters(
        [1.0, 0.0], [[0.0, 0.0], [900.0, 900.0]], [1.0, 1.0], "spherical"
    )
    ax = plot.density(mixture)
    assert ax.get_xlim()[1] < 10
    assert [t.get_text() for t in ax.texts] == ["0"]


# --- names and labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_a_frame_is_read_by_name(frame):
    rows = draws(two_clusters(), 40)
    columns = {"other": rows[:, 0], "width_cm": rows[:, 1], "length_cm": rows[:, 0]}
    (points,) = artists(plot.density(two_clusters(), frame(columns)), "rows")
    assert sorted(map(tuple, points.get_offsets())) == sorted(map(tuple, rows))


def test_axis_names_come_from_the_mixture_then_the_frame_and_can_be_given():
    bare = Mixture.from_parameters([1.0], [[0.0, 0.0]], [1.0], "spherical")
    frame = pd.DataFrame(draws(bare, 5), columns=["a", "b"])
    assert plot.density(two_clusters()).get_xlabel() == "length_cm"
    assert plot.density(bare, frame).get_xlabel() == "a"
    assert plot.density(bare).get_ylabel() == "feature 1"
    ax = plot.density(two_clusters(), feature_names=["price ($)", "$ of $"], features="$ of $")
    assert ax.get_xlabel().replace("\\$", "$") == "$ of $"


def test_labels_are_numbers_as_predict_counts_or_names_or_nothing():
    def written(**given):
        return [t.get_text() for t in plot.density(two_clusters(), **given).texts]

    assert written() == ["0", "1"]
    assert written(labels=["low", "high"]) == ["low", "high"]
    assert written(labels=[]) == []


def test_names_of_crowded_components_are_kept_apart():
    places = np.random.default_rng(0).normal(size=(30, 2))
    places[:3] = 0.0
    moved = push_apart(places, 0.6)
    distance = np.linalg.norm(moved[:, None] - moved[None], axis=-1) + np.eye(30)
    assert distance.min() > 0.55


def test_names_that_have_room_stay_where_they_are():
    places = np.array([[0.0, 0.0], [5.0, 0.0]])
    np.testing.assert_array_equal(push_apart(places, 1.0), places)


# --- panels -------------------------------------------------------------------------------------


def test_pictures_are_drawn_where_they_are_told():
    _, axes = plt.subplots(1, 4)
    table = [candidate("full", 1, 5.0)]
    assert plot.density(two_clusters(), ax=axes[0]) is axes[0]
    assert plot.joint(two_clusters(), ax=axes[1]) is axes[1]
    assert plot.selection(table, ax=axes[2]) is axes[2]
    assert plot.convergence([record(0, -1.0)], ax=axes[3]) is axes[3]
    assert len(plt.get_fignums()) == 1


def test_joint_panels_share_their_axes_with_the_main_one():
    rows = draws(two_clusters(), 100)
    ax = plot.joint(two_clusters(), rows)
    above, right = ax.child_axes
    assert above.get_xlim() == ax.get_xlim()
    assert right.get_ylim() == ax.get_ylim()
    (bars,) = artists(right, "histogram")
    assert bars.orientation == "horizontal"


def test_joint_of_two_features_of_many_colours_rows_by_all():
    mixture, rows = many_features(3), draws(many_features(3), 80)
    (points,) = artists(plot.joint(mixture, rows, features=[2, 0]), "rows")
    lookup = {tuple(r[[2, 0]]): int(k) for r, k in zip(rows, mixture.predict(rows), strict=True)}
    component = [lookup[tuple(p)] for p in points.get_offsets()]
    colours = [tuple(c) for c in points.get_facecolors()]
    assert len(set(zip(colours, component, strict=True))) == 2


def test_pairs_draw_the_lower_triangle_and_say_what_is_left_out():
    mixture = many_features(4)
    grid = plot.pairs(mixture, draws(mixture, 30), max_features=3)
    assert grid.shape == (3, 3)
    for row, column in np.ndindex(3, 3):
        ax = grid[row, column]
        assert ax.axison == (column <= row)
        assert len(artists(ax, "density")) == (row == column)
        assert len(artists(ax, "rows")) == (column < row)
    assert "the first 3 of 4 features" in words(grid[0, -1])


def test_pairs_align_columns_and_take_axes():
    _, axes = plt.subplots(2, 2)
    grid = plot.pairs(many_features(3), features=[2, 0], axes=axes)
    assert grid[0, 0] is axes[0, 0]
    assert grid[0, 0].get_xlim() == grid[1, 0].get_xlim()
    assert grid[1, 0].get_ylim() == grid[1, 1].get_xlim()
    assert [grid[1, i].get_xlabel() for i in range(2)] == ["feature 2", "feature 0"]


# --- hard cases are drawn without a warning -------------------------------------------------------


@pytest.mark.parametrize(
    ("mixture", "rows"),
    [
        pytest.param(Mixture.from_parameters([1.0], [[5.0]], [1e-30], "spherical"), None, id="1-D"),
        pytest.param(
            Mixture.from_parameters([1.0], [[5.0, 7.0]], [1e-34], "spherical"),
            np.full((9, 2), [5.0, 7.0]),
            id="a scale below rounding",
        ),
        pytest.param(
            Mixture.from_parameters([1.0], [[0.0, 0.0]], [1e-40], "spherical"), None, id="at zero"
        ),
        pytest.param(
            Mixture.from_parameters([1.0], [[0.0, 3e8]], [[1e-6, 1e16]], "diag"),
            np.array([[0.0, 3e8]]),
            id="one row, unlike scales",
        ),
        pytest.param(
            Mixture.from_parameters(
                np.full(30, 1 / 30),
                np.random.default_rng(0).normal(size=(30, 2)),
                np.full(30, 0.01),
                "spherical",
            ),
            None,
            id="30 components",
        ),
        pytest.param(two_clusters().to(dtype=torch.float32), np.empty((0, 2)), id="no rows"),
    ],
)
def test_hard_cases_are_drawn(mixture, rows):
    plot.density(mixture, rows).figure.draw_without_rendering()
    if mixture.n_features == 2:
        plot.joint(mixture, rows).figure.draw_without_rendering()


def test_parameters_with_gradients_are_drawn_and_left_alone():
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    known = two_clusters()
    mixture = Mixture(logits, known.means, known.covariance)
    plot.density(mixture, torch.zeros(3, 2, requires_grad=True))
    assert logits.grad is None


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [plot.density, plot.joint, plot.pairs])
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mixture": two_clusters().expand([3])}, r"one mixture; got a batch of shape \(3,\)"),
        ({"mixture": SimpleNamespace()}, "Expected a Mixture; got SimpleNamespace"),
        ({"data": np.zeros((5, 3))}, r"shape \(5, 3\); expected \(rows, 2\)"),
        ({"data": np.zeros(5)}, r"shape \(5,\); expected \(rows, 2\)"),
        ({"data": [[0.0, np.nan], [1.0, 1.0]]}, "1 of 2 rows hold NaN or infinity"),
        ({"data": [["a", "b"]]}, "must be numbers"),
        ({"data": pd.DataFrame({"length_cm": [1.0], "b": [1.0]})}, "no column 'width_cm'"),
        ({"data": np.zeros((2, 2)), "sample_weight": [1.0]}, r"expected \(2,\)"),
        ({"data": np.zeros((2, 2)), "sample_weight": [1.0, -1.0]}, "not negative"),
        ({"coverage": [0.5, 1.0]}, "strictly between 0 and 1; got 0.5, 1.0"),
        ({"labels": ["one"]}, "1 labels were given for 2 components"),
        ({"feature_names": ["one"]}, "1 feature names were given for 2 features"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_a_figure_is_made(draw, given, sentence):
    with pytest.raises(InputError, match=sentence):
        draw(**{"mixture": two_clusters(), **given})
    assert not plt.get_fignums()


def test_the_wrong_number_of_features_is_refused():
    with pytest.raises(InputError, match=r"one or two features, not 3.*pairs"):
        plot.density(many_features(3))
    with pytest.raises(InputError, match=r"two features, not 1"):
        plot.joint(many_features(3), features=0)
    with pytest.raises(InputError, match=r"two features or more.*density"):
        plot.pairs(many_features(1))
    with pytest.raises(InputError, match=r"expected \(3, 3\)"):
        plot.pairs(many_features(3), axes=plt.subplots(2, 2)[1])
    with pytest.raises(UnknownNameError, match="no feature 'height'"):
        plot.density(two_clusters(), features="height")


# --- selection ----------------------------------------------------------------------------------


def candidate(kind: str, k: int, value: float, excluded: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        covariance_type=kind, n_components=k, criterion_value=value, excluded=excluded
    )


def test_selection_rings_the_lowest_that_is_not_excluded():
    table = [
        candidate("full", 3, 80.0),
        candidate("full", 1, 100.0),
        candidate("full", 2, 60.0, "a component collapsed"),
        candidate("diag", 2, 75.0),
    ]
    ax = plot.selection(table, criterion="icl")
    (ring,) = artists(ax, "best")
    assert ring.get_xydata().tolist() == [[2.0, 75.0]]
    assert "best: diag, K = 2 (75.0)" in words(ax)
    assert "excluded (1): a component collapsed" in words(ax)
    assert ax.get_ylabel() == "ICL (lower is better)"
    (line,) = artists(ax, "structure full")
    assert line.get_xydata().tolist() == [[1.0, 100.0], [3.0, 80.0]]


def test_an_excluded_value_off_the_scale_is_marked_at_the_edge():
    table = [candidate("full", 1, 100.0), candidate("full", 2, 90.0)]
    table.append(candidate("full", 3, -9e6, "a spike"))
    ax = plot.selection(table)
    (crosses,) = artists(ax, "excluded")
    low, high = ax.get_ylim()
    assert 80 < low < 90 < 100 < high < 110
    assert crosses.get_xydata().tolist() == [[3.0, low]]
    assert "at the edge, off the scale: 1" in words(ax)


def test_candidates_without_a_value_are_counted_not_drawn():
    table = [candidate("full", 1, 100.0), candidate("full", 2, np.nan, "collapsed")]
    ax = plot.selection(table)
    assert "without a value, not drawn: 1" in words(ax)
    with pytest.raises(InputError, match="None of 1 candidates"):
        plot.selection(table[1:])


def test_with_every_candidate_excluded_none_is_best():
    ax = plot.selection([candidate("full", 1, 100.0, "a spike")])
    assert not artists(ax, "best")
    assert len(artists(ax, "excluded")) == 1


# --- convergence --------------------------------------------------------------------------------


def record(i: int, value: float, accelerated: bool = False, event: str = "") -> SimpleNamespace:
    return SimpleNamespace(iteration=i, log_likelihood=value, accelerated=accelerated, event=event)


def test_convergence_marks_accelerated_steps_and_events():
    history = [record(0, -np.inf, event="started over")]
    history += [record(i, -1.0 / i, accelerated=i % 2 == 0) for i in range(1, 6)]
    ax = plot.convergence(history)
    (curve,), (marks,) = artists(ax, "log-likelihood"), artists(ax, "accelerated")
    assert curve.get_xydata().tolist() == [[i, -1.0 / i] for i in range(1, 6)]
    assert marks.get_xdata().tolist() == [2, 4]
    assert [line.get_xdata()[0] for line in artists(ax, "event")] == [0]
    assert "a: iteration 0, started over" in words(ax)
    assert "accelerated steps: 2 of 5" in words(ax)
    assert "nats" in ax.get_ylabel()


def test_a_long_list_of_events_is_cut_but_counted():
    history = [record(i, -1.0, event=f"component {i} collapsed") for i in range(40)]
    ax = plot.convergence(history)
    assert len(artists(ax, "event")) == 40
    assert "and 34 more events" in words(ax)


def test_an_empty_history_is_refused():
    with pytest.raises(InputError, match="None of 0 iterations"):
        plot.convergence([])


# --- posteriors -----------------------------------------------------------------------------------


def overlapping() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(rng.random(500) < 0.4, 0.0, 3.0)[:, None] + rng.normal(size=(500, 1))


@pytest.fixture(scope="module")
def inferred() -> BayesianGaussianMixture:
    return BayesianGaussianMixture(2, covariance_type="diag", random_state=0, tol=1e-6).fit(
        overlapping()
    )


@pytest.fixture(scope="module")
def drawn() -> BayesianGaussianMixture:
    method = Gibbs(draws=400, warmup=200, chains=2)
    return BayesianGaussianMixture(2, inference=method, random_state=0).fit(
        draws(two_clusters(), 300)
    )


def area(line) -> float:
    return float(np.trapezoid(line.get_ydata(), line.get_xdata()))


@pytest.mark.parametrize("name", ["weights", "means", "precisions", "covariances"])
def test_a_curve_is_the_density_of_the_posterior(inferred, name):
    """Its area is one, and its peak stands where the marginal's density is highest."""
    with pytest.warns(MeanFieldWarning):
        (ax,) = plot.posterior(inferred.posterior_, name)
    for k in range(2):
        (line,) = artists(ax, f"curve {k}")
        assert area(line) == pytest.approx(1, abs=5e-3)
        x = line.get_xdata()
        values = inferred.posterior_.draw(name, 20_000).numpy().reshape(20_000, 2)[:, k]
        expected = np.quantile(values, [0.05, 0.95])
        cut = np.cumsum(np.gradient(x) * line.get_ydata())
        found = np.interp([0.05, 0.95], cut / cut[-1], x)
        # Draws, and a curve of 200 points that leaves a thousandth out, are as near as that.
        np.testing.assert_allclose(found, expected, atol=0.1 * values.std())


def test_correction_prior_and_interval_are_drawn_and_said(inferred):
    (ax,) = plot.posterior(
        inferred.posterior_,
        "means",
        prior=inferred.prior_,
        correction="linear_response",
        level=0.8,
    )
    (wide,), (narrow,) = artists(ax, "curve 0"), artists(ax, "own curve 0")
    assert wide.get_ydata().max() < 0.8 * narrow.get_ydata().max()
    assert len(artists(ax, "prior")) == 1
    assert "80 % interval" in words(ax)
    assert "mean field alone" in words(ax)
    assert "prior" in words(ax)
    low, high = inferred.posterior_.interval("means", 0.8, "linear_response")[0, 0].tolist()
    (filled,) = artists(ax, "interval 0")
    ends = filled.get_paths()[0].vertices[:, 0]
    step = np.diff(wide.get_xdata()).max()
    assert abs(ends.min() - low) < step
    assert abs(ends.max() - high) < step


def test_a_panel_for_each_feature_and_entry(drawn):
    data = draws(two_clusters(), 300)
    model = BayesianGaussianMixture(2, random_state=0).fit(pd.DataFrame(data, columns=NAMES))
    panels = plot.posterior(model.prior_, "covariances")
    assert [ax.get_xlabel() for ax in panels] == [
        "variance of feature 0",
        "covariance of feature 1 and feature 0",
        "variance of feature 1",
    ]
    named = model.posterior_plot("standard_deviations", correction="linear_response")
    assert [ax.get_xlabel() for ax in named] == [f"standard deviation of {n}" for n in NAMES]
    assert len(plot.posterior(drawn.posterior_, "means", axes=plt.subplots(1, 2)[1])) == 2
    assert set(drawn.posterior_plot(["weights", "means"])) == {"weights", "means"}
    tied = BayesianGaussianMixture(2, covariance_type="tied", random_state=0).fit(data)
    assert len(tied.posterior_plot("covariances", correction="linear_response")) == 3


def test_draws_are_smoothed(drawn):
    (ax,) = plot.posterior(drawn.posterior_, "weights", components=[1])
    assert not artists(ax, "curve 0")
    (line,) = artists(ax, "curve 1")
    assert area(line) == pytest.approx(1, abs=0.02)


def test_a_joint_posterior_shows_draws_and_ellipses(inferred, drawn):
    ax = plot.joint_posterior(
        inferred.posterior_, (0, 0), (1, 0), correction="linear_response", coverage=[0.9]
    )
    (wide,), (narrow,) = artists(ax, "ellipse 0.9"), artists(ax, "own ellipse 0.9")
    assert wide.width * wide.height > 2 * narrow.width * narrow.height
    assert "by linear response" in words(ax)
    ax = plot.joint_posterior(drawn.posterior_, coverage=[0.8])
    (points,) = artists(ax, "draws")
    xy = np.stack(points.get_data(), 1)
    (ellipse,) = artists(ax, "ellipse 0.8")
    outline = ellipse.get_patch_transform().transform_path(ellipse.get_path())
    assert share_inside([outline], xy) == pytest.approx(0.8, abs=0.06)
    with pytest.raises(InputError, match="Two different means"):
        plot.joint_posterior(drawn.posterior_, (0, 0), (0, 0))
    with pytest.raises(InputError, match="no mean at component 7"):
        plot.joint_posterior(drawn.posterior_, (7, 0))


def test_a_band_holds_the_densities_of_draws(inferred, drawn):
    with pytest.warns(MeanFieldWarning):
        ax = plot.credible_density(inferred.posterior_, overlapping(), level=0.9)
    (line,), (band,) = artists(ax, "density"), artists(ax, "band")
    assert area(line) == pytest.approx(1, abs=0.01)
    x = line.get_xdata()
    expected = inferred.prob(x[:, None])
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-9)
    with pytest.warns(MeanFieldWarning):
        many = inferred.prob(x[200:201, None], distribution=True, n=4000)[0]
    at = band.get_paths()[0].vertices
    edges = np.sort(at[np.isclose(at[:, 0], x[200])][:, 1])
    np.testing.assert_allclose(edges[[0, -1]], np.quantile(many, [0.05, 0.95]), rtol=0.03)
    assert artists(ax, "histogram")
    assert "90 % credible band" in words(ax)
    assert not artists(plot.credible_density(drawn.posterior_, feature=1), "histogram")


@pytest.mark.parametrize("kind", ["full", pytest.param("diag", marks=pytest.mark.slow)])
def test_a_corrected_band_is_as_wide_as_that_of_a_sampler(kind):
    rng = np.random.default_rng(1)
    rows = np.where(rng.random(300) < 0.4, 0.0, 2.7)[:, None] * [1, 0.3] + rng.normal(size=(300, 2))
    model = BayesianGaussianMixture(2, covariance_type=kind, tol=1e-8, random_state=0)
    sampler = clone(model).set_params(inference=Gibbs(draws=1500, warmup=300))
    model.fit(rows)
    sampler.fit(rows)
    with pytest.warns(MeanFieldWarning):
        narrow = plot.credible_density(model.posterior_, rows, n=1000)
    wide = plot.credible_density(model.posterior_, rows, n=1000, correction="linear_response")
    truth = plot.credible_density(sampler.posterior_, rows, n=6000)
    widths = [_band_width(ax, np.linspace(-1, 4, 60)).mean() for ax in (narrow, wide, truth)]
    assert widths[0] < 0.9 * widths[2]
    assert widths[1] == pytest.approx(widths[2], rel=0.08)
    assert "corrected by linear response" in words(wide)


def _band_width(ax: Axes, x: np.ndarray) -> np.ndarray:
    (band,), (line,) = artists(ax, "band"), artists(ax, "density")
    at, own = band.get_paths()[0].vertices, line.get_xdata()
    return np.interp(x, own, [np.ptp(at[np.isclose(at[:, 0], one)][:, 1]) for one in own])


def test_components_are_shown_heaviest_first(inferred):
    model = BayesianGaussianMixture(6, random_state=0).fit(draws(two_clusters(), 400))
    ax = plot.components(
        model.posterior_, prior=model.prior_, correction="linear_response", keep=0.95
    )
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, np.sort(model.weights_)[::-1])
    n_kept = int(np.searchsorted(np.cumsum(heights), 0.95) + 1)
    assert ax.get_title(loc="left") == f"{n_kept} of 6 components hold 95 % of the weight"
    assert "expected by the prior" in words(ax)
    with pytest.raises(InputError, match="keep must be"):
        plot.components(model.posterior_, keep=2.0)


def test_the_bound_is_drawn_as_a_bound(inferred):
    ax = plot.convergence(inferred.history_)
    assert ax.get_ylabel() == "evidence lower bound (nats)"
    (line,) = artists(ax, "log-likelihood")
    np.testing.assert_allclose(line.get_ydata(), inferred.lower_bounds_)


def test_what_is_no_posterior_is_refused(inferred):
    with pytest.raises(InputError, match="Expected a posterior"):
        plot.posterior(two_clusters())
    with pytest.raises(InputError, match="components must be numbers from 0 to 1"):
        plot.posterior(inferred.prior_, "means", components=[2])
    with pytest.raises(InputError, match="one for each of 2 panels; got 1"):
        plot.posterior(
            BayesianGaussianMixture(1, random_state=0).fit(draws(two_clusters(), 50)).prior_,
            axes=plt.subplots()[1],
        )
    with pytest.raises(InputError, match="1 strings here, one a feature; got"):
        plot.posterior(inferred.prior_, feature_names=["a", "b"])


def apart() -> np.ndarray:
    """Two clusters, of which no row is in doubt."""
    return np.concatenate([draws(two_clusters(), 100), draws(two_clusters(), 100) + 60])


def test_features_are_chosen_by_name_or_position():
    data = pd.DataFrame(apart(), columns=NAMES)
    model = BayesianGaussianMixture(2, random_state=0).fit(data)
    for chosen in (NAMES[1], 1, [-1]):
        (ax,) = model.posterior_plot("means", features=chosen)
        assert ax.get_xlabel() == f"mean of {NAMES[1]}"
    two = model.posterior_plot("means", features=[NAMES[1], NAMES[0]])
    assert [ax.get_xlabel() for ax in two] == [f"mean of {n}" for n in reversed(NAMES)]
    (ax,) = model.prior_plot("covariances", features=0)
    assert ax.get_xlabel() == f"variance of {NAMES[0]}"
    with pytest.raises(UnknownNameError, match="no feature 'weight'"):
        model.posterior_plot("means", features="weight")
    with pytest.raises(InputError, match="each but once"):
        model.posterior_plot("means", features=[0, 0])


def test_without_an_interval_none_is_filled_or_named(inferred):
    with pytest.warns(MeanFieldWarning):
        (ax,) = inferred.posterior_plot("means", ci=0)
    assert artists(ax, "curve 0")
    assert not artists(ax, "interval 0")
    assert "interval" not in words(ax)
    (ax,) = inferred.prior_plot("precisions", ci=0.8)
    assert "80 % interval" in words(ax)


def test_components_that_hold_the_weight_are_drawn_and_the_others_when_asked():
    model = BayesianGaussianMixture(6, random_state=0).fit(apart())
    ax = model.posterior_plot("means", features=0)[0]
    assert artists(ax, "curve 0")
    assert not artists(ax, "curve 4")
    assert artists(plot.posterior(model.posterior_, "means", components=[4])[0], "curve 4")


def test_a_weight_that_is_certain_has_no_curve():
    one = BayesianGaussianMixture(1, random_state=0).fit(draws(two_clusters(), 100))
    (ax,) = one.posterior_plot("weights")
    assert [text.get_text() for text in ax.texts] == ["1 for certain"]
    assert ax.get_legend() is None
    assert not artists(ax, "curve 0")


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda m: plot.posterior(m), "Expected a posterior; got BayesianGaussianMixture"),
        (lambda m: plot.posterior(m.posterior_, "means", prior="wide"), "a prior with every"),
        (lambda m: plot.posterior(m.posterior_, "means", level=1.5), "strictly between 0 and 1"),
        (lambda m: plot.joint_posterior(m, (0, 0), (1, 0)), "Expected a posterior"),
        (
            lambda m: plot.joint_posterior(m.posterior_, 0, 1),
            "two numbers, its component and its feature",
        ),
        (lambda m: plot.credible_density(m), "Expected a posterior"),
        (lambda m: plot.credible_density(m.posterior_, n=1), "from"),
        (lambda m: plot.credible_density(m.posterior_, feature="age"), "no feature 'age'"),
        (lambda m: plot.components(m), "Expected a posterior"),
        (lambda m: plot.components(m.posterior_, keep="most"), "keep must be above 0"),
        (lambda m: plot.components(m.posterior_, level=95), "strictly between 0 and 1"),
        (lambda m: plot.convergence(m), "Expected the records of a fit"),
        (lambda m: plot.convergence(m.lower_bounds_), "Expected the records of a fit"),
    ],
)
def test_pictures_of_posteriors_refuse_in_a_sentence_and_leave_no_figure(inferred, draw, says):
    plt.close("all")
    with pytest.raises((InputError, UnknownNameError), match=says) as caught:
        draw(inferred)
    assert "\n" not in str(caught.value)
    assert not plt.get_fignums()


def test_a_single_component_and_a_prior_of_sticks_are_drawn(drawn):
    """No curve of a weight that is one, corrected or of draws; no spike that hides the rest."""
    one = BayesianGaussianMixture(1, random_state=0).fit(draws(two_clusters(), 100))
    sampled = (
        clone(one).set_params(inference=Gibbs(draws=50, warmup=10)).fit(draws(two_clusters(), 100))
    )
    for ax in (
        one.posterior_plot("weights", correction="linear_response")[0],
        sampled.posterior_plot("weights")[0],
    ):
        assert [text.get_text() for text in ax.texts] == ["1 for certain"]
        assert ax.get_legend() is None
    for k in (5, 7, 13):
        model = BayesianGaussianMixture(k, random_state=0).fit(draws(two_clusters(), 200))
        (ax,) = model.prior_plot("weights")
        assert ax.get_ylim()[1] < 1e3
