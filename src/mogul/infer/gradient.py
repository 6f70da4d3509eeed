"""Training a mixture, or any module with a loss for each row, by gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor, nn
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from mogul._progress import ProgressLine
from mogul._threads import one_thread_if_small
from mogul.data.rows import Rows
from mogul.data.sources import Source, check_weights_of
from mogul.errors import InputError
from mogul.infer.em import Streamed
from mogul.infer.streams import Share
from mogul.infer.team import Collect
from mogul.kernels import likelihood_from, log_likelihood
from mogul.mixture import Mixture

__all__ = ["EpochRecord", "GradientFit", "fit"]

_FULL_BATCH = 4096
"""Up to so many rows a step sees all of them by default."""
_DEFAULT_BATCH = 1024
_SHRINK = 0.3
"""What a plateau multiplies the learning rate by."""
_SMALLEST_RATE = 1e-3
"""The share of the first learning rate below which more epochs change nothing that matters."""
_WINDOW = 5
"""Iterations of L-BFGS that together must gain less than the tolerance: one may gain by chance."""
_LINE_SEARCH = 25
"""The most points that one line search of L-BFGS may look at."""

Loss = Callable[[nn.Module, Tensor], Tensor]
OptimizerFactory = Callable[[list[Tensor]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, or one iteration of L-BFGS.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    loss : float
        The mean over the training rows, as the epoch met them.
    validation_loss : float
        Of the rows held out, after the epoch; NaN without them.
    learning_rate : float
    n_passes : float
        How often all training rows have been looked at so far, by losses and gradients together.
    """

    epoch: int
    loss: float
    validation_loss: float
    learning_rate: float
    n_passes: float


@dataclass(frozen=True)
class GradientFit:
    """What :func:`fit` did.

    Attributes
    ----------
    module : Module
        The module that was trained, with the best parameters met.
    loss : float
        The lowest monitored loss, that of ``module``.
    history : list of EpochRecord
    converged : bool
    reason : str
        Why the fit ended, in words.
    """

    module: nn.Module
    loss: float
    history: list[EpochRecord] = field(repr=False)
    converged: bool
    reason: str

    @property
    def n_passes(self) -> float:
        """How often all training rows were looked at."""
        return self.history[-1].n_passes if self.history else 0.0


