"""Lesions and degradations of the planted-lesion study, draw by draw: the same seeds give the same pixels.

`U2ADLib.simulation` plants the same kinds along the cord's centreline; here they follow the image rows and every number
is drawn in the study's order, so that figures can be compared with its published table. Images are (H, W) sagittal
slices at 1 mm in any unit in which 0 is no signal: rows from head to feet, columns from *posterior to anterior*.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import affine_transform, binary_dilation, binary_erosion, gaussian_filter, gaussian_filter1d

from ...scoring.inpainting import centre_columns
from ...simulation.degrade import Blur, Coarse, Drift, MaskError
from ...simulation.plant import CONTRASTS

LESION_KINDS = ("A1", "h08", "h15", "h25", "h50", "h75", "small25", "small50", "long08", "long15", "long50")
GROUPS = {
    "faint": ("h08", "h15", "small25", "long08", "long15"),
    "mid": ("h25", "small50"),
    "strong": ("h50", "h75", "long50"),
    "A1": ("A1",),
}
END_ROWS = 8  # a lesion's centre keeps away from the ends of the image
# One pixel wrong, equally likely; the sixth is a shift along the cord. "backwards" adds a column to each pixel. That is
# to the front here: columns run the other way than in a stack.
MASK_ERRORS = ("none", "dilated", "eroded", "backwards", "forwards")


def ring_around(cord: np.ndarray, inner: int, outer: int) -> np.ndarray:
    """Pixels more than `inner` and at most `outer` steps outside the mask, (H, W) bool."""
    inside = binary_dilation(cord, iterations=inner) if inner else cord
    return binary_dilation(cord, iterations=outer) & ~inside


def row_mean(image: np.ndarray, cord: np.ndarray, sigma: float) -> np.ndarray:
    """Mean of the masked pixels along the cord, Gaussian over rows, (H,)."""
    total, count = np.where(cord, image, 0).sum(1).astype(float), cord.sum(1).astype(float)
    return gaussian_filter1d(total, sigma) / np.maximum(gaussian_filter1d(count, sigma), 1e-6)


def divide_by_csf(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """Scaled so that the bright CSF around the mask is about 1; float32."""
    level = np.percentile(image[ring_around(cord, 1, 4)], 90)
    return (image / max(level, 1e-6)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- lesions


def plant_lesion(
    image: np.ndarray, cord: np.ndarray, kind: str, rng: np.random.Generator, rows: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One lesion of a kind: the image with it, and its pixels (H, W) bool.

    The contrast is a part of the difference between local CSF and local cord (`simulation.plant.CONTRASTS`); A1 is
    noise between the two. :param rows: where its centre may lie; by default anywhere in the cord.
    """
    level = row_mean(image, cord, 10)
    csf_ratio = np.percentile((image / np.maximum(level, 1e-6)[:, None])[ring_around(cord, 0, 3)], 85)
    lesion = _shape(cord, kind, rng, rows)
    if kind == "A1":
        fluid, inside = image[ring_around(cord, 1, 3)], image[cord]
        mean_weight, spread_weight = rng.uniform(0, 1, 2)
        mean = inside.mean() + mean_weight * (np.percentile(fluid, 75) - inside.mean())
        spread = inside.std() + spread_weight * (fluid.std() - inside.std())
        planted = image.copy()
        planted[lesion] = np.clip(rng.normal(mean, spread, lesion.sum()), 0, None)
        return planted, lesion
    profile = gaussian_filter(lesion.astype(float), 0.6)
    if kind.startswith("small"):
        profile = profile / max(profile.max(), 1e-6)
    brightness = CONTRASTS[kind] * (csf_ratio - 1)
    return image + profile * brightness * level[:, None], lesion


