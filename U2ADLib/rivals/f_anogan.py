"""f-AnoGAN (Schlegl et al. 2019; paper 4.4 and App. B.1): a Wasserstein GAN with gradient penalty, then an encoder."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..training.step import descend
from .learning import frozen, learn, mixed_precision
from .pace import part
from .rebuilding import Batches, Rebuilding, RebuildingSettings


@dataclass(frozen=True)
class FAnoGANSettings(RebuildingSettings):
    """gan_share: of a stage's budget; the rest is the encoder's. kappa: κ, weight of the features' error (izi_f)."""

    latent: int = 128
    gan_share: float = 0.6
    critic_steps: int = 5
    penalty: float = 10.0
    kappa: float = 1.0
    groups: int = 8  # of the generator's and the encoder's group normalisation; the critic has none
    learning_rate: float = 1e-4
    encoder_rate: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.9)
    clip_norm: float = 10.0


class FAnoGAN(Rebuilding):
    """It sees the image inside the cord alone. At inference x is rebuilt as G(E(x)).

    The original's score adds κ times the features' error; that is a number and not a map, so it has no part in ours.
    """

    name = "f-anogan"
    settings: FAnoGANSettings
    settings_type = FAnoGANSettings
    presets: ClassVar = {
        "small": {
            "columns": 64,
            "channels": (8, 16, 32, 64, 64),
            "latent": 64,
            "groups": 4,
            "critic_steps": 2,  # a few minutes are not enough for five
            "batch": 8,
            "learning_rate": 3e-4,
        },
    }

    def build(self):
        from monai.networks.nets import Generator, Regressor

        settings = self.settings
        strides = (2,) * settings.halvings
        normal = ("group", {"num_groups": settings.groups})
        # The last layer has no norm, and nothing follows it: a sigmoid would be driven to 0 with all that lies outside
        # the cord, and let no gradient through in the cord, either.
        rising = (*settings.channels[-2::-1], 1)
        generator = Generator(
            settings.latent,
            (settings.channels[-1], *settings.smallest),
            rising,
            strides,
            num_res_units=0,
            norm=normal,
        )
        # Not MONAI's Critic: it takes the mean of the last features, wherever they are.
        critic = Regressor(
            (1, *settings.size), (1,), settings.channels, strides, num_res_units=0, act="LEAKYRELU", norm=None
        )
        encoder = Regressor(
            (1, *settings.size), (settings.latent,), settings.channels, strides, num_res_units=0, norm=normal
        )
        return {"generator": generator, "critic": critic, "encoder": encoder}

    def train(self, networks, slices, training, recipe):
        batches = Batches(slices, self.settings.size, training.device)
        share = self.settings.gan_share
        self._train_gan(networks, batches, slices, part(training, "gan", share), recipe)
        self._train_encoder(networks, batches, slices, part(training, "encoder", 1 - share), recipe)

    def _train_gan(self, networks, batches, slices, training, recipe):
        settings, maker, critic = self.settings, networks["generator"], networks["critic"]
        networks = {"generator": maker, "critic": critic}
        optimisers = {
            name: torch.optim.Adam(one.parameters(), lr=settings.learning_rate, betas=settings.betas)
            for name, one in networks.items()
        }

        def made(generator):
            z = torch.randn((settings.batch, settings.latent), generator=generator, device=generator.device)
            return maker(z)

        def step(chosen, generator):
            for some in chosen.split(settings.batch):
                image, cord = batches(some, generator)
                true = image * cord
                with torch.no_grad():
                    false = made(generator)
                distance = critic(true).mean() - critic(false).mean()
                penalty = gradient_penalty(critic, true, false, generator)
                loss = settings.penalty * penalty - distance
                descend(critic, optimisers["critic"], loss, settings.clip_norm)
            with frozen(critic):
                descend(maker, optimisers["generator"], -critic(made(generator)).mean(), settings.clip_norm)
            return {"distance": distance, "penalty": penalty}

        batch = settings.batch * settings.critic_steps
        learn(networks, optimisers, step, slices, training, batch=batch, recipe=recipe)

    def _train_encoder(self, networks, batches, slices, training, recipe):
        settings, encoder = self.settings, networks["encoder"]
        optimiser = torch.optim.Adam(encoder.parameters(), lr=settings.encoder_rate)

        def step(chosen, generator):
            image, cord = batches(chosen, generator)
            true = image * cord
            with mixed_precision(training.device), frozen(networks["generator"]), frozen(networks["critic"]):
                rebuilt = networks["generator"](encoder(true))
                features, wanted = (networks["critic"].net(one) for one in (rebuilt, true))
            error, away = F.mse_loss(rebuilt.float(), true), F.mse_loss(features.float(), wanted.float())
            descend(encoder, optimiser, error + settings.kappa * away, settings.clip_norm)
            return {"error": error, "features": away}

        learn(networks, {"encoder": optimiser}, step, slices, training, batch=settings.batch, recipe=recipe)

    def rebuild(self, networks, seen, cords, seeds):
        return networks["generator"](networks["encoder"](seen * cords)).clamp(0, 1)


def gradient_penalty(critic, true: torch.Tensor, false: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mean of (‖∇critic‖ − 1)² at points between true and false images (Gulrajani et al. 2017)."""
    share = torch.rand((len(true), 1, 1, 1), generator=generator, device=true.device)
    between = (share * true + (1 - share) * false).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
