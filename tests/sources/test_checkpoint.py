"""A fit that is killed goes on from its checkpoint and ends where it would have ended."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mogul
from mogul import GaussianMixture
from mogul.data import ArraySource
from mogul.errors import CheckpointWarning, FileError, FileFormatError, InputError
from mogul.infer.checkpoint import Checkpoint
from sources.cases import write_parts

PARAMETERS = ("weights_", "means_", "covariances_")


def overlapping(n=3000):
    """Rows that take EM, and SQUAREM with it, dozens of iterations."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 2)) + 1.5 * rng.integers(0, 3, (n, 1))


def model(**settings):
    return GaussianMixture(
        3, **{"random_state": 0, "tol": 1e-6, "max_iter": 300, "algorithm": "em", **settings}
    )


class Killed(Exception):
    pass


def killed_after(n):
    seen = []

    def look(record):
        seen.append(record)
        if len(seen) == n:
            raise Killed

    return look


def assert_same(found, expected, rtol=1e-10):
    assert found.n_iter_ == expected.n_iter_
    assert found.converged_ == expected.converged_
    for part in PARAMETERS:
        got, want = getattr(found, part), getattr(expected, part)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("acceleration", ["none", "auto", "squarem"])
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_wherever_it_is_killed_it_ends_the_same(tmp_path, kind, acceleration):
    source = ArraySource(overlapping(), batch_rows=800)
    how = {"covariance_type": kind, "acceleration": acceleration}
    expected = model(**how).fit(source)
    assert expected.n_iter_ > 12
    for n in (2, 5, 6, 11):
        file = tmp_path / f"state-{n}"
        with pytest.raises(Killed):
            model(**how, checkpoint=file, callbacks=[killed_after(n)]).fit(source)
        found = model(**how, checkpoint=Checkpoint(file, resume=True)).fit(source)
        assert_same(found, expected)
        # That it went on, and did not begin anew: at most one pass is made twice.
        assert found.passes_.n_passes <= expected.passes_.n_passes - n + 1
        assert found.lower_bounds_ == pytest.approx(expected.lower_bounds_, abs=1e-12)


def test_several_starts_and_a_state_every_few_iterations(tmp_path):
    source, file = ArraySource(overlapping()), tmp_path / "state"
    expected = model(n_init=3).fit(source)
    keep = Checkpoint(file, every=4)
    with pytest.raises(Killed):
        model(n_init=3, checkpoint=keep, callbacks=[killed_after(20)]).fit(source)
    found = model(n_init=3, checkpoint=Checkpoint(file, every=4, resume=True)).fit(source)
    assert_same(found, expected)
    assert found.passes_.n_passes < expected.passes_.n_passes


def test_a_fit_that_had_ended_is_not_gone_on_with(tmp_path):
    source, file = ArraySource(overlapping()), tmp_path / "state"
    expected = model(checkpoint=file).fit(source)
    again = model(checkpoint=Checkpoint(file, resume=True)).fit(source)
    assert_same(again, expected)
    assert again.passes_.n_passes == 1  # for the log-likelihood of the end


def test_without_a_file_resuming_begins(tmp_path):
    source = ArraySource(overlapping())
    found = model(checkpoint=Checkpoint(tmp_path / "state", resume=True)).fit(source)
    assert_same(found, model().fit(source), 0)


def test_a_disk_that_is_full_leaves_the_last_state_and_says_so(tmp_path, monkeypatch):
    source, file = ArraySource(overlapping()), tmp_path / "state"
    expected = model().fit(source)
    write, contents = type(file).write_bytes, []

    def full(path, content):
        contents.append(content)
        if len(contents) > 5:
            write(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(type(file), "write_bytes", full)
    said = r"No space left on device; the last checkpoint of iteration 5 is whole"
    with pytest.warns(CheckpointWarning, match=said):
        found = model(checkpoint=file).fit(source)
    monkeypatch.undo()
    assert_same(found, expected, 0)
    assert file.read_bytes() == contents[4]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert_same(model(checkpoint=Checkpoint(file, resume=True)).fit(source), expected)


@pytest.mark.parametrize("cut", [0, 7, 200, -8])
def test_a_damaged_state_is_refused(tmp_path, cut):
    source, file = ArraySource(overlapping()), tmp_path / "state"
    model(checkpoint=file).fit(source)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=r"is not a checkpoint .* to begin anew"):
        model(checkpoint=Checkpoint(file, resume=True)).fit(source)


