import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch

import mogul
from mogul import Mixture, load, save
from mogul import io as mogul_io
from mogul._files import PARTIAL_PREFIX, atomic_path
from mogul.covariances import STRUCTURES
from mogul.errors import FileError, FileFormatError, InputError, MissingFileError


def random_mixture(kind="full", dtype=torch.float64, batch=(), k=3, d=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    root = draw(k, d, d)
    full = root @ root.mT + torch.eye(d, dtype=torch.float64)
    covariances = {
        "full": full,
        "tied": full[..., 0, :, :],
        "diag": full.diagonal(dim1=-2, dim2=-1),
        "spherical": full[..., 0, 0],
    }[kind]
    parts = torch.softmax(draw(k), -1), draw(k, d), covariances
    names = [f"feature é {i}" for i in range(d)]
    return Mixture.from_parameters(*(p.to(dtype) for p in parts), kind, feature_names=names)


def assert_same_mixture(one, other):
    header, tensors = one.to_state()
    other_header, other_tensors = other.to_state()
    assert header == other_header
    for name, value in tensors.items():
        assert other_tensors[name].dtype == value.dtype
        assert torch.equal(other_tensors[name].view(torch.uint8), value.view(torch.uint8))


def one_sentence(error):
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def partial_files(folder):
    return [f for f in folder.iterdir() if f.name.startswith(PARTIAL_PREFIX)]


@pytest.fixture
def saved(tmp_path):
    return save(random_mixture(), tmp_path / "model.safetensors")


# --- round trip ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_a_mixture_comes_back_bit_equal(tmp_path, kind, dtype, batch):
    mixture = random_mixture(kind, dtype, batch)
    back = load(save(mixture, tmp_path / "m.safetensors"))
    assert_same_mixture(mixture, back)
    rows = torch.linspace(-3, 3, 10, dtype=dtype).reshape(5, *[1] * len(batch), 2)
    assert torch.equal(mixture.log_prob(rows), back.log_prob(rows))


def test_a_batch_made_by_expanding_one_mixture_comes_back(tmp_path):
    expanded = random_mixture().expand((3,))
    assert_same_mixture(expanded, load(save(expanded, tmp_path / "m.safetensors")))


def test_a_weight_of_zero_comes_back(tmp_path):
    mixture = Mixture.from_parameters([0.0, 1.0], [[0.0], [1.0]], [1.0, 1.0], "spherical")
    assert load(save(mixture, tmp_path / "m")).weights.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fitted_estimator_comes_back_with_equal_answers(tmp_path, kind, dtype):
    X = np.random.default_rng(0).normal(size=(60, 2)).astype(dtype)
    X[:30] += 5
    model = mogul.GaussianMixture(2, covariance_type=kind, random_state=0).fit(X)
    back = load(save(model, tmp_path / "model.safetensors"))
    assert type(back) is mogul.GaussianMixture
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert getattr(back, name).tobytes() == getattr(model, name).tobytes()
        assert getattr(back, name).dtype == dtype
    assert np.array_equal(back.score_samples(X), model.score_samples(X))
    assert (back.converged_, back.n_iter_) == (model.converged_, model.n_iter_)


def test_equal_models_make_equal_files(tmp_path):
    one, other = (save(random_mixture(), tmp_path / name) for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_not_finite_floats_of_a_header_survive_strict_json(tmp_path, monkeypatch):
    class Odd:
        def to_state(self):
            inf = float("inf")
            return {"values": [float("nan"), inf, {"deep": -inf}], "x": 0.1}, {"t": torch.ones(1)}

        @classmethod
        def from_state(cls, header, tensors):
            return header

    monkeypatch.setitem(mogul_io._KINDS, "Odd", "unused:Odd")
    monkeypatch.setattr(mogul_io, "_class", lambda kind: Odd)
    header = load(save(Odd(), tmp_path / "odd"))
    nan, inf, deep = header["values"]
    assert nan != nan
    assert (inf, deep, header["x"]) == (float("inf"), {"deep": float("-inf")}, 0.1)


def test_the_file_is_plain_safetensors(saved):
    tensors = safetensors.torch.load(saved.read_bytes())
    assert set(tensors) == {"log_weights", "means", "factor"}


# --- where it is written ------------------------------------------------------------------------


def test_a_folder_holds_the_model_under_a_fixed_name(tmp_path):
    mixture = random_mixture()
    assert save(mixture, tmp_path) == tmp_path / "model.safetensors"
    made = save(mixture, f"{tmp_path}/new/")
    assert made == tmp_path / "new" / "model.safetensors"
    for place in (tmp_path, f"{tmp_path}/new/", tmp_path / "new", made):
        assert_same_mixture(mixture, load(place))


def test_saving_replaces_and_leaves_nothing_else(saved):
    other = random_mixture(seed=1)
    save(other, saved)
    assert_same_mixture(other, load(saved))
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_through_a_link_keeps_the_link_and_permissions(tmp_path, saved):
    saved.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(saved)
    save(random_mixture(seed=1), link)
    assert link.is_symlink()
    assert stat.S_IMODE(saved.stat().st_mode) == 0o640
    assert_same_mixture(random_mixture(seed=1), load(saved))


def test_a_long_name_can_be_saved(tmp_path):
    assert save(random_mixture(), tmp_path / ("é" * 120)).exists()


@pytest.mark.parametrize("place", ["absent/model.safetensors", "absent/deep/"])
def test_a_missing_folder_is_one_sentence(tmp_path, place):
    with pytest.raises(FileError, match="there is no folder") as error:
        save(random_mixture(), f"{tmp_path}/{place}")
    one_sentence(error)
    assert not list(tmp_path.iterdir())


def test_a_device_is_never_replaced():
    with pytest.raises(FileError, match="a device or a pipe"):
        save(random_mixture(), "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_has_no_format_is_refused(tmp_path):
    class Special(Mixture):
        pass

    plain = random_mixture()
    special = Special(plain.log_weights, plain.means, plain.covariance)
    for model in (object(), {"weights": [1.0]}, special):
        with pytest.raises(InputError, match="cannot be saved"):
            save(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("old")

    def write_until(failure):
        with atomic_path(file) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(FileError, match="No space left") as error:
        write_until(OSError(28, "No space left on device"))
    one_sentence(error)
    with pytest.raises(KeyboardInterrupt):
        write_until(KeyboardInterrupt())
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


# --- killed in the middle -----------------------------------------------------------------------

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
from mogul import Mixture, load, save

def write_half(self, content):
    with open(self, "wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = write_half
save(load(sys.argv[1]).sharpen(1.0), sys.argv[1])
"""

KILLED_AT_ANY_MOMENT = """
import os, signal, sys, time
from pathlib import Path
from mogul import load, save

target, other = map(Path, sys.argv[1:])
mixtures = load(target), load(other)
whole = {target.read_bytes(), other.read_bytes()}
for delay in (0.002, 0.005, 0.011, 0.017, 0.023, 0.031):
    child = os.fork()
    while child == 0:
        for mixture in mixtures:
            save(mixture, target)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert target.read_bytes() in whole
"""


def test_killed_in_the_middle_of_a_save_the_old_file_is_intact(saved):
    before = saved.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, saved], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert saved.read_bytes() == before
    left = partial_files(saved.parent)
    assert len(left) == 1  # half of the new model, recognisable by its name
    assert 0 < left[0].stat().st_size < len(before)
    with pytest.raises(FileFormatError, match="truncated"):
        load(left[0])


def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(tmp_path):
    large = {"k": 40, "d": 20}
    target = save(random_mixture(**large), tmp_path / "target")
    other = save(random_mixture(seed=1, **large), tmp_path / "other")
    command = [sys.executable, "-c", KILLED_AT_ANY_MOMENT, target, other]
    subprocess.run(command, check=True, timeout=60)


# --- files that cannot be used ------------------------------------------------------------------


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(MissingFileError, match=r"there is no file .*absent\.safetensors") as error:
        load(tmp_path / "absent.safetensors")
    one_sentence(error)
    with pytest.raises(MissingFileError, match=r"holds no model\.safetensors") as error:
        load(tmp_path)
    one_sentence(error)


def test_any_flipped_bit_is_noticed(saved, tmp_path):
    content = bytearray(saved.read_bytes())
    bad = tmp_path / "bad"
    # Bit 5 of every byte, for it turns e into E and a JSON escape stays what it was, and others.
    bits = [(i, b) for i in range(len(content)) for b in {5, i % 8} if b == 5 or i % 2]
    for place, bit in bits:
        content[place] ^= 1 << bit
        bad.write_bytes(content)
        with pytest.raises(FileFormatError) as error:
            load(bad)
        one_sentence(error)
        content[place] ^= 1 << bit
    bad.write_bytes(content)
    load(bad)


def test_a_damaged_number_is_called_damaged(saved):
    content = bytearray(saved.read_bytes())
    content[-3] ^= 1
    saved.write_bytes(content)
    with pytest.raises(FileFormatError, match="is damaged"):
        load(saved)


def test_every_truncation_is_noticed(saved, tmp_path):
    content, short = saved.read_bytes(), tmp_path / "short"
    for length in range(len(content)):
        short.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="truncated" if length else "is empty") as error:
            load(short)
        one_sentence(error)


def test_anything_appended_is_noticed(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(FileFormatError, match="damaged"):
        load(saved)


def rewrite(file, **changes):
    """The same file with other entries in its header, signed as an honest writer would."""
    content = file.read_bytes()
    header = json.loads(mogul_io._header_text(content, file))
    tensors = safetensors.torch.load(content)
    header.pop("sha256")
    header.update(changes)
    header["sha256"] = mogul_io._digest(header, tensors)
    file.write_bytes(safetensors.torch.save(tensors, {"mogul": mogul_io._canonical(header)}))
    return file


def test_an_unchanged_rewrite_loads(saved):
    assert_same_mixture(random_mixture(), load(rewrite(saved)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 2, "mogul_version": "9.9"}, "format version 2, written by mogul 9.9"),
        ({"kind": "os.system"}, "unknown kind 'os.system'"),
        ({"kind": ["Mixture"]}, "unknown kind"),
        ({"kind": None}, "unknown kind"),
        ({"format": "other"}, "damaged"),
        ({"format_version": "1"}, "damaged"),
        ({"model": {}}, "does not describe a Mixture"),
        ({"model": None}, "does not describe a Mixture"),
        ({"model": {"covariance_type": "round"}}, "does not describe a Mixture"),
        (
            {
                "model": {
                    "covariance_type": "full",
                    "n_components": 5,
                    "n_features": 2,
                    "feature_names": None,
                }
            },
            "does not describe a Mixture",
        ),
    ],
)
def test_a_header_of_another_mogul_is_one_sentence(saved, changes, said):
    with pytest.raises(FileFormatError, match=said) as error:
        load(rewrite(saved, **changes))
    assert str(saved) in one_sentence(error)


class Trap:
    """Unpickling this makes a file, so that a test can tell."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def pickled(thing, protocol):
    return pickle.dumps(thing, protocol=protocol)


def torch_saved(thing, zipped):
    buffer = io.BytesIO()
    torch.save(thing, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "dump",
    [
        pytest.param(lambda t: pickled(t, 2), id="pickle protocol 2"),
        pytest.param(lambda t: pickled(t, 5), id="pickle protocol 5"),
        pytest.param(lambda t: zlib.compress(pickled(t, 4)), id="compressed joblib"),
        pytest.param(lambda t: torch_saved(t, True), id="torch.save"),
        pytest.param(lambda t: torch_saved(t, False), id="old torch.save"),
    ],
)
def test_a_pickle_is_refused_and_never_run(tmp_path, dump):
    mark, file = tmp_path / "mark", tmp_path / "model.safetensors"
    file.write_bytes(dump(Trap(str(mark))))
    with pytest.raises(FileFormatError, match="loading it would run code") as error:
        load(file)
    one_sentence(error)
    assert not mark.exists()


def test_a_joblib_file_is_refused(tmp_path):
    joblib = pytest.importorskip("joblib")
    for compress in (0, 3):
        file = tmp_path / f"model{compress}"
        joblib.dump({"means": np.ones(3)}, file, compress=compress)
        with pytest.raises(FileFormatError, match="joblib"):
            load(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"weight,height\n1,2\n3,4\n", "is not a model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a model"),
        (b"PK\x03\x04 a zip of something else", "is not a model"),
        (pickle.dumps({"a": 1}, protocol=0), "is not a model"),
        (safetensors.torch.save({"w": torch.ones(2)}), "without mogul's header"),
        (safetensors.torch.save({"w": torch.ones(2)}, {"mogul": "[1"}), "damaged"),
        (safetensors.torch.save({"w": torch.ones(2)}, {"mogul": "[" * 100_000}), "damaged"),
        (b"\x02\0\0\0\0\0\0\0{}", "without mogul's header"),
        (b"\x20\0\0\0\0\0\0\0" + b'{"__metadata__":{"mogul":{}}}   ', "without mogul's header"),
        (b"\x20\0\0\0\0\0\0\0" + b'{"__metadata__":[1,2,3],"a":{} }', "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, content, said):
    file = tmp_path / "thing"
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match=said) as error:
        load(file)
    assert str(file) in one_sentence(error)
