"""Regression that answers with the whole distribution of y given x."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.random import RandomState
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from mogul._checks import check_count, check_level
from mogul._progress import ProgressLine
from mogul._warn import warn
from mogul.covariances import STRUCTURES
from mogul.data.sources import Source, ahead, check_weights_of
from mogul.data.tables import Table
from mogul.errors import InputError
from mogul.estimators._inputs import (
    adopt_columns,
    as_tensor,
    check_sample_weight,
    checked_batches,
    drawn_seed,
    generator_on,
    named_device,
    validated,
)
from mogul.estimators._networks import redrawn
from mogul.estimators._progress import checked_callbacks
from mogul.estimators._regression_stream import regression_stream
from mogul.estimators._state import (
    fill_network,
    finite_or_none,
    is_plain,
    network_tensors,
    settings_to_state,
    take_over,
    unchanged_on_error,
)
from mogul.estimators._targets import checked_targets, columns_of, target_names
from mogul.infer.streams import Share
from mogul.infer.team import Team
from mogul.mixture import Mixture
from mogul.nn.density_losses import LOSSES, known_log_prob
from mogul.nn.density_stream import StreamedData
from mogul.nn.density_training import (
    TrainingData,
    TrainingRecord,
    TrainingResult,
    TrainingSettings,
    train,
)
from mogul.nn.mixture_density_network import MixtureDensityNetwork
from mogul.nn.mlp import ACTIVATIONS

__all__ = ["MixtureDensityRegressor"]

_LEVELS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Multiples of n^(−1/(4 + d)) that noise="auto" tries; the least is as good as none."""
_PILOT_ROWS = 4096
"""Of more rows the level is found on so many; the multiple then serves them all."""
_SMALLEST_BATCH, _LARGEST_BATCH, _ROWS_A_BATCH = 64, 1024, 32
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 4000, 20, 600
"""Steps that max_epochs="auto" makes, about, and epochs that it keeps to."""
_NUMBERS_TOGETHER = 1 << 22
"""Of the mixtures that are held at once when a table is scored."""
_NOT_SAVED = ("random_state", "callbacks", "device", "backbone", "progress")


