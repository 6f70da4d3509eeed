"""What ``import mogul`` shows, and what it does not load."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import pytest

import mogul

HEAVY = ("matplotlib", "typer", "rich", "pyarrow", "sklearn", "pandas", "polars", "safetensors")


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after ``code``."""
    report = (
        "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy():
    assert loaded_by("import mogul").isdisjoint(HEAVY)


def test_a_mixture_needs_nothing_heavy_either():
    code = (
        "import mogul; m = mogul.Mixture.from_parameters([1.0], [[0.0]], [[[1.0]]]);"
        "m.log_prob([0.0]); m.mode; m.hdr(); m.sample((3,)); dir(mogul); repr(m)"
    )
    assert loaded_by(code).isdisjoint(HEAVY)


def test_all_is_what_is_visible():
    assert len(set(mogul.__all__)) == len(mogul.__all__)
    assert dir(mogul) == sorted(mogul.__all__)
    # What the package itself defines or loads lazily, and no name besides.
    defined = {
        name
        for name, value in vars(mogul).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "").startswith("mogul")
        and not inspect.ismodule(value)
    }
    assert defined | set(mogul._LAZY) | set(mogul._MODULES) | {"__version__"} == set(mogul.__all__)


@pytest.mark.parametrize("name", mogul.__all__)
def test_every_public_name_is_there(name):
    value = getattr(mogul, name)
    assert value is not None
    if name in mogul._LAZY:
        home = importlib.import_module(mogul._LAZY[name])
        assert value is getattr(home, name)
        assert name in home.__all__
    if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
        assert value.__doc__
        assert value.__doc__.strip()


def test_every_public_name_can_be_the_first_to_be_imported():
    """No name depends on another having been touched before it."""
    code = """
import sys
for name in {names}:
    for module in [m for m in sys.modules if m.partition(".")[0] == "mogul"]:
        del sys.modules[module]
    exec(f"from mogul import {{name}}")
"""
    assert "mogul" in loaded_by(code.format(names=mogul.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Moguls'"):
        mogul.Moguls  # noqa: B018
    with pytest.raises(ImportError):
        exec("from mogul import Moguls")


def test_all_of_every_module_exists():
    for info in pkgutil.walk_packages(mogul.__path__, "mogul."):
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{info.name}.{name}"
