"""The window of a slice that a network sees, and the reconstruction put together from it (paper, App. B.1).

A window has a fixed size and nothing is resampled. It lies at the middle of the cord's rows and at its mean column; one
that would leave the slice is shifted. Cord outside it is not looked at: its map is 0 there. Everything is on the device
of its tensors and in batches: maps (B, H, W), windows (B, rows, columns).
"""

from dataclasses import dataclass

import torch

from ..errors import UsageError


@dataclass(frozen=True)
class Windows:
    """Rows and columns (B, rows, 1) and (B, 1, columns) of the windows of B slices of a shape (H, W)."""

    rows: torch.Tensor
    columns: torch.Tensor
    shape: tuple[int, int]

    def cut(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (B, H, W) → (B, rows, columns)."""
        return maps[self._numbers, self.rows, self.columns]

    def put_back(self, values: torch.Tensor) -> torch.Tensor:
        """(B, rows, columns) → (B, H, W), 0 outside the windows."""
        maps = values.new_zeros((len(values), *self.shape))
        maps[self._numbers, self.rows, self.columns] = values
        return maps

    @property
    def _numbers(self):
        return torch.arange(len(self.rows), device=self.rows.device)[:, None, None]


def windows(cords: torch.Tensor, size: tuple[int, int], margin: int = 0) -> Windows:
    """Where the windows of slices with cords (B, H, W) bool lie; in the middle where there is no cord.

    :param margin: so many pixels more on every side, as far as the slice reaches.
    :raises UsageError: a window is larger than the slices.
    """
    shape = tuple(cords.shape[1:])
    check_size(size, shape)
    height, width = (min(length + 2 * margin, whole) for length, whole in zip(size, shape, strict=True))
    rows = _lengths(shape[0], cords)
    shown = cords.any(dim=2)
    first_row = torch.where(shown, rows, shape[0]).amin(1)
    last_row = torch.where(shown, rows, -1).amax(1)
    middle = torch.where(last_row < 0, shape[0], first_row + last_row + 1) / 2
    at = _span(middle, height, shape[0])
    # The mean column of what is seen: a curved cord is elsewhere in rows that the window does not show.
    seen = cords & ((rows >= at[:, :1]) & (rows <= at[:, -1:]))[:, :, None]
    count = seen.sum((1, 2))
    columns = _lengths(shape[1], cords) + 0.5
    mean = torch.where(count > 0, (seen.sum(1) * columns).sum(1) / count.clamp(min=1), shape[1] / 2)
    return Windows(at[:, :, None], _span(mean, width, shape[1])[:, None, :], shape)


def middle(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The middle of maps (…, H, W): what is left without a margin."""
    top, left = middle_corner(maps.shape[-2:], size)
    return maps[..., top : top + size[0], left : left + size[1]]


def middle_corner(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Row and column where the middle of slices of a shape (H, W) begins. :raises UsageError: they are smaller."""
    check_size(size, shape)
    return (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2


def check_size(size: tuple[int, int], shape: tuple[int, int]) -> None:
    """:raises UsageError: a window of that size is larger than slices of a shape (H, W)."""
    if size[0] > shape[0] or size[1] > shape[1]:
        raise UsageError(f"A window of {size[0]}×{size[1]} does not fit slices of {shape[0]}×{shape[1]} pixels.")


def put_together(images: torch.Tensor, cords: torch.Tensor, rebuilt: torch.Tensor, where: Windows):
    """The final reconstruction (paper, App. B.1) and its map: rebuilt where there is cord, the image elsewhere.

    :param images: (B, H, W), with cords (B, H, W) bool. :param rebuilt: (B, rows, columns), of the windows.
    :returns: reconstruction and |x − reconstruction|, each (B, H, W); the map is 0 outside the cord.
    """
    seen = where.put_back(torch.ones_like(rebuilt, dtype=torch.bool))
    whole = torch.where(cords & seen, where.put_back(rebuilt), images)
    return whole, (images - whole).abs()


def _lengths(length, like):
    return torch.arange(length, device=like.device)


def _span(centre: torch.Tensor, length: int, whole: int) -> torch.Tensor:
    """Numbers (B, length) of the pixels about a centre (B,), which is in pixels from the first one's outer edge."""
    first = torch.round(centre - length / 2).long().clamp(0, whole - length)
    return first[:, None] + torch.arange(length, device=centre.device)
