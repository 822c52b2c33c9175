"""Augmentations: drawn first, applied after (paper 4.3), on the device where the images are.

The paper's are noise, brightness and contrast, then back to 0–1. Shifts, small rotations and scalings are added because
the patch grid must not learn where one particular cord lies.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges. Half of the images are turned and scaled; all are shifted by whole pixels."""

    noise_sigma: float = 0.02  # standard deviation; the paper's text says variance, its code σ
    brightness: float = 0.2  # factor 1 ± this
    contrast: float = 0.2  # factor 1 ± this, about the image's mean
    shift_px: int = 12
    rotation_degrees: float = 8.0
    scale: float = 0.12  # factor 1 ± this, rows and columns apart


@dataclass(frozen=True)
class Augmentation:
    """What was drawn for a batch of B images."""

    matrix: torch.Tensor  # (B, 2, 3): output → input, as torch.nn.functional.affine_grid takes it
    brightness: torch.Tensor  # (B,)
    contrast: torch.Tensor  # (B,)
    noise: torch.Tensor  # (B, H, W), already scaled


def draw(config: AugmentConfig, shape, generator: torch.Generator) -> Augmentation:
    """Draw for images of `shape` (B, H, W), on the generator's device."""
    b, height, width = shape
    device = generator.device

    def uniform(*size):
        return torch.rand(size, generator=generator, device=device) * 2 - 1

    turned = (torch.rand(b, generator=generator, device=device) < 0.5).float()
    angle = uniform(b) * turned * torch.pi / 180 * config.rotation_degrees
    scale = 1 + uniform(b, 2) * turned[:, None] * config.scale
    shift = torch.round(uniform(b, 2) * config.shift_px)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [
            torch.stack([cos * scale[:, 0], -sin * scale[:, 0], shift[:, 0] * 2 / width], 1),
            torch.stack([sin * scale[:, 1], cos * scale[:, 1], shift[:, 1] * 2 / height], 1),
        ],
        1,
    )
    noise = torch.randn(shape, generator=generator, device=device) * config.noise_sigma
    return Augmentation(matrix, 1 + uniform(b) * config.brightness, 1 + uniform(b) * config.contrast, noise)


def part(drawn: Augmentation, chosen: slice) -> Augmentation:
    """What was drawn for some images of the batch."""
    return Augmentation(*(getattr(drawn, field.name)[chosen] for field in fields(drawn)))


def move(maps: torch.Tensor, drawn: Augmentation) -> torch.Tensor:
    """Maps (B, C, H, W) float32 moved as `apply` moves the images; interpolated linearly, 0 outside."""
    grid = F.affine_grid(drawn.matrix, (len(maps), 1, *maps.shape[2:]), align_corners=False)
    return F.grid_sample(maps, grid, align_corners=False)


def apply(images: torch.Tensor, cords: torch.Tensor, drawn: Augmentation) -> tuple[torch.Tensor, torch.Tensor]:
    """Move images (B, H, W) in 0–1 and cords (B, H, W) bool together; then contrast, brightness, noise, clip to 0–1."""
    grid = F.affine_grid(drawn.matrix, (len(images), 1, *images.shape[1:]), align_corners=False)
    images = F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
    cords = F.grid_sample(cords[:, None].float(), grid, align_corners=False)[:, 0] > 0.5
    mean = images.mean((1, 2), keepdim=True)
    images = (mean + (images - mean) * drawn.contrast[:, None, None]) * drawn.brightness[:, None, None]
    return (images + drawn.noise).clamp(0, 1), cords
