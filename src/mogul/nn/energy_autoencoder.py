"""Autoencoders whose latent rows are a mixture of Gaussians: the networks of AEGMM and VAEGMM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mogul._checks import check_count
from mogul.errors import InputError
from mogul.nn.mlp import MLP
from mogul.nn.reconstruction import ReconFeature, as_list, recon_feature

__all__ = ["AEGMMNetwork", "EnergyOutputs", "VAEGMMNetwork"]

_MOST_LATENT = 16
_NARROWEST, _WIDEST = 16, 128
_DENSITY_HIDDEN = (16,)
_MOST_LOG_VARIANCE = 10.0
_TRIAL_ROWS = 2
_ROUNDING = 1e-4
DEFAULT_FEATURES = ("relative", "cosine", "error")


class EnergyOutputs(NamedTuple):
    """What a network makes of N rows.

    Attributes
    ----------
    recon : Tensor, shape (N, D)
        The rows as they are decoded.
    z : Tensor, shape (N, L + F)
        Latent coordinates, then reconstruction features, all standardised.
    gamma : Tensor, shape (N, K)
        Memberships.
    kl : Tensor, shape (N,), or None
        Of VAEGMM: the divergence of q(z | x) from the standard normal, in nats.
    """

    recon: Tensor
    z: Tensor
    gamma: Tensor
    kl: Tensor | None = None


class AEGMMNetwork(nn.Module):
    r"""An encoder, a decoder and a network of memberships.

    .. math::
        z = \operatorname{norm}[e(x), f(x, d(e(x)))], \qquad \gamma = g(z)

    where norm brings each number of z to mean zero and variance one: over the batch in training, by
    running averages afterwards (Ioffe and Szegedy 2015). So energies and penalties weigh the same
    whatever the scale of a feature, and no energy can be gained by shrinking z.

    Parameters
    ----------
    in_features : int
        D.
    n_components : int, default 2
        K.
    latent_size : int, optional
        L; half of D by default, rounded up, at most 16.
    hidden : sequence of int, optional
        Widths of the encoder, and backwards of the decoder: by default about 2 D and D, rounded up
        to a power of two from 16 to 128.
    activation : {"silu", "tanh", "relu", "gelu"}, default "silu"
    recon_features : names or functions, default ("relative", "cosine", "error")
        f: of :mod:`mogul.nn.reconstruction`, or functions of (x, recon) that give (N, F).
    encoder_net, decoder_net, gmm_density_net : nn.Module, optional
        In the place of the default ones: (N, D) to (N, L), (N, L) to (N, D), and (N, L + F) to the
        memberships (N, K), which are not negative and sum to one (end it in ``nn.Softmax(-1)``).
    device, dtype : optional

    Attributes
    ----------
    latent_size : int
        L.
    z_size : int
        L + F.
    form : dict or None
        The arguments that build it anew; None with modules or functions of one's own.

    References
    ----------
    Zong and others (2018), *Deep autoencoding Gaussian mixture model for unsupervised anomaly
    detection*.

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import AEGMMNetwork
    >>> recon, z, gamma, _ = AEGMMNetwork(9, 2)(torch.randn(5, 9))
    >>> recon.shape, z.shape, gamma.shape
    (torch.Size([5, 9]), torch.Size([5, 8]), torch.Size([5, 2]))
    """

    variational = False

    def __init__(
        self,
        in_features: int,
        n_components: int = 2,
        *,
        latent_size: int | None = None,
        hidden: Sequence[int] | None = None,
        activation: str = "silu",
        recon_features: Any = DEFAULT_FEATURES,
        encoder_net: nn.Module | None = None,
        decoder_net: nn.Module | None = None,
        gmm_density_net: nn.Module | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        d = self.in_features = check_count(in_features, "in_features")
        k = self.n_components = check_count(n_components, "n_components")
        size = min(_MOST_LATENT, -(-d // 2)) if latent_size is None else latent_size
        size = check_count(size, "latent_size")
        widths = _default_widths(d)
        if hidden is not None:
            widths = [check_count(width, "A width of hidden") for width in hidden]
        self._features = recon_feature(recon_features)
        names = as_list(recon_features)
        own = (encoder_net, decoder_net, gmm_density_net)
        self.form: dict[str, Any] | None = None
        if all(isinstance(name, str) for name in names) and all(net is None for net in own):
            self.form = {
                "in_features": d,
                "n_components": k,
                "latent_size": size,
                "hidden": widths,
                "activation": activation,
                "recon_features": [str(name) for name in names],
            }
        # Built on the CPU, whose generator is the one that a seed was given to.
        x = torch.zeros(_TRIAL_ROWS, d, dtype=dtype)
        if encoder_net is None:
            encoder_net = self._default_encoder(d, widths, activation, size)
        self.encoder = encoder_net.to("cpu", dtype)
        code = _tried(self.encoder, x, "encoder_net")
        self.latent_size = self._latent_size(code, size, latent_size is not None)
        code = x.new_zeros(_TRIAL_ROWS, self.latent_size)
        if decoder_net is None:
            decoder_net = _layers([self.latent_size, *reversed(widths)], activation, d)
        self.decoder = decoder_net.to("cpu", dtype)
        recon = _tried(self.decoder, code, "decoder_net", d)
        z = torch.cat([code, self.recon_features(x, recon)], -1)
        self.z_size = z.shape[-1]
        self.norm = nn.BatchNorm1d(self.z_size, affine=False)
        if gmm_density_net is None:
            layers = _layers([self.z_size, *_DENSITY_HIDDEN], "tanh", k)
            gmm_density_net = nn.Sequential(*layers, nn.Softmax(-1))
        self.density = gmm_density_net.to("cpu", dtype)
        gamma = _tried(self.density, z, "gmm_density_net", k)
        if bool((gamma < 0).any()) or bool(((gamma.sum(-1) - 1).abs() > _ROUNDING).any()):
            raise InputError(
                "gmm_density_net must give memberships, which are not negative and sum to one in "
                "each row; end it in nn.Softmax(-1)."
            )
        self.to(device, dtype)

    def _default_encoder(
        self, n_features: int, widths: list[int], activation: str, latent_size: int
    ) -> nn.Module:
        return _layers([n_features, *widths], activation, latent_size)

    def _latent_size(self, code: Tensor, latent_size: int, asked: bool) -> int:
        """The size of the latent rows, given what the encoder gives."""
        if asked and code.shape[-1] != latent_size:
            raise InputError(
                f"encoder_net gives {code.shape[-1]} numbers a row and latent_size is "
                f"{latent_size}; leave latent_size out or let them agree."
            )
        return code.shape[-1]

    def recon_features(self, x: Tensor, recon: Tensor) -> Tensor:
        """(N, D) and (N, D) to (N, F)."""
        if not self._features:
            return x.new_zeros(len(x), 0)
        return torch.cat([_feature(f, x, recon) for f in self._features], -1)

    def encode(self, x: Tensor) -> Tensor:
        """Latent coordinates, (N, D) to (N, L)."""
        return self.encoder(x)

    def forward(
        self, x: Tensor, noise: Tensor | None = None, *, seen: Tensor | None = None
    ) -> EnergyOutputs:
        """What it makes of rows.

        Parameters
        ----------
        x : Tensor, shape (N, D)
        noise : Tensor, shape (N, L) or (L,), optional
            ε, for networks that draw; zero by default.
        seen : Tensor, shape (N, D), optional
            What is encoded in the place of x, to which the reconstruction is compared: in training,
            x with noise.
        """
        return self._outputs(x, self.encode(x if seen is None else seen), None)

    def _outputs(self, x: Tensor, code: Tensor, kl: Tensor | None) -> EnergyOutputs:
        recon = self.decoder(code)
        z = self.norm(torch.cat([code, self.recon_features(x, recon)], -1))
        return EnergyOutputs(recon, z, self.density(z), kl)


class VAEGMMNetwork(AEGMMNetwork):
    r"""The same with an encoder that gives a normal distribution of latent coordinates.

    .. math::
        q(c \mid x) = \mathcal N\bigl(m(x), \operatorname{diag} s(x)^2\bigr), \quad
        c = m(x) + s(x) \varepsilon

    Parameters
    ----------
    in_features, n_components, latent_size, hidden, activation, recon_features : optional
        As of :class:`AEGMMNetwork`.
    encoder_net : nn.Module, optional
        (N, D) to (N, H): linear layers to m and log s² follow it.
    decoder_net, gmm_density_net, device, dtype : optional

    References
    ----------
    Kingma and Welling (2014), *Auto-encoding variational Bayes*.

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import VAEGMMNetwork
    >>> network = VAEGMMNetwork(9, 2)
    >>> network(torch.randn(5, 9), torch.randn(5, network.latent_size)).kl.shape
    torch.Size([5])
    """

    variational = True

    def _default_encoder(
        self, n_features: int, widths: list[int], activation: str, latent_size: int
    ) -> nn.Module:
        return MLP(n_features, widths, activation)

    def _latent_size(self, code: Tensor, latent_size: int, asked: bool) -> int:
        self.to_mean = nn.Linear(code.shape[-1], latent_size, dtype=code.dtype)
        self.to_log_variance = nn.Linear(code.shape[-1], latent_size, dtype=code.dtype)
        return latent_size

    def encode(self, x: Tensor) -> Tensor:
        """The means m of the latent coordinates, (N, D) to (N, L)."""
        return self.to_mean(self.encoder(x))

    def forward(
        self, x: Tensor, noise: Tensor | None = None, *, seen: Tensor | None = None
    ) -> EnergyOutputs:
        hidden = self.encoder(x if seen is None else seen)
        mean = self.to_mean(hidden)
        log_variance = _bounded(self.to_log_variance(hidden))
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1)
        code = mean if noise is None else mean + (0.5 * log_variance).exp() * noise
        return self._outputs(x, code, kl)


def _bounded(log_variance: Tensor) -> Tensor:
    """Smoothly within ± 10, so that no row makes a variance overflow."""
    return _MOST_LOG_VARIANCE * torch.tanh(log_variance / _MOST_LOG_VARIANCE)


def _default_widths(n_features: int) -> list[int]:
    power = 1 << (2 * n_features - 1).bit_length()
    first = min(_WIDEST, max(_NARROWEST, power))
    return [first, max(_NARROWEST, first // 2)]


def _layers(widths: list[int], activation: str, out: int) -> nn.Sequential:
    body = MLP(widths[0], widths[1:], activation)
    return nn.Sequential(body, nn.Linear(body.out_features, out))


def _feature(feature: ReconFeature, x: Tensor, recon: Tensor) -> Tensor:
    try:
        found = feature(x, recon)
    except Exception as error:
        raise InputError(f"A reconstruction feature failed: {_said(error)}.") from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"A reconstruction feature gives {given} for {len(x)} rows; expected a tensor of shape "
            f"({len(x)}, F)."
        )
    return found.to(x)


def _tried(net: nn.Module, rows: Tensor, name: str, width: int | None = None) -> Tensor:
    """What a network gives for some rows, which shows whether its shapes fit."""
    was = net.training
    try:
        with torch.no_grad():
            found = net.eval()(rows)
    except Exception as error:  # whatever a module of one's own may raise
        raise InputError(
            f"{name} cannot take rows of {rows.shape[-1]} numbers: {_said(error)}."
        ) from error
    finally:
        net.train(was)
    right = isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(rows)
    if not right or (width is not None and found.shape[-1] != width):
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        wanted = "L" if width is None else width
        raise InputError(
            f"{name} gives {given} for rows of shape {tuple(rows.shape)}; expected "
            f"({len(rows)}, {wanted})."
        )
    if found.dtype != rows.dtype:
        raise InputError(
            f"{name} gives {found.dtype} for rows of {rows.dtype}; it must keep their type."
        )
    return found


def _said(error: Exception) -> str:
    """The message of an error on one line, without the stop that a sentence gets."""
    return " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
