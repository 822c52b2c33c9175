"""AnoDDPM (Wyatt et al. 2022; paper 4.4 and App. B.1): a diffusion model with simplex noise, run back from part of the
way."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..errors import UsageError
from .learning import mixed_precision
from .rebuilding import Rebuilding, RebuildingSettings, generators
from .simplex import simplex_noise


@dataclass(frozen=True)
class AnoDDPMSettings(RebuildingSettings):
    """T, the steps back from which maps are made, and the network.

    trained_to: noise levels from 1 to this one are drawn in training; a map needs no more than `steps` of them.
    """

    channels: tuple[int, ...] = (128, 128, 256, 256)
    attention: tuple[bool, ...] = (False, False, False, True)
    blocks: int = 2  # of each level
    groups: int = 32
    noise_levels: int = 1000  # T
    trained_to: int = 1000
    steps: int = 40
    learning_rate: float = 1e-4

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.steps <= self.trained_to <= self.noise_levels:
            raise UsageError(
                f"Maps cannot be made from {self.steps} steps back after a training to level {self.trained_to} of "
                f"{self.noise_levels}: take 1 ≤ steps ≤ trained_to ≤ noise_levels."
            )

    @property
    def halvings(self) -> int:
        return len(self.channels) - 1


class AnoDDPM(Rebuilding):
    """Noise is added to the window up to a level at which lesions drown, and taken away again step by step.

    The noise is simplex noise on the way back, too.
    """

    name = "anoddpm"
    settings: AnoDDPMSettings
    settings_type = AnoDDPMSettings
    of_maps = Rebuilding.of_maps | {"steps"}
    libraries = ("monai", "opensimplex", "einops")  # the last by MONAI, for its attention
    presets: ClassVar = {
        "small": {
            "columns": 64,
            "channels": (16, 32, 64),
            "attention": (False, False, False),
            "blocks": 1,
            "groups": 8,
            "trained_to": 200,
            "batch": 8,
            "learning_rate": 1e-3,
        },
    }

    def build(self):
        from monai.networks.nets import DiffusionModelUNet

        settings = self.settings
        network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=settings.channels,
            attention_levels=settings.attention,
            num_res_blocks=settings.blocks,
            norm_num_groups=settings.groups,
            num_head_channels=settings.channels[-1],
        )
        return {"unet": network}

    def losses(self, network, seen, generator):
        noise = simplex_noise(seen[:, 0].shape, generator)[:, None]
        levels = torch.randint(self.settings.trained_to, (len(seen),), generator=generator, device=seen.device)
        noisy = self._scheduler.add_noise(2 * seen - 1, noise, levels)
        with mixed_precision(seen.device):
            predicted = network(noisy, levels)
        return {"loss": F.mse_loss(predicted.float(), noise)}

    def rebuild(self, networks, seen, cords, seeds):
        scheduler, drawn = self._scheduler, generators(seeds)

        def noise():
            one = (1, *seen.shape[2:])
            return torch.stack([simplex_noise(one, generator) for generator in drawn]).to(seen.device)

        def levels(level):
            return torch.full((len(seen),), level, device=seen.device)

        image = scheduler.add_noise(2 * seen - 1, noise(), levels(self.settings.steps - 1))
        for level in reversed(range(self.settings.steps)):
            with mixed_precision(seen.device):
                predicted = networks["unet"](image, levels(level)).float()
            image, spread = one_step_back(scheduler, image, predicted, level)
            if level:
                image = image + spread * noise()
        return ((image + 1) / 2).clamp(0, 1)

    @cached_property
    def _scheduler(self):
        from monai.networks.schedulers import DDPMScheduler

        return DDPMScheduler(self.settings.noise_levels)


def one_step_back(scheduler, image: torch.Tensor, noise: torch.Tensor, level: int) -> tuple[torch.Tensor, float]:
    """Mean and standard deviation of the image one level cleaner, from the noise that the network sees in this one
    (Ho et al. 2020, Eq. 6 and 7). As `DDPMScheduler.step`, which can only add Gaussian noise."""
    kept, beta = float(scheduler.alphas_cumprod[level]), float(scheduler.betas[level])
    before = float(scheduler.alphas_cumprod[level - 1]) if level else 1.0
    clean = ((image - (1 - kept) ** 0.5 * noise) / kept**0.5).clamp(-1, 1)
    mean = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * image) / (1 - kept)
    return mean, ((1 - before) / (1 - kept) * beta) ** 0.5
