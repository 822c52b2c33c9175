"""The user's cord mask and disc labels: four conventions, detected, stated and overridable.

| convention      | cord mask                                | discs C2/3 … C7/T1                          |
|-----------------|------------------------------------------|---------------------------------------------|
| `sct`           | Spinal Cord Toolbox `_seg`: 0/1 or 0–1   | one voxel or small blob per disc, 3 … 8     |
| `sct-levels`    | cord valued by vertebra, 1 = C1 … 8 = T1 | disc n where vertebra n − 1 meets n         |
| `totalspineseg` | `step2_output`: cord 1 among others      | regions 63 … 67 and 71                      |
| `spineps`       | cord 60 among others                     | regions 100 + the vertebra above: 102 … 107 |

Discs come out in Spinal Cord Toolbox numbers whatever went in: 3 = C2/3 … 8 = C7/T1. A disc is not its
vertebra, and a wrong guess moves every segment by one; so the convention that was recognised is part of the
result, and what cannot be told apart is refused instead of guessed.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..config import SEGMENT_NAMES
from ..errors import InputError, UsageError
from ..volume import Volume, resample

CONVENTIONS = {
    "sct": "Spinal Cord Toolbox",
    "sct-levels": "Spinal Cord Toolbox vertebral levels",
    "totalspineseg": "TotalSpineSeg",
    "spineps": "SPINEPS",
}
DISC_NAMES = {number: name.replace("-", "/") for number, name in SEGMENT_NAMES.items()}

# Label values, as sets. The Toolbox counts discs down to 26; 49, 50 and 60 are groove, pontomedullary
# junction and conus.
SCT_NUMBERS = range(1, 27)
SCT_OTHER_POINTS = (49, 50, 60)
TOTALSPINESEG_DISCS = {**{63 + k: 3 + k for k in range(5)}, **{71 + k: 8 + k for k in range(12)}}
TOTALSPINESEG_OTHERS = {*range(11, 18), *range(21, 33), *range(41, 46), 50, *range(91, 96), 100}
SPINEPS_DISCS = {100 + vertebra: vertebra + 1 for vertebra in range(1, 26)}
SPINEPS_CORD, SPINEPS_CANAL = 60, 61

SHORTEST_CORD_MM = 10.0
SPECK_SHARE = 0.1  # a piece smaller than this share of the largest …
SPECK_DISTANCE_MM = 10.0  # … and farther from the rest than this is not cord
HIGHEST_MARK_MM = 11.0  # a disc's mark from head to feet; what is higher is a vertebra
DOUBLE_DISTANCE_MM = 8.0  # two marks with one number: closer is one disc, farther is a mistake …
DOUBLE_SHARE = 0.25  # … unless the second is a speck
TIE_MM = 1e-3  # distances closer than this are equal
PITCH_MM = (8.0, 35.0)  # possible distance of neighbouring cervical discs


@dataclass(frozen=True)
class CordMask:
    """The cord on the image's grid, (I, J, K) bool, with the convention it came in and remarks for the user."""

    array: np.ndarray
    convention: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discs:
    """Disc points in RAS mm, (3,) each, by Spinal Cord Toolbox number; only C2/3 … C7/T1 (3 … 8)."""

    points: dict[int, np.ndarray]
    convention: str
    notes: tuple[str, ...] = ()


# --- cord ---


def read_cord(volume: Volume, mask: Volume, convention: str = "auto") -> CordMask:
    """The cord of `mask` on the grid of `volume`.

    A mask on another grid is resampled (nearest neighbour). Gaps and pieces are kept and noted; small pieces
    far from the rest are removed and noted. Raises InputError for a mask that is empty, does not meet the
    image, is too small to be a cord or is not in the (named) convention; UsageError for an unknown
    convention.
    """
    found, cord = _cord_by_convention(mask, convention)
    if not cord.any():
        raise InputError("The cord mask never exceeds 0.5: it is too faint to be a cord mask.")
    notes = [f"Cord mask: {CONVENTIONS[found]}{'' if convention == 'auto' else ' (as asked)'}."]
    if found == "sct" and not np.array_equal(cord, mask.array != 0):
        notes.append("The cord mask is soft: cord is where it exceeds 0.5.")

    if not volume.same_grid(mask):
        cord, note = _onto_grid(volume, mask, cord)
        notes.append(note)
    cord, more = _pieces(volume, cord)
    notes += more

    extent = _extent_mm(volume, np.argwhere(cord)).max()
    if extent < SHORTEST_CORD_MM:
        raise InputError(
            f"The cord mask is only {extent:.0f} mm long: it does not show a cord. If the file holds disc labels, "
            "give it as discs."
        )
    return CordMask(cord, found, tuple(notes + _gaps(volume, cord)))


