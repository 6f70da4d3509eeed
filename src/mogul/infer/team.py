"""Several processes that read parts of the same rows, and one that decides."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mogul.errors import MogulError, TeamError
from mogul.kernels import e_steps
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["Collect", "Team", "in_short"]

Answer = TypeVar("Answer")


class Collect(Protocol):
    """From a mixture to the statistics of rows under it."""

    def __call__(self, mixture: Mixture, n_batches: int = 0, part: int = -1) -> Stats:
        """Of all rows; of the next of so many batches that rows are dealt to at random; or of one
        of so many parts that are the same in every pass.
        """
        ...


_WAITING: tuple[str, Any] = ("", None)


class Team:
    """The process group that a program has initialised, or this process alone.

    Attributes
    ----------
    rank : int
    size : int
        1 where there is no group.
    """

    def __init__(self) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.size = dist.get_world_size() if grouped else 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides."""
        return self.rank == 0

    def share(self, value: Answer) -> Answer:
        """The first process's value, in all."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        self._reached(lambda: dist.broadcast_object_list(box, src=0))
        return box[0]

    def gather(self, work: Callable[[], Answer]) -> list[Answer]:
        """What ``work`` answers in each process, in all; where one raises, all do."""
        if self.size == 1:
            return [work()]
        # What cannot be sent is an error of this process, not a wait of the others.
        answer, trouble = _tried(lambda: pickle.dumps(work()))
        found: list[Any] = [None] * self.size
        said = None if trouble is None else _said(trouble)
        self._reached(lambda: dist.all_gather_object(found, (answer, said)))
        self._raise_any([said for _, said in found], trouble)
        return [pickle.loads(one) for one, _ in found]

    def decide(self, work: Callable[[], Answer]) -> Answer:
        """What ``work`` answers in the first process, or its error, in all; the others wait."""

        def in_first() -> Any:
            return work() if self.leads else None

        return self.gather(in_first)[0]

    def lead(self, work: Callable[[Collect], Answer], local: Collect) -> Answer:
        """Run ``work`` in the first process; its answer, or its error, in all.

        ``work`` is given a function from a mixture to the statistics of the rows of all processes;
        whenever it is called, each process adds those of its own rows by ``local``. What depends on
        them is decided once, so that processes cannot come to differ.
        """
        if self.size == 1:
            return work(local)
        return self._led(work, local) if self.leads else self._served(local)

    def _led(self, work: Callable[[Collect], Answer], local: Collect) -> Answer:
        def everywhere(mixture: Mixture, n_batches: int = 0, part: int = -1) -> Stats:
            self.share(("collect", (mixture, n_batches, part)))
            return self._summed(mixture, n_batches, part, local)

        try:
            answer = work(everywhere)
        except TeamError:
            raise  # the others know
        except BaseException as error:
            self.share(("failed", _said(error)))
            raise
        self.share(("done", answer))
        return answer

    def _served(self, local: Collect) -> Any:
        while True:
            what, value = self.share(_WAITING)
            if what == "collect":
                mixture, n_batches, part = value
                self._summed(mixture, n_batches, part, local)
            elif what == "failed":
                raise TeamError(f"Process 0 of {self.size} stopped: {value}")
            else:
                return value

    def _summed(self, mixture: Mixture, n_batches: int, part: int, local: Collect) -> Stats:
        """The statistics of all processes' rows."""
        nothing = e_steps([], mixture)
        found = self.total(lambda: local(mixture, n_batches, part).pack(), nothing.pack())
        return nothing.unpack(found)

    def total(self, work: Callable[[], Tensor], like: Tensor) -> Tensor:
        """The sum over processes of what ``work`` answers, by one reduction of one buffer.

        Where it raises in one of them, it does in all.

        Parameters
        ----------
        work : callable → Tensor, shape (n,)
        like : Tensor, shape (n,)
            Of the same size and type.
        """
        if self.size == 1:
            return work()
        found, trouble = _tried(work)
        mine = torch.zeros_like(like) if found is None else found
        failed = like.new_tensor([0.0 if trouble is None else 1.0])
        buffer = torch.cat([failed, mine]).to(_place_of_messages())
        self._reached(lambda: dist.all_reduce(buffer))
        if float(buffer[0]) > 0:
            said: list[Any] = [None] * self.size
            own = None if trouble is None else _said(trouble)
            self._reached(lambda: dist.all_gather_object(said, own))
            self._raise_any(said, trouble)
        return buffer[1:].to(like.device)

    def _raise_any(self, said: list[str | None], own: BaseException | None) -> None:
        who = [i for i, sentence in enumerate(said) if sentence is not None]
        if who:
            raise TeamError(f"Process {who[0]} of {self.size} stopped: {said[who[0]]}") from own

    def _reached(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            raise TeamError(
                f"Process {self.rank} of {self.size} lost another one ({in_short(error)}); start "
                "them again."
            ) from error


def in_short(error: RuntimeError) -> str:
    """The first sentence of what a backend says, without the place in its source."""
    said = re.sub(r"\[\S*/\S*:\d+\]\s*", "", str(error)).strip()
    return said.split(". ")[0].splitlines()[0][:150] if said else type(error).__name__


def _tried(work: Callable[[], Answer]) -> tuple[Answer | None, BaseException | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _said(error: BaseException) -> str:
    """An error in words, for processes that do not have it."""
    return str(error) if isinstance(error, MogulError) else f"{type(error).__name__}: {error}"


def _place_of_messages() -> torch.device:
    """Where the group's backend takes tensors from."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
