"""Healthy slices, degraded and planted with lesions (paper, App. A.1), beside the same slices without them."""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation, label

from ...anomaly import EIGHT_CONNECTED
from ...config import Preprocessing
from ...errors import InputError
from ...roi.centreline import Centreline
from ...roi.region import Region
from ...roi.segments import segments_from_discs
from ...sagittal import SagittalStack
from ...simulation.degrade import Degradation, draw_degradation
from ...simulation.plant import plant_lesion
from ...training.data import THICK_MM
from ..benchmark.metrics import SEGMENT_PX

CLEAN = "clean"
ATTEMPTS = 20  # to plant a lesion that a method can see in a segment
MASK_ERROR_PX = 2  # no mask is wrong by more


@dataclass(frozen=True, eq=False)
class Altered:
    """images, original (S, 256, 256) float32, 0–1, with the lesions and without; region: as a method is given it, with
    its errors; lesions (S, 256, 256) uint8, all of them, also outside a wrong mask; kinds of lesion 1, 2, …;
    record: JSON-able."""

    images: np.ndarray
    original: np.ndarray
    region: Region
    lesions: np.ndarray
    kinds: tuple[str, ...]
    record: dict


def altered(
    stack: SagittalStack,
    region: Region,
    slices: tuple[int, ...],
    rng: np.random.Generator,
    *,
    condition: str = CLEAN,
    kind: str | None = None,
    lesion_slices: int = 1,
) -> Altered:
    """Slices of a stack as a scanner of a `condition` (`simulation.degrade`) would show them, with one lesion of a
    `kind` (A1: one to three) in each of `lesion_slices` slices, drawn at random.

    Under other conditions than "clean" thin slices are averaged to 3 mm, as those of a clinical scan, and rescaled to
    0–1. All slices of an image are degraded in the same way, but for the noise. A lesion is drawn again until at least
    3 px of it can be seen in a segment.

    :raises InputError: there is no room for a lesion.
    """
    inside, cords = stack.inside, region.cord[list(slices)]
    healthy = stack.images[list(slices)]
    if condition != CLEAN:
        healthy = _thick(stack, slices)
    degradation = draw_degradation(condition, rng, healthy.shape[1])
    seeds = rng.integers(2**32, size=len(slices))
    given = region if condition == CLEAN else _wrong(region, stack, degradation)
    seen = given.cord[list(slices)]
    planted, lesions, kinds, places = healthy.copy(), np.zeros(healthy.shape, np.uint8), (), []
    if kind is not None:
        visible = np.where(seen, region.segment_labels()[list(slices)], 0) if region.segments else seen.astype(np.uint8)
        for k, one in _lesions(healthy, cords, visible, kind, rng, lesion_slices):
            planted[k] = one.image
            numbers = _numbered(one.mask)
            lesions[k] = np.where(numbers > 0, numbers + len(kinds), 0)
            kinds += (kind,) * int(numbers.max())
            places.append({"slice": int(slices[k]), **one.description})
    images, original = planted, healthy
    if degradation.picture:
        images, original = (
            np.array([
                _picture(degradation, seed).apply(image, cord, well)[0]
                for image, cord, well, seed in zip(planes, cords, healthy, seeds, strict=True)
            ])
            for planes in (planted, healthy)
        )  # fmt: skip
        limits = np.percentile(images[:, inside], (Preprocessing.low_percentile, Preprocessing.high_percentile))
        images, original = ((planes - limits[0]) / (limits[1] - limits[0]) for planes in (images, original))
    images, original = (np.where(inside, np.clip(p, 0, 1), 0).astype(np.float32) for p in (images, original))
    return Altered(images, original, given, lesions, kinds, _described(degradation, seeds) | {"lesions": places})


def _described(degradation, seeds):
    """JSON-able. Noise has the seed of its slice."""
    changes = [{"change": type(one).__name__, **asdict(one)} for one in (*degradation.picture, degradation.mask)]
    return {"degradation": json.loads(json.dumps(changes)), "noise_seeds": seeds.tolist()}


def _thick(stack, slices):
    reach = int(THICK_MM / stack.grid.slice_spacing_mm / 2)
    return np.array([stack.images[max(k - reach, 0) : k + reach + 1].mean(axis=0) for k in slices])


def _picture(degradation, seed):
    """The changes of the picture alone, with noise of this slice's own."""
    changes = (replace(one, seed=int(seed)) if hasattr(one, "seed") else one for one in degradation.picture)
    return Degradation(tuple(changes))


def _wrong(region, stack, degradation):
    """The region that follows from a wrong mask."""
    cord = np.zeros_like(region.cord)
    for k in np.flatnonzero(region.cord.any(axis=(1, 2))):
        # What a shift carries over the edge of the image would come in again at the other.
        around = binary_dilation(region.cord[k], iterations=MASK_ERROR_PX)
        cord[k] = degradation.mask.apply(stack.images[k], region.cord[k]) & around & stack.inside
    return region_of(cord, region)


def region_of(cord: np.ndarray, like: Region) -> Region:
    """Region of a cord mask (S, 256, 256) in the stack of another region, with its discs.

    :raises InputError: nothing or too little is left of the cord.
    """
    line = Centreline.from_cord(cord)
    if like.discs is None:
        return replace(like, cord=cord, centreline=line)
    segments, missing = segments_from_discs(line, like.discs)
    return replace(like, cord=cord, centreline=line, segments=segments, missing=missing)


def _lesions(healthy, cords, visible, kind, rng, count):
    """Pairs of a slice's index and its lesion. visible: (S, H, W), segments where a method can see them."""
    made, reason = [], None
    for k in rng.permutation(len(healthy)):
        if len(made) == count:
            break
        for _ in range(ATTEMPTS):
            try:
                lesion = plant_lesion(healthy[k], cords[k], kind, rng)
            except InputError as error:
                reason = error
                break
            if np.bincount(visible[k][lesion.mask], minlength=2)[1:].max() >= SEGMENT_PX:
                made.append((k, lesion))
                break
    if not made:
        raise reason or InputError(f"No lesion of the kind {kind} can be seen in a segment of this cord.")
    return sorted(made, key=lambda pair: pair[0])


def _numbered(mask):
    """Connected parts of a lesion, 1, 2, …; fragments of a few pixels belong to the largest."""
    parts, _ = label(mask, EIGHT_CONNECTED)
    sizes = np.bincount(parts.ravel())[1:]
    numbers, following = np.zeros(len(sizes) + 1, int), 1
    for part in range(len(sizes)):
        if sizes[part] >= SEGMENT_PX or sizes[part] == sizes.max():
            numbers[part + 1], following = following, following + 1
    numbers[1:][numbers[1:] == 0] = numbers[1 + sizes.argmax()]
    return numbers[parts]