def _cord_by_convention(mask, convention):
    """(convention, cord on the mask's own grid)."""
    _check_name(convention)
    array = mask.array
    if not np.isfinite(array).all() or array.min() < 0:
        raise InputError("The cord mask holds negative values or NaN; expected is 0 outside the cord.")
    values = np.unique(array[array > 0])
    if not len(values):
        raise InputError("The cord mask is empty: no voxel is marked as cord. Is it the right file?")
    found = _detect_cord(values) if convention == "auto" else convention
    whole = _whole(values)
    fits = {
        "sct": len(values) == 1 or values.max() <= 1 + 1e-3,
        "sct-levels": whole and set(values) <= set(SCT_NUMBERS),
        "totalspineseg": whole and 1 in values,
        "spineps": whole and SPINEPS_CORD in values,
    }
    if not fits[found]:
        raise InputError(
            f"The cord mask is not in the convention of {CONVENTIONS[found]}: it holds the values {_listed(values)}."
        )
    if found == "sct":
        return found, array > (0.5 if values.max() <= 1 + 1e-3 else 0)
    if found == "sct-levels":
        if len(values) > 1 and not len(_faces(array)[0]):
            raise InputError(
                "The cord mask is numbered like vertebral levels, but no two levels touch. If the file holds disc "
                "labels, give it as discs."
            )
        return found, array > 0
    return found, array == (1 if found == "totalspineseg" else SPINEPS_CORD)


def _detect_cord(values):
    numbers = set(values.tolist()) if _whole(values) else set()
    if numbers == {SPINEPS_CORD} or (SPINEPS_CORD in numbers and (SPINEPS_CANAL in numbers or max(numbers) >= 100)):
        return "spineps"
    if values.max() <= 1 + 1e-3 or numbers == {255}:
        return "sct"
    # TotalSpineSeg numbers nothing 3 … 10, a cord with levels nothing else: 1 and 2 alone could be either.
    others = numbers & (set(TOTALSPINESEG_DISCS) | TOTALSPINESEG_OTHERS)
    if 1 in numbers and others and not numbers & set(range(3, 11)):
        return "totalspineseg"
    if numbers and numbers <= set(SCT_NUMBERS) and len(numbers) > 1 and numbers != {1, 2}:
        return "sct-levels"
    raise InputError(
        f"The cord mask holds the values {_listed(values)}, which fit none of the known conventions, or several. "
        f"Give a mask that is 1 in the cord and 0 elsewhere, or name the convention: {', '.join(CONVENTIONS)}."
    )


def _onto_grid(volume, mask, cord):
    """The cord resampled to the image's grid, and what to tell about it."""
    voxels = volume.to_ijk(mask.to_ras(np.argwhere(cord)))
    within = ((voxels > -0.5) & (voxels < np.array(volume.array.shape) - 0.5)).all(axis=1)
    resampled = resample(mask.with_array(cord.astype(np.uint8)), volume, order=0).array > 0
    if not within.any() or not resampled.any():
        apart = np.linalg.norm(
            volume.to_ras((np.array(volume.array.shape) - 1) / 2) - mask.to_ras(np.argwhere(cord)).mean(axis=0)
        )
        hint = ""
        if mask.array.shape == volume.array.shape:
            hint = " Both have the same number of voxels: the mask's header probably lost the image's geometry."
        raise InputError(
            f"The cord mask does not meet the image: their centres are {apart:.0f} mm apart. Give the mask that "
            f"belongs to this image.{hint}"
        )
    note = "The cord mask is on another grid than the image; it was resampled (nearest neighbour)."
    if within.mean() < 0.99:
        note += f" {100 * (1 - within.mean()):.0f} % of it lies outside the image."
    return resampled, note


