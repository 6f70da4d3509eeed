"""Autoencoders whose latent rows are a mixture of Gaussians: the networks of AEGMM and VAEGMM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mogul._checks import check_count
from mogul.errors import InputError
from mogul.nn.mlp import MLP
from mogul.nn.reconstruction import recon_feature

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
        options = {"device": device, "dtype": dtype}
        d = self.in_features = check_count(in_features, "in_features")
        k = self.n_components = check_count(n_components, "n_components")
        if latent_size is None:
            latent_size = min(_MOST_LATENT, -(-d // 2))
        size = check_count(latent_size, "latent_size")
        widths = _default_widths(d) if hidden is None else [int(width) for width in hidden]
        self._features = recon_feature(recon_features)
        nets = (encoder_net, decoder_net, gmm_density_net)
        several = isinstance(recon_features, Sequence) and not isinstance(recon_features, str)
        names = list(recon_features) if several else [recon_features]
        named = all(isinstance(name, str) for name in names)
        self.form: dict[str, Any] | None = None
        if named and all(net is None for net in nets):
            self.form = {
                "in_features": d,
                "n_components": k,
                "latent_size": size,
                "hidden": widths,
                "activation": activation,
                "recon_features": names,
            }
        x = torch.zeros(_TRIAL_ROWS, d, **options)
        encoder = encoder_net or self._default_encoder(d, widths, activation, size)
        self.encoder = encoder.to(**options)
        self.latent_size = self._latent_size(_tried(self.encoder, x, "encoder_net"), size, options)
        code = x.new_zeros(_TRIAL_ROWS, self.latent_size)
        back = [self.latent_size, *reversed(widths)]
        self.decoder = (decoder_net or _layers(back, activation, d)).to(**options)
        recon = _tried(self.decoder, code, "decoder_net", d)
        z = torch.cat([code, self.recon_features(x, recon)], -1)
        self.z_size = z.shape[-1]
        self.norm = nn.BatchNorm1d(self.z_size, affine=False, **options)
        if gmm_density_net is None:
            layers = _layers([self.z_size, *_DENSITY_HIDDEN], "tanh", k)
            gmm_density_net = nn.Sequential(*layers, nn.Softmax(-1))
        self.density = gmm_density_net.to(**options)
        gamma = _tried(self.density, z, "gmm_density_net", k)
        if bool((gamma < 0).any()) or bool(((gamma.sum(-1) - 1).abs() > _ROUNDING).any()):
            raise InputError(
                "gmm_density_net must give memberships, which are not negative and sum to one in "
                "each row; end it in nn.Softmax(-1)."
            )

    def _default_encoder(
        self, n_features: int, widths: list[int], activation: str, latent_size: int
    ) -> nn.Module:
        return _layers([n_features, *widths], activation, latent_size)

    def _latent_size(self, code: Tensor, latent_size: int, options: dict[str, Any]) -> int:
        """The size of the latent rows, given what the encoder gives."""
        return code.shape[-1]

    def recon_features(self, x: Tensor, recon: Tensor) -> Tensor:
        """(N, D) and (N, D) to (N, F)."""
        if not self._features:
            return x.new_zeros(len(x), 0)
        return torch.cat([feature(x, recon) for feature in self._features], -1)

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

    def _latent_size(self, code: Tensor, latent_size: int, options: dict[str, Any]) -> int:
        self.to_mean = nn.Linear(code.shape[-1], latent_size, **options)
        self.to_log_variance = nn.Linear(code.shape[-1], latent_size, **options)
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


def _tried(net: nn.Module, rows: Tensor, name: str, width: int | None = None) -> Tensor:
    """What a network gives for some rows, which shows whether its shapes fit."""
    was = net.training
    try:
        with torch.no_grad():
            found = net.eval()(rows)
    except (RuntimeError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{name} cannot take rows of {rows.shape[-1]} numbers: {said}.") from error
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
    return found