def fit(
    module: nn.Module,
    data: Any,
    optimizer: str | OptimizerFactory = "adam",
    *,
    loss: Loss | None = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
    max_epochs: int = 2000,
    learning_rate: float = 0.03,
    schedule: str | SchedulerFactory = "plateau",
    tol: float = 1e-6,
    patience: int = 20,
    validation: Any = None,
    seed: int = 0,
    callbacks: Sequence[Callable[[EpochRecord], bool | None]] = (),
    progress: str | bool = "auto",
) -> GradientFit:
    r"""Minimise a loss over rows, by default the negative log-likelihood of a mixture.

    .. math::
        \min_\theta \frac{\sum_n w_n\, \ell(x_n; \theta)}{\sum_n w_n}, \qquad
        \ell(x; \theta) = -\log p(x \mid \theta) .

    The module is trained in place and keeps the best parameters met: those of the lowest loss on
    the rows held out, or on the training rows where none are. Frozen parameters stay as they are.
    Where the module tells its ``parameter_units``, an optimiser moves in these units, so that
    minutes and milliseconds give the same fit. Ctrl-C ends the fit and keeps the best so far.

    Parameters
    ----------
    module : Module
        A :class:`~mogul.nn.TrainableMixture`, or any other whose call without arguments gives a
        ``Mixture``. With ``loss``, any module.
    data : array-like, Tensor or Rows, shape (N, …), or Source
        Rows, finite. A :class:`mogul.data.Source` is read in batches; in a process group every
        process calls this and trains the same module, each on its part of the rows. It goes with
        the likelihood of a mixture, weights of its own, and validation rows, not a share.
    optimizer : {"adam", "lbfgs"} or callable, default "adam"
        A callable takes the list of tensors to train and returns a ``torch.optim.Optimizer``; it
        sets its own learning rate. "lbfgs" (Liu and Nocedal 1989, with a strong Wolfe line search)
        sees all rows at each step and is the better one wherever that is possible: on overlapping
        clusters it needs several times fewer passes than plain EM.
    loss : callable (module, rows) → Tensor, optional
        A loss for each row, shape (B,).
    sample_weight : array-like, shape (N,), optional
        Not negative.
    batch_size : int, optional
        Rows a step; by default all of up to 4096, else 1024. L-BFGS takes all.
    max_epochs : int, default 2000
        Passes through the rows, or iterations of L-BFGS.
    learning_rate : float, default 0.03
        Of "adam", the first one.
    schedule : {"plateau", "cosine", "constant"} or callable, default "plateau"
        "plateau" lowers the learning rate when nothing is gained any more, and ends the fit when it
        is small; "cosine" lowers it to zero over ``max_epochs``. A callable takes the optimizer and
        returns a scheduler that steps once an epoch. L-BFGS has no use for one.
    tol : float, default 1e-6
        A gain of the monitored loss that counts, in nats a row.
    patience : int, default 20
        Epochs without a gain that counts, after which the rate is lowered ("plateau") or the fit
        ends (the others). L-BFGS ends when five iterations together gain less than ``tol``.
    validation : float or array-like, optional
        Rows to hold out, or the share of ``data`` to set aside at random; weights go with the rows
        set aside.
    seed : int, default 0
        Of the order of rows, and of those set aside.
    callbacks : sequence of callables
        Each is called with an :class:`EpochRecord` after every epoch; returning True ends the fit.
    progress : {"auto", True, False}, default "auto"
        A progress line on standard error.

    Returns
    -------
    GradientFit

    Raises
    ------
    InputError
        For rows, weights or options that cannot be used, and for a loss that is not finite at the
        start.

    References
    ----------
    Kingma and Ba (2015); Liu and Nocedal (1989).

    Examples
    --------
    >>> import torch
    >>> from mogul.infer.gradient import fit
    >>> from mogul.nn import TrainableMixture
    >>> rows = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> start = TrainableMixture.from_components([{"x": (2.0, 1.0)}, {"x": (8.0, 1.0)}])
    >>> found = fit(start, rows, "lbfgs")
    >>> found.converged, start.means.detach().round(decimals=2).flatten()
    (True, tensor([ 0.5000, 10.5000]))
    """
    if max_epochs < 0 or patience < 1 or not learning_rate > 0 or not tol >= 0:
        raise InputError(
            "max_epochs and tol must not be negative, patience must be at least 1 and "
            f"learning_rate positive; got {max_epochs}, {tol}, {patience} and {learning_rate}."
        )
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}.")
    objective = _Objective(module, loss)
    how = _How(
        optimizer, batch_size, max_epochs, learning_rate, schedule, tol, patience, seed,
        list(callbacks), progress,
    )  # fmt: skip
    if isinstance(data, Source):
        return _fit_source(objective, data, sample_weight, validation, how)
    if isinstance(data, Streamed):
        return _descend(objective, data, None, how)
    rows, held_out = _split(_as_rows(data, sample_weight, objective), validation, seed)
    return _descend(objective, rows, held_out, how)


@dataclass(frozen=True)
class _How:
    """The settings of a fit, as :func:`fit` takes them."""

    optimizer: str | OptimizerFactory
    batch_size: int | None
    max_epochs: int
    learning_rate: float
    schedule: str | SchedulerFactory
    tol: float
    patience: int
    seed: int
    callbacks: list[Callable[[EpochRecord], bool | None]]
    progress: str | bool