class MixtureDensityRegressor(RegressorMixin, BaseEstimator):
    r"""An ensemble of mixture density networks: p(y | x) as a mixture of Gaussians.

    .. math::
        p(y \mid x) = \frac1M \sum_m \sum_k w_{mk}(x)\,
        \mathcal{N}\bigl(y \mid \mu_{mk}(x), \Sigma_{mk}(x)\bigr)

    Everything goes in and comes out in the units of the data; inside, x and y are standardised.
    Each network holds out rows of its own, by which it is stopped at its best.

    Parameters
    ----------
    n_components : int, default 10
        K, of each network.
    covariance_type : {"diag", "full", "spherical", "tied"}, default "diag"
        Of several outputs.
    hidden : sequence of int, default (64, 64)
        The widths of the layers.
    activation : {"silu", "tanh", "relu", "gelu"}, default "silu"
    dropout : float, default 0.0
    input_gain : float, default 4.0
        The first layer's weights begin this many times as large as torch draws them; less for
        smoother functions of x, as of many noisy features.
    backbone : nn.Module or callable, optional
        In the place of the layers: a module from (B, n_features) to (B, F), of which each network
        gets a copy with parameters drawn anew, or a function from n_features to such a module.
    loss : {"nll", "ngem", "crps"}, default "nll"
        See :class:`mogul.nn.MixtureDensityNetwork`.
    n_ensemble : int, default 10
        M. Networks of the default layers are trained as one: ten take about twice the time of one.
    validation_fraction : float, default 0.1
        Of the rows, held out from each network; different ones while there are any.
    noise : "auto", float or None, default "auto"
        Fresh noise on x and y at every step, of this many n^(−1/(4 + d)) standard deviations, for n
        rows and d features (Rothfuss and others 2019): the one guard against too narrow densities
        that little data needs. "auto" trains with six levels and keeps the networks of the one with
        the least held-out loss; that costs six times as much. Of more than 4096 rows it finds the
        level on so many, and trains on all with that one.
    min_scale : float, default 0.01
        The least scale of a component, in standard deviations of y. Where values of y repeat, a
        smaller one lets a likelihood grow without saying more.
    max_epochs : "auto" or int, default "auto"
        Passes over the rows: as many as make 4000 steps, at least 20 and at most 600.
    patience : int, default 100
        Epochs without progress of any network after which training ends.
    batch_size : "auto" or int, default "auto"
        From 64 for a thousand rows or two to 1024 for many.
    learning_rate : float, default 0.01
        At the start; it falls to zero as a cosine.
    weight_decay : float, default 0.1
        As in AdamW (Loshchilov and Hutter 2019).
    random_state : int, RandomState or None, default None
    callbacks : sequence of callables, optional
        Each is called with a record after every epoch; returning True ends the training and keeps
        the networks as they were at their best.
    progress : {"auto", True, False}, default "auto"
    device : str or torch.device, optional

    Attributes
    ----------
    networks_ : list of MixtureDensityNetwork
    noise_ : float
        The standard deviation of the noise, in those of the data.
    noise_losses_ : dict of float to float
        The held-out loss of every level that was tried, both in standard deviations.
    held_out_loss_ : float
        The mean over the networks of the loss of the rows each did not see, in the units of y.
    best_epochs_ : ndarray, shape (M,)
    history_ : list of TrainingRecord
    n_outputs_ : int
    target_names_ : tuple of str, or None
        The column names of y, when it had any.
    n_features_in_ : int
    feature_names_in_ : ndarray

    Raises
    ------
    InputError
        For rows, targets or settings that cannot be used.

    References
    ----------
    Bishop (1994); Lakshminarayanan, Pritzel and Blundell (2017); Rothfuss, Ferreira, Walther and
    Ulrich (2019).

    Examples
    --------
    >>> from mogul import MixtureDensityRegressor, datasets
    >>> rows = datasets.old_faithful().values
    >>> model = MixtureDensityRegressor(2, n_ensemble=2, noise=0.1, max_epochs=20, random_state=0)
    >>> model.fit(rows[:, :1], rows[:, 1])
    MixtureDensityRegressor(max_epochs=20, n_components=2, n_ensemble=2, noise=0.1,
                            random_state=0)
    >>> model.predict_interval([[2.0], [4.5]], 0.9).shape
    (2, 2)
    >>> model.predict_mixture([[2.0], [4.5]])
    Mixture(n_components=4, n_features=1, covariance_type='diag', batch_shape=(2,))
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(STRUCTURES))],
        "hidden": ["array-like", tuple],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0.0, 1.0, closed="left")],
        "input_gain": [Interval(Real, 0.0, None, closed="neither")],
        "backbone": [None, callable],
        "loss": [StrOptions(set(LOSSES))],
        "n_ensemble": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0.0, 0.5, closed="right")],
        "noise": [StrOptions({"auto"}), Interval(Real, 0.0, None, closed="left"), None],
        "min_scale": [Interval(Real, 0.0, None, closed="left")],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0.0, None, closed="left")],
        "random_state": ["random_state"],
        "callbacks": [list, tuple, None],
        "progress": [StrOptions({"auto"}), "boolean"],
    }

    networks_: list[MixtureDensityNetwork]

    def __init__(
        self,
        n_components: int = 10,
        *,
        covariance_type: str = "diag",
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        dropout: float = 0.0,
        input_gain: float = 4.0,
        backbone: nn.Module | Callable[[int], nn.Module] | None = None,
        loss: str = "nll",
        n_ensemble: int = 10,
        validation_fraction: float = 0.1,
        noise: str | float | None = "auto",
        min_scale: float = 0.01,
        max_epochs: str | int = "auto",
        patience: int = 100,
        batch_size: str | int = "auto",
        learning_rate: float = 0.01,
        weight_decay: float = 0.1,
        random_state: int | RandomState | None = None,
        callbacks: Sequence[Callable[[TrainingRecord], bool | None]] | None = None,
        progress: str | bool = "auto",
        device: str | torch.device | None = None,
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.input_gain = input_gain
        self.backbone = backbone
        self.loss = loss
        self.n_ensemble = n_ensemble
        self.validation_fraction = validation_fraction
        self.noise = noise
        self.min_scale = min_scale
        self.max_epochs = max_epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.callbacks = callbacks
        self.progress = progress
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.required = True
        tags.regressor_tags.poor_score = True  # a score is a log-density, of no fixed scale
        return tags

    # --- fitting ------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the networks.

        Parameters
        ----------
        X : array-like or data frame, shape (N, n_features), or Source
            A :class:`mogul.data.Source` of inputs and outputs is read in batches, in random order:
            of more than 64,000 rows units, starts and noise are found on a sample. It must give the
            same rows in the same order in every pass. In a process group every process calls this,
            gradients are added up, and all get the same networks.
        y : array-like or data frame, shape (N,) or (N, D); of a source, str or int, or several
            Missing outputs are NaN: what is known of a row counts. A row of which nothing is known
            is refused. Of a source the names or places of the columns that are outputs; the others
            are inputs.
        sample_weight : array-like, shape (N,), optional
            Multiplies the loss of each row; rows of weight zero are left out.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For rows, targets, weights or settings that cannot be used.

        Warns
        -----
        ConvergenceWarning
            When a training was stopped before its end.
        """
        if isinstance(X, Source):
            with unchanged_on_error(self):
                self._fit_source(X, y, sample_weight)
            return self
        array = validated(self, X, reset=True, min_samples=2)
        targets = checked_targets(y, len(array))
        weight = check_sample_weight(sample_weight, len(array))
        self.target_names_, self._flat = target_names(y), np.asarray(y).ndim == 1
        self._fit_rows(array, targets, weight, check_random_state(self.random_state))
        return self

    def _fit_rows(
        self, array: np.ndarray, targets: np.ndarray, weight: np.ndarray | None, rng: RandomState
    ) -> None:
        if weight is not None and not weight.all():
            kept = weight > 0
            array, targets, weight = array[kept], targets[kept], weight[kept]
            if len(array) < 2:
                raise InputError("Only one row has a positive weight; at least two are needed.")
        self.n_outputs_ = targets.shape[1]
        device = named_device(self.device)
        x, outputs = as_tensor(array, device).double(), as_tensor(targets, device)
        if weight is None:
            counts = torch.ones(len(x), dtype=torch.float64, device=device)
        else:
            counts = as_tensor(weight, device)
        if not isinstance(self.noise, str):
            self._train_at([float(self.noise or 0.0)], x, outputs, counts, rng)
        elif len(x) <= _PILOT_ROWS:
            self._train_at(_LEVELS, x, outputs, counts, rng)
        else:
            some = torch.from_numpy(rng.permutation(len(x))[:_PILOT_ROWS]).to(device)
            stopped = self._train_at(_LEVELS, x[some], outputs[some], counts[some], rng)
            if not stopped:
                losses = self.noise_losses_
                best = _LEVELS[int(np.argmin(list(losses.values())))]
                self._train_at([best], x, outputs, counts, rng)
                self.noise_losses_ = losses

    def _fit_source(self, source: Source, y: Any, sample_weight: Any) -> None:
        """Few rows are fitted in memory by the first process; more are read by all."""
        check_weights_of(source, sample_weight)
        checked_callbacks(self)  # before other processes wait for this one
        inputs, outputs = columns_of(source, y)
        rng = check_random_state(self.random_state)
        device = named_device(self.device)
        share = Share.surveyed(source, 1, rng, device, what="training")
        sample, team = share.found.sample, share.team
        if share.found.n_rows < 2:
            raise InputError("Only one row has a positive weight; at least two are needed.")
        names = source.names
        self.n_outputs_ = len(outputs)
        adopt_columns(self, names and [names[j] for j in inputs], len(inputs))
        self.target_names_ = None if names is None else tuple(names[j] for j in outputs)
        self._flat = isinstance(y, (str, Integral))
        values = sample.values.numpy()
        x, targets = values[:, inputs], values[:, outputs].astype(np.float64)
        weight = None if sample.weight is None else sample.weight.numpy()
        if not share.samples:
            take_over(self, team, lambda: self._fit_rows(x, targets, weight, rng))
            return
        xs, ys = as_tensor(x, device).double(), as_tensor(targets, device)
        ws = torch.ones(len(xs)).double() if weight is None else torch.from_numpy(weight)
        begin = partial(self._begin, xs, ys, ws.to(device), share.found.n_rows, rng)
        take_over(self, team, begin)
        if self.__dict__.pop("_stopped"):
            return
        networks = [network.to(device) for network in self.networks_]
        losses, n_folds = self.noise_losses_, self._n_folds(share.found.n_rows)
        judged = min(n_folds, self.n_ensemble)
        data = regression_stream(share, inputs, outputs, n_folds, judged, networks[0])
        own = torch.Generator(device=device).manual_seed(share.seed + team.rank)
        self._train_on(networks, data, [self.noise_], own)
        self.noise_losses_ = losses or self.noise_losses_

    def _begin(self, x: Tensor, y: Tensor, weight: Tensor, n_rows: int, rng: RandomState) -> None:
        """Networks at their start, and the noise of training, from a sample of ``n_rows`` rows."""
        self._stopped = False
        best = 0.0 if isinstance(self.noise, str) else float(self.noise or 0.0)
        losses: dict[float, float] = {}
        if isinstance(self.noise, str):
            some = torch.from_numpy(rng.permutation(len(x))[:_PILOT_ROWS]).to(x.device)
            self._stopped = self._train_at(_LEVELS, x[some], y[some], weight[some], rng)
            if self._stopped:
                return
            losses = self.noise_losses_
            best = _LEVELS[int(np.argmin(list(losses.values())))]
        self.noise_ = best * _noise_unit(n_rows, x.shape[1])
        self.networks_ = self._networks(x, y, weight, [self.noise_], rng)
        self.noise_losses_ = losses

    def _train_at(
        self, multiples: Sequence[float], x: Tensor, y: Tensor, weight: Tensor, rng: RandomState
    ) -> bool:
        """Train with several levels of noise and keep the best; whether the user stopped it."""
        unit = _noise_unit(*x.shape)
        levels = [multiple * unit for multiple in multiples]
        networks = self._networks(x, y, weight, levels, rng)
        return self._train(networks, x, y, weight, levels, rng)

    def _networks(
        self, x: Tensor, y: Tensor, weight: Tensor, levels: list[float], rng: RandomState
    ) -> list[MixtureDensityNetwork]:
        """For each level of noise the same ensemble, at its start."""
        seeds = [drawn_seed(rng) for _ in range(self.n_ensemble)]
        with torch.random.fork_rng(devices=[]):  # layers draw from torch's own generator
            team = []
            for seed in seeds:
                torch.manual_seed(int(seed))
                team.append(self._network(x.shape[1]))
        first = team[0]
        first.initialize(x.cpu(), y.cpu(), weight.cpu(), seed=int(seeds[0]))
        for other in team[1:]:
            other.begin_as(first)
        return [deepcopy(one).to(x.device) for _ in levels for one in team]

    def _network(self, n_features: int) -> MixtureDensityNetwork:
        return MixtureDensityNetwork(
            n_features,
            self.n_outputs_,
            self.n_components,
            self.covariance_type,
            backbone=redrawn(self.backbone, n_features),
            hidden=self.hidden,
            activation=self.activation,
            dropout=self.dropout,
            input_gain=float(self.input_gain),
            min_scale=self.min_scale,
            loss=self.loss,
        )

    def _train(
        self,
        networks: list[MixtureDensityNetwork],
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        levels: list[float],
        rng: RandomState,
    ) -> bool:
        first = networks[0]
        generator = generator_on(x.device, rng)
        n_folds = self._n_folds(len(x))
        order = torch.randperm(len(x), generator=generator, device=x.device)
        fold = torch.empty_like(order)
        fold[order] = torch.arange(len(x), device=x.device) % n_folds
        standard = (y - first.head.loc) / first.head.scale
        data = TrainingData(
            first.standardised(x),
            standard.to(first.head.linear.weight.dtype),
            (weight / weight.mean()).to(first.head.linear.weight.dtype),
            fold,
        )
        return self._train_on(networks, data, levels, generator)

    def _n_folds(self, n_rows: int) -> int:
        return min(n_rows, max(2, round(1 / self.validation_fraction)))

    def _train_on(
        self,
        networks: list[MixtureDensityNetwork],
        data: TrainingData | StreamedData,
        levels: list[float],
        generator: torch.Generator,
    ) -> bool:
        settings, n_each = self._settings(data.n_rows), self.n_ensemble
        callbacks = checked_callbacks(self)
        silent = isinstance(data, StreamedData) and not Team().leads  # would say the same
        line = ProgressLine(False if silent else self.progress)

        def told(record: TrainingRecord) -> bool:
            said = f"held-out loss {record.validation_loss:.4g}"
            line.update("epoch", record.epoch, settings.max_epochs, said)
            return True in [callback(record) for callback in callbacks]

        try:
            result = train(
                networks,
                data,
                held=[m % data.n_folds for m in range(n_each)] * len(levels),
                noise=[level for level in levels for _ in range(n_each)],
                settings=settings,
                generator=generator,
                on_epoch=told,
            )
        finally:
            line.close()
        self._adopt(networks, result, levels)
        return result.interrupted

    def _settings(self, n_rows: int) -> TrainingSettings:
        size = self.batch_size
        if isinstance(size, str):
            power = 2 ** round(np.log2(max(1, n_rows / _ROWS_A_BATCH)))
            size = int(min(_LARGEST_BATCH, max(_SMALLEST_BATCH, power)))
        epochs = self.max_epochs
        if isinstance(epochs, str):
            epochs = int(np.clip(round(_STEPS * size / n_rows), _FEWEST_EPOCHS, _MOST_EPOCHS))
        return TrainingSettings(
            epochs, self.patience, size, float(self.learning_rate), float(self.weight_decay)
        )

    def _adopt(
        self, networks: list[MixtureDensityNetwork], result: TrainingResult, levels: list[float]
    ) -> None:
        n_each = self.n_ensemble
        losses = result.losses.reshape(len(levels), n_each).mean(1)
        best = int(losses.argmin())
        chosen = slice(best * n_each, (best + 1) * n_each)
        self.networks_ = networks[chosen]
        self.noise_ = levels[best]
        self.noise_losses_ = dict(zip(levels, losses.tolist(), strict=True))
        scale = self.networks_[0].head.scale
        loss = float(losses[best])
        in_units = loss * float(scale.mean()) if self.loss == "crps" else loss + float(
            scale.log().sum()
        )  # fmt: skip
        self.held_out_loss_ = in_units
        self.best_epochs_ = result.epochs[chosen].cpu().numpy()
        self.history_ = result.history
        if result.interrupted:
            warn(
                f"The training was stopped early, after {len(result.history)} epochs; the networks "
                "are as they were at their best.",
                ConvergenceWarning,
            )

    # --- the distribution ---------------------------------------------------------------------

    def predict_mixture(self, X: Any) -> Mixture:
        """The distribution of y for each row.

        Parameters
        ----------
        X : array-like or data frame, shape (N, n_features)

        Returns
        -------
        Mixture, batch shape (N,)
            Of the components of all networks, in float64 and in the units of y.
        """
        return self._mixture(self._values(X))

    def _values(self, X: Any) -> Tensor:
        check_is_fitted(self, "networks_")
        array = validated(self, X, reset=False)
        return as_tensor(array, self._place)

    @property
    def _place(self) -> torch.device:
        """Where the networks are."""
        return self.networks_[0].x_loc.device

    @torch.no_grad()
    def _mixture(self, x: Tensor) -> Mixture:
        first = self.networks_[0]
        outputs = [one.outputs(one.standardised(x)).double() for one in self.networks_]
        every = first.head.standard(torch.stack(outputs)).merged(0)
        found = every.affine(first.head.loc, first.head.scale)
        return Mixture(found.log_weights, found.means, found.covariance, self.target_names_)

    def _in_parts(self, x: Tensor) -> Iterator[tuple[slice, Mixture]]:
        """Stretches of rows with their mixtures, as many as memory likes."""
        each = len(self.networks_) * sum(self.networks_[0].head.sizes)
        step = max(1, _NUMBERS_TOGETHER // each)
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            yield part, self._mixture(x[part])

    def _answers(self, X: Any, answer: Callable[[slice, Mixture], Tensor]) -> np.ndarray:
        if isinstance(X, Source):
            check_is_fitted(self, "networks_")
            batches = (rows.values.to(self._place) for rows in checked_batches(self, X))
            parts = (part for x in batches for part in self._in_parts(x))
            return torch.cat([answer(*part).cpu() for part in parts]).numpy()
        x = self._values(X)
        return torch.cat([answer(*part) for part in self._in_parts(x)]).cpu().numpy()

    def _shaped(self, values: np.ndarray, axis: int = 1) -> np.ndarray:
        """Without the axis of the outputs when y had none."""
        return values.squeeze(axis) if self._flat else values

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of y for each row, (N,) or (N, D), and its standard deviation when asked for.

        Of a source the columns are found by the names of the features that were fitted.
        """

        def moments(_: slice, mixture: Mixture) -> Tensor:
            return torch.stack([mixture.mean, mixture.stddev], -1)

        mean, deviation = np.moveaxis(self._answers(X, moments), -1, 0)
        if return_std:
            return self._shaped(mean), self._shaped(deviation)
        return self._shaped(mean)

    def predict_quantiles(self, X: Any, quantiles: float | Sequence[float]) -> np.ndarray:
        """Quantiles of each output, (N, Q) or (N, D, Q).

        Parameters
        ----------
        X : array-like or data frame, shape (N, n_features), or Source
        quantiles : float or sequence of Q floats
            Strictly between 0 and 1.
        """
        asked = [check_level(q, "A quantile") for q in np.atleast_1d(np.asarray(quantiles, object))]

        def found(_: slice, mixture: Mixture) -> Tensor:
            return torch.stack([mixture.icdf(q) for q in asked], -1)

        return self._shaped(self._answers(X, found))

    def predict_interval(self, X: Any, level: float = 0.9) -> np.ndarray:
        """Equal-tailed intervals that hold y with probability ``level``, (N, 2) or (N, D, 2)."""
        level = check_level(level)
        return self._shaped(self._answers(X, lambda _, mixture: mixture.interval(level)))

    def predict_hdr(self, X: Any, level: float = 0.9) -> np.ndarray:
        """Highest-density regions: the smallest sets that hold y with probability ``level``.

        (N, R, 2), or (N, D, R, 2): up to R intervals in ascending order, the unused ones NaN.
        """
        level = check_level(level)
        regions = self._answers(X, lambda _, mixture: mixture.hdr(level))
        used = max(1, int((~np.isnan(regions[..., 0])).sum(-1).max(initial=1)))
        return self._shaped(regions[..., :used, :])

    def sample(
        self, X: Any, n: int = 1, *, weight_bias: float = 0.0, scale_bias: float = 0.0
    ) -> np.ndarray:
        """Draw y for each row, (N, n) or (N, n, D).

        Parameters
        ----------
        X : array-like or data frame, shape (N, n_features)
        n : int, default 1
        weight_bias, scale_bias : float, default 0.0
            Graves' biases for cleaner draws: weights become proportional to w^(1 + weight_bias) and
            standard deviations are multiplied by exp(−scale_bias).
        """
        n = check_count(n, "n")
        x = self._values(X)
        generator = generator_on(x.device, check_random_state(self.random_state))

        def drawn(_: slice, mixture: Mixture) -> Tensor:
            sharp = mixture.sharpen(weight_bias, scale_bias)
            return sharp.sample((n,), generator=generator).movedim(0, 1)

        return self._shaped(self._answers(X, drawn), -1)

    # --- scores -------------------------------------------------------------------------------

    def log_prob(self, X: Any, y: Any) -> np.ndarray:
        """Log-density of y given each row, in nats and in the units of y; (N,).

        Missing outputs are NaN, and marginalised. Of a source y names the columns, as in
        :meth:`fit`.
        """
        if isinstance(X, Source):
            return np.concatenate([self.log_prob(*both) for both, _ in self._pairs(X, y)])
        targets = self._targets(X, y)
        return self._answers(X, lambda part, mixture: known_log_prob(mixture, targets[part]))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean of :meth:`log_prob`, weighted when weights are given; higher is better."""
        if isinstance(X, Source):
            return self._mean_of(X, y, sample_weight, self.score)
        return self._mean(self.log_prob(X, y), sample_weight)

    def crps(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean continuous ranked probability score, in the units of y; lower is better.

        Over the known outputs of each row.
        """
        if isinstance(X, Source):
            return self._mean_of(X, y, sample_weight, self.crps)
        targets = self._targets(X, y)

        def found(part: slice, mixture: Mixture) -> Tensor:
            known = ~targets[part].isnan()
            each = mixture.crps(torch.where(known, targets[part], 0.0))
            return torch.where(known, each, 0.0).sum(-1) / known.sum(-1)

        return self._mean(self._answers(X, found), sample_weight)

    def _pairs(self, source: Source, y: Any) -> Iterator[tuple[tuple[Any, np.ndarray], np.ndarray]]:
        """Inputs and outputs of the rows of a source, batch by batch, and the rows' weights."""
        check_is_fitted(self, "networks_")
        inputs, outputs = columns_of(source, y)
        names = source.names and tuple(source.names[j] for j in inputs)
        for block in ahead(source.checked_blocks()):
            x, weight = block.values[:, inputs], block.weight
            own = np.ones(len(x)) if weight is None else weight
            if len(x):
                rows = x if names is None else Table(x, names)
                yield (rows, block.values[:, outputs]), own

    def _mean_of(
        self, source: Source, y: Any, sample_weight: Any, mean: Callable[..., float]
    ) -> float:
        """The mean over the rows of a source of what is a mean over those of a batch."""
        check_weights_of(source, sample_weight)
        total = weight = 0.0
        for both, own in self._pairs(source, y):
            if not own.any():
                continue
            total, weight = total + mean(*both, own) * own.sum(), weight + own.sum()
        return float(total / weight)

    def _targets(self, X: Any, y: Any) -> Tensor:
        check_is_fitted(self, "networks_")
        targets = checked_targets(y, len(X))
        if targets.shape[1] != self.n_outputs_:
            raise InputError(
                f"y has {targets.shape[1]} outputs; the model was fitted to {self.n_outputs_}."
            )
        return as_tensor(targets, self.networks_[0].x_loc.device)

    @staticmethod
    def _mean(values: np.ndarray, sample_weight: Any) -> float:
        weight = check_sample_weight(sample_weight, len(values))
        return float(values.mean() if weight is None else weight @ values / weight.sum())

    # --- files --------------------------------------------------------------------------------

    def to_onnx(self, path: str | os.PathLike[str]) -> Path:
        """Write the networks to an ONNX file, which runs without Python; needs the extra ``onnx``.

        The graph takes ``x`` (N, n_features), float64, and gives ``weights`` (N, M K), ``means``
        (N, M K, D) and ``scales`` (N, M K, D), standard deviations, in the units of y; for "full"
        and "tied" the scales are Cholesky factors (N, M K, D, D).

        Raises
        ------
        MogulError
            When the extra is not installed.
        FileError
            When the file cannot be written.
        """
        from mogul.nn.onnx import export

        check_is_fitted(self, "networks_")
        return export(self.networks_, path)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, from which :meth:`from_state` rebuilds this.

        Raises
        ------
        InputError
            When the backbone is one of the user's own, which no file can hold.
        """
        check_is_fitted(self, "networks_")
        form = self.networks_[0].form
        if form is None:
            raise InputError(
                "A backbone of one's own cannot be written to a file without running code when it "
                "is read; save its state_dict, and those of networks_, by torch.save."
            )
        params = {k: v for k, v in self.get_params().items() if k not in _NOT_SAVED}
        params["hidden"] = [int(width) for width in self.hidden]
        # What was fitted may have other settings than those of now.
        seed = self.random_state
        names = getattr(self, "feature_names_in_", None)
        header = {
            "params": {name: settings_to_state(value) for name, value in params.items()},
            "random_state": seed if is_plain(seed) else None,
            "form": form,
            "n_networks": len(self.networks_),
            "feature_names": None if names is None else [str(name) for name in names],
            "target_names": None if self.target_names_ is None else list(self.target_names_),
            "flat": bool(self._flat),
            "noise": self.noise_,
            "noise_losses": [[k, finite_or_none(v)] for k, v in self.noise_losses_.items()],
            "held_out_loss": finite_or_none(self.held_out_loss_),
            "best_epochs": self.best_epochs_.tolist(),
        }
        tensors: dict[str, Tensor] = {}
        for m, one in enumerate(self.networks_):
            tensors |= network_tensors(one, f"network.{m}.")
        return header, tensors

    @classmethod
    def from_state(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what :meth:`to_state` took apart; predictions are bit-equal."""
        model = cls(**{**header["params"], "random_state": header["random_state"]})
        model.hidden = tuple(model.hidden)
        form = header["form"]
        model.n_features_in_, model.n_outputs_ = form["in_features"], form["event_size"]
        if header["feature_names"] is not None:
            model.feature_names_in_ = np.asarray(header["feature_names"], dtype=object)
        names = header["target_names"]
        model.target_names_ = None if names is None else tuple(names)
        model._flat, model.noise_ = header["flat"], header["noise"]
        losses = ((k, np.inf if v is None else v) for k, v in header["noise_losses"])
        model.noise_losses_, model.history_ = dict(losses), []
        loss = header["held_out_loss"]
        model.held_out_loss_ = np.inf if loss is None else loss
        model.best_epochs_ = np.asarray(header["best_epochs"])
        model.networks_ = []
        with torch.random.fork_rng(devices=[]):  # layers draw before they are filled
            for m in range(header["n_networks"]):
                model.networks_.append(MixtureDensityNetwork(**form))
                fill_network(model.networks_[m], tensors, f"network.{m}.")
        return model


def _noise_unit(n_rows: int, n_features: int) -> float:
    """What levels of noise are multiples of (Scott 1992; Rothfuss and others 2019)."""
    return n_rows ** (-1 / (4 + n_features))
