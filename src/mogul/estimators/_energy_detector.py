"""What AEGMM and VAEGMM share: members of an ensemble, energies, calibration, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.random import RandomState
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mogul._checks import check_count
from mogul._progress import ProgressLine
from mogul._warn import warn
from mogul.errors import InputError
from mogul.estimators._alarms import CalibratedOutliers
from mogul.estimators._columns import column_units, in_units
from mogul.estimators._inputs import (
    check_sample_weight,
    drawn_seed,
    generator_on,
    named_device,
    validated,
)
from mogul.estimators._networks import redrawn
from mogul.estimators._progress import checked_callbacks
from mogul.estimators._state import (
    fill_network,
    is_plain,
    network_tensors,
    settings_to_state,
    unchanged_on_error,
)
from mogul.explanation import Explanation, feature_orders, path_contributions
from mogul.mixture import Mixture
from mogul.nn.energy_autoencoder import AEGMMNetwork
from mogul.nn.energy_training import (
    EnergyRecord,
    EnergySettings,
    latent_mixture,
    train_energy,
)
from mogul.nn.mlp import ACTIVATIONS

__all__ = ["EnergyDetector"]

_SMALLEST_BATCH, _LARGEST_BATCH, _ROWS_A_BATCH = 64, 1024, 32
_STEPS, _FEWEST_EPOCHS, _MOST_EPOCHS = 2000, 10, 1000
"""Steps that max_epochs="auto" makes, about, and epochs that it keeps to."""
_ROWS_TOGETHER = 1 << 14
_REFERENCE_ROWS = 256
_NOT_SAVED = (
    "random_state",
    "callbacks",
    "device",
    "progress",
    "encoder_net",
    "decoder_net",
    "gmm_density_net",
)


class EnergyDetector(CalibratedOutliers, BaseEstimator):
    """Outliers by their energy under a mixture of latent rows."""

    _network_class: ClassVar[type[AEGMMNetwork]]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "latent_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "hidden": [StrOptions({"auto"}), "array-like", tuple],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "recon_features": [str, "array-like", tuple, callable],
        "encoder_net": [None, callable],
        "decoder_net": [None, callable],
        "gmm_density_net": [None, callable],
        "w_energy": [Interval(Real, 0.0, None, closed="left")],
        "w_cov_diag": [Interval(Real, 0.0, None, closed="left")],
        "jitter": [Interval(Real, 0.0, None, closed="neither")],
        "noise": [Interval(Real, 0.0, None, closed="left")],
        "recon_scale": [StrOptions({"auto"}), Interval(Real, 1e-6, 1e6, closed="both")],
        "n_ensemble": [Interval(Integral, 1, None, closed="left")],
        "calibration_fraction": [Interval(Real, 0.0, 1.0, closed="neither")],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0.0, 0.5, closed="right")],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "random_state": ["random_state"],
        "callbacks": [list, tuple, None],
        "progress": [StrOptions({"auto"}), "boolean"],
    }

    n_components: int
    latent_size: str | int
    hidden: Any
    activation: str
    recon_features: Any
    encoder_net: Any
    decoder_net: Any
    gmm_density_net: Any
    w_energy: float
    w_cov_diag: float
    jitter: float
    noise: float
    recon_scale: str | float
    n_ensemble: int
    calibration_fraction: float
    max_epochs: str | int
    batch_size: str | int
    learning_rate: float
    random_state: int | RandomState | None
    callbacks: Any
    progress: str | bool
    device: Any

    # --- fitting ------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train the networks on rows that are ordinary, or nearly all of them.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        y : ignored
        sample_weight : array-like, shape (N,), optional
            Of each row in the training; every row of positive weight counts once in the
            calibration.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For rows, weights or settings that cannot be used.

        Warns
        -----
        ConvergenceWarning
            When the training was stopped before its end.
        """
        with unchanged_on_error(self):
            interrupted = self._fit(X, sample_weight)
        if interrupted:
            warn(
                f"The training was stopped early, in network {len(self.networks_)} of "
                f"{self.n_ensemble}; the networks are as they were then.",
                ConvergenceWarning,
            )
        return self

    def _fit(self, X: Any, sample_weight: Any) -> bool:
        """Whether the user stopped it."""
        array = validated(self, X, reset=True, min_samples=2)
        weight = check_sample_weight(sample_weight, len(array))
        if weight is not None and not weight.all():
            array, weight = array[weight > 0], weight[weight > 0]
        n_held = max(1, round(len(array) * float(self.calibration_fraction)))
        if len(array) - n_held < 2:
            raise InputError(
                f"There are {len(array)} rows to learn from, of which {n_held} would be held out "
                "for the calibration; at least two must be left to train on."
            )
        device = named_device(self.device)
        rng = check_random_state(self.random_state)
        order = rng.permutation(len(array))
        held, seen = array[order[:n_held]], array[order[n_held:]]
        counts = None
        if weight is not None:
            weight = weight[order[n_held:]] / weight[order[n_held:]].max()
            counts = torch.from_numpy(weight / weight.mean()).to(device)
        self.loc_, self.scale_ = column_units(seen, weight)
        values, unseen = self._standardised(seen, device), self._standardised(held, device)
        self._reference = values[:_REFERENCE_ROWS].clone()
        interrupted = self._train(values, counts, self._settings(len(seen)), rng)
        self.calibration_scores_ = [-self._energies(unseen).cpu().numpy()]
        if isinstance(self.contamination, str):
            self._set_offset()
        else:
            self._set_offset(-self._energies(torch.cat([values, unseen])).cpu().numpy())
        return interrupted

    def _settings(self, n_rows: int) -> EnergySettings:
        size = self.batch_size
        if isinstance(size, str):
            power = 2 ** round(np.log2(max(1, n_rows / _ROWS_A_BATCH)))
            size = int(min(_LARGEST_BATCH, max(_SMALLEST_BATCH, power)))
        epochs = self.max_epochs
        if isinstance(epochs, str):
            epochs = int(np.clip(round(_STEPS * size / n_rows), _FEWEST_EPOCHS, _MOST_EPOCHS))
        return EnergySettings(
            epochs,
            size,
            float(self.learning_rate),
            float(self.w_energy),
            float(self.w_cov_diag),
            float(self.jitter),
            float(self.noise),
            None if isinstance(self.recon_scale, str) else float(self.recon_scale),
            **self._more_settings(),
        )

    def _more_settings(self) -> dict[str, Any]:
        return {}

    def _network(self, n_features: int, seed: int, device: torch.device) -> AEGMMNetwork:
        wide = {"device": device, "dtype": torch.float64}
        given = (self.encoder_net, self.decoder_net, self.gmm_density_net)
        with torch.random.fork_rng(devices=[]):  # layers draw from torch's own generator
            torch.default_generator.manual_seed(seed)
            encoder, decoder, density = (redrawn(net, n_features) for net in given)
            return self._network_class(
                n_features,
                self.n_components,
                latent_size=None if isinstance(self.latent_size, str) else self.latent_size,
                hidden=None if isinstance(self.hidden, str) else self.hidden,
                activation=self.activation,
                recon_features=self.recon_features,
                encoder_net=encoder,
                decoder_net=decoder,
                gmm_density_net=density,
                **wide,
            ).eval()

    def _train(
        self,
        values: Tensor,
        weight: Tensor | None,
        settings: EnergySettings,
        rng: RandomState,
    ) -> bool:
        """Train each network; whether the user stopped it."""
        line, callbacks = ProgressLine(self.progress), checked_callbacks(self)
        total = self.n_ensemble * settings.max_epochs

        def told(record: EnergyRecord) -> bool:
            done = record.member * settings.max_epochs + record.epoch
            line.update("epoch", done, total, f"loss {record.loss:.4g}")
            return True in [callback(record) for callback in callbacks]

        self.networks_: list[AEGMMNetwork] = []
        self.mixtures_: list[Mixture] = []
        self.history_: list[EnergyRecord] = []
        self._draws: Tensor | None = None
        try:
            for m in range(self.n_ensemble):
                network = self._network(values.shape[1], drawn_seed(rng), values.device)
                generator = generator_on(values.device, rng)
                if m == 0:
                    self._draws = self._drawn(network.latent_size, generator)
                result = train_energy(
                    network, values, settings, generator, weight=weight, member=m, on_epoch=told
                )
                mixture = latent_mixture(
                    network, values, weight=weight, noise=self._draws, jitter=settings.jitter
                )
                self.networks_.append(network)
                self.mixtures_.append(mixture)
                self.history_ += result.history
                if result.interrupted:
                    return True
        finally:
            line.close()
        return False

    def _drawn(self, latent_size: int, generator: torch.Generator) -> Tensor | None:
        """What latent coordinates are drawn with when rows are scored, the same for every row."""
        return None

    # --- scores -------------------------------------------------------------------------------

    def score_samples(self, X: Any) -> np.ndarray:
        """Minus the energy of each row, (N,), in nats: lower is stranger.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        """
        parts = [self._energies(part) for part in self._in_parts(X)]
        return -torch.cat(parts).cpu().numpy()

    def score(self, X: Any, y: Any = None) -> np.ndarray:
        """The energy of each row, (N,), in nats: higher is stranger.

        What this family of detectors calls its score; the mean over the networks. A search over
        settings needs one number instead: give it a ``scoring`` of its own.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        y : ignored
        """
        return -self.score_samples(X)

    def _fold_scores(self, X: Any) -> np.ndarray:
        return self.score_samples(X)[None]

    @torch.no_grad()
    def _energies(self, values: Tensor) -> Tensor:
        """The energy of standardised rows, (N,): the mean over networks and draws."""
        draws = [None] if self._draws is None else list(self._draws)
        found = []
        for part in values.split(_ROWS_TOGETHER):
            each = [
                -mixture.log_prob(network(part, draw).z)
                for network, mixture in zip(self.networks_, self.mixtures_, strict=True)
                for draw in draws
            ]
            found.append(torch.stack(each).mean(0))
        return torch.cat(found)

    def _in_parts(self, X: Any) -> Iterator[Tensor]:
        check_is_fitted(self, "offset_")
        array = validated(self, X, reset=False)
        device = self._reference.device
        for at in range(0, len(array), _ROWS_TOGETHER):
            yield self._standardised(array[at : at + _ROWS_TOGETHER], device)

    def _standardised(self, array: np.ndarray, device: torch.device) -> Tensor:
        """Rows in standard deviations, with their tails drawn in: asinh is x near zero and grows
        as a logarithm, so that a few far values do not rule a sum of squares.
        """
        values = np.arcsinh(in_units(array, self.loc_, self.scale_))
        return torch.from_numpy(values).to(device)

    @property
    def threshold_(self) -> float:
        """The energy above which rows are outliers."""
        check_is_fitted(self, "offset_")
        return -self.offset_

    def predict(
        self, X: Any, alpha: float | None = None, *, return_instance_score: bool | None = None
    ) -> Any:
        """−1 for outliers and 1 for the others, (N,); or all that is known of each row.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        alpha : float, optional
            The share of ordinary rows that may be called outliers: those with a p-value of at most
            alpha are. Without it, those above the threshold.
        return_instance_score : bool, optional
            When given, the answer is a dictionary with the entries "data" and "meta". In "data":
            "instance_score", the energies (N,), or None when False; "feature_score",
            :meth:`feature_score`; "is_outlier", 1 or 0; "p_value"; "threshold".

        Raises
        ------
        InputError
            For an alpha outside (0, 1), or one that needs more calibration rows.
        """
        if return_instance_score is None:
            return super().predict(X, alpha)
        if alpha is None:
            energies = self.score(X)
            flags = energies > self.threshold_
        else:
            flags = super().predict(X, alpha) == -1
            energies = self.score(X) if return_instance_score else None
        from mogul import __version__

        return {
            "data": {
                "instance_score": energies if return_instance_score else None,
                "feature_score": self.feature_score(X),
                "is_outlier": flags.astype(int),
                "p_value": self.p_values(X),
                "threshold": self.threshold_,
            },
            "meta": {
                "name": type(self).__name__,
                "detector_type": "outlier",
                "data_type": "tabular",
                "online": False,
                "version": __version__,
            },
        }

    # --- reasons ------------------------------------------------------------------------------

    @torch.no_grad()
    def feature_score(self, X: Any) -> np.ndarray:
        """The squared error of each feature's reconstruction, (N, D), in standard deviations.

        The mean over the networks, of columns standardised and with their tails drawn in. See
        :meth:`explain` for parts that add up to the energy.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        """
        draws = [None] if self._draws is None else list(self._draws)
        found = []
        for part in self._in_parts(X):
            errors = [
                (part - network(part, draw).recon).square()
                for network in self.networks_
                for draw in draws
            ]
            found.append(torch.stack(errors).mean(0))
        return torch.cat(found).cpu().numpy()

    def explain(self, X: Any, n_orders: int = 32) -> Explanation:
        """What each feature adds to the energy of each row, beyond that of ordinary rows.

        Features of ordinary rows are replaced by those of the row, in several orders; see
        :func:`mogul.explanation.path_contributions`. Contributions add up to the energy of the row
        less the mean energy of the ordinary rows that were begun with.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        n_orders : int, default 32
            Each begins with another row of the training.

        Returns
        -------
        Explanation
        """
        count = check_count(n_orders, "n_orders")
        parts = list(self._in_parts(X))
        orders = feature_orders(self.n_features_in_, count)
        orders = orders[torch.arange(max(count, len(orders))) % len(orders)]
        reference = self._reference[torch.arange(len(orders)) % len(self._reference)]
        found = [path_contributions(self._energies, part, reference, orders) for part in parts]
        return Explanation(torch.cat(found).cpu().numpy(), self._names())

    @torch.no_grad()
    def latent(self, X: Any, member: int = 0) -> np.ndarray:
        """Latent coordinates and reconstruction features of each row, (N, L + F).

        Those of which ``mixtures_[member]`` is the mixture. VAEGMM draws them, with the noise that
        rows are scored with, taken in turn.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        member : int, default 0
            Of the ensemble.
        """
        values = torch.cat(list(self._in_parts(X)))
        if check_count(member, "member", 0) >= len(self.networks_):
            raise InputError(
                f"member must be below {len(self.networks_)}, the number of networks; got {member}."
            )
        noise = self._draws
        if noise is not None:
            noise = noise[torch.arange(len(values)) % len(noise)]
        return self.networks_[member](values, noise).z.cpu().numpy()

    # --- files --------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, from which :meth:`from_state` rebuilds this.

        Raises
        ------
        InputError
            When a network or a feature is one of the user's own, which no file can hold.
        """
        check_is_fitted(self, "offset_")
        form = self.networks_[0].form
        if form is None:
            raise InputError(
                "Networks and functions of one's own cannot be written to a file without running "
                "code when it is read; save the state_dict of each of networks_ by torch.save."
            )
        params = {k: v for k, v in self.get_params().items() if k not in _NOT_SAVED}
        seed = self.random_state
        names = getattr(self, "feature_names_in_", None)
        header: dict[str, Any] = {
            "params": {name: settings_to_state(value) for name, value in params.items()},
            "random_state": seed if is_plain(seed) else None,
            "feature_names": None if names is None else [str(name) for name in names],
            "form": form,
            "offset": self.offset_,
            "mixtures": [],
            "history": [list(vars(record).values()) for record in self.history_],
        }
        tensors = {
            "loc": torch.from_numpy(self.loc_),
            "scale": torch.from_numpy(self.scale_),
            "calibration": torch.from_numpy(self.calibration_scores_[0]),
            "reference": self._reference,
        }
        if self._draws is not None:
            tensors["draws"] = self._draws
        for m, (network, mixture) in enumerate(zip(self.networks_, self.mixtures_, strict=True)):
            kind, parts = mixture.to_state()
            header["mixtures"].append(kind)
            tensors |= {f"mixture.{m}.{name}": value for name, value in parts.items()}
            tensors |= network_tensors(network, f"network.{m}.")
        return header, tensors

    @classmethod
    def from_state(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what :meth:`to_state` took apart; scores are bit-equal."""
        lists = {k: tuple(v) for k, v in header["params"].items() if isinstance(v, list)}
        model = cls(**(header["params"] | lists), random_state=header["random_state"])
        model.n_features_in_ = header["form"]["in_features"]
        if header["feature_names"] is not None:
            model.feature_names_in_ = np.asarray(header["feature_names"], dtype=object)
        model.loc_, model.scale_ = tensors["loc"].numpy(), tensors["scale"].numpy()
        model.calibration_scores_ = [tensors["calibration"].numpy()]
        model._reference = tensors["reference"]
        model._draws, model.offset_ = tensors.get("draws"), header["offset"]
        model.history_ = [EnergyRecord(*numbers) for numbers in header["history"]]
        model.networks_, model.mixtures_ = [], []
        for m, kind in enumerate(header["mixtures"]):
            with torch.random.fork_rng(devices=[]):  # layers draw before they are filled
                network = cls._network_class(**header["form"], dtype=torch.float64)
            fill_network(network, tensors, f"network.{m}.")
            start = f"mixture.{m}."
            parts = {
                name.removeprefix(start): value
                for name, value in tensors.items()
                if name.startswith(start)
            }
            model.networks_.append(network)
            model.mixtures_.append(Mixture.from_state(kind, parts))
        return model
