"""Outliers by the energy of an autoencoder's latent rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.random import RandomState
from torch import nn

from mogul.estimators._energy_detector import EnergyDetector
from mogul.nn.energy_autoencoder import DEFAULT_FEATURES, AEGMMNetwork
from mogul.nn.energy_training import EnergyRecord

__all__ = ["AEGMM"]


class AEGMM(EnergyDetector):
    r"""Outliers by an autoencoder whose latent rows are a mixture of Gaussians, with p-values.

    An encoder e, a decoder d and a network of memberships g are trained together on

    .. math::
        -\overline{\log \mathcal N(x \mid \hat x, \sigma^2 I)}
        + \tfrac{3}{L + F} \Bigl( w_E\, \overline{E(z)} + w_\Sigma \sum_{kd} 1 / \Sigma_{kdd}
        \Bigr), \quad \hat x = d(e(x)), \quad z = [e(x), f(x, \hat x)], \quad \gamma = g(z),

    where E is the energy, the negative log-density, under the mixture that the memberships of the
    batch imply. The mixture that rows are scored by comes afterwards from all the rows. Several
    networks are trained, from different starts; the energy of a row is the mean of theirs. Rows
    that none of them sees say how high an ordinary row scores.

    Columns are standardised and their tails drawn in, x to asinh(x).

    Parameters
    ----------
    n_components : int, default 2
        K.
    latent_size : "auto" or int, default "auto"
        The numbers that a row is encoded to: half of D, rounded up, at most 16.
    hidden : "auto" or sequence of int, default "auto"
        Widths of the encoder's layers, and backwards of the decoder's; about 2 D and D, from 16 to
        128.
    activation : {"silu", "tanh", "relu", "gelu"}, default "silu"
    recon_features : names or functions, default ("relative", "cosine", "error")
        f, what joins the latent coordinates: "relative", the relative Euclidean distance of a row
        and its reconstruction; "cosine", of their angle; "error", the root mean square of
        their distance; or functions of (x, recon) that give (N, F).
    encoder_net, decoder_net, gmm_density_net : nn.Module or callable, optional
        In the place of the default networks: modules from (N, D) to (N, L), from (N, L) to (N, D)
        and from (N, L + F) to memberships (N, K), the rows of a softmax. Each network of the
        ensemble gets a copy whose layers are drawn anew by their ``reset_parameters``. Or functions
        of D that make such modules, for those that draw otherwise.
    w_energy : float, default 0.1
        The weight of the energy.
    w_cov_diag : float, default 0.005
        The weight of the sum of inverse variances.
    jitter : float, default 1e-6
        Added to the variances of z, which are one on the whole.
    noise : float, default 0.3
        In standard deviations: fresh noise on the rows that are encoded, in training, against
        learning them by heart (Vincent and others 2008).
    recon_scale : "auto" or float, default "auto"
        σ, in standard deviations: "auto" is what is likeliest for each batch (Rybkin, Daniilidis
        and Levine 2021).
    n_ensemble : int, default 5
        How many networks.
    calibration_fraction : float, default 0.2
        The share of the rows that no network sees, by which alarms are calibrated.
    contamination : "auto" or float, default "auto"
        Where ``predict`` draws the line: "auto" above the energies of 99 % of held-out rows; a
        number above those of all but this share of the rows that ``fit`` was given.
    max_epochs : "auto" or int, default "auto"
        Passes over the rows: as many as make 2000 steps, from 10 to 1000. Zero leaves the networks
        as they are drawn, as a control.
    batch_size : "auto" or int, default "auto"
        From 64 for two thousand rows or fewer to 1024 for many.
    learning_rate : float, default 0.003
        Of Adam, at the start; it falls to zero as a cosine.
    random_state : int, RandomState or None, default None
    callbacks : sequence of callables, optional
        Each is called with a record after every epoch; returning True ends the training.
    progress : {"auto", True, False}, default "auto"
    device : str or torch.device, optional

    Attributes
    ----------
    networks_ : list of AEGMMNetwork
        Those of the ensemble.
    mixtures_ : list of Mixture
        Of the latent rows of each network.
    calibration_scores_ : list of one ndarray
        The scores of the rows that were held out.
    offset_ : float
        Rows that score below are outliers.
    threshold_ : float
        The same as an energy, −offset_.
    n_calibration_ : int
        The number of calibration scores.
    loc_, scale_ : ndarray, shape (D,)
    history_ : list of EnergyRecord
    n_features_in_ : int
    feature_names_in_ : ndarray

    Raises
    ------
    InputError
        For rows, networks or settings that cannot be used.

    References
    ----------
    Zong and others (2018), *Deep autoencoding Gaussian mixture model for unsupervised anomaly
    detection*; Vovk, Gammerman and Shafer (2005) for p-values.

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import AEGMM
    >>> rng = np.random.default_rng(0)
    >>> one = rng.normal(size=(300, 1))
    >>> X = np.hstack([one, one**2, -one]) + 0.1 * rng.normal(size=(300, 3))
    >>> detector = AEGMM(n_ensemble=2, max_epochs=100, random_state=0).fit(X)
    >>> detector.predict([[1.0, 1.0, -1.0], [1.0, 1.0, 4.0]]).tolist()
    [1, -1]
    >>> answer = detector.predict([[1.0, 1.0, 4.0]], return_instance_score=True)
    >>> answer["data"]["is_outlier"].tolist(), answer["data"]["feature_score"].shape
    ([1], (1, 3))
    """

    _network_class = AEGMMNetwork

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
        self.jitter = jitter
        self.noise = noise
        self.recon_scale = recon_scale
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
