"""The state of a fit in a file, from which another process goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mogul._files import atomic_path, check_target, reason
from mogul._warn import warn
from mogul.covariances import structure
from mogul.errors import CheckpointWarning, FileError, FileFormatError, InputError
from mogul.infer.ascent import Ascent
from mogul.infer.em import EMSettings
from mogul.infer.squarem import Squarem
from mogul.infer.stopping import IterationRecord, Trace
from mogul.infer.survey import Survey
from mogul.mixture import Mixture

__all__ = ["Checkpoint", "Keeper"]

_FORMAT = "mogul-checkpoint"
_LONGEST = 60
_VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of a fit is kept while it runs.

    Attributes
    ----------
    path : path
        A file, replaced in one step, so that it is always whole.
    every : int, default 1
        Iterations between two states: one costs as long as it takes to write the parameters.
    resume : bool, default False
        Go on from the file where there is one. Without it a fit begins anew and replaces the file.
    """

    path: str | os.PathLike[str]
    every: int = 1
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every is {self.every}, expected a positive number of iterations.")

    def of(self, kind: str, n_components: int, found: Survey, how: EMSettings, size: int) -> Keeper:
        """What keeps the state of one fit.

        ``kind`` is the covariance structure and ``size`` the number of processes.
        """
        task = {
            "covariance_type": kind,
            "components": n_components,
            "columns": found.sample.n_features,
            "rows": found.n_rows,
            "weight of all rows": float(f"{found.total_weight:.9g}"),  # sums differ by rounding
            "lowest and highest values": found.extremes.tolist(),
            "reg_covar": how.floor,
            "processes": size,
        }
        return Keeper(self, task)


class Keeper:
    """Writes and reads the state of one fit.

    Parameters
    ----------
    checkpoint : Checkpoint
    task : mapping
        What must be the same when a fit goes on.

    Raises
    ------
    FileError
        When the file could not be written.
    FileFormatError, InputError
        When a fit is to go on from a file that is damaged, or is of another fit.
    """

    def __init__(self, checkpoint: Checkpoint, task: Mapping[str, Any]):
        self.path, self.every, self.task = checkpoint.path, checkpoint.every, dict(task)
        check_target(self.path)
        self._n_seen, self._kept = 0, 0
        there = checkpoint.resume and os.path.exists(self.path)
        self._state = self._read() if there else None

    @property
    def resumes(self) -> bool:
        """Whether there is a state to go on from."""
        return self._state is not None

    def start(self) -> Mixture:
        """The first of the mixtures to go on from."""
        assert self._state is not None
        header, tensors = self._state
        return _mixture("0.point", header, tensors)

    # --- out and in -----------------------------------------------------------------------------

    def keep(self, ascent: Ascent[Mixture]) -> None:
        """Write the state, if it is time to; a warning where that fails."""
        self._n_seen += 1
        if self._n_seen % self.every and ascent.active:
            return
        header, tensors = _state_of(ascent)
        header |= {"format": _FORMAT, "version": _VERSION, "task": self.task}
        try:
            content = safetensors.torch.save(tensors, {"mogul": json.dumps(header)})
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(content)
        except FileError as error:
            last = f"of iteration {self._kept} is whole" if self._kept else "was never written"
            warn(f"{str(error).rstrip('.')}; the last checkpoint {last}.", CheckpointWarning)
        else:
            self._kept = max(trace["n_iter"] for trace in header["starts"])

    def restore(self, ascent: Ascent[Mixture]) -> None:
        """Bring an ascent to the state in the file, if there is one to go on from."""
        if self._state is None:
            return
        header, tensors = self._state
        ascent.points = [
            _mixture(f"{i}.point", header, tensors) for i in range(len(header["starts"]))
        ]
        ascent.repairs = list(header["repairs"])
        ascent.active = list(header["active"])
        ascent.traces[:] = [_trace(one["trace"]) for one in header["starts"]]
        ascent.squarem = [
            _squarem(i, one["squarem"], ascent, header, tensors)
            for i, one in enumerate(header["starts"])
        ]
        ended = [t.converged or t.failed or t.n_iter >= ascent.max_iter for t in ascent.traces]
        ascent.active = [i for i in ascent.active if not ended[i]]
        self._kept = max(trace.n_iter for trace in ascent.traces)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, "pt") as file:
                header = json.loads(file.metadata()["mogul"])
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
            if header["format"] != _FORMAT or header["version"] != _VERSION:
                raise ValueError("it is of another format")
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise FileFormatError(
                f"{self.path} is not a checkpoint that this mogul can go on from "
                f"({reason(error)[:100]}); remove it, or leave resume out, to begin anew."
            ) from error
        except OSError as error:
            raise FileError(f"{self.path} cannot be read: {reason(error)}.") from error
        for what, value in self.task.items():
            before = header["task"].get(what)
            if before != value:
                raise InputError(
                    f"The checkpoint {self.path} is of a fit with {what} {_short(before)}, and "
                    f"this one has {_short(value)}; use the same, or leave resume out to begin "
                    "anew."
                )
        return header, tensors


def _short(value: Any) -> str:
    """A setting in a sentence."""
    text = str(value)
    return text if len(text) < _LONGEST else f"{text[:_LONGEST]}..."


# --- the state of an ascent -----------------------------------------------------------------------


def _state_of(ascent: Ascent[Mixture]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    starts = []
    for i, (point, trace, squarem) in enumerate(
        zip(ascent.points, ascent.traces, ascent.squarem, strict=True)
    ):
        tensors |= _tensors(f"{i}.point", point)
        saved: dict[str, Any] | None = None
        if squarem is not None:
            state = squarem.state()
            for j, mixture in enumerate(state.points):
                tensors |= _tensors(f"{i}.trail.{j}", mixture)
            saved = {"n_points": len(state.points), "numbers": state.numbers}
        starts.append({"trace": _as_json(trace), "n_iter": trace.n_iter, "squarem": saved})
    header = {
        "covariance_type": ascent.points[0].covariance_type,
        "starts": starts,
        "repairs": ascent.repairs,
        "active": ascent.active,
    }
    return header, tensors


def _as_json(trace: Trace) -> dict[str, Any]:
    """A trace as JSON types."""
    kept = {f.name: getattr(trace, f.name) for f in fields(trace) if f.name != "kind"}
    return kept | {"records": [asdict(record) for record in trace.records]}


def _trace(saved: Mapping[str, Any]) -> Trace:
    records = [IterationRecord(**record) for record in saved["records"]]
    return Trace(**{**saved, "records": records})


def _tensors(name: str, mixture: Mixture) -> dict[str, Tensor]:
    parts = {
        "log_weights": mixture.log_weights,
        "means": mixture.means,
        "factor": mixture.covariance.factor,
    }
    return {f"{name}.{part}": value.contiguous().clone() for part, value in parts.items()}


def _mixture(name: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mixture:
    means = tensors[f"{name}.means"]
    kind = structure(header["covariance_type"])
    covariance = kind(tensors[f"{name}.factor"], *means.shape)
    return Mixture(tensors[f"{name}.log_weights"], means, covariance)


def _squarem(
    i: int,
    saved: Mapping[str, Any] | None,
    ascent: Ascent[Mixture],
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> Squarem[Mixture] | None:
    if saved is None:
        return None
    points = [_mixture(f"{i}.trail.{j}", header, tensors) for j in range(saved["n_points"])]
    squarem = Squarem(ascent.chart)
    squarem.restore(points, saved["numbers"])
    return squarem
