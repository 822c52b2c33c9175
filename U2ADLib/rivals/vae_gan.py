"""VAE-GAN (Larsen et al. 2016; paper 4.4 and App. B.1): a VAE whose error is measured by a discriminator's features."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..training.step import descend
from .learning import frozen, learn, mixed_precision
from .rebuilding import Batches
from .vae import VAE, VAESettings, encode, variational_autoencoder


@dataclass(frozen=True)
class VAEGANSettings(VAESettings):
    """Weights beside the squared error of the features, which is summed as the pixels' is for the KL divergence.

    pixel_weight: of the pixels' squared error. Larsen et al. have none; but then nothing holds the grey values, whose
    differences are the map.
    """

    feature_weight: float = 0.1  # normalised features vary far more than pixels
    pixel_weight: float = 1.0
    adversarial_weight: float = 0.001
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    discriminator_rate: float = 2e-4


class VAEGAN(VAE):
    """Maps as the VAE's. The encoder learns from features and KL divergence, the decoder from features and from
    deceiving the discriminator, by reconstructions and by what it makes of vectors drawn from the prior."""

    name = "vae-gan"
    settings: VAEGANSettings
    settings_type = VAEGANSettings
    presets: ClassVar = {"small": {**VAE.presets["small"], "discriminator_channels": 8, "batch": 8}}

    def build(self):
        from monai.networks.nets import PatchDiscriminator

        settings = self.settings
        discriminator = PatchDiscriminator(
            spatial_dims=2,
            in_channels=1,
            channels=settings.discriminator_channels,
            num_layers_d=settings.discriminator_layers,
            norm=("group", {"num_groups": settings.groups}),
        )
        return {"autoencoder": variational_autoencoder(settings), "discriminator": discriminator}

    def train(self, networks, slices, training, recipe):
        from monai.losses import PatchAdversarialLoss

        settings, autoencoder, discriminator = self.settings, networks["autoencoder"], networks["discriminator"]
        batches = Batches(slices, settings.size, training.device)
        adversarial = PatchAdversarialLoss(criterion="least_squares")
        optimisers = {
            "autoencoder": torch.optim.Adam(autoencoder.parameters(), lr=settings.learning_rate),
            "discriminator": torch.optim.Adam(
                discriminator.parameters(), lr=settings.discriminator_rate, betas=(0.5, 0.999)
            ),
        }

        def judged(image):
            """Features and verdict of the discriminator."""
            with mixed_precision(training.device):
                *features, verdict = discriminator(image)
            return [one.float() for one in features], verdict.float()

        def decoded(z):
            with mixed_precision(training.device):
                return autoencoder.decode_forward(z).float()

        def step(chosen, generator):
            seen, _ = batches(chosen, generator)
            with mixed_precision(training.device):
                z, kl = encode(autoencoder, seen, generator)
            drawn = torch.randn(z.shape, generator=generator, device=z.device)
            # Cut off from the encoder, which is not to learn how to deceive.
            rebuilt, made = decoded(z), decoded(torch.cat([z.detach(), drawn]))
            with frozen(discriminator):
                with torch.no_grad():
                    wanted, _ = judged(seen)
                found, _ = judged(rebuilt)
                deceived = adversarial(judged(made)[1], target_is_real=True, for_discriminator=False)
            features = sum(F.mse_loss(one, other) for one, other in zip(found, wanted, strict=True)) / len(wanted)
            pixels = F.mse_loss(rebuilt, seen)
            loss = settings.feature_weight * features + settings.pixel_weight * pixels
            loss = loss + settings.kl_weight * kl / seen[0].numel() + settings.adversarial_weight * deceived
            descend(autoencoder, optimisers["autoencoder"], loss, settings.clip_norm)

            true = adversarial(judged(seen)[1], target_is_real=True, for_discriminator=True)
            false = adversarial(judged(made.detach())[1], target_is_real=False, for_discriminator=True)
            told_apart = (true + false) / 2
            descend(discriminator, optimisers["discriminator"], told_apart, settings.clip_norm)
            return {"features": features, "error": pixels, "kl": kl, "deceived": deceived, "told apart": told_apart}

        learn(networks, optimisers, step, slices, training, batch=settings.batch, recipe=recipe)
