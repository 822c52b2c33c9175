"""Slices to learn regions from: real ones with masks or disc labels, simulated necks, and what happens to both.

All lie on one canvas of 1 mm pixels, so that a batch is moved, cut and changed in a few tensor operations. Parameters
are drawn first and applied after, from generators that belong to the training.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter1d

from ..dataset import Case
from ..errors import InputError, U2ADError
from ..io import read_volume
from ..progress import Progress
from ..roi.labels import read_cord, read_discs
from ..roi.network import DISC_NUMBERS, neighbours
from ..sagittal import whole_field
from ..simulation.phantom import phantom_config, simulate_phantom
from ..volume import Volume

CANVAS = (384, 288)  # rows and columns of every stored slice
WINDOW = (256, 192)  # rows and columns that are learnt from at a time
REGION_SEEDS = 4_000_000  # phantom i of training seed s has seed REGION_SEEDS + PER_SEED · s + i
PER_SEED = 100_000
HEAT_SIGMA_PX = 2.5
BAND_MM = 14.0  # levels are learnt so near to the line through the discs' tips
BEYOND = 1.5  # … and so many levels beyond its ends
MIDLINE_MM = 8.0  # disc labels on the middle hold for slices so near to it
CROPPED_SHARE = 0.25  # of the windows lose a part of their field of view
BESIDE_EVERY = 3  # of the slices beside the cord, every third is learnt from
UNKNOWN = 255  # in the cord masks
LAST_LABELLED = 8  # of real necks: discs below C7/T1 are not labelled


@dataclass(frozen=True)
class RegionSlices:
    """N slices on the canvas.

    images (N, 3, H, W) float16, 0–1: the slice to the right, the slice itself, that to the left; cords and canals
    (N, H, W) uint8: 0, 1 or 255 = not known; tips (N, D, 2) float32: row and column of each disc of `DISC_NUMBERS`, NaN
    where there is none; tips_known (N, D) bool: whether a missing disc is known to be absent; people (N,) names;
    phantom (N,) bool.
    """

    images: np.ndarray
    cords: np.ndarray
    canals: np.ndarray
    tips: np.ndarray
    tips_known: np.ndarray
    people: np.ndarray
    phantom: np.ndarray

    def __len__(self):
        return len(self.images)

    def of(self, chosen: np.ndarray) -> "RegionSlices":
        """Those that are chosen, by index or mask."""
        return RegionSlices(*(getattr(self, f)[chosen] for f in RegionSlices.__dataclass_fields__))

    def middles(self) -> np.ndarray:
        """Row and column (N, 2) of the middle of the discs of the neck; where there is none, of the chest's; or of the
        cord."""
        result = []
        for tips, cord in zip(self.tips, self.cords, strict=True):
            seen = np.isfinite(tips).all(1)
            neck = seen & (np.array(DISC_NUMBERS) <= LAST_LABELLED)
            there = tips[neck if neck.any() else seen]
            places = there if len(there) else np.argwhere(cord == 1)
            result.append(places.mean(0) if len(places) else (np.array(CANVAS) - 1) / 2)
        return np.array(result)


def join(sets: Iterable[RegionSlices]) -> RegionSlices:
    """All slices of several sets. :raises InputError: there are none."""
    sets = [one for one in sets if len(one)]
    if not sets:
        raise InputError("There is no slice to learn from: no image has a cord mask or disc labels.")
    return RegionSlices(*(np.concatenate([getattr(s, f) for s in sets]) for f in RegionSlices.__dataclass_fields__))


def slices_of_volume(
    volume: Volume, person: str, cord=None, canal=None, discs: dict[int, np.ndarray] | None = None, phantom=False
) -> RegionSlices:
    """Slices of one volume on the canvas, and means of three to five neighbours where slices are thin.

    :param cord, canal: (I, J, K) bool on the volume's grid, or None where it is not known.
    :param discs: number → RAS mm, the posterior tips.
    """
    stack, rows, columns = whole_field(volume)
    images = stack.images[:, rows, columns]
    labels = [
        None if m is None else stack.grid.to_stack(np.asarray(m, np.float32))[:, rows, columns] for m in (cord, canal)
    ]
    spacing = stack.grid.slice_spacing_mm
    places = {n: stack.grid.ras_to_stack(p) - (0, rows.start, columns.start) for n, p in (discs or {}).items()}
    middle = np.mean([p[0] for p in places.values()]) if places else None
    made, beside = [], neighbours(len(images), spacing)
    for thickness in (1, 3, 5) if spacing < 2 else (1,):
        half = thickness // 2
        means = uniform_filter1d(images, thickness, axis=0, mode="nearest")
        for k in range(half, len(images) - half, 1 + half):
            part = slice(k - half, k + half + 1)
            masks = [None if m is None else m[part].mean(0) > 0.5 for m in labels]
            near = middle is not None and abs(k - middle) * spacing <= MIDLINE_MM
            shows_cord = masks[0] is not None and masks[0].any()
            # Slices beside the cord, some of them: that there is none has to be learnt, too.
            shows_none = masks[0] is not None and k % BESIDE_EVERY == 0
            if not (near or shows_cord or shows_none):
                continue
            made.append(_on_canvas(means[beside[k]], *masks, places if near else {}, near, person, phantom))
    return join(made) if made else _nothing()


def _on_canvas(image, cord, canal, places, near, person, phantom):
    shape = height, width = image.shape[1:]
    top, left = (max(0, (c - n) // 2) for c, n in zip(CANVAS, shape, strict=True))
    cut_r, cut_c = (max(0, (n - c) // 2) for c, n in zip(CANVAS, shape, strict=True))
    height, width = min(height, CANVAS[0]), min(width, CANVAS[1])
    where = np.s_[..., top : top + height, left : left + width]
    source = np.s_[..., cut_r : cut_r + height, cut_c : cut_c + width]

    def placed(values, dtype, fill):
        canvas = np.full((*values.shape[:-2], *CANVAS) if values is not None else CANVAS, fill, dtype)
        if values is not None:
            canvas[:] = 0
            canvas[where] = values[source]
        return canvas[None]

    tips = np.full((len(DISC_NUMBERS), 2), np.nan, np.float32)
    for i, number in enumerate(DISC_NUMBERS):
        if number in places:
            tips[i] = places[number][1:] + np.array([top - cut_r, left - cut_c])
    known = np.full(len(DISC_NUMBERS), near)
    if not phantom:
        known[DISC_NUMBERS.index(LAST_LABELLED) + 1 :] = False
    return RegionSlices(
        placed(image, np.float16, 0),
        placed(cord, np.uint8, UNKNOWN),
        placed(canal, np.uint8, UNKNOWN),
        tips[None],
        known[None],
        np.array([person]),
        np.array([phantom]),
    )


def _nothing():
    empty = np.zeros((0, *CANVAS))
    discs = len(DISC_NUMBERS)
    return RegionSlices(
        np.zeros((0, 3, *CANVAS), np.float16), empty.astype(np.uint8), empty.astype(np.uint8),
        np.zeros((0, discs, 2), np.float32), np.zeros((0, discs), bool),
        np.zeros(0, str), np.zeros(0, bool),
    )  # fmt: skip


FindCord = Callable[[Case, Volume], np.ndarray | None]  # the cord (I, J, K) bool of an image that has no mask


def no_cord(case: Case, volume: Volume) -> None:
    """Leaves the cord unknown."""


def cord_of(case: Case, volume: Volume, find: FindCord = no_cord) -> np.ndarray | None:
    """The cord of an image (I, J, K) bool: its mask, or what is found where it has none."""
    return find(case, volume) if case.cord is None else read_cord(volume, read_volume(case.cord)).array


def slices_of_cases(cases: Iterable[Case], say, find: FindCord = no_cord) -> RegionSlices:
    """Slices of images that have a cord mask, disc labels, or both; others are named and left out."""
    sets = []
    for case in cases:
        try:
            volume = read_volume(case.image)
            cord = cord_of(case, volume, find)
            labels = None if case.discs is None else read_discs(read_volume(case.discs))
            if cord is None and labels is None:
                raise InputError("it has neither a cord mask nor disc labels.")
            sets.append(slices_of_volume(volume, case.person, cord, discs=labels and labels.points))
        except U2ADError as error:
            say(f"{case.id} is left out: {error}")
    return join(sets)


def region_phantoms(seeds: Iterable[int], kind: str, progress: Progress) -> RegionSlices:
    """Slices of simulated necks: of every one the three with most cord, and one of the others."""
    sets, seeds = [], list(seeds)
    for done, seed in enumerate(seeds):
        progress("Phantoms", done, len(seeds))
        phantom = simulate_phantom(phantom_config(kind, seed), seed)
        tips = {int(n): np.array(p) for n, p in phantom.description["disc_tips_ras_mm"].items()}
        cord = phantom.cord.array > 0
        canal = cord | (phantom.csf.array > 0)
        slices = slices_of_volume(phantom.volume, f"phantom-{seed}", cord, canal, tips, phantom=True)
        if len(slices):
            order = slices.cords.sum(axis=(1, 2), dtype=int).argsort()
            other = np.random.default_rng(seed).choice(order[:-3], min(1, len(order[:-3])), replace=False)
            sets.append(slices.of(np.concatenate([order[-3:], other])))
    progress("Phantoms", len(seeds), len(seeds))
    return join(sets)


# ------------------------------------------------------------------------------------------------------- a batch


@dataclass(frozen=True)
class Batch:
    """Windows: images (B, 3, H, W); masks of cord and canal (B, 2, H, W), heat of discs and level (B, H, W); where each
    is known (1) or not (0).

    tips (B, D, 2): row and column of the discs in the window, NaN where there is none.
    """

    images: torch.Tensor
    masks: torch.Tensor
    masks_known: torch.Tensor
    heat: torch.Tensor
    heat_known: torch.Tensor
    level: torch.Tensor
    level_known: torch.Tensor
    tips: torch.Tensor


def draw_batch(data: RegionSlices, chosen: np.ndarray, rng: np.random.Generator, change: bool = True) -> Batch:
    """Windows of the chosen slices, moved and changed at random; with `change` False, of their middle as they are."""
    part = data.of(chosen)
    count = len(part)
    images, cords, canals = (torch.from_numpy(a.astype(np.float32)) for a in (part.images, part.cords, part.canals))
    centre, matrix = _draw_places(part, rng, change)
    to_window = torch.from_numpy(np.linalg.inv(matrix)).float()  # canvas → window, rows and columns
    # affine_grid wants window → canvas, x before y, in units of half the size.
    half_window, half_canvas = (np.array(size)[::-1] / 2 for size in (WINDOW, CANVAS))
    swapped = matrix[:, ::-1, ::-1]
    theta = np.zeros((count, 2, 3))
    theta[:, :, :2] = swapped * half_window / half_canvas[:, None]
    theta[:, :, 2] = (centre[:, ::-1] + 0.5 - half_canvas) / half_canvas
    grid = F.affine_grid(torch.from_numpy(theta).float(), (count, 1, *WINDOW), align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False)
    masks = torch.stack([cords, canals], 1)
    known = F.grid_sample((masks != UNKNOWN).float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    masks = F.grid_sample(masks.clamp(max=1) * (masks != UNKNOWN), grid, align_corners=False)
    tips = torch.from_numpy(part.tips)
    offset = tips - torch.from_numpy(centre).float()[:, None]
    at = torch.einsum("bij,bdj->bdi", to_window, offset) + torch.tensor([(n - 1) / 2 for n in WINDOW])
    heat, heat_known, level, level_known = _targets(at, torch.from_numpy(part.tips_known))
    heat_known, level_known = heat_known.float(), level_known.float()
    if change:
        seen = _field_of_view(count, rng)
        images = changed(_alone(images, rng), rng) * seen
        known, heat_known, level_known = known * seen, heat_known * seen[:, 0], level_known * seen[:, 0]
    return Batch(images.clamp(0, 1), (masks > 0.5).float(), known, heat, heat_known, level, level_known, at)


def _targets(tips, tips_known):
    """Heat and level in the window from tips (B, D, 2), and where they are known, (B, H, W) each."""
    rows, columns = torch.arange(WINDOW[0]).float(), torch.arange(WINDOW[1]).float()
    squared = (rows[:, None] - tips[..., 0, None, None]) ** 2 + (columns - tips[..., 1, None, None]) ** 2
    heat = torch.exp(-squared / (2 * HEAT_SIGMA_PX**2)).nan_to_num(0).amax(1)
    known = torch.ones_like(heat, dtype=torch.bool) & tips_known.any(1)[:, None, None]
    level, near = torch.zeros_like(heat), torch.zeros_like(known)
    place = torch.stack(torch.broadcast_tensors(rows[:, None], columns), -1)
    for k, points in enumerate(tips):
        there = torch.isfinite(points).all(1).nonzero()[:, 0].tolist()
        best = torch.full(heat.shape[1:], BAND_MM)
        for upper, lower in pairwise(there):
            start, way = points[upper], (points[lower] - points[upper]) / (lower - upper)
            part = ((place - start) @ way) / (way @ way)  # in levels, from the upper disc
            low = -BEYOND if upper == there[0] else 0.0
            high = lower - upper + (BEYOND if lower == there[-1] else 0.0)
            part = part.clamp(low, high)
            away = (place - start - part[..., None] * way).norm(dim=-1)
            closer = away < best
            best = torch.where(closer, away, best)
            level[k] = torch.where(closer, DISC_NUMBERS[upper] + part, level[k])
            near[k] |= closer
        if there and (not tips_known[k, -1] or there[-1] == len(points) - 1):
            # Discs farther below are not labelled: what lies there is neither a disc nor none.
            known[k] &= (rows < points[there[-1], 0] + 9)[:, None]
    return heat, known, level, near


def _draw_places(part, rng, change):
    """Centres of the windows on the canvas (B, 2) and matrices (B, 2, 2), window → canvas."""
    middle = part.middles()
    count = len(middle)
    matrix = np.tile(np.eye(2), (count, 1, 1))
    if not change:
        # The window is an even number of pixels: so they fall on those of the canvas.
        return np.floor(middle) + 0.5, matrix
    centre = middle + rng.uniform(-1, 1, (count, 2)) * np.array([80.0, 50.0])
    angle = np.deg2rad(rng.uniform(-14, 14, count))
    scale = np.exp(rng.uniform(np.log(0.85), np.log(1.2), (count, 1))) * rng.uniform(0.94, 1.06, (count, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    return centre, turn * scale[:, None, :]


def _alone(images, rng):
    """Some without one neighbour or both, as at the sides of a volume and in images of a single slice. (B, 3, H, W)"""
    images = images.clone()
    for k, share in enumerate(rng.random(len(images))):
        for lost in ((0, 2), (0,), (2,), ())[int(np.digitize(share, (0.1, 0.18, 0.26)))]:
            images[k, lost] = images[k, 1]
    if rng.random() < 0.5:  # the other side is as likely
        images = images.flip(1)
    return images


def _field_of_view(count, rng):
    """1 where there is an image, (B, 1, H, W): some fields of view end inside the window."""
    seen = torch.ones(count, 1, *WINDOW)
    for k in np.flatnonzero(rng.random(count) < CROPPED_SHARE):
        for axis, size in enumerate(WINDOW, start=1):
            length = int(rng.uniform(0.45, 1.0) * size)
            start = int(rng.integers(0, size - length + 1))
            seen[k].narrow(axis, 0, start).zero_()
            seen[k].narrow(axis, start + length, size - start - length).zero_()
    return seen


def changed(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Other contrast, coil, sharpness, noise, ghosts; every picture differently, and its neighbours as it.

    :param images: (B, 3, H, W), 0–1, each with its neighbours to both sides: slices, or axial planes.
    """
    count = len(images)

    def column(values):
        return torch.from_numpy(np.asarray(values, np.float32)).view(-1, 1, 1, 1)

    def some(share):
        return column(rng.random(count) < share)

    # Random convolution, mixed with the image: contrasts no scanner makes, and edges that stay where they are.
    kernels = torch.from_numpy(rng.normal(size=(count, 1, 3, 3)).astype(np.float32)).repeat_interleave(3, 0)
    padded = F.pad(images.flatten(0, 1)[None], (1, 1, 1, 1), mode="replicate")
    mixed = F.conv2d(padded, kernels, groups=3 * count)[0].view(images.shape)
    low, high = mixed.amin((1, 2, 3), keepdim=True), mixed.amax((1, 2, 3), keepdim=True)
    mixed = (mixed - low) / (high - low).clamp(min=1e-6)
    share = column(rng.uniform(0, 0.8, count)) * some(0.5)
    images = images * (1 - share) + mixed * share
    images = images.clamp(min=1e-6) ** column(np.exp(rng.uniform(-0.6, 0.5, count)))
    # A coil: a smooth field.
    field = torch.from_numpy(rng.normal(size=(count, 1, 4, 3)).astype(np.float32)) * 0.35
    field = F.interpolate(field, images.shape[2:], mode="bicubic", align_corners=True)
    images = images * (field * some(0.7)).exp()
    # Coarser pixels.
    for k in np.flatnonzero(rng.random(count) < 0.4):
        factor = rng.uniform(0.45, 0.9)
        small = F.interpolate(images[k][None], scale_factor=factor, mode="area")
        images[k] = F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False)[0]
    # The picture repeated along the neck by swallowing, or from the other side of the field of view.
    for k in np.flatnonzero(rng.random(count) < 0.2):
        shift = int(rng.integers(12, 90)) * int(rng.choice((-1, 1)))
        images[k] = images[k] + rng.uniform(0.03, 0.15) * torch.roll(images[k], shift, 1)
    for k in np.flatnonzero(rng.random(count) < 0.1):
        images[k] = images[k] + rng.uniform(0.1, 0.4) * torch.roll(images[k], images.shape[3] // 2, 2)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    images = images + noise * column(rng.uniform(0, 0.07, count))
    top = torch.quantile(images[:, 1, ::3, ::3].flatten(1), 0.998, dim=1).view(-1, 1, 1, 1)
    return images / top.clamp(min=1e-3) * column(rng.uniform(0.85, 1.3, count))
