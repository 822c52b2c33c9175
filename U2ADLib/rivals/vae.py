"""Variational autoencoder (Kingma and Welling 2014; paper 4.4 and App. B.1): squared error and KL divergence."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from .learning import mixed_precision
from .rebuilding import Rebuilding, RebuildingSettings


@dataclass(frozen=True)
class VAESettings(RebuildingSettings):
    """latent: length of the latent vector. kl_weight: beside the squared error summed over the pixels; 0.1 is that of
    Gaussian pixels with σ = 0.22. With 1 a few minutes leave the cord as bright as the CSF about it."""

    latent: int = 128
    kl_weight: float = 0.1
    groups: int = 4  # of group normalisation: the fewer, the more it leaves of the absolute intensity


class VAE(Rebuilding):
    """The window through a latent vector, at inference its mean."""

    name = "vae"
    settings: VAESettings
    settings_type = VAESettings
    presets: ClassVar = {"small": {"columns": 64, "channels": (16, 32, 64, 64, 64), "latent": 64}}

    def build(self):
        return {"autoencoder": variational_autoencoder(self.settings)}

    def losses(self, network, seen, generator):
        with mixed_precision(seen.device):
            z, kl = encode(network, seen, generator)
            rebuilt = network.decode_forward(z)
        error = F.mse_loss(rebuilt.float(), seen)
        return {"loss": error + self.settings.kl_weight * kl / seen[0].numel(), "error": error, "kl": kl}

    def rebuild(self, networks, seen, cords, seeds):
        network = networks["autoencoder"]
        return network.decode_forward(network.encode_forward(seen)[0])  # MONAI's `forward` adds a standard deviation


def variational_autoencoder(settings: VAESettings):
    """MONAI's, for windows of one channel."""
    from monai.networks.nets import VarAutoEncoder

    return VarAutoEncoder(
        spatial_dims=2,
        in_shape=(1, *settings.size),
        out_channels=1,
        latent_size=settings.latent,
        channels=settings.channels,
        strides=(2,) * settings.halvings,
        norm=("group", {"num_groups": settings.groups}),
    )


def encode(network, seen: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A latent vector (B, latent) for each window, drawn from its posterior, and the mean of their KL divergences."""
    mean, log_variance = (values.float() for values in network.encode_forward(seen))
    drawn = torch.randn(mean.shape, generator=generator, device=generator.device)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return mean + drawn * (log_variance / 2).exp(), kl
