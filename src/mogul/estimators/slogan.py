"""A generator of rows like those of a table, with no density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from mogul.estimators._inputs import (
    as_tensor,
    check_sample_weight,
    drawn_seed,
    generator_on,
    named_device,
    validated,
)
from mogul.estimators._progress import checked_callbacks
from mogul.estimators._state import fill_network, is_plain, network_tensors, settings_to_state
from mogul.nn.mlp import ACTIVATIONS
from mogul.nn.slogan import Critic, Generator
from mogul.nn.slogan_training import SloganRecord, SloganResult, SloganSettings, train_slogan

__all__ = ["Slogan"]

_LEAST_NOISE = 16
_ROWS_TOGETHER = 1 << 16
"""Rows that are drawn, or shown to the critic, at once."""
_NOT_SAVED = ("random_state", "callbacks", "device", "progress")


class Slogan(BaseEstimator):
    r"""A generative adversarial network with a Single-sided Lipschitz Objective.

    A generator turns normal noise into rows; a critic, with slopes of at most about one, learns to
    be low where rows of the data are missing and high where too many were made; the generator
    follows it downhill. So the Wasserstein distance between what is made and the data falls. The
    loss is :func:`mogul.nn.slogan_loss`.

    Unlike a mixture it has no density: it draws, and draws on thin curved shapes that a mixture
    needs many components for. :mod:`mogul.distances` tells how good the draws are.

    Everything goes in and comes out in the units of the data; inside, each column is standardised.

    Parameters
    ----------
    n_steps : int, default 30_000
        Of the generator; some minutes for 30,000. A tenth of them does not resolve thin shapes.
    batch_size : int, default 256
    critic_steps : int, default 10
        Before each step of the generator; ten times as many before the first ten and before every
        hundredth.
    lipschitz_weight : float, default 10.0
        λ of the penalty.
    learning_rate : float, default 0.001
        Of Adam, for both networks; it is divided by three after each third of the steps.
    betas : pair of float, default (0.0, 0.9)
        Of Adam (Kingma and Ba 2015). Without momentum the two networks settle sooner; the tutorial
        that this comes from has (0.9, 0.999).
    noise_size : "auto" or int, default "auto"
        How many numbers of noise a row is made from: 16, or as many as there are columns when
        those are more.
    generator_hidden : sequence of int, default (128, 128)
        The widths of the generator's layers.
    critic_hidden : sequence of int, default (50, 50)
    activation : {"gelu", "silu", "tanh", "relu"}, default "gelu"
        Of both; the tutorial has "relu".
    random_state : int, RandomState or None, default None
    callbacks : sequence of callables, optional
        Each is called with a record after the first step and every hundredth one from there on;
        returning True ends the training.
    progress : {"auto", True, False}, default "auto"
    device : str or torch.device, optional

    Attributes
    ----------
    generator_ : mogul.nn.Generator
        With the average of its weights over about the last thousand steps.
    critic_ : mogul.nn.Critic
    loc_, scale_ : ndarray, shape (D,)
        Mean and standard deviation of the columns.
    history_ : list of SloganRecord
        The critic of real rows, of generated ones, and the penalty, every hundred steps.
    n_steps_ : int
        That were made.
    n_features_in_ : int
    feature_names_in_ : ndarray

    Raises
    ------
    InputError
        For rows or settings that cannot be used.

    References
    ----------
    Arjovsky, Chintala and Bottou (2017); Viehmann (2017), "More improved Wasserstein GANs", a web
    log.

    Examples
    --------
    >>> from mogul import Slogan, datasets
    >>> model = Slogan(n_steps=20, critic_steps=2, random_state=0)
    >>> model.fit(datasets.old_faithful().values)
    Slogan(critic_steps=2, n_steps=20, random_state=0)
    >>> model.sample(3).shape, model.critic(model.sample(3)).shape
    ((3, 2), (3,))
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "critic_steps": [Interval(Integral, 1, None, closed="left")],
        "lipschitz_weight": [Interval(Real, 0.0, None, closed="neither")],
        "learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "betas": ["array-like", tuple],
        "noise_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "generator_hidden": ["array-like", tuple],
        "critic_hidden": ["array-like", tuple],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "random_state": ["random_state"],
        "callbacks": [list, tuple, None],
        "progress": [StrOptions({"auto"}), "boolean"],
    }

    generator_: Generator
    critic_: Critic

    def __init__(
        self,
        n_steps: int = 30_000,
        *,
        batch_size: int = 256,
        critic_steps: int = 10,
        lipschitz_weight: float = 10.0,
        learning_rate: float = 0.001,
        betas: tuple[float, float] = (0.0, 0.9),
        noise_size: str | int = "auto",
        generator_hidden: Sequence[int] = (128, 128),
        critic_hidden: Sequence[int] = (50, 50),
        activation: str = "gelu",
        random_state: int | RandomState | None = None,
        callbacks: Sequence[Callable[[SloganRecord], bool | None]] | None = None,
        progress: str | bool = "auto",
        device: str | torch.device | None = None,
    ):
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.critic_steps = critic_steps
        self.lipschitz_weight = lipschitz_weight
        self.learning_rate = learning_rate
        self.betas = betas
        self.noise_size = noise_size
        self.generator_hidden = generator_hidden
        self.critic_hidden = critic_hidden
        self.activation = activation
        self.random_state = random_state
        self.callbacks = callbacks
        self.progress = progress
        self.device = device

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train both networks.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        y : ignored
        sample_weight : array-like, shape (N,), optional
            Rows enter batches with probabilities in proportion to it.

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
        array = validated(self, X, reset=True, min_samples=2)
        weight = check_sample_weight(sample_weight, len(array))
        settings = self._settings()
        device = named_device(self.device)
        rng = check_random_state(self.random_state)
        rows = as_tensor(array, device).double()
        counts = None if weight is None else as_tensor(weight, device)
        loc, scale = _moments(rows, counts)
        critic, generator = self._networks(rows.shape[1], drawn_seed(rng))
        source = generator_on(device, rng)
        result = self._train(
            critic.to(device),
            generator.to(device),
            ((rows - loc) / scale).float(),
            counts,
            settings,
            source,
        )
        self.critic_, self.generator_ = critic, generator
        self.loc_, self.scale_ = loc.cpu().numpy(), scale.cpu().numpy()
        self.history_, self.n_steps_ = result.history, result.n_steps
        if result.interrupted:
            warn(
                f"The training was stopped early, after {result.n_steps} of {self.n_steps} steps; "
                "the networks are as they were then.",
                ConvergenceWarning,
            )
        return self

    def _settings(self) -> SloganSettings:
        betas = np.asarray(self.betas, dtype=object).ravel()
        if len(betas) != 2 or not all(isinstance(b, Real) and 0 <= float(b) < 1 for b in betas):
            raise InputError(f"betas must be two numbers from 0 up to below 1; got {self.betas!r}.")
        return SloganSettings(
            self.n_steps,
            self.batch_size,
            self.critic_steps,
            float(self.lipschitz_weight),
            float(self.learning_rate),
            (float(betas[0]), float(betas[1])),
        )

    def _networks(self, n_features: int, seed: int) -> tuple[Critic, Generator]:
        size = self.noise_size
        size = max(_LEAST_NOISE, n_features) if isinstance(size, str) else size
        with torch.random.fork_rng(devices=[]):  # layers draw from torch's own generator
            torch.manual_seed(seed)
            critic = Critic(n_features, self.critic_hidden, self.activation)
            return critic, Generator(n_features, size, self.generator_hidden, self.activation)

    def _train(
        self,
        critic: Critic,
        generator: Generator,
        rows: Tensor,
        weight: Tensor | None,
        settings: SloganSettings,
        source: torch.Generator,
    ) -> SloganResult:
        line, callbacks = ProgressLine(self.progress), checked_callbacks(self)

        def told(record: SloganRecord) -> bool:
            said = f"distance {record.distance:.4g} standard deviations"
            line.update("step", record.step, settings.n_steps, said)
            return True in [callback(record) for callback in callbacks]

        try:
            return train_slogan(critic, generator, rows, weight, settings, source, told)
        finally:
            line.close()

    # --- what it answers ----------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draw rows, (n_samples, D), in the units of the data.

        An integer ``random_state`` gives the same rows at every call.
        """
        check_is_fitted(self, "generator_")
        n = check_count(n_samples, "n_samples")
        device = self.generator_.linear.weight.device
        source = generator_on(device, check_random_state(self.random_state))
        starts = range(0, n, _ROWS_TOGETHER)
        parts = [self.generator_.sample(min(_ROWS_TOGETHER, n - at), source) for at in starts]
        return torch.cat(parts).double().cpu().numpy() * self.scale_ + self.loc_

    @torch.no_grad()
    def critic(self, X: Any) -> np.ndarray:
        """The critic of each row, (N,): low where generated rows are missing, high where too many.

        In standard deviations: values of two rows differ by at most about their distance.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D)
        """
        check_is_fitted(self, "critic_")
        array = validated(self, X, reset=False)
        standard = torch.from_numpy((array - self.loc_) / self.scale_).float()
        device = self.critic_.linear.weight.device
        parts = [self.critic_(part.to(device)) for part in standard.split(_ROWS_TOGETHER)]
        return torch.cat(parts).double().cpu().numpy()

    # --- files --------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, from which :meth:`from_state` rebuilds this."""
        check_is_fitted(self, "generator_")
        params = {k: v for k, v in self.get_params().items() if k not in _NOT_SAVED}
        params |= {"betas": [float(beta) for beta in self.betas]}
        params |= {k: [int(v) for v in params[k]] for k in ("generator_hidden", "critic_hidden")}
        names = getattr(self, "feature_names_in_", None)
        seed = self.random_state
        header = {
            "params": {name: settings_to_state(value) for name, value in params.items()},
            "random_state": seed if is_plain(seed) else None,
            "feature_names": None if names is None else [str(name) for name in names],
            "n_features": self.n_features_in_,
            "generator": self.generator_.form,
            "critic": self.critic_.form,
            "n_steps": self.n_steps_,
            "history": [[r.step, r.real, r.generated, r.penalty] for r in self.history_],
        }
        tensors = {"loc": torch.from_numpy(self.loc_), "scale": torch.from_numpy(self.scale_)}
        tensors |= network_tensors(self.generator_, "generator.")
        return header, tensors | network_tensors(self.critic_, "critic.")

    @classmethod
    def from_state(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what :meth:`to_state` took apart; draws are bit-equal."""
        params = dict(header["params"])
        params |= {k: tuple(params[k]) for k in ("betas", "generator_hidden", "critic_hidden")}
        model = cls(**params, random_state=header["random_state"])
        model.n_features_in_ = header["n_features"]
        if header["feature_names"] is not None:
            model.feature_names_in_ = np.asarray(header["feature_names"], dtype=object)
        model.loc_, model.scale_ = tensors["loc"].numpy(), tensors["scale"].numpy()
        model.n_steps_ = header["n_steps"]
        model.history_ = [SloganRecord(*numbers) for numbers in header["history"]]
        with torch.random.fork_rng(devices=[]):  # layers draw before they are filled
            model.generator_ = Generator(**header["generator"])
            model.critic_ = Critic(**header["critic"])
        fill_network(model.generator_, tensors, "generator.")
        fill_network(model.critic_, tensors, "critic.")
        return model


def _moments(rows: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of each column; one for a constant column."""
    share = torch.ones(len(rows), device=rows.device) if weight is None else weight
    share = (share.double() / share.sum()).unsqueeze(1)
    loc = (share * rows).sum(0)
    scale = (share * (rows - loc).square()).sum(0).sqrt()
    constant = scale <= 1e-12 * loc.abs()
    return loc, torch.where(constant, 1.0, scale)