def _fit_source(
    objective: _Objective, source: Source, sample_weight: Any, validation: Any, how: _How
) -> GradientFit:
    """Train on rows that are read in batches, by the first process; the others add up theirs."""
    module = objective.module
    check_weights_of(source, sample_weight)
    if objective.loss is not None:
        raise InputError(
            "A source goes with the likelihood of a mixture; a loss needs the rows in memory."
        )
    if source.n_features != objective.n_features:
        raise InputError(
            f"The source has {source.n_features} columns; expected {objective.n_features} for this "
            "mixture."
        )
    known = objective.mixture().feature_names
    if known is not None and source.names is not None and tuple(known) != tuple(source.names):
        raise InputError(
            f"The source has columns {source.names}, and the mixture's features are "
            f"{tuple(known)}; read them in that order, by ParquetSource(columns=...)."
        )
    held_out = None
    if validation is not None:
        if isinstance(validation, float):
            raise InputError("Give the validation rows of a source as an array, not as a share.")
        held_out = _as_rows(validation, None, objective)
    device = next(module.parameters()).device
    n_components = objective.mixture().n_components
    share = Share.surveyed(source, n_components, RandomState(how.seed), device, what="training")

    def work(collect: Collect) -> tuple[GradientFit, dict[str, Tensor]]:
        found = _descend(objective, share.streamed(collect), held_out, how)
        state = {name: value.cpu() for name, value in module.state_dict().items()}
        return replace(found, module=nn.Identity()), state

    found, state = share.team.lead(work, share.local)
    module.load_state_dict(state)
    return replace(found, module=module)


def _descend(
    objective: _Objective, rows: Rows | Streamed, held_out: Rows | None, how: _How
) -> GradientFit:
    module, optimizer, batch_size = objective.module, how.optimizer, how.batch_size
    leaves = _Leaves(module, rows)
    if optimizer == "lbfgs":
        if batch_size is not None and batch_size < rows.n_rows:
            raise InputError('"lbfgs" sees all rows at once; leave batch_size out or use "adam".')
        descent = _QuasiNewton(objective, leaves, rows, how.tol)
    else:
        n_rows = int(rows.n_rows)
        size = batch_size or (n_rows if n_rows <= _FULL_BATCH else _DEFAULT_BATCH)
        chosen = _named(optimizer, how.learning_rate)(leaves.tensors)
        plan = _schedule(how.schedule, chosen, how.max_epochs, how.tol, how.patience)
        descent = _FirstOrder(
            objective, leaves, rows, size, how.seed, chosen, plan, how.tol, how.patience
        )
    line = ProgressLine(how.progress)
    work = rows.n_rows * sum(p.numel() for p in module.parameters())
    with one_thread_if_small(work):
        try:
            return _run(descent, held_out, how.max_epochs, how.callbacks, line)
        finally:
            line.close()


def _run(
    descent: _Descent,
    held_out: Rows | None,
    max_epochs: int,
    callbacks: list[Callable[[EpochRecord], bool | None]],
    line: ProgressLine,
) -> GradientFit:
    objective, leaves = descent.objective, descent.leaves
    history: list[EpochRecord] = []
    best = _Best(leaves)
    converged, reason = False, f"max_epochs={max_epochs} was reached"
    try:
        for epoch in range(1, max_epochs + 1):
            loss = descent.epoch()
            if not math.isfinite(loss):
                reason = f"the loss was not finite in epoch {epoch}; what was best before is kept"
                break
            watched = loss if held_out is None else objective.value(held_out)
            exact_at_start = held_out is None and descent.loss_is_of_start
            best.offer(watched, descent.start if exact_at_start else leaves.snapshot())
            validation_loss = math.nan if held_out is None else watched
            record = EpochRecord(epoch, loss, validation_loss, descent.rate, descent.n_passes)
            history.append(record)
            line.update("epoch", epoch, max_epochs, f"loss {watched:.6g}")
            answers = [callback(record) for callback in callbacks]  # every one is told
            if True in answers:
                reason = "a callback asked to stop"
                break
            if descent.has_converged(watched):
                converged, reason = True, "nothing more was gained"
                break
        if not history or (held_out is None and descent.loss_is_of_start):
            best.offer(objective.value(held_out or descent.rows), leaves.snapshot())
    except KeyboardInterrupt:
        reason = "interrupted"
    best.restore()
    return GradientFit(objective.module, best.loss, history, converged, reason)


