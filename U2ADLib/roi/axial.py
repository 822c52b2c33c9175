"""The second look: the cord's outline in axial planes.

A sagittal slice that touches the cord's side shows cord and fluid in one pixel, and the nerve roots beside it look like
cord. In the axial plane the cord is an oval in bright fluid, and how far it reaches to the sides can be seen. So when
the sagittal slices have said where the cord is, a small U-Net outlines it in the axial plane of every row, as far as
the slices lie close enough to show one; where they are thick, the plane is interpolated between them.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d

from ..device import choose_device
from ..progress import Progress, no_progress
from .unet import UNet

PLANE = 48  # pixels of 1 mm, across and from front to back
BESIDE_ROWS = 2  # the planes above and below that are seen, too, lie so far away
CENTRE_SIGMA_ROWS = 4.0
PLANES_PER_BATCH = 32
BRIGHT = 0.998  # quantile of a plane that counts as 1


@dataclass(frozen=True)
class AxialArchitecture:
    """Widths of the levels from full resolution (1 mm) to the coarsest, each half as fine as the one before."""

    widths: tuple[int, ...] = (16, 24, 40, 64)
    groups: int = 4  # of the group normalisation


class AxialNet(UNet):
    """Axial planes (B, 3, PLANE, PLANE) as `axial_planes` makes them → (B, 1, PLANE, PLANE), logit of the cord."""

    def __init__(self, architecture: AxialArchitecture | None = None):
        chosen = architecture or AxialArchitecture()
        super().__init__(chosen.widths, chosen.groups, (0.0,))
        self.architecture = chosen


def cord_centres(cord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (R,) of a cord (S, H, W) bool, and its centre in each: slice and column (R, 2), smoothed along the cord."""
    area = cord.sum(axis=(0, 2), dtype=float)
    rows = np.flatnonzero(area)
    places = (np.arange(cord.shape[0]) @ cord.sum(axis=2), cord.sum(axis=0) @ np.arange(cord.shape[2]))
    centres = [gaussian_filter1d((at / np.maximum(area, 1))[rows], CENTRE_SIGMA_ROWS, mode="nearest") for at in places]
    return rows, np.stack(centres, axis=1)


def axial_planes(
    images: torch.Tensor,
    slice_spacing_mm: float,
    rows: torch.Tensor,
    centres: torch.Tensor,
    turn: torch.Tensor | None = None,
) -> torch.Tensor:
    """Planes of a volume: (B, 3, PLANE, PLANE), across from right to left and from front to back, 1 mm. The channels
    are the plane BESIDE_ROWS above, the row's own, and that below. Outside the volume is 0.

    :param images: (S, H, W) slices with pixels of 1 mm. :param rows: (B,). :param centres: (B, 2) slice and column.
    :param turn: (B, 2, 2) from the plane's mm to the volume's: turns, stretches or mirrors it.
    """
    slices, height, width = images.shape
    beside = torch.tensor([-BESIDE_ROWS, 0, BESIDE_ROWS], device=images.device)
    stack = images[:, (rows[:, None] + beside).clamp(0, height - 1)].permute(1, 2, 0, 3)
    way = torch.arange(PLANE, device=images.device, dtype=torch.float32) - (PLANE - 1) / 2
    at = torch.stack(torch.meshgrid(way, way, indexing="ij"), -1).expand(len(rows), -1, -1, -1)
    if turn is not None:
        at = torch.einsum("bij,bhwj->bhwi", turn, at)
    across, back = centres[:, 0, None, None] + at[..., 0] / slice_spacing_mm, centres[:, 1, None, None] + at[..., 1]
    grid = torch.stack([(2 * back + 1) / width - 1, (2 * across + 1) / slices - 1], -1)
    return F.grid_sample(stack, grid, align_corners=False)


def normalised(planes: torch.Tensor) -> torch.Tensor:
    """Every plane divided by its brightest pixels, mostly fluid."""
    top = torch.quantile(planes[:, 1].flatten(1), BRIGHT, dim=1).view(-1, 1, 1, 1)
    return planes / top.clamp(min=1e-3)


@torch.inference_mode()
def second_look(
    network: AxialNet,
    images: np.ndarray,
    slice_spacing_mm: float,
    cord: np.ndarray,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> np.ndarray:
    """Probability of the cord (S, H, W) float32, in the rows of a cord that was found, and 0 elsewhere.

    :param images: (S, H, W), 0–1 at 1 mm. :param cord: (S, H, W) bool, tells where the planes lie.
    """
    target = choose_device(device)
    network = network.to(target).eval()
    given = torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(target)
    slices, _, width = given.shape
    found = torch.zeros_like(given)
    rows, centres = cord_centres(cord)
    rows, centres = torch.from_numpy(rows).to(target), torch.from_numpy(centres).float().to(target)
    for start in range(0, len(rows), PLANES_PER_BATCH):
        progress("Outlining the cord", start, len(rows))
        part = slice(start, start + PLANES_PER_BATCH)
        likely = network(normalised(axial_planes(given, slice_spacing_mm, rows[part], centres[part]))).sigmoid()
        # Where the volume's pixels lie in the planes, in units of half the plane.
        across = (torch.arange(slices, device=target) - centres[part, :1]) * slice_spacing_mm * (2 / PLANE)
        back = (torch.arange(width, device=target) - centres[part, 1:]) * (2 / PLANE)
        grid = torch.stack([back[:, None, :].expand(-1, slices, -1), across[:, :, None].expand(-1, -1, width)], -1)
        found[:, rows[part]] = F.grid_sample(likely, grid, align_corners=False)[:, 0].transpose(0, 1)
    progress("Outlining the cord", len(rows), len(rows))
    network.cpu()
    return found.cpu().numpy()
