"""The region to analyse: cord, centreline and segments in the sagittal stack.

Everything downstream works on a `Region` and does not ask where it came from. `region_from_labels` makes one
from the user's own masks; a source that finds the cord and the discs by itself yields the same `Region`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion

from ..config import SEGMENT_NAMES
from ..errors import InputError, UsageError
from ..sagittal import SagittalStack
from .centreline import Centreline
from .labels import DISC_NAMES, Discs
from .segments import Segment, label_segments, segments_from_discs

NARROWEST_PX = 4  # a slice is analysed where the cord is at least so wide …
SIDE_MM = 1.0
SMALLEST_SHARE = 0.5  # … over this share of the cord's length
FARTHEST_DISC_MM = 35.0  # a disc (its tip, its centre or its place on the cord) is not farther from the cord's middle


@dataclass(frozen=True)
class Region:
    """Where to look. All in stack coordinates: [slice, row, column], 1 mm pixels.

    cord: (S, 256, 256) bool. segments: those that the cord covers. missing: names of the others, all six if
    there are no discs. discs: number → (slice, row, column). disc_convention: how the disc labels were read,
    None without discs.
    """

    cord: np.ndarray
    centreline: Centreline
    segments: tuple[Segment, ...] = ()
    missing: tuple[str, ...] = tuple(SEGMENT_NAMES.values())
    discs: dict[int, np.ndarray] | None = None
    disc_convention: str | None = None
    notes: tuple[str, ...] = ()

    def segment_labels(self) -> np.ndarray:
        """(S, 256, 256) uint8: 3 = C2-3 … 8 = C7-T1 on the cord, 0 elsewhere."""
        return label_segments(self.cord, self.centreline, self.segments)


def region_from_labels(stack: SagittalStack, cord: np.ndarray, discs: Discs | None = None) -> Region:
    """Region from a cord mask (I, J, K) bool on the input's grid and disc points in RAS mm.

    Raises InputError if the cord is outside the stack's window or too short, or if the discs do not belong to
    it.
    """
    # Averaged over the area of a stack pixel, so that a finer mask keeps its width.
    in_stack = stack.grid.to_stack(cord.astype(np.float32), order=1) >= 0.5
    if not in_stack.any():
        raise InputError("The cord mask is outside the analysed window or thinner than a pixel of 1 mm.")
    return region_in_stack(stack, in_stack, discs)


def region_in_stack(stack: SagittalStack, cord: np.ndarray, discs: Discs | None = None) -> Region:
    """Region from a cord mask (S, 256, 256) bool in the stack and disc points in RAS mm.

    :raises InputError: the cord is too short, or the discs do not belong to it.
    """
    centreline = Centreline.from_cord(cord)
    if discs is None:
        return Region(cord, centreline, notes=("No disc labels: the segments cannot be named.",))
    points = dict(zip(discs.points, stack.grid.ras_to_stack(np.array(list(discs.points.values()))), strict=True))
    notes = list(discs.notes) + _check_discs(stack, cord, centreline, points)
    segments, missing = segments_from_discs(centreline, points)
    if missing:
        notes.append(f"Not analysed, for want of disc labels or cord: {', '.join(missing)}.")
    return Region(cord, centreline, segments, missing, points, discs.convention, tuple(notes))


def _check_discs(stack, cord, centreline, points):
    """Refuse discs that are far from the cord, note those on its wrong side."""
    slices = np.flatnonzero(cord.any(axis=(1, 2)))
    names, where = [DISC_NAMES[number] for number in points], np.array(list(points.values()))
    _, behind = centreline.project(where[:, 1:])
    beside = np.maximum(slices[0] - where[:, 0], where[:, 0] - slices[-1]).clip(0) * stack.grid.slice_spacing_mm
    apart = np.hypot(behind, beside)
    if apart.max() > FARTHEST_DISC_MM:
        worst = int(apart.argmax())
        raise InputError(
            f"The label of disc {names[worst]} is {apart[worst]:.0f} mm away from the cord: the disc labels do not "
            "belong to this image."
        )
    wrong = [name for name, distance in zip(names, behind, strict=True) if distance > 5]
    return [f"Behind the cord instead of in front of it: the label(s) of {', '.join(wrong)}."] if wrong else []


def without_sides(cord: np.ndarray, spacing_mm: float) -> np.ndarray:
    """A cord (S, H, W) less `SIDE_MM` on its right and left; unchanged where slices lie farther apart than that.

    Where the volume ends is no side. The sides are where a cord that was found by a model is least sure, and a slice
    that touches the cord from outside shows fluid, which no model of the cord rebuilds.
    """
    steps = int(SIDE_MM / spacing_mm + 1e-6)
    if not steps:
        return cord
    return binary_erosion(cord, np.ones((2 * steps + 1, 1, 1), bool), border_value=1)


def middle_slice(cord: np.ndarray) -> int:
    """The slice of a stack (S, H, W) with the most cord; among equals the one nearest to the cord's middle."""
    area = cord.sum(axis=(1, 2))
    slices = np.flatnonzero(area)
    return int(min(slices, key=lambda k: (-area[k], abs(k - slices.mean()), k)))


def analysed_slices(cord: np.ndarray, rule: str | int = "all") -> tuple[int, ...]:
    """Numbers of the slices to analyse in a stack's cord (S, H, W).

    "all": those where the cord is at least 4 px wide over half its length (the image rows that show cord in
    any slice). "middle": of these the one with the largest area of cord. N: of these the N around the middle,
    fewer if there are not so many. Raises InputError if no slice qualifies, UsageError for an unknown rule.
    """
    if not (rule in ("all", "middle") or (isinstance(rule, int) and rule > 0)):
        raise UsageError(f"The slices to analyse are 'all', 'middle' or a positive number, not {rule!r}.")
    width = cord.sum(axis=2)
    length = np.count_nonzero(width.any(axis=0))
    share = (width >= NARROWEST_PX).sum(axis=1) / max(length, 1)
    wide = np.flatnonzero(share >= SMALLEST_SHARE)
    if not length or not len(wide):
        raise InputError(
            f"No sagittal slice can be analysed: the cord must be at least {NARROWEST_PX} px (mm) wide over half of "
            f"its length, and is over {100 * share.max():.0f} % in the best slice. Is the cord mask right?"
        )
    if rule == "all":
        return tuple(wide.tolist())
    middle = middle_slice(np.where(np.isin(np.arange(len(cord)), wide)[:, None, None], cord, False))
    nearest = sorted(wide.tolist(), key=lambda k: (abs(k - middle), -cord[k].sum(), k))
    return tuple(sorted(nearest[: 1 if rule == "middle" else rule]))
