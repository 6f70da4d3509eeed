"""AEGMM and VAEGMM on real tables: no start and no batch size makes them fail."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from sklearn.metrics import roc_auc_score

from mogul import AEGMM, VAEGMM

DATA = Path(__file__).parents[3] / "shared" / "data" / "outlier"
TABLES = {"thyroid": "38_thyroid.npz", "wdbc": "43_WDBC.npz", "arrhythmia": "arrhythmia.mat"}
SIZES = (16, 32, 64, 128, 256, 512, 1024)
NORMAL_LEAST = {"thyroid": 0.9, "wdbc": 0.85, "arrhythmia": 0.65}
"""AUROC that no seed falls below: chance is one half, and lost networks are at chance."""


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the tables of shared/data/outlier")
@pytest.mark.parametrize("name", list(TABLES))
@pytest.mark.parametrize("kind", [AEGMM, VAEGMM])
def test_no_seed_and_no_batch_size_fails(name, kind):
    file = DATA / TABLES[name]
    stored = loadmat(file) if file.suffix == ".mat" else np.load(file)
    x, y = stored["X"].astype(float), stored["y"].ravel().astype(int)
    for seed in range(20):
        normal = np.random.default_rng(seed).permutation(np.flatnonzero(y == 0))
        train, rest = np.array_split(normal, 2)
        test = np.concatenate([rest, np.flatnonzero(y == 1)])
        size = SIZES[seed % len(SIZES)]
        epochs = max(20, round(400 * size / len(train)))
        model = kind(n_ensemble=1, batch_size=size, max_epochs=epochs, random_state=seed)
        model.fit(x[train])
        energies = model.score(x[test])
        assert np.isfinite(energies).all(), (seed, size)
        assert np.isfinite([record.loss for record in model.history_]).all(), (seed, size)
        z = model.latent(x[train])
        assert (z.std(0) > 1e-3).all(), (seed, size)  # no latent number has collapsed
        area = roc_auc_score(y[test], energies)
        assert area > NORMAL_LEAST[name], (seed, size, area)
