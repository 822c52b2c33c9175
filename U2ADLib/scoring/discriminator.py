"""The discriminator: tells corruption from what merely is hard to rebuild.

A reconstruction's error is large where there is a lesion, and also at the cord's border, where the mask is wrong and
where the scanner blurs. A small network sees the upright cord, divided by its own brightness thereabouts, and where its
mask ends (if asked also what Monte Carlo reconstruction says of it), and gives each pixel the probability that it was
changed. It learns on healthy slices into
which shapeless corruptions are planted; no annotated lesion is needed (the idea of DRAEM, Zavrtanik et al., ICCV
2021).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = ("gain", "inside", "depth", "rebuilt", "uncertainty")  # see `channels.channels`


@dataclass(frozen=True)
class DiscriminatorArchitecture:
    """channels: what it sees, of `CHANNELS`. widths: feature maps per level, each at half the resolution before."""

    # Measured on an unseen person: what inpainting and the reconstruction say of *training* people is too good, so a
    # discriminator that sees it finds less in others.
    channels: tuple[str, ...] = ("gain", "inside", "depth")
    widths: tuple[int, ...] = (16, 32, 48, 64)

    @property
    def multiple(self) -> int:
        """Rows and columns must be multiples of this."""
        return 2 ** (len(self.widths) - 1)


class Discriminator(nn.Module):
    """U-Net: (B, channels, rows, 40) → logits (B, rows, 40)."""

    def __init__(self, architecture: DiscriminatorArchitecture | None = None):
        super().__init__()
        self.architecture = architecture = architecture or DiscriminatorArchitecture()
        widths = architecture.widths
        before = (len(architecture.channels), *widths[:-1])
        self.down = nn.ModuleList(_block(i, o) for i, o in zip(before, widths, strict=True))
        below = widths[:0:-1]
        self.up = nn.ModuleList(_block(i + o, o) for i, o in zip(below, widths[-2::-1], strict=True))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for block, skipped in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skipped], 1))
        return self.head(x)[:, 0]


def _block(inputs, outputs):
    layers = []
    for i in (inputs, outputs):
        layers += [nn.Conv2d(i, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()]
    return nn.Sequential(*layers)


def features(channels: dict[str, np.ndarray], wanted: tuple[str, ...]) -> np.ndarray:
    """(len(wanted), H, W) float32 from maps by name; relative differences are limited to −1 … 2."""
    limits = {"inside": (0, 1), "depth": (0, 1), "uncertainty": (0, 1)}  # others: relative differences
    return np.stack([np.clip(channels[name], *limits.get(name, (-1, 2))) for name in wanted]).astype(np.float32)