def _shape(cord, kind, rng, rows=None):
    """An ellipse that follows the bend of the cord, at least 4 pixels of it inside an eroded cord."""
    height, width = cord.shape
    candidates = np.flatnonzero(cord.sum(1) >= 4)
    candidates = candidates[(candidates > END_ROWS) & (candidates < height - END_ROWS)]
    if rows is not None and np.isin(candidates, rows).any():
        candidates = candidates[np.isin(candidates, rows)]
    allowed = binary_erosion(cord) if rng.random() < 0.5 else gaussian_filter(cord.astype(float), 0.7) > 0.62
    row, column = np.mgrid[:height, :width]
    for _ in range(50):
        centre_row = rng.choice(candidates)
        across_columns = np.flatnonzero(cord[centre_row])
        across = len(across_columns)
        if kind.startswith("small"):
            half_width, half_height = rng.uniform(1, 1.5), rng.uniform(1, 1.5)
        elif kind.startswith("long"):
            half_width, half_height = rng.uniform(0.25, 0.42) * across, 10
        else:
            half_width, half_height = rng.uniform(0.3, 0.48) * across, rng.uniform(2.5, 7)
        off = rng.uniform(-0.5, 0.5) * max(0, across / 2 - half_width) * 1.5
        centre = np.where(cord.any(1), centre_columns(cord), across_columns.mean() + off) + off
        distance = ((column - centre[:, None]) / half_width) ** 2 + ((row - centre_row) / half_height) ** 2
        lesion = (distance <= 1) & allowed
        if lesion.sum() >= 4:
            break
    return lesion


# ------------------------------------------------------------------------------------------------------ degradations


def degrade_clinical(
    image: np.ndarray,
    cord: np.ndarray,
    rng: np.random.Generator,
    drift: bool = True,
    noise: bool = True,
    blur: bool = True,
    mask_error: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Blur, brightness drift, Rician noise, and a mask that is one pixel wrong. Training may use it, too."""
    level = np.median(image[cord])
    if blur:
        image = Blur.draw(rng).apply(image, cord)
    if drift:
        image = _drift(rng).apply(image, cord)
    if noise:
        sigma = level * rng.uniform(0.03, 0.07)
        real = image + rng.normal(0, sigma, image.shape)
        image = np.sqrt(real**2 + rng.normal(0, sigma, image.shape) ** 2)
    return image, (one_pixel_mask_error(cord, rng) if mask_error else cord)


def _drift(rng):
    """`Drift.draw` in the study's order."""
    line, wave = rng.uniform(-1, 1), rng.uniform(-1, 1)
    cosine = rng.uniform(0.4, 1), rng.uniform(-1, 1)
    fast, phase = 0.3 * rng.uniform(-1, 1), rng.uniform(0, 6)
    return Drift(rng.uniform(1.2, 2.0), (line, wave, fast), cosine, phase)


def one_pixel_mask_error(cord: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unchanged, dilated, eroded, shifted forwards, backwards, or along the cord: equally likely."""
    choice = rng.integers(0, 6)
    if choice == len(MASK_ERRORS):
        return np.roll(cord, rng.choice([-1, 1]), axis=0)
    return MaskError(MASK_ERRORS[choice]).apply(None, cord)


def degrade_mismatch(image: np.ndarray, cord: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coil bumps, coarser acquisition, flow voids in the CSF, correlated noise: nothing training has seen."""
    height = len(image)
    rows, bumps = np.arange(height), np.ones(height)
    for _ in range(rng.integers(1, 4)):
        size, centre, width = rng.uniform(-0.35, 0.8), rng.uniform(0, height), rng.uniform(12, 35)
        bumps = bumps + size * np.exp(-0.5 * ((rows - centre) / width) ** 2)
    bumps = np.maximum(bumps, 0.35)
    bumps = bumps / bumps.min()
    if bumps.max() > 1.05:
        bumps = bumps ** (np.log(rng.uniform(1.3, 2.2)) / np.log(bumps.max()))
    image = Coarse.draw(rng).apply(image, cord)
    flow = gaussian_filter(rng.standard_normal(image.shape), 3)
    level = np.median(image[cord])
    fluid = ring_around(cord, 0, 4) & (image > 1.5 * level)
    image = np.where(fluid, image * np.clip(1 - 0.25 * np.maximum(flow / flow.std(), 0), 0.4, 1), image)
    noise = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.4, 0.8))
    noise = noise / noise.std() * level * rng.uniform(0.03, 0.07)
    return np.maximum(image * bumps[:, None] + noise, 0)


