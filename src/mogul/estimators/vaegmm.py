"""Outliers by the energy of a variational autoencoder's latent rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from numpy.random import RandomState
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

from mogul.estimators._energy_detector import EnergyDetector
from mogul.nn.energy_autoencoder import DEFAULT_FEATURES, VAEGMMNetwork
from mogul.nn.energy_training import EnergyRecord

__all__ = ["VAEGMM"]


class VAEGMM(EnergyDetector):
    r"""Outliers by a variational autoencoder whose latent rows are a mixture of Gaussians.

    As :class:`mogul.AEGMM`, with an encoder that gives a normal distribution q(c | x) of latent
    coordinates, trained on

    .. math::
        -w_R \overline{\log \mathcal N(x \mid \hat x, \sigma^2 I)}
        + \beta\, \overline{\operatorname{KL}(q(c \mid x) \,\|\, \mathcal N(0, I))}
        + \tfrac{3}{L + F} \Bigl( w_E\, \overline{E(z)}
        + w_\Sigma \sum_{kd} 1 / \Sigma_{kdd} \Bigr) .

    A row is scored by its mean energy over a few draws of c, made with the same noise for every
    row, so that its score is always the same.

    Parameters
    ----------
    n_components : int, default 2
    latent_size, hidden, activation, recon_features : optional
        As of AEGMM.
    encoder_net, decoder_net, gmm_density_net : nn.Module or callable, optional
        As of AEGMM, but for an encoder from (N, D) to (N, H): linear layers to the mean and
        the logarithm of the variance of c follow it.
    w_energy : float, default 0.1
    w_cov_diag : float, default 0.005
    w_recon : float, default 1.0
        The weight of the log-likelihood.
    beta : float, default 1.0
        The weight of the divergence, to which it rises over the first 30 % of the steps.
    samples : int, default 10
        Draws of c for each row that is scored; in pairs of opposite noise.
    jitter : float, default 1e-6
    noise : float, default 0.3
    recon_scale : "auto" or float, default "auto"
        As of AEGMM.
    n_ensemble : int, default 5
    calibration_fraction : float, default 0.2
    contamination : "auto" or float, default "auto"
    max_epochs, batch_size : "auto" or int, default "auto"
    learning_rate : float, default 0.003
    random_state : int, RandomState or None, default None
    callbacks : sequence of callables, optional
    progress : {"auto", True, False}, default "auto"
    device : str or torch.device, optional

    Attributes
    ----------
    networks_ : list of VAEGMMNetwork
    mixtures_ : list of Mixture
    calibration_scores_ : list of one ndarray
    offset_, threshold_ : float
    n_calibration_ : int
    loc_, scale_ : ndarray, shape (D,)
    history_ : list of EnergyRecord
    n_features_in_ : int
    feature_names_in_ : ndarray
        All as of AEGMM.

    Raises
    ------
    InputError
        For rows, networks or settings that cannot be used.

    References
    ----------
    Kingma and Welling (2014), *Auto-encoding variational Bayes*; Zong and others (2018).

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import VAEGMM
    >>> rng = np.random.default_rng(0)
    >>> one = rng.normal(size=(300, 1))
    >>> X = np.hstack([one, one**2, -one]) + 0.1 * rng.normal(size=(300, 3))
    >>> detector = VAEGMM(n_ensemble=2, max_epochs=100, random_state=0).fit(X)
    >>> detector.predict([[1.0, 1.0, -1.0], [1.0, 1.0, 6.0]]).tolist()
    [1, -1]
    """

    _network_class = VAEGMMNetwork

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **EnergyDetector._parameter_constraints,
        "w_recon": [Interval(Real, 0.0, None, closed="left")],
        "beta": [Interval(Real, 0.0, None, closed="left")],
        "samples": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 2,
        *,
        latent_size: str | int = "auto",
        hidden: str | Sequence[int] = "auto",
        activation: str = "silu",
        recon_features: Any = DEFAULT_FEATURES,
        encoder_net: nn.Module | Callable[[int], nn.Module] | None = None,
        decoder_net: nn.Module | Callable[[int], nn.Module] | None = None,
        gmm_density_net: nn.Module | Callable[[int], nn.Module] | None = None,
        w_energy: float = 0.1,
        w_cov_diag: float = 0.005,
        w_recon: float = 1.0,
        beta: float = 1.0,
        samples: int = 10,
        jitter: float = 1e-6,
        noise: float = 0.3,
        recon_scale: str | float = "auto",
        n_ensemble: int = 5,
        calibration_fraction: float = 0.2,
        contamination: str | float = "auto",
        max_epochs: str | int = "auto",
        batch_size: str | int = "auto",
        learning_rate: float = 0.003,
        random_state: int | RandomState | None = None,
        callbacks: Sequence[Callable[[EnergyRecord], bool | None]] | None = None,
        progress: str | bool = "auto",
        device: str | torch.device | None = None,
    ):
        self.n_components = n_components
        self.latent_size = latent_size
        self.hidden = hidden
        self.activation = activation
        self.recon_features = recon_features
        self.encoder_net = encoder_net
        self.decoder_net = decoder_net
        self.gmm_density_net = gmm_density_net
        self.w_energy = w_energy
        self.w_cov_diag = w_cov_diag
        self.w_recon = w_recon
        self.beta = beta
        self.recon_scale = recon_scale
        self.samples = samples
        self.jitter = jitter
        self.noise = noise
        self.n_ensemble = n_ensemble
        self.calibration_fraction = calibration_fraction
        self.contamination = contamination
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.callbacks = callbacks
        self.progress = progress
        self.device = device

    def _more_settings(self) -> dict[str, Any]:
        return {"w_recon": float(self.w_recon), "beta": float(self.beta)}

    def _drawn(self, latent_size: int, generator: torch.Generator) -> Tensor:
        shape = (-(-self.samples // 2), latent_size)
        half = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return torch.cat([half, -half])[: self.samples]
