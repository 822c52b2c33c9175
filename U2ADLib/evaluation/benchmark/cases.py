"""People and the sets of cases they are tested on.

| condition | image | the mask a method is given |
|---|---|---|
| clean | thin slice | as it is |
| clinical | thick slice, blurred, drifting, noisy | wrong by a pixel |
| mismatch | thick slice, degraded as nothing in training | like an automatic one |
| found | as clinical, the same lesions | found in it by the region model that never saw the person |
| compressed | as clinical, cord squeezed at one or two levels | wrong by a pixel |
| negatives | thick slice with one harmless change each | wrong by a pixel for "thin csf", else as it is |

Of each slice there are two cases of every lesion kind and four without a lesion (clean, these are the same image four
times); of each negative two. The first three conditions are the study's. Phantoms are people with one condition,
"phantom": as simulated, mask wrong by a pixel.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion

from ...config import SEGMENT_NAMES
from ...curve import off_the_edges
from ...dataset import find_cases
from ...errors import InputError
from ...io import read_volume
from ...package import RegionModel
from ...roi.centreline import Centreline
from ...roi.labels import read_cord, read_discs
from ...roi.segments import label_segments, segments_from_discs
from ...simulation.degrade import NEGATIVES, draw_degradation
from ...training.discriminator_recipe import DEFAULT_SCORE
from ...volume import reorient
from . import study

CODES = "RIA"  # slices to the right, rows from head to feet, columns from posterior to anterior
ROWS, COLUMNS, FIRST_ROW = 144, 96, 2  # the crop: about C1 to T2 in the volumes of the study
SMALLEST_CORD, SHORTEST_CORD = 720, 115  # pixels, rows: slices with less cord are left out
SMALLEST_LESION = 3  # px; a lesion of which the given mask leaves less is left out
NONE = "none"  # the kind of a case without a lesion
# Seed of a set = its condition's number + the person's + 1000 · repetition. "found" repeats the cases of "clinical".
SEEDS = {
    "clean": 100,
    "clinical": 200,
    "mismatch": 300,
    "found": 200,
    "compressed": 400,
    "negatives": 500,
    "phantom": 600,
}
STUDY = ("clean", "clinical", "mismatch")
*CONDITIONS, PHANTOM = SEEDS
PHANTOM_SEEDS = 6_000_000  # apart from those that trained anything
MOST_PHANTOM_SLICES, SMALLEST_PHANTOM_CORD = 3, 500


@dataclass(frozen=True, eq=False)
class HealthySlice:
    """volume: whose slice it is; thin: the 1 mm slice; thick: its mean with both neighbours; cord: bool; segments:
    uint8, 3 = C2-3 … 8 = C7-T1 of each row, 0 where none is labelled; counted: bool, see `counted_rows`; wide: the
    thick slice in its full width, and the column at which the crop begins. Images (ROWS, COLUMNS) float32 in the unit
    of the file; segments, counted (ROWS,)."""

    volume: str
    thin: np.ndarray
    thick: np.ndarray
    cord: np.ndarray
    segments: np.ndarray
    counted: np.ndarray
    wide: tuple[np.ndarray, int] | None = None


@dataclass(frozen=True, eq=False)
class Person:
    """manual: the cord masks were drawn by hand; else they were found, and are less 1 px. namesakes: others of the
    folder end in the same number."""

    name: str
    slices: tuple[HealthySlice, ...]
    manual: bool = True
    namesakes: bool = False

    @property
    def number(self) -> int:
        """What the seeds of its cases differ by: the digits at the end of the name where nobody else has them, else a
        checksum of the name."""
        checksum, digits = zlib.crc32(self.name.encode()), last_number(self.name)
        if digits is None:
            return checksum % 1000
        return checksum if self.namesakes else digits


@dataclass(frozen=True, eq=False)
class Case:
    """image: degraded, CSF about 1, float32; mask: what a method is given; lesion: all of it, also outside the mask.

    All (H, W). segments, counted: (H,) as in `HealthySlice`. repeat: numbers the cases of one kind and slice.
    """

    person: str
    volume: str
    condition: str
    seed: int
    slice_index: int
    kind: str
    repeat: int
    image: np.ndarray
    mask: np.ndarray
    lesion: np.ndarray
    segments: np.ndarray
    counted: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """Lesion inside the given mask."""
        return self.lesion & self.mask

    @property
    def counts(self) -> bool:
        """False where the given mask is no cord or leaves next to nothing of the lesion."""
        enough = self.kind not in study.LESION_KINDS or self.truth.sum() >= SMALLEST_LESION
        return bool(self.mask.any() and enough)


# ---------------------------------------------------------------------------------------------------------- people


def last_number(name: str) -> int | None:
    """The digits at the end of a name."""
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else None


def people_names(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the people of a data set: with a cord mask, and without."""
    cases = find_cases(folder)
    return tuple(list(dict.fromkeys(c.person for c in cases if (c.cord is None) == absent)) for absent in (False, True))


