"""Pictures of outlier scores and of reasons show the numbers they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from mogul import Mixture, plot
from mogul.errors import InputError
from mogul.explanation import Explanation


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def heights(ax, gid):
    return [p.get_height() for p in ax.patches if p.get_gid() == gid]


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def scores_and_labels():
    rng = np.random.default_rng(0)
    scores = np.r_[rng.normal(size=300), rng.normal(-4, 1, size=30), -1000.0]
    return scores, np.r_[np.zeros(300), np.ones(31)].astype(int)


def test_scores_are_shares_of_each_group_and_the_threshold_is_said():
    scores, labels = scores_and_labels()
    ax = plot.outlier_scores(scores, -2.5, labels)
    assert sum(heights(ax, "ordinary rows")) == pytest.approx(1)
    assert sum(heights(ax, "outliers")) == pytest.approx(1)
    (line,) = [one for one in ax.lines if one.get_gid() == "threshold"]
    assert line.get_xdata()[0] == -2.5
    below = 100 * np.mean(scores < -2.5)
    assert words(ax) == [
        "300 ordinary rows",
        "31 outliers",
        f"threshold -2.5: {below:.2g} % below",
    ]
    left = ax.get_xlim()[0]
    assert left > -10  # one far row does not squeeze the others
    assert ax.texts[0].get_text() == f"{int((scores < left).sum())} further left"


def test_scores_alone_are_one_group():
    ax = plot.outlier_scores([1.0, 2.0, 2.5])
    assert words(ax) == ["3 rows"]
    assert sum(heights(ax, "rows")) == pytest.approx(1)
    assert plot.outlier_scores([1.0, 1.0]).get_xlim()[1] > 1.0  # all the same


def test_the_roc_has_the_area_that_it_says():
    scores, labels = scores_and_labels()
    ax = plot.roc(scores, labels)
    (line,) = [one for one in ax.lines if one.get_gid() == "roc"]
    area = roc_auc_score(labels, -scores)
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(area)
    assert words(ax) == [f"area {area:.3f}"]
    assert area > 0.95  # lower scores are outliers, not higher ones


def test_precision_ends_at_the_share_of_outliers():
    scores, labels = scores_and_labels()
    ax = plot.precision_recall(scores, labels)
    (line,) = [one for one in ax.lines if one.get_gid() == "precision"]
    assert line.get_ydata()[0] == pytest.approx(labels.mean())
    assert max(line.get_ydata()) == 1


def test_contributions_are_in_order_and_the_small_ones_together():
    values = np.arange(20.0)[None] * np.where(np.arange(20) % 2, 1, -1)
    ax = plot.contributions(Explanation(values, tuple(f"f${j}" for j in range(20))))
    names = [text.get_text() for text in ax.get_yticklabels()]
    widths = [p.get_width() for p in ax.patches if p.get_gid() == "contributions"]
    assert names[0] == r"f\$19"
    assert names[-1] == "8 others"
    assert widths[:-1] == sorted(widths[:-1], reverse=True)
    assert sum(widths) == pytest.approx(values.sum())
    assert f"{values.sum():+.3g} in all" in ax.get_xlabel()


def test_thirteen_features_are_all_named():
    ax = plot.contributions(Explanation(np.ones((2, 13)), tuple(f"f{j}" for j in range(13))), 1)
    assert len(ax.get_yticklabels()) == 13
    assert "others" not in ax.get_yticklabels()[-1].get_text()


def test_given_axes_are_drawn_into():
    _, ax = plt.subplots()
    scores, labels = scores_and_labels()
    told = Explanation(np.ones((1, 2)), ("a", "b"))
    for draw in (
        lambda: plot.outlier_scores(scores, ax=ax),
        lambda: plot.roc(scores, labels, ax=ax),
        lambda: plot.precision_recall(scores, labels, ax=ax),
        lambda: plot.contributions(told, ax=ax),
    ):
        assert draw() is ax


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: plot.outlier_scores([]), "scores must be"),
        (lambda: plot.outlier_scores([1.0, np.nan]), "finite"),
        (lambda: plot.roc([1.0, 2.0], [0, 2]), "0 for an ordinary row"),
        (lambda: plot.roc([1.0, 2.0], [0, 0]), "hold both"),
        (lambda: plot.precision_recall([1.0, 2.0], [1]), "labels must be 2 numbers"),
        (
            lambda: plot.contributions(Explanation(np.ones((1, 1)), ("a",)), 1),
            "row must be below 1",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(call, said):
    with pytest.raises(InputError, match=said):
        call()


# --- latent rows ----------------------------------------------------------------------------------


def latent_mixture(d: int) -> Mixture:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, d, d))
    covariances = root @ root.transpose(0, 2, 1) + np.diag(np.r_[30.0, 9.0, np.ones(d - 2)])
    return Mixture.from_parameters([0.3, 0.7], 3 * rng.normal(size=(2, d)), covariances)


def test_latent_rows_are_seen_along_the_principal_directions():
    mixture = latent_mixture(4)
    z = mixture.sample((500,), generator=torch.Generator().manual_seed(0)).numpy()
    labels = np.r_[np.ones(10), np.zeros(490)]
    ax = plot.latent(z, mixture, labels)
    _, vectors = np.linalg.eigh(mixture.covariance_matrix.numpy())
    drawn = {c.get_gid(): np.asarray(c.get_offsets()) for c in ax.collections}
    for found, wanted in ((drawn["ordinary rows"], z[10:]), (drawn["outliers"], z[:10])):
        for j in (0, 1):
            along = wanted @ vectors[:, -1 - j]
            assert np.allclose(np.abs(found[:, j]), np.abs(along), atol=1e-9)
    assert words(ax) == ["energy, nats", "490 ordinary rows", "10 outliers"]


def test_latent_contours_are_energies_of_the_marginal():
    mixture = latent_mixture(3)
    z = mixture.sample((300,), generator=torch.Generator().manual_seed(0)).numpy()
    ax = plot.latent(z, mixture)
    (contours,) = [c for c in ax.collections if c.get_gid() == "energy"]
    _, vectors = np.linalg.eigh(mixture.covariance_matrix.numpy())
    p = vectors[:, [-1, -2]]
    p = p * np.sign(p[np.abs(p).argmax(0), [0, 1]])
    parts = [mixture.numpy()[name] for name in ("weights", "means", "covariances")]
    levels = contours.levels[:3]
    for level, path in zip(levels, contours.get_paths()[:3], strict=True):
        at = path.vertices[:: max(1, len(path.vertices) // 20)]
        density = sum(
            w * multivariate_normal(m @ p, p.T @ c @ p).pdf(at)
            for w, m, c in zip(*parts, strict=True)
        )
        assert np.allclose(-np.log(density), level, atol=0.02)


@pytest.mark.parametrize(
    ("z", "labels", "said"),
    [
        (np.zeros((5, 3)), None, "rows of 4 numbers"),
        (np.full((5, 4), np.nan), None, "finite rows"),
        (np.zeros((5, 4)), [1, 0], "labels has shape"),
    ],
)
def test_bad_latent_rows_get_one_sentence(z, labels, said):
    with pytest.raises(InputError, match=said):
        plot.latent(z, latent_mixture(4), labels)
