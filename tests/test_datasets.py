import sys

import numpy as np

from mogul import datasets


def test_old_faithful_is_what_was_published():
    data = datasets.old_faithful()
    assert data.values.shape == (272, 2)
    assert data.values.dtype == np.float64
    assert data.feature_names == ("eruption_minutes", "waiting_minutes")
    assert data.units == ("min", "min")
    # Means and standard deviations as R prints them for its "faithful".
    assert np.allclose(data.values.mean(0), [3.487783, 70.897059], atol=1e-6)
    assert np.allclose(data.values.std(0, ddof=1), [1.141371, 13.594974], atol=1e-6)
    assert "Azzalini and Bowman (1990)" in data.source


def test_a_dataset_stands_for_its_values():
    data = datasets.old_faithful()
    assert np.asarray(data).dtype == np.float64
    assert np.array_equal(np.asarray(data, dtype=np.float32), data.values.astype(np.float32))
    assert np.shares_memory(np.asarray(data), data.values)
    assert not np.shares_memory(np.array(data), data.values)
    assert len(data) == 272


def test_two_calls_share_nothing():
    one, other = datasets.old_faithful(), datasets.old_faithful()
    one.values[:] = 0
    assert other.values.all()


def test_reading_it_needs_no_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # importing it now fails
    assert len(datasets.old_faithful()) == 272
