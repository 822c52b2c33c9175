"""RegionNet: cord, canal, discs and levels in one sagittal slice.

A small U-Net finds what can be seen near by: the cord, and that there is a disc. Which disc it is cannot be seen near
by: at its coarsest level every place attends to every other, to count from the skull base and C2, and says at which
level of the spine it lies. The network looks at one slice at a time, with a glance at the slices to both sides: where
a slice touches the cord's side, only they tell the cord from what lies beside it. Agreement is sought afterwards
(`locate.py`).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..mae import Block, axis_embedding

DISC_NUMBERS = tuple(range(3, 14))  # C2/C3 … C7/T1, and the discs of the chest down to T5/T6
NEIGHBOUR_MM = 3.5  # the slices to both sides are those about so far away
CHANNELS = ("cord", "canal", "disc", "level")
MIDDLE_LEVEL, LEVELS = 5.5, 3.0  # the level channel is (number − 5.5) / 3


@dataclass(frozen=True)
class RegionArchitecture:
    """Widths of the levels from full resolution (1 mm) to the coarsest, each half as fine as the one before."""

    widths: tuple[int, ...] = (12, 20, 32, 56, 88, 112)
    groups: int = 4  # of the group normalisation
    blocks: int = 3  # of attention at the coarsest level
    heads: int = 4

    @property
    def multiple(self) -> int:
        """Rows and columns of the input must be a multiple of this."""
        return 2 ** (len(self.widths) - 1)


def neighbours(slices: int, spacing_mm: float) -> np.ndarray:
    """Indices (S, 3) of the slice to the right, the slice itself and the slice to the left of every slice of a volume;
    at its sides, where there is none, the outermost."""
    step = max(1, round(NEIGHBOUR_MM / spacing_mm))
    return np.clip(np.arange(slices)[:, None] + np.array([-step, 0, step]), 0, slices - 1)


class Convolutions(nn.Sequential):
    """Twice: 3 × 3 convolution, group normalisation, SiLU."""

    def __init__(self, inner: int, outer: int, groups: int):
        layers = []
        for channels in (inner, outer):
            layers += [nn.Conv2d(channels, outer, 3, padding=1, bias=False), nn.GroupNorm(groups, outer), nn.SiLU()]
        super().__init__(*layers)


class RegionNet(nn.Module):
    """Slices (B, 3, H, W), 0–1 at 1 mm, rows from head to feet and columns from front to back → (B, 4, H, W).

    Three slices are given: that to the right, the slice itself, that to the left (`neighbours`).

    Channels as in `CHANNELS`: logits of cord, canal and disc, which peaks at the posterior tips; and the level, a
    number that grows along the spine and is that of the disc at a disc (3 at C2/C3), less 5.5 and divided by 3.
    """

    def __init__(self, architecture: RegionArchitecture | None = None):
        super().__init__()
        self.architecture = architecture or RegionArchitecture()
        widths, groups = self.architecture.widths, self.architecture.groups
        self.down = nn.ModuleList(
            Convolutions(inner, outer, groups) for inner, outer in zip((3, *widths), widths, strict=False)
        )
        self.attend = nn.ModuleList(
            Block(widths[-1], self.architecture.heads, 2.0) for _ in range(self.architecture.blocks)
        )
        self.up = nn.ModuleList(Convolutions(below + here, here, groups) for here, below in pairwise(widths))
        self.head = nn.Conv2d(widths[0], len(CHANNELS), 1)

    def initialise(self, generator: torch.Generator) -> "RegionNet":
        """Draw all weights from the generator (He normal); the head begins where nothing is anything."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    fan = module.weight[0].numel()
                    module.weight.normal_(std=(2 / fan) ** 0.5, generator=generator)
                elif isinstance(module, nn.Linear):
                    module.weight.normal_(std=module.in_features**-0.5, generator=generator)
                    module.bias.zero_()
            for block in self.attend:  # begins as the identity
                block.project.weight.zero_()
                block.contract.weight.zero_()
            self.head.weight.normal_(std=0.01, generator=generator)
            self.head.bias.copy_(torch.tensor([-4.0, -4.0, -4.0, 0.0]))
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x)
            seen.append(x)
        x = seen.pop()
        if len(self.attend):
            rows, columns = (axis_embedding(n, x.shape[1] // 2).to(x) for n in x.shape[2:])
            place = torch.cat([rows[:, None].expand(-1, len(columns), -1), columns.expand(len(rows), -1, -1)], 2)
            tokens = x.flatten(2).transpose(1, 2) + place.flatten(0, 1)
            for block in self.attend:
                tokens = block(tokens, None)
            x = tokens.transpose(1, 2).reshape(x.shape)
        for block in reversed(self.up):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, seen.pop()], dim=1))
        return self.head(x)
