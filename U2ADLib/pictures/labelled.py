"""A labelled image: slices without and with the outlines of cord and lesions, and the discs."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from ..config import SEGMENT_NAMES
from ..roi.region import middle_slice
from ..sagittal import standardise
from ..volume import Volume
from .canvas import BLACK, ORANGE, SKY, VERMILION, WHITE, Canvas, enlarged, repeated, save_png, to_bytes

MOST_SLICES = 3
BESIDE = 0.7  # slices beside the middle are shown where they have so much of its cord
MARGIN_PX = (14, 60)  # around the cord, in image rows and columns
SCALE = 3
_GAP, _TITLE = 20, 40


def labelled_picture(
    path: Path, volume: Volume, cord: Volume, discs: Volume | None = None, lesions: Volume | None = None
) -> None:
    """Write `draw_labelled` as a PNG."""
    save_png(path, draw_labelled(volume, cord, discs, lesions))


def draw_labelled(
    volume: Volume, cord: Volume, discs: Volume | None = None, lesions: Volume | None = None
) -> np.ndarray:
    """RGB (H, W, 3) uint8: up to three slices, plain and labelled.

    The middle one, and those with the largest lesions or, where there are none, on both sides of it.

    :param cord, discs, lesions: label volumes on the volume's grid; discs in Spinal Cord Toolbox numbering.
    """
    stack = standardise(volume, cord.array > 0)
    cords = stack.grid.to_stack(cord.array, order=0)
    marked_lesions = np.zeros_like(cords) if lesions is None else stack.grid.to_stack(lesions.array, order=0)
    shown = _shown(cords > 0, marked_lesions)
    window = []
    for axis, margin in zip((1, 2), MARGIN_PX, strict=True):
        at = np.flatnonzero(cords.any(axis=(0, 3 - axis)))
        window.append(slice(max(at[0] - margin, 0), min(at[-1] + 1 + margin, cords.shape[axis])))
    window = tuple(window)
    height, width = ((w.stop - w.start) * SCALE for w in window)
    canvas = Canvas(2 * len(shown) * (width + _GAP) + _GAP, _TITLE + height + _GAP, BLACK)
    for place, k in enumerate(shown):
        left = _GAP + 2 * place * (width + _GAP)
        grey = enlarged(stack.images[k][window], SCALE)[..., None]
        plain = to_bytes(np.repeat(grey, 3, axis=-1))
        marked = plain.copy()
        for mask, colour in ((cords, SKY), (marked_lesions, VERMILION)):
            inside = repeated(mask[k][window] > 0, SCALE)
            marked[ndimage.binary_dilation(inside) & ~inside] = colour
        for at, picture in ((left, plain), (left + width + _GAP, marked)):
            canvas.paste(at, _TITLE, picture)
        title = f"slice {k}" + (", middle" if k == middle_slice(cords > 0) else "")
        canvas.text(left, _TITLE / 2, title, 20, WHITE)
        for number, (row, column) in _discs(discs, stack).items():
            y, x = _TITLE + (row - window[0].start + 0.5) * SCALE, (column - window[1].start + 0.5) * SCALE
            canvas.dot(left + width + _GAP + x, y, 4, ORANGE)
            name = SEGMENT_NAMES[number].replace("-", "/")
            canvas.text(left + width + _GAP + x - 12, y, name, 18, ORANGE, "rm", halo=BLACK)
    return canvas.array()


def _shown(cord, lesions):
    """Numbers of the slices to show, from right to left."""
    middle = middle_slice(cord)
    shown = {middle}
    for number in np.unique(lesions[lesions > 0]):
        if len(shown) < MOST_SLICES:
            shown.add(int((lesions == number).sum(axis=(1, 2)).argmax()))
    if not lesions.any():
        area = cord.sum(axis=(1, 2))
        near = np.flatnonzero(area >= BESIDE * area[middle])
        shown |= {int(near[0]), int(near[-1])}
    return sorted(shown)


def _discs(discs, stack):
    """Row and column of each labelled disc in the stack."""
    if discs is None:
        return {}
    places = {n: np.argwhere(discs.array == n).mean(0) for n in SEGMENT_NAMES if (discs.array == n).any()}
    return {n: stack.grid.ras_to_stack(discs.to_ras(at))[1:] for n, at in places.items()}