def automatic_like_mask(healthy: np.ndarray, cord: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask that follows the visible edge, as automatic ones do, and wanders along it (`degrade.FollowedEdge`).

    Made on the healthy image, so that a lesion never shapes its own mask.
    """
    dark = healthy < 1.5 * row_mean(healthy, binary_erosion(cord), 10)[:, None]
    followed = binary_erosion(cord, iterations=2) | (binary_dilation(cord) & dark)
    followed = gaussian_filter(followed.astype(float), 0.7) > 0.5
    wander = gaussian_filter1d(rng.standard_normal((2, len(cord))), 4, axis=1)
    low, high = np.round(0.3 * wander / wander.std(axis=1, keepdims=True)).astype(int)
    mask = np.zeros_like(cord)
    for row in np.flatnonzero(followed.any(1)):
        first, last = np.flatnonzero(followed[row])[[0, -1]]
        mask[row, first - low[row] : last + high[row] + 1] = True
    return mask


def squeeze(
    images: Sequence[np.ndarray], cord: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """A compressed cord: at one or two levels it and the CSF beside it are 50–75 % as deep, over 10–25 mm.

    A smooth warp along the columns, the same for all `images`; what lies beyond the canal is stretched to fill the
    place. Not part of the study.

    :returns: the images, the mask, and the rows at or beside a compression.
    """
    height, width = cord.shape
    rows, columns = np.arange(height), np.arange(width, dtype=float)
    known = np.flatnonzero(cord.sum(1) >= 4)
    known = known[(known > 2 * END_ROWS) & (known < height - 2 * END_ROWS)]
    factor, near = np.ones(height), np.zeros(height, bool)
    for _ in range(rng.integers(1, 3)):
        centre, length, depth = rng.choice(known), rng.uniform(10, 25), rng.uniform(0.5, 0.75)
        bump = np.where(np.abs(rows - centre) < length, 0.5 + 0.5 * np.cos(np.pi * (rows - centre) / length), 0)
        factor = np.minimum(factor, 1 - (1 - depth) * bump)  # full width at half depth: `length`
        near |= np.abs(rows - centre) <= length / 2 + 5
    count = cord.sum(1)
    middle = gaussian_filter1d(np.interp(rows, np.flatnonzero(count), centre_columns(cord)[count > 0]), 3)
    half = gaussian_filter1d(np.interp(rows, np.flatnonzero(count), count[count > 0]) / 2, 3)
    middle = middle + rng.uniform(-0.5, 0.5) * half  # pressed from the front, from behind, or from both
    reach, end = half + 4, half + 20  # the canal, and where nothing moves any more
    away = columns - middle[:, None]
    edge = (factor * reach)[:, None]
    beyond = reach[:, None] + (np.abs(away) - edge) * ((end - reach) / (end - factor * reach))[:, None]
    source = np.where(np.abs(away) <= edge, np.abs(away) / factor[:, None], beyond)
    source = np.where(np.abs(away) < end[:, None], source, np.abs(away)) * np.sign(away) + middle[:, None]

    def warped(plane):
        return np.array([np.interp(at, columns, line) for at, line in zip(source, plane, strict=True)])

    return (
        [warped(image).astype(np.float32) for image in images],
        warped(cord.astype(float)) > 0.5,
        np.flatnonzero(near),
    )


# --------------------------------------------------------------------------------------------------- to learn from


def random_training_slice(slices, rng: np.random.Generator, degraded_share=0.6) -> tuple[np.ndarray, np.ndarray]:
    """A healthy slice of several, rotated, scaled, shifted, perhaps flipped and degraded: image and mask (H, W)."""
    while True:
        healthy = slices[rng.integers(len(slices))]
        image = healthy.thick if rng.random() < 0.5 else healthy.thin
        angle = np.deg2rad(rng.uniform(-8, 8))
        row_scale, column_scale = rng.uniform(0.85, 1.18, 2)
        matrix = np.array([
            [np.cos(angle) * row_scale, -np.sin(angle)],
            [np.sin(angle), np.cos(angle) * column_scale],
        ])  # fmt: skip
        centre = np.array(image.shape) / 2
        offset = centre - matrix @ centre + rng.uniform(-8, 8, 2)
        image = affine_transform(image, matrix, offset, order=1, mode="nearest")
        mask = affine_transform(healthy.cord.astype(np.float32), matrix, offset, order=1) > 0.5
        if mask.sum() >= 500:
            break
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if rng.random() < degraded_share:
        if rng.random() < 0.5:  # weaker or stronger contrast of all that is brighter than the cord
            level = np.median(image[mask])
            image = np.where(image > level, level + (image - level) * rng.uniform(0.6, 1.3), image)
        drift, noise, blur, mask_error = (rng.random() < share for share in (0.8, 0.8, 0.6, 0.6))
        image, mask = degrade_clinical(image, mask, rng, drift, noise, blur, mask_error)
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)