def _pieces(volume, cord):
    """The cord without specks that lie far from it, and notes about its pieces."""
    labels, count = ndimage.label(cord, np.ones((3, 3, 3)))
    if count == 1:
        return cord, []
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = sizes >= SPECK_SHARE * sizes.max()
    small = np.argwhere((labels > 0) & ~large[labels])
    distance = np.full(count + 1, np.inf)  # of each small piece from the large ones
    near = _tree(volume, large[labels])
    np.minimum.at(distance, labels[tuple(small.T)], near.query(volume.to_ras(small))[0])
    far = (sizes > 0) & ~large & (distance > SPECK_DISTANCE_MM)
    specks = sizes[far]
    notes = []
    if len(specks):
        notes.append(
            f"{len(specks)} small piece(s) of the cord mask, more than {SPECK_DISTANCE_MM:.0f} mm away from the rest, "
            f"were left out ({specks.sum()} voxels)."
        )
    if count - len(specks) > 1:
        notes.append(f"The cord mask is in {count - len(specks)} pieces.")
    return cord & ~far[labels], notes


def _gaps(volume, cord):
    """One note per stretch of rows without cord between its upper and lower end."""
    axis = int(np.abs(volume.directions[2]).argmax())  # the voxel axis that runs most nearly head to feet
    spacing = volume.spacing[axis]
    rows = np.flatnonzero(cord.any(axis=tuple({0, 1, 2} - {axis})))
    if volume.directions[2, axis] > 0:  # count from the head
        rows = cord.shape[axis] - 1 - rows[::-1]
    notes = []
    for above, below in pairwise(rows):
        if below - above > 1:
            notes.append(
                f"The cord mask has a gap of {(below - above - 1) * spacing:.1f} mm, "
                f"{(above - rows[0] + 1) * spacing:.0f} mm below its upper end."
            )
    return notes


# --- discs ---


def read_discs(labels: Volume, convention: str = "auto", shift: int = 0, cord: Volume | None = None) -> Discs:
    """Disc points of a label image.

    `shift` renumbers: every disc labelled n is taken for disc n + shift (+1: one level farther down). Regions
    (TotalSpineSeg, SPINEPS) become one point: the posterior tip, which is the voxel closest to the cord, if
    `cord` (non-zero = cord, on any grid) is given or is part of the labels; else the centroid. Raises
    InputError if there is no disc from C2/3 to C7/T1, if a disc is marked twice, if discs are out of order or
    at impossible distances, and if the values are not in the (named) convention; UsageError for an unknown
    convention.
    """
    found = _disc_convention(labels, convention)
    notes = [f"Disc labels: {CONVENTIONS[found]}{'' if convention == 'auto' else ' (as asked)'}."]
    if shift:
        notes.append(f"Levels renumbered by {shift:+d}, as asked.")
    if found == "sct-levels":
        points = {number + shift: point for number, point in _between_levels(labels).items()}
        if not points:
            raise InputError("The disc labels are not vertebral levels: no two neighbouring levels touch.")
    else:
        points, more = _points(labels, found, shift, cord)
        notes += more
    points = {number: points[number] for number in DISC_NAMES if number in points}
    if not points:
        raise InputError(
            "The disc labels hold none of the discs C2/3 … C7/T1, only the values "
            f"{_listed(np.unique(labels.array[labels.array != 0]))}."
        )
    _check_order(points)
    missing = [name for number, name in DISC_NAMES.items() if number not in points]
    if missing:
        notes.append(f"Not labelled: {', '.join(missing)}.")
    return Discs(points, found, tuple(notes))


def renumbered(discs: Discs, shift: int) -> Discs:
    """Every disc taken for the one `shift` levels farther down; what leaves C2/3 … C7/T1 is dropped."""
    if not shift:
        return discs
    points = {n + shift: point for n, point in discs.points.items() if n + shift in DISC_NAMES}
    return Discs(points, discs.convention, (*discs.notes, f"Levels renumbered by {shift:+d}, as asked."))


def moved(discs: Discs, points: dict[int, np.ndarray]) -> Discs:
    """Discs at other places, or added; points: number → RAS mm (3,). :raises InputError: then out of order."""
    if not points:
        return discs
    changed = discs.points | {n: np.asarray(point, float) for n, point in points.items()}
    changed = {n: changed[n] for n in sorted(changed)}
    _check_order(changed)
    names = ", ".join(DISC_NAMES[n] for n in sorted(points))
    return Discs(changed, discs.convention, (*discs.notes, f"Placed by hand: {names}."))


