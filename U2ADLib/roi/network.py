"""RegionNet: cord, canal, discs and levels in one sagittal slice.

A small U-Net finds what can be seen near by: the cord, and that there is a disc. Which disc it is cannot be seen near
by: at its coarsest level every place attends to every other, to count from the skull base and C2, and says at which
level of the spine it lies. The network looks at one slice at a time, with a glance at the slices to both sides: where
a slice touches the cord's side, only they tell the cord from what lies beside it. Agreement is sought afterwards
(`locate.py`).
"""

from dataclasses import dataclass

import numpy as np

from ..mae import Block
from .unet import UNet

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


class RegionNet(UNet):
    """Slices (B, 3, H, W), 0–1 at 1 mm, rows from head to feet and columns from front to back → (B, 4, H, W).

    Three slices are given: that to the right, the slice itself, that to the left (`neighbours`).

    Channels as in `CHANNELS`: logits of cord, canal and disc, which peaks at the posterior tips; and the level, a
    number that grows along the spine and is that of the disc at a disc (3 at C2/C3), less 5.5 and divided by 3.
    """

    def __init__(self, architecture: RegionArchitecture | None = None):
        chosen = architecture or RegionArchitecture()
        attend = [Block(chosen.widths[-1], chosen.heads, 2.0) for _ in range(chosen.blocks)]
        super().__init__(chosen.widths, chosen.groups, (-4.0, -4.0, -4.0, 0.0), attend)  # nothing is anything
        self.architecture = chosen
