"""Denoising autoencoder with coarse noise (Kascenas et al. 2022; paper 4.4 and App. B.1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from .learning import mixed_precision
from .rebuilding import Rebuilding, RebuildingSettings, generators


@dataclass(frozen=True)
class DAESettings(RebuildingSettings):
    """Noise: σ before it is made finer, and the side of its cells, so that a slice has 16×16 of them."""

    channels: tuple[int, ...] = (64, 64, 128, 256, 512)  # five levels, as MONAI's network has them
    sigma: float = 0.2
    cell_px: int = 16
    groups: int = 4  # of group normalisation: the fewer, the more it leaves of the absolute intensity
    learning_rate: float = 1e-4
    noisy_maps: bool = False  # noise at inference, too, as App. B.1 may be read; Kascenas et al. add none there

    @property
    def halvings(self) -> int:
        return len(self.channels) - 1


class DAE(Rebuilding):
    """A U-Net says what is noise in the window; lesions are taken for noise.

    Kascenas et al. let it give the clean image. The difference is the same, and the squared error, too, but intensities
    that normalisation takes away inside the network need not be learnt again.
    """

    name = "dae"
    settings: DAESettings
    settings_type = DAESettings
    of_maps = Rebuilding.of_maps | {"noisy_maps"}
    presets: ClassVar = {
        # Cells of as many pixels as those of Kascenas et al., with 128 in a slice; larger ones reach far beyond a cord.
        "small": {
            "columns": 64,
            "channels": (16, 16, 32, 64, 128),
            "cell_px": 8,
            "groups": 2,
            "batch": 8,
            "learning_rate": 1e-3,
        },
    }

    def build(self):
        from monai.networks.nets import BasicUNet

        # Not MONAI's UNet: that halves before its first skip connection and normalises its only output channel.
        channels = self.settings.channels
        network = BasicUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            features=(*channels, channels[0]),
            norm=("group", {"num_groups": self.settings.groups}),
        )
        return {"unet": network}

    def losses(self, network, seen, generator):
        noise = coarse_noise(seen.shape, self.settings.sigma, self.settings.cell_px, generator)
        with mixed_precision(seen.device):
            found = network(seen + noise)
        return {"loss": F.mse_loss(found.float(), noise)}

    def rebuild(self, networks, seen, cords, seeds):
        settings = self.settings
        if settings.noisy_maps:
            one = (1, *seen.shape[1:])
            noise = [coarse_noise(one, settings.sigma, settings.cell_px, drawn) for drawn in generators(seeds)]
            seen = seen + torch.cat(noise).to(seen.device)
        return seen - networks["unet"](seen)


def coarse_noise(shape, sigma: float, cell_px: int, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise of σ on a grid of cells, made finer linearly and rolled by a random shift: (B, 1, H, W)."""
    height, width = shape[2:]
    device = generator.device
    cells = torch.randn((*shape[:2], -(-height // cell_px), -(-width // cell_px)), generator=generator, device=device)
    noise = F.interpolate(cells * sigma, size=(height, width), mode="bilinear", align_corners=True)
    rolls = [int(torch.randint(length, (), generator=generator, device=device)) for length in (height, width)]
    return noise.roll(rolls, (2, 3))