def disc_labels(volume: Volume, points: dict[int, np.ndarray]) -> np.ndarray:
    """Single voxels with the discs' numbers on a volume's grid, (I, J, K) uint8; points outside it are left out.

    points: number → point in RAS mm (3,). Inverse of `read_discs`, to the nearest voxel.
    """
    labels = np.zeros(volume.array.shape, np.uint8)
    for number, point in points.items():
        voxel = np.round(volume.to_ijk(np.asarray(point))).astype(int)
        if (voxel >= 0).all() and (voxel < labels.shape).all():
            labels[tuple(voxel)] = number
    return labels


def _disc_convention(labels, convention):
    _check_name(convention)
    array = labels.array
    if not np.isfinite(array).all():
        raise InputError("The disc labels hold NaN or infinite values.")
    values = np.unique(array[array != 0])
    if not len(values):
        raise InputError("The disc labels are empty: no voxel is marked as a disc. Is it the right file?")
    if not _whole(values) or values.min() < 0:
        raise InputError(
            f"The disc labels hold the values {_listed(values)}: expected are whole numbers. Was the file resampled "
            "with interpolation?"
        )
    numbers = set(values.astype(int).tolist())
    fits = {
        "sct": bool(numbers & set(SCT_NUMBERS)) and max(numbers) <= max(SCT_OTHER_POINTS),
        "sct-levels": numbers <= set(SCT_NUMBERS),
        "totalspineseg": bool(numbers & set(TOTALSPINESEG_DISCS)) and not numbers & set(SPINEPS_DISCS),
        "spineps": bool(numbers & set(SPINEPS_DISCS)),
    }
    if convention != "auto":
        if not fits[convention]:
            raise InputError(
                f"The disc labels are not in the convention of {CONVENTIONS[convention]}: they hold the values "
                f"{_listed(values)}."
            )
        return convention
    if 100 in numbers and SPINEPS_CORD in numbers and not fits["spineps"]:
        raise InputError(
            "The disc labels look like a SPINEPS semantic mask, whose discs have no numbers. Give the instance mask "
            "(seg-vert), whose discs are 102 … 107."
        )
    for found in ("spineps", "totalspineseg"):
        if fits[found]:
            return found
    if numbers <= {*SCT_NUMBERS, *SCT_OTHER_POINTS}:
        touching = set(_faces(array)[1].tolist()) & set(SCT_NUMBERS)
        neighbours = {number for number in numbers if number + 1 in numbers}
        # Vertebral levels follow on each other without a break; between two discs there is a vertebra.
        if not touching:
            return "sct"
        if fits["sct-levels"] and 2 * len(touching) >= len(neighbours):
            return "sct-levels"
    raise InputError(
        f"The disc labels hold the values {_listed(values)}, which fit none of the known conventions, or several. "
        f"Name the convention: {', '.join(CONVENTIONS)}."
    )


def _faces(array):
    """Middles (N, 3), in voxels, of the faces between numbers n and n + 1, and (N,) the number n."""
    used = ndimage.find_objects((array > 0).astype(np.uint8))[0]
    block = array[used].astype(int)
    middles, lower = [], []
    for axis, half in enumerate(0.5 * np.eye(3)):
        first, second = block.swapaxes(0, axis)[:-1], block.swapaxes(0, axis)[1:]
        meet = (first > 0) & (second > 0) & (np.abs(first - second) == 1)
        middles.append(np.argwhere(meet.swapaxes(0, axis)) + half)
        lower.append(np.minimum(first, second).swapaxes(0, axis)[meet.swapaxes(0, axis)])
    return np.concatenate(middles) + [part.start for part in used], np.concatenate(lower)


def _between_levels(labels):
    """Disc n as the middle of the faces that vertebral levels n − 1 and n share."""
    middles, lower = _faces(labels.array)
    return {int(n) + 1: labels.to_ras(middles[lower == n].mean(axis=0)) for n in np.unique(lower)}