class _Objective:
    """The weighted mean loss of some rows under a module."""

    def __init__(self, module: nn.Module, loss: Loss | None):
        self.module, self.loss = module, loss
        self.n_features: int | None = None  # any, with a loss of the user's own
        if loss is not None:
            return
        mixture = self.mixture()
        if not isinstance(mixture, Mixture):
            raise InputError(
                f"Calling this {type(module).__name__} without arguments does not give a Mixture; "
                "pass loss=, a function of the module and rows that returns a loss for each row."
            )
        self.n_features = mixture.n_features

    def mixture(self) -> Any:
        """What the module gives when it is called without arguments; None where it wants some."""
        try:
            with torch.no_grad():
                return self.module()
        except TypeError:
            return None

    def __call__(self, rows: Rows | Streamed) -> Tensor:
        if isinstance(rows, Streamed):
            mixture = self.module()
            with torch.no_grad():
                stats = rows.collect(mixture.detach())
            return -likelihood_from(stats, mixture) / stats.row_weight
        if self.loss is None:
            return -log_likelihood(rows.values, self.module(), rows.weight) / rows.total_weight
        each = self.loss(self.module, rows.values)
        if each.shape != (rows.n_rows,):
            raise InputError(
                f"The loss has shape {tuple(each.shape)}; expected one number for each of the "
                f"{rows.n_rows} rows."
            )
        return each.mean() if rows.weight is None else (rows.weight @ each) / rows.total_weight

    @torch.no_grad()
    def value(self, rows: Rows | Streamed) -> float:
        """Without gradients, in evaluation mode."""
        was_training = self.module.training
        self.module.eval()
        try:
            return float(self(rows))
        finally:
            self.module.train(was_training)


class _Leaves:
    """The trainable parameters, each as a multiple of its unit, for an optimiser to move."""

    def __init__(self, module: nn.Module, rows: Rows | Streamed):
        named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not named:
            raise InputError("Every parameter is frozen; leave at least one that requires_grad.")
        self.parameters = list(named.values())
        units = _units(module, rows.sample if isinstance(rows, Streamed) else rows)
        self.units = [units.get(n, torch.ones_like(p)).to(p) for n, p in named.items()]
        self.tensors = [
            (p.detach() / unit).requires_grad_()
            for p, unit in zip(self.parameters, self.units, strict=True)
        ]

    @torch.no_grad()
    def place(self) -> None:
        """Write the parameters of the module."""
        for p, leaf, unit in zip(self.parameters, self.tensors, self.units, strict=True):
            p.copy_(leaf * unit)

    def gradient_of(self, loss: Tensor) -> None:
        """Set the gradients of the leaves."""
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for leaf, gradient, unit in zip(self.tensors, found, self.units, strict=True):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient * unit

    def snapshot(self) -> list[Tensor]:
        return [leaf.detach().clone() for leaf in self.tensors]

    @torch.no_grad()
    def restore(self, values: list[Tensor]) -> None:
        for leaf, value in zip(self.tensors, values, strict=True):
            leaf.copy_(value)
        self.place()


def _units(module: nn.Module, rows: Rows) -> dict[str, Tensor]:
    ask = getattr(module, "parameter_units", None)
    if ask is None:
        return {}
    gap = rows.values.double() - rows.mean()
    centred = Rows(gap.square(), rows.weight)
    scales = centred.mean().sqrt()
    return ask(torch.where(scales > 0, scales, 1.0))


class _Best:
    """The parameters of the lowest loss met."""

    def __init__(self, leaves: _Leaves):
        self.leaves, self.loss = leaves, math.inf
        self.values = leaves.snapshot()

    def offer(self, loss: float, values: list[Tensor]) -> None:
        if loss < self.loss:
            self.loss, self.values = loss, values

    def restore(self) -> None:
        self.leaves.restore(self.values)


class _Descent:
    """What the two kinds of optimiser have in common."""

    loss_is_of_start: bool
    """Whether the loss of an epoch is that of the parameters it began with."""

    def __init__(self, objective: _Objective, leaves: _Leaves, rows: Rows | Streamed):
        self.objective, self.leaves, self.rows = objective, leaves, rows
        self.start = leaves.snapshot()
        self.n_passes = 0.0
        self.rate = 1.0

    def epoch(self) -> float:
        raise NotImplementedError

    def has_converged(self, watched: float) -> bool:
        raise NotImplementedError

    def differentiate(self, rows: Rows | Streamed) -> Tensor:
        self.leaves.place()
        loss = self.objective(rows)
        if self.n_passes == 0 and not bool(torch.isfinite(loss)):
            raise InputError(
                "The loss of the first rows is not finite; start from other parameters, say those "
                "of a mixture fitted by EM, or scale the data."
            )
        self.leaves.gradient_of(loss)
        self.n_passes += rows.n_rows / self.rows.n_rows
        return loss.detach()


