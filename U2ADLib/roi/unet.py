"""The U-Net that all networks of the region are made of, with or without attention at its coarsest level."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from ..mae import Block, axis_embedding


class Convolutions(nn.Sequential):
    """Twice: 3 × 3 convolution, group normalisation, SiLU."""

    def __init__(self, inner: int, outer: int, groups: int):
        layers = []
        for channels in (inner, outer):
            layers += [nn.Conv2d(channels, outer, 3, padding=1, bias=False), nn.GroupNorm(groups, outer), nn.SiLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """(B, 3, H, W) → (B, outputs, H, W); H and W are multiples of 2 to the number of widths less one.

    :param widths: channels from full resolution to the coarsest, each half as fine as the one before.
    :param attend: blocks of attention at the coarsest level, where every place sees every other.
    :param start: (outputs,) what the untrained network answers everywhere.
    """

    def __init__(self, widths: Sequence[int], groups: int, start: Sequence[float], attend: Sequence[Block] = ()):
        super().__init__()
        self.down = nn.ModuleList(
            Convolutions(inner, outer, groups) for inner, outer in zip((3, *widths), widths, strict=False)
        )
        self.attend = nn.ModuleList(attend)
        self.up = nn.ModuleList(Convolutions(below + here, here, groups) for here, below in pairwise(widths))
        self.head = nn.Conv2d(widths[0], len(start), 1)
        self.start = tuple(start)

    def initialise(self, generator: torch.Generator) -> "UNet":
        """Draw all weights from the generator (He normal); the head begins at `start`."""
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
            self.head.bias.copy_(torch.tensor(self.start))
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