def _points(labels, convention, shift, cord):
    """Disc points C2/3 … C7/T1 in RAS mm by their number after the shift, and notes."""
    numbers = {
        "sct": {number: number for number in SCT_NUMBERS},
        "totalspineseg": TOTALSPINESEG_DISCS,
        "spineps": SPINEPS_DISCS,
    }[convention]
    if convention == "sct":
        near = None
    elif cord is not None:
        near = _tree(cord, cord.array != 0)
    else:
        near = _tree(labels, labels.array == (1 if convention == "totalspineseg" else SPINEPS_CORD))
    points, notes = {}, []
    for value, number in numbers.items():
        number += shift
        if number not in DISC_NAMES or not (labels.array == value).any():
            continue
        where, more = _one_disc(labels, value, DISC_NAMES[number])
        notes += more
        if convention == "sct" and np.ptp(where[:, 2]) > HIGHEST_MARK_MM:
            raise InputError(
                f"The label {value} ({DISC_NAMES[number]}) is {np.ptp(where[:, 2]):.0f} mm high: too high for the "
                "mark of a disc. Are these vertebrae? Give disc labels, or name the convention."
            )
        if near is not None:
            apart = near.query(where)[0]
            where = where[apart <= apart.min() + TIE_MM]  # equals are averaged: the order of voxels must not matter
        points[number] = where.mean(axis=0)
    return points, notes


def _tree(volume, cord):
    """The cord's voxels in RAS mm as a k-d tree; None if there are none."""
    voxels = np.argwhere(cord)
    return cKDTree(volume.to_ras(voxels)) if len(voxels) else None


def _one_disc(labels, value, name):
    """(N, 3) RAS mm of the voxels with a value, without specks, and notes. Refuses a disc that is marked twice."""
    voxels = np.argwhere(labels.array == value)
    corner = voxels.min(axis=0)
    block = np.zeros(voxels.max(axis=0) - corner + 1, bool)
    block[tuple((voxels - corner).T)] = True
    parts = ndimage.label(block, np.ones((3, 3, 3)))[0][tuple((voxels - corner).T)]
    where = labels.to_ras(voxels)
    sizes = np.bincount(parts)
    largest = int(sizes.argmax())
    keep, notes = [largest], []
    for part in set(range(1, len(sizes))) - {largest}:
        apart = np.linalg.norm(where[parts == part].mean(axis=0) - where[parts == largest].mean(axis=0))
        if apart <= DOUBLE_DISTANCE_MM:
            keep.append(part)
        elif sizes[part] >= DOUBLE_SHARE * sizes[largest]:
            raise InputError(
                f"The disc {name} is marked twice, {apart:.0f} mm apart. Remove one of the two labels {value}."
            )
        else:
            notes.append(f"A speck of {sizes[part]} voxel(s) labelled {value} ({name}) was ignored.")
    return where[np.isin(parts, keep)], notes


def _check_order(points):
    """Discs must follow on each other from head to feet, at possible distances."""
    numbers = sorted(points)
    for upper, lower in pairwise(numbers):
        names = f"{DISC_NAMES[upper]} and {DISC_NAMES[lower]}"
        if points[upper][2] <= points[lower][2]:
            raise InputError(
                f"The discs are out of order: {DISC_NAMES[lower]} is not below {DISC_NAMES[upper]}. Correct the labels."
            )
        apart = float(np.linalg.norm(points[upper] - points[lower]))
        low, high = (limit * (lower - upper) for limit in PITCH_MM)
        if not low <= apart <= high:
            raise InputError(
                f"The discs {names} are {apart:.0f} mm apart; possible are {low:.0f} to {high:.0f} mm. Correct the "
                "labels, or name their convention."
            )


# --- common ---


def _check_name(convention):
    if convention != "auto" and convention not in CONVENTIONS:
        raise UsageError(f"Unknown label convention {convention!r}: choose from auto, {', '.join(CONVENTIONS)}.")


def _whole(values):
    return bool((values == np.round(values)).all())


def _listed(values):
    shown = [f"{value:g}" for value in values[:8]]
    return ", ".join(shown) + (f" … {values[-1]:g} ({len(values)} values)" if len(values) > 8 else "")


def _extent_mm(volume, voxels):
    """(3,) size in mm along the voxel axes."""
    return (np.ptp(voxels, axis=0) + 1) * volume.spacing
