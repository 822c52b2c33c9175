"""Healthy slices, moved, corrupted and degraded: what the discriminator learns from."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from ..simulation.corrupt import corrupt
from ..simulation.degrade import (
    Blur,
    CentralCanal,
    CoilEdge,
    Degradation,
    Drift,
    EdgeNoise,
    MaskError,
    MotionGhost,
    Noise,
    Swell,
)
from .data import SliceSet

WINDOW = (160, 96)  # rows and columns cut around the cord before anything is computed
SMALLEST_CORD_PX = 300


@dataclass(frozen=True)
class CorruptionConfig:
    """How often what happens; the size of each change is that of `simulation.degrade`."""

    corrupted: float = 0.75
    drift: float = 0.7
    noise: float = 0.7
    blur: float = 0.5
    mask_error: float = 0.6
    texture: float = 0.5  # smooth unevenness of the healthy cord, a few per cent
    contrast: float = 0.5  # CSF brought nearer to the cord, or farther away
    ghost: float = 0.1
    canal: float = 0.1
    edge: float = 0.5  # the picture gets brighter or darker towards one end, as at the edge of a coil or a slab
    edge_noise: float = 0.5  # and noisier
    swell: float = 0.5  # the whole width of the cord, a little brighter here and darker there
    rotation_degrees: float = 15.0
    scale: float = 0.18


@dataclass(frozen=True)
class Example:
    """image (H, W) float32, 0–1; cord (H, W) bool, as a method is given it, perhaps wrong; corrupted (H, W) bool;
    unknown (H, W) bool, where nobody can say whether the slice was healthy."""

    image: np.ndarray
    cord: np.ndarray
    corrupted: np.ndarray
    unknown: np.ndarray


def draw_example(
    data: SliceSet,
    weights: np.ndarray,
    rng: np.random.Generator,
    config: CorruptionConfig,
    unknown: np.ndarray | None = None,
) -> Example:
    """One slice, drawn with probabilities `weights` (N,), changed at random. Left alone with 1 − config.corrupted.

    :param unknown: (N, H, W) bool, where a slice may not be healthy.
    """
    while True:
        index = rng.choice(len(data), p=weights)
        doubtful = np.zeros_like(data.cords[index]) if unknown is None else unknown[index]
        planes = _window((data.images[index].astype(np.float32), data.cords[index], doubtful), rng)
        image, cord, doubtful = _move(planes, rng, config)
        if cord.sum() >= SMALLEST_CORD_PX:
            break  # a mask error takes at most a pixel off: some cord is left

    def happens(name):
        return rng.random() < getattr(config, name)

    level = np.median(image[cord])
    if happens("contrast"):
        image = np.where(image > level, level + (image - level) * rng.uniform(0.5, 1.3), image)
    if happens("texture"):
        unevenness = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(1, 6))
        unevenness *= rng.uniform(0.01, 0.05) / unevenness.std()
        image = np.where(cord, image * (1 + unevenness), image)
    if happens("swell"):
        image = level * Swell.draw(rng).apply(image / level, cord)
    healthy, corrupted = image, np.zeros_like(cord)
    if happens("corrupted"):
        for _ in range(rng.choice((1, 1, 2, 3))):
            image, mask = corrupt(image, cord, rng)
            corrupted |= mask
    picture = []
    if happens("canal"):
        picture.append(CentralCanal.draw(rng))
    if happens("blur"):
        picture.append(Blur.draw(rng))
    if happens("ghost"):
        picture.append(MotionGhost.draw(rng))
    if happens("drift"):
        picture.append(Drift.draw(rng))
    if happens("edge"):
        picture.append(CoilEdge.draw(rng))
    if happens("noise"):
        picture.append(Noise.draw(rng))
    if happens("edge_noise"):
        picture.append(EdgeNoise.draw(rng))
    mask_error = MaskError.draw(rng) if happens("mask_error") else MaskError("none")
    image, given = Degradation(tuple(picture), mask_error).apply(image, cord, healthy)
    top = max(np.percentile(image, 99.8), 1e-6)
    return Example(np.clip(image / top, 0, 1).astype(np.float32), given, corrupted, doubtful & ~corrupted)


def _window(planes, rng):
    """A window around the cord, the second of the planes, at random along it."""
    cord = planes[1]
    rows, columns = np.nonzero(cord)
    first_row = rng.integers(max(rows.min() - 8, 0), max(rows.max() + 8 - WINDOW[0], rows.min() - 8, 0) + 1)
    first_row = int(np.clip(first_row, 0, cord.shape[0] - WINDOW[0]))
    inside = cord[first_row : first_row + WINDOW[0]]
    middle = int(np.nonzero(inside)[1].mean()) if inside.any() else int(columns.mean())
    first_column = int(np.clip(middle - WINDOW[1] // 2, 0, cord.shape[1] - WINDOW[1]))
    return [plane[first_row : first_row + WINDOW[0], first_column : first_column + WINDOW[1]] for plane in planes]


def _move(planes, rng, config):
    """Turned, scaled, shifted by a few pixels, perhaps mirrored."""
    angle = np.deg2rad(rng.uniform(-config.rotation_degrees, config.rotation_degrees))
    rows, columns = rng.uniform(1 - config.scale, 1 + config.scale, 2)
    matrix = np.array([[np.cos(angle) * rows, -np.sin(angle)], [np.sin(angle), np.cos(angle) * columns]])
    centre = (np.array(planes[0].shape) - 1) / 2
    offset = centre - matrix @ centre + rng.uniform(-8, 8, 2)
    mirrored = rng.random() < 0.5
    moved = []
    for plane in planes:
        values = affine_transform(plane.astype(np.float32), matrix, offset, order=1, mode="nearest")
        values = values > 0.5 if plane.dtype == bool else values
        moved.append(np.ascontiguousarray(values[:, ::-1] if mirrored else values))
    return moved
