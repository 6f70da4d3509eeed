import contextlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Warnings are errors here, and joblib and pyarrow may probe the machine for cores and warn.
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "2")
# Plots are drawn without a screen.
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile(
    "mogul",
    derandomize=True,  # a run repeats
    max_examples=30,
    deadline=None,  # two shared cores: a time limit would fail at random
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("mogul")


def _drop_stale_kernels() -> None:
    """Numba compiles a function anew when its own file changes, not when one that it calls does."""
    kernels = Path(__file__).resolve().parents[1] / "src" / "mogul" / "kernels"
    newest = max(path.stat().st_mtime for path in kernels.glob("_*.py"))
    for path in (kernels / "__pycache__").glob("*.nb[ic]"):
        with contextlib.suppress(FileNotFoundError):  # another worker was first
            if path.stat().st_mtime < newest:
                path.unlink()


_drop_stale_kernels()

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def no_open_figures():
    """Every test begins without figures, whatever ran before it in the same process."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="module", params=["compiled", "without compiler"])
def compiler(request):
    """The tests of a module twice: with compiled kernels, and as where Numba is not installed."""
    import mogul.kernels

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "compiled":
            assert mogul.kernels.has_compiler()
        else:
            patch.setattr(mogul.kernels, "_find_compiler", lambda: False)
        yield request.param