def load_person(folder: Path, name: str, region: RegionModel | None = None) -> Person:
    """All usable slices of one person of a BIDS folder; the volume must have voxels of 1 mm.

    :param region: finds the cord of a person without a mask.
    :raises InputError: there is no such person, no mask and no model, or no usable slice.
    """
    everybody = find_cases(folder)
    case = next((one for one in everybody if one.person == name), None)
    if case is None:
        raise InputError(f"There is no {name} in {folder}.")
    volume = read_volume(case.image)
    if not np.allclose(volume.spacing, 1, atol=1e-3):
        raise InputError(f"{name}: the benchmark needs voxels of 1 mm, these are {volume.spacing} mm.")
    if case.cord is not None:
        cord = read_cord(volume, read_volume(case.cord)).array
    elif region is not None:
        from ...roi.locate import locate

        cord = locate(volume, model=region, device="cpu").cord
    else:
        raise InputError(f"{name} has no cord mask, and there is no region model that finds it.")
    turned = [reorient(volume.with_array(a), CODES)[0] for a in (volume.array, cord)]
    rows = turned[0].array.shape[1]
    images, cords = (_cropped_rows(one) for one in turned)
    images, cords = images.astype(np.float32), cords > 0
    if case.cord is None:
        cords = np.array([binary_erosion(one) for one in cords])
    discs = {} if case.discs is None else read_discs(read_volume(case.discs)).points
    segments = _segments(turned[0], cords, discs)
    counted = counted_rows(FIRST_ROW + np.arange(len(segments)), (-0.5, rows - 0.5), segments)
    first = max(0, int(np.argwhere(cords)[:, 2].mean()) - COLUMNS // 2)
    crop, slices = np.s_[:, first : first + COLUMNS], []
    for k in range(1, len(images) - 1):
        cord = cords[k][crop]
        if cord.sum() >= SMALLEST_CORD and cord.any(1).sum() >= SHORTEST_CORD:
            thick = images[k - 1 : k + 2].mean(0)
            slices.append(HealthySlice(name, images[k][crop], thick[crop], cord, segments, counted, (thick, first)))
    if not slices:
        raise InputError(f"{name} has no slice with {SMALLEST_CORD} px of cord in {SHORTEST_CORD} rows.")
    namesakes = last_number(name) in {last_number(one.person) for one in everybody if one.person != name}
    return Person(name, tuple(slices), case.cord is not None, namesakes)


def _cropped_rows(volume):
    return volume.array[:, FIRST_ROW : FIRST_ROW + ROWS]


def _segments(volume, cords, discs):
    """Segment of each cropped row, (ROWS,) uint8: that of most of the cord's pixels in it."""
    # The centreline takes columns from front to back.
    size = cords.shape[2]
    flipped = cords[:, :, ::-1]
    points = {n: volume.to_ijk(p) * (1, 1, -1) + (0, -FIRST_ROW, size - 1) for n, p in discs.items()}
    if not points:
        return np.zeros(len(cords[0]), np.uint8)
    line = Centreline.from_cord(flipped)
    return row_segments(label_segments(flipped, line, segments_from_discs(line, points)[0]))


def row_segments(labels: np.ndarray) -> np.ndarray:
    """Labels of pixels (S, H, W), 0 or a segment → of each row, (H,) uint8: the commonest in it."""
    votes = np.stack([(labels == number).sum(axis=(0, 2)) for number in SEGMENT_NAMES], 1)
    return np.where(votes.any(1), np.array(list(SEGMENT_NAMES))[votes.argmax(1)], 0).astype(np.uint8)


def counted_rows(rows: np.ndarray, edge_rows: tuple[float, float], segments: np.ndarray) -> np.ndarray:
    """Which rows of the image count in an analysis with the default score, bool: named segments, and cord that is not
    near the image's upper or lower edge (`ScoreConfig.edge_mm`).

    :param rows: their numbers, 1 mm apart. :param edge_rows: where the image begins and ends. :param segments: of each.
    """
    return off_the_edges(rows, edge_rows, DEFAULT_SCORE.edge_mm) | (segments > 0)


def phantom_slices(index: int) -> list[HealthySlice]:
    """The slices of a lesion-free clinical phantom that show most cord, in a crop like that of the people."""
    from ...roi.region import region_from_labels
    from ...sagittal import standardise
    from ...training.phantoms import random_phantom

    seed = PHANTOM_SEEDS + index
    phantom = random_phantom(seed, "clinical")
    mask = phantom.cord.array > 0
    stack = standardise(phantom.volume, mask)
    region = region_from_labels(stack, mask, read_discs(phantom.discs))
    images, cords = stack.images[:, :, ::-1], region.cord[:, :, ::-1]  # columns from back to front
    segments = row_segments(region.segment_labels())
    neck = np.flatnonzero(segments)
    top = int(np.clip((neck[0] + neck[-1]) // 2 - ROWS // 2, 0, images.shape[1] - ROWS))
    rows = slice(top, top + ROWS)
    middle = int(np.argwhere(cords[:, rows])[:, 2].mean())
    left = int(np.clip(middle - COLUMNS // 2, 0, images.shape[2] - COLUMNS))
    window = np.s_[:, rows, left : left + COLUMNS]
    images, cords = np.ascontiguousarray(images[window]), np.ascontiguousarray(cords[window])
    best = np.argsort(-cords.sum((1, 2)), kind="stable")[:MOST_PHANTOM_SLICES]
    counted = counted_rows(np.arange(rows.start, rows.stop), stack.grid.edge_rows, segments[rows])
    # The slices of a 2D sequence are thick as they are.
    return [
        HealthySlice(f"phantom-{seed}", images[k], images[k], cords[k], segments[rows], counted)
        for k in best
        if cords[k].sum() >= SMALLEST_PHANTOM_CORD
    ]


# ----------------------------------------------------------------------------------------------------------- cases


def make_cases(
    person: Person,
    condition: str,
    kinds: Sequence[str] = study.LESION_KINDS,
    repeats: int = 2,
    seed: int = 0,
    find: Callable[[np.ndarray, HealthySlice], np.ndarray] | None = None,
    healthy: int | None = None,
) -> list[Case]:
    """Every slice with each kind of lesion, `repeats` times, and `healthy` times without one, by default twice as
    often.

    :param seed: of the generator, as it is; `benchmark_cases` knows the benchmark's.
    :param find: for the condition "found": a degraded slice (H, W) and what it was made of → its cord, `cord_finder`.
    """
    rng = np.random.default_rng(seed)
    counts = [(NONE, 2 * repeats if healthy is None else healthy), *((kind, repeats) for kind in kinds)]
    if condition == "negatives":
        counts = [(name, repeats) for name in NEGATIVES]
    cases = []
    for index, one in enumerate(person.slices):
        for kind, count in counts:
            for repeat in range(count):
                image, lesion, mask = _case(one, condition, kind, rng)
                if condition == "found":
                    mask = find(image, one)
                if mask.any():
                    image = study.divide_by_csf(image, mask)
                what = (person.name, one.volume, condition, seed, index, kind, repeat)
                cases.append(Case(*what, image.astype(np.float32, copy=False), mask, lesion, one.segments, one.counted))
    return cases


def _case(healthy, condition, kind, rng):
    """Image, whole lesion and given mask."""
    base = healthy.thin if condition == "clean" else healthy.thick
    cord, rows = healthy.cord, None
    if condition == "negatives":
        image, mask = draw_degradation(kind, rng, len(base)).apply(base, cord)
        return image, np.zeros_like(cord), mask
    if condition == "compressed":
        (base,), cord, near = study.squeeze([base], cord, rng)
        rows = near if rng.random() < 0.5 else None
    image, lesion, mask = base.copy(), np.zeros_like(cord), cord
    if kind != NONE:
        image, lesion = study.plant_lesion(base, cord, kind, rng, rows)
    if condition in ("clinical", "found", "compressed"):
        image, mask = study.degrade_clinical(image, cord, rng)
    elif condition == "mismatch":
        image = study.degrade_mismatch(image, cord, rng)
        mask = study.automatic_like_mask(healthy.thin, cord, rng)
    elif condition == PHANTOM:
        mask = study.one_pixel_mask_error(cord, rng)
    return image, lesion, mask


def benchmark_cases(person: Person, condition: str, repetition: int = 0, find=None) -> list[Case]:
    """The benchmark's cases: lesions and degradations depend on person, condition and repetition alone. Repetition 0 of
    the first three conditions is the study's."""
    seed = SEEDS[condition] + person.number + 1000 * repetition
    return make_cases(person, condition, seed=seed, find=find)


def reference_cases(people: Iterable[Person]) -> list[Case]:
    """Lesion-free cases of training people, clean and clinical: what the expected error is learnt from."""
    return [
        case
        for person in people
        for case in (
            *make_cases(person, "clean", (), repeats=1, seed=0),
            *make_cases(person, "clinical", (), repeats=2, seed=7),
        )
    ]


def cord_finder(region: RegionModel) -> Callable[[np.ndarray, HealthySlice], np.ndarray]:
    """Degraded slice (H, W) → the cord that the model finds in it alone, (H, W) bool; empty where it finds none.

    The model looks at far more than the crop, so that it is put back into the whole width of the slice, whose rows are
    made as bright as the crop's.
    """
    from ...roi.locate import CORD_FROM, region_maps
    from ...roi.tube import clean_tube

    def find(image, healthy):
        wide, first = healthy.wide
        crop = np.s_[:, first : first + image.shape[1]]
        whole = wide * (image.sum(1) / np.maximum(healthy.thick.sum(1), 1e-6))[:, None]
        whole[crop] = image
        low, high = np.percentile(whole, (0.2, 99.8))
        turned = np.clip((whole - low) / (high - low), 0, 1)[None, :, ::-1]
        probability, _ = region_maps(region.network, turned, 1.0)
        try:
            return clean_tube(probability, 3.0, CORD_FROM).cord[0, :, ::-1][crop].copy()
        except InputError:
            return np.zeros(image.shape, bool)

    return find