class _FirstOrder(_Descent):
    """Adam and its kin, on batches in a new random order each epoch."""

    def __init__(
        self,
        objective: _Objective,
        leaves: _Leaves,
        rows: Rows | Streamed,
        size: int,
        seed: int,
        optimizer: Optimizer,
        schedule: LRScheduler | None,
        tol: float,
        patience: int,
    ):
        super().__init__(objective, leaves, rows)
        self.size, self.optimizer, self.schedule = size, optimizer, schedule
        self.tol, self.patience = tol, patience
        self.random = torch.Generator().manual_seed(seed)
        self.loss_is_of_start = size >= rows.n_rows
        self.first_rate = self.rate = self._rate()
        self.lowest, self.waited = math.inf, 0

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def epoch(self) -> float:
        self.start = self.leaves.snapshot()
        self.rate = self._rate()
        total = 0.0
        for batch in self._batches():
            loss = self.optimizer.step(lambda batch=batch: float(self.differentiate(batch)))
            total += loss * batch.total_weight
        self.leaves.place()
        return total / self.rows.total_weight

    def _batches(self) -> Iterator[Rows | Streamed]:
        if isinstance(self.rows, Streamed):
            yield from self.rows.shuffled(self.size, self.random)
            return
        if self.size >= self.rows.n_rows:
            yield self.rows
            return
        order = torch.randperm(self.rows.n_rows, generator=self.random)
        for part in order.split(self.size):
            batch = self.rows.take(part.to(self.rows.values.device))
            if batch.total_weight > 0:
                yield batch

    def has_converged(self, watched: float) -> bool:
        self.waited = 0 if watched < self.lowest - self.tol else self.waited + 1
        self.lowest = min(self.lowest, watched)
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(watched)
            return self._rate() < _SMALLEST_RATE * self.first_rate
        if self.schedule is not None:
            self.schedule.step()
        return self.waited >= self.patience


class _QuasiNewton(_Descent):
    """L-BFGS; a point that its line search has seen is not computed again."""

    loss_is_of_start = False

    def __init__(self, objective: _Objective, leaves: _Leaves, rows: Rows | Streamed, tol: float):
        super().__init__(objective, leaves, rows)
        self.tol = tol
        self.losses: list[float] = []
        self.seen: list[tuple[list[Tensor], Tensor, list[Tensor]]] = []
        self.stuck = 0
        self.optimizer = self._fresh()

    def _fresh(self) -> LBFGS:
        return LBFGS(
            self.leaves.tensors,
            max_iter=1,
            max_eval=_LINE_SEARCH,
            history_size=20,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def epoch(self) -> float:
        before = self.leaves.snapshot()
        if not self.losses:
            self.losses.append(float(self._closure()))
        self.optimizer.step(self._closure)
        loss = float(self._closure())
        if not math.isfinite(loss):
            return loss
        self.seen = self.seen[-1:]
        self.losses.append(loss)
        moved = any(
            not torch.equal(a, b) for a, b in zip(before, self.leaves.snapshot(), strict=True)
        )
        self.stuck = 0 if moved else self.stuck + 1
        if self.stuck == 1:  # what it remembers of the curvature led nowhere
            self.optimizer = self._fresh()
        return loss

    def has_converged(self, watched: float) -> bool:
        if self.stuck > 1:
            return True
        return len(self.losses) > _WINDOW and self.losses[-1 - _WINDOW] - self.losses[-1] < self.tol

    def _closure(self) -> Tensor:
        here = self.leaves.snapshot()
        for i, (place, loss, gradients) in enumerate(self.seen):
            if all(torch.equal(a, b) for a, b in zip(place, here, strict=True)):
                self.seen.append(self.seen.pop(i))
                for leaf, gradient in zip(self.leaves.tensors, gradients, strict=True):
                    leaf.grad = gradient.clone()
                self.leaves.place()
                return loss
        loss = self.differentiate(self.rows)
        gradients = [leaf.grad.clone() for leaf in self.leaves.tensors if leaf.grad is not None]
        self.seen.append((here, loss, gradients))
        return loss


def _named(optimizer: str | OptimizerFactory, learning_rate: float) -> OptimizerFactory:
    if optimizer == "adam":
        return lambda tensors: Adam(tensors, lr=learning_rate)
    if isinstance(optimizer, str) or not callable(optimizer):
        raise InputError(
            f'optimizer is "adam", "lbfgs" or a function of a list of tensors; got {optimizer!r}.'
        )
    return optimizer


def _schedule(
    schedule: str | SchedulerFactory, optimizer: Optimizer, epochs: int, tol: float, patience: int
) -> LRScheduler | None:
    if schedule == "plateau":
        return ReduceLROnPlateau(
            optimizer, factor=_SHRINK, patience=patience, threshold=tol, threshold_mode="abs"
        )
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, max(1, epochs))
    if schedule == "constant":
        return None
    if isinstance(schedule, str):
        raise InputError(
            f'schedule is "plateau", "cosine", "constant" or a function; got {schedule!r}.'
        )
    return schedule(optimizer)