def test_the_state_of_another_fit_is_refused(tmp_path, monkeypatch):
    x, file = overlapping(), tmp_path / "state"
    model(checkpoint=file).fit(ArraySource(x))
    resumed = {"checkpoint": Checkpoint(file, resume=True)}
    with pytest.raises(InputError, match="with lowest and highest values"):
        model(checkpoint=Checkpoint(file, resume=True)).fit(ArraySource(1000 + 3 * x))
    with pytest.raises(InputError, match="with rows 3000, and this one has 2000"):
        model(**resumed).fit(ArraySource(x[:2000]))
    with pytest.raises(InputError, match="with covariance_type full, and this one has diag"):
        model(**resumed, covariance_type="diag").fit(ArraySource(x))
    with pytest.raises(InputError, match=r"with reg_covar 1e-06, and this one has 0\.1"):
        model(**resumed, reg_covar=0.1).fit(ArraySource(x))
    mogul.save(model().fit(x), tmp_path / "model")
    with pytest.raises(FileFormatError, match="is not a checkpoint"):
        model(checkpoint=Checkpoint(tmp_path / "model", resume=True)).fit(ArraySource(x))
    with pytest.raises(FileError, match="there is no folder"):
        model(checkpoint=tmp_path / "none" / "state").fit(ArraySource(x))
    with pytest.raises(InputError, match="every is 0"):
        Checkpoint(file, every=0)


# --- killed for real ------------------------------------------------------------------------------


def command(folder, state, out, *more):
    fit = ["fit", str(folder), "-k", "3", "-c", "full", "--tol", "1e-6", "--max-iter", "60"]
    keep = ["--checkpoint", str(state), "--resume", "--out", str(out), *more]
    return ["-m", "mogul", *fit, *keep]


def n_passes(said):
    """What the command says of its passes over the rows."""
    return int(re.search(r"(\d+) passes over the rows", said)[1])


def wait_for(path, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} was never written"
        time.sleep(0.01)


@pytest.fixture
def slow_folder(tmp_path):
    """Enough rows in small groups that a fit takes some seconds."""
    return write_parts(tmp_path / "parts", overlapping(60000), groups=(3000,))


@pytest.mark.slow
def test_kill_9_of_a_process_and_resume(slow_folder, tmp_path):
    run = [sys.executable, *command(slow_folder, tmp_path / "a", tmp_path / "whole.safetensors")]
    whole = subprocess.run(run, check=True, capture_output=True, text=True)
    expected = mogul.load(tmp_path / "whole.safetensors")
    run = [sys.executable, *command(slow_folder, tmp_path / "b", tmp_path / "resumed.safetensors")]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        wait_for(tmp_path / "b")
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "resumed.safetensors").exists()
    ended = subprocess.run(run, check=True, capture_output=True, text=True)
    assert "converged" in ended.stdout
    assert n_passes(ended.stdout) < n_passes(whole.stdout)
    assert_same(mogul.load(tmp_path / "resumed.safetensors"), expected)


def children(parent):
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return [
        int(line.split()[0]) for line in found.stdout.splitlines() if "mogul fit" in line
    ]  # fmt: skip


@pytest.mark.slow
def test_kill_9_of_a_rank_and_torchrun_restarts(slow_folder, tmp_path):
    run = [sys.executable, *command(slow_folder, tmp_path / "a", tmp_path / "whole.safetensors")]
    whole = subprocess.run(run, check=True, capture_output=True, text=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    torchrun = [sys.executable, *torchrun, "--max-restarts=2"]
    run = torchrun + command(slow_folder, tmp_path / "b", tmp_path / "both.safetensors")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(run, **pipes) as running:
        wait_for(tmp_path / "b")
        first = children(running.pid)
        assert len(first) == 2
        os.kill(first[1], signal.SIGKILL)
        said, _ = running.communicate(timeout=300)
    assert running.returncode == 0
    assert n_passes(said) < n_passes(whole.stdout)
    expected = mogul.load(tmp_path / "whole.safetensors")
    assert_same(mogul.load(tmp_path / "both.safetensors"), expected)
    changed = subprocess.run(
        [sys.executable, *command(slow_folder, tmp_path / "b", tmp_path / "c.safetensors")],
        capture_output=True,
        text=True,
    )
    assert changed.returncode == 2
    assert "of a fit with processes 2, and this one has 1" in changed.stderr
