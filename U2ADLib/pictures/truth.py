"""A labelled image: slices without and with the outlines of cord and lesions, and the discs."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from ..config import SEGMENT_NAMES
from ..roi.region import middle_slice
from ..sagittal import standardise
from .canvas import BLACK, ORANGE, SKY, VERMILION, WHITE, Canvas, enlarged, repeated, save_png, to_bytes

MOST_SLICES = 3
MARGIN_PX = (14, 60)  # around the cord, in image rows and columns
SCALE = 3
_GAP, _TITLE = 20, 40


def truth_picture(path: Path, made) -> None:
    """Write `draw_truth` as a PNG."""
    save_png(path, draw_truth(made))


def draw_truth(made) -> np.ndarray:
    """RGB (H, W, 3) uint8: the middle slice and those with the largest lesions, plain and labelled.

    :param made: has `volume`, `cord`, `lesions` and `discs` (or None) on one grid, as `LabelledVolume`.
    """
    stack = standardise(made.volume, made.cord.array > 0)
    cord, lesions = (stack.grid.to_stack(label.array, order=0) for label in (made.cord, made.lesions))
    middle = middle_slice(cord > 0)
    shown = {middle}
    for number in np.unique(lesions[lesions > 0]):
        if len(shown) < MOST_SLICES:
            shown.add(int((lesions == number).sum(axis=(1, 2)).argmax()))
    shown = sorted(shown)
    window = []
    for axis, margin in zip((1, 2), MARGIN_PX, strict=True):
        at = np.flatnonzero(cord.any(axis=(0, 3 - axis)))
        window.append(slice(max(at[0] - margin, 0), min(at[-1] + 1 + margin, cord.shape[axis])))
    window = tuple(window)
    height, width = ((w.stop - w.start) * SCALE for w in window)
    canvas = Canvas(2 * len(shown) * (width + _GAP) + _GAP, _TITLE + height + _GAP, BLACK)
    for place, k in enumerate(shown):
        left = _GAP + 2 * place * (width + _GAP)
        grey = enlarged(stack.images[k][window], SCALE)[..., None]
        plain = to_bytes(np.repeat(grey, 3, axis=-1))
        marked = plain.copy()
        for mask, colour in ((cord, SKY), (lesions, VERMILION)):
            inside = repeated(mask[k][window] > 0, SCALE)
            marked[ndimage.binary_dilation(inside) & ~inside] = colour
        for at, picture in ((left, plain), (left + width + _GAP, marked)):
            canvas.paste(at, _TITLE, picture)
        title = f"slice {k}" + (", middle" if k == middle else "")
        canvas.text(left, _TITLE / 2, title, 20, WHITE)
        for number, (row, column) in _discs(made, stack).items():
            y, x = _TITLE + (row - window[0].start + 0.5) * SCALE, (column - window[1].start + 0.5) * SCALE
            canvas.dot(left + width + _GAP + x, y, 4, ORANGE)
            name = SEGMENT_NAMES[number].replace("-", "/")
            canvas.text(left + width + _GAP + x - 12, y, name, 18, ORANGE, "rm", halo=BLACK)
    return canvas.array()


def _discs(made, stack):
    """Row and column of each labelled disc in the stack."""
    if made.discs is None:
        return {}
    numbers = made.discs.array
    places = {n: np.argwhere(numbers == n).mean(0) for n in SEGMENT_NAMES if (numbers == n).any()}
    return {n: stack.grid.ras_to_stack(made.discs.to_ras(at))[1:] for n, at in places.items()}