def _as_rows(data: Any, sample_weight: Any, objective: _Objective) -> Rows:
    """Rows on the device of the module, those of no weight left out."""
    like = next(objective.module.parameters())
    given = data if isinstance(data, Rows) else Rows(_as_floats(data, "data"))
    values = given.values.detach().to(like.device)
    if objective.loss is not None or not values.is_floating_point():
        values = values.to(like.dtype)
    if values.ndim == 0 or not len(values):
        raise InputError(f"data have shape {tuple(values.shape)}; expected rows, at least one.")
    if objective.n_features is not None and values.shape[1:] != (objective.n_features,):
        raise InputError(
            f"data have shape {tuple(values.shape)}; expected (N, {objective.n_features}) for this "
            "mixture."
        )
    weight = given.weight
    if sample_weight is not None:
        weight = _as_floats(sample_weight, "sample_weight")
    if weight is None:
        return Rows(_finite(values, "data"))
    weight = weight.to(values)
    usable = weight.shape == values.shape[:1] and bool(torch.isfinite(weight).all())
    if not usable or bool((weight < 0).any()) or not bool(weight.sum() > 0):
        raise InputError(
            f"sample_weight must hold {len(values)} finite numbers, one a row, not negative and "
            "not all zero."
        )
    counted = weight > 0
    return Rows(_finite(values[counted], "data"), weight[counted])


def _as_floats(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        return torch.from_numpy(np.array(values, dtype=float))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers, in rows of equal length.") from error


def _finite(values: Tensor, name: str) -> Tensor:
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        place = tuple((~finite).nonzero()[0].tolist())
        raise InputError(f"{name} hold {float(values[place])} at {place}; drop or fill it.")
    return values


def _split(rows: Rows, validation: Any, seed: int) -> tuple[Rows, Rows | None]:
    """Training rows and those held out."""
    if validation is None:
        return rows, None
    if not isinstance(validation, float):
        values = _as_floats(validation, "validation")
        if values.shape[1:] != rows.values.shape[1:]:
            raise InputError(
                f"The validation rows have shape {tuple(values.shape)}, the training rows "
                f"{tuple(rows.values.shape)}."
            )
        return rows, Rows(_finite(values.to(rows.values), "validation"))
    n_held_out = round(validation * rows.n_rows)
    if not 0 < n_held_out < rows.n_rows:
        raise InputError(
            f"validation={validation} sets {n_held_out} of {rows.n_rows} rows aside; at least one "
            "must be, and one must be left."
        )
    order = torch.randperm(rows.n_rows, generator=torch.Generator().manual_seed(seed))
    order = order.to(rows.values.device)
    return rows.take(order[n_held_out:]), rows.take(order[:n_held_out])
