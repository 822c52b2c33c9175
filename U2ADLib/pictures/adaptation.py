"""How the uncertainty of some cases changes while a model adapts to them (paper, Fig. 5 and 8)."""

from pathlib import Path

import numpy as np

from .analysis import heat_colours
from .canvas import BLACK, GREY, WHITE, Canvas, enlarged, repeated, save_png, to_bytes

SCALE = 2
BRIGHTEST_PERCENTILE = 99.5  # of a case's map over all epochs: the end of its colours
_GAP, _TITLE, _LEFT = 16, 64, 100
_NARROWEST = 110  # of a column: room for its title


def adaptation_picture(path: Path, images, cords, epochs, aleatoric, epistemic) -> None:
    """Write `draw_adaptation` as a PNG."""
    save_png(path, draw_adaptation(images, cords, epochs, aleatoric, epistemic))


def draw_adaptation(
    images: np.ndarray, cords: np.ndarray, epochs: list[int], aleatoric: np.ndarray, epistemic: np.ndarray
) -> np.ndarray:
    """RGB (H, W, 3) uint8: two rows a case, the error (AU) and the variance (EU), and a column an epoch.

    Colours mean the same along a row. Above each map stands its mean in the cord × 1000. No name is in it.

    :param images, cords: (C, h, w), 0–1 and bool. :param aleatoric, epistemic: (E, C, h, w).
    """
    count, height, width = len(images), images.shape[1] * SCALE, images.shape[2] * SCALE
    pitch, across = height + 30 + _GAP, max(width, _NARROWEST) + _GAP
    canvas = Canvas(_LEFT + (1 + len(epochs)) * across, _TITLE + 2 * count * pitch, BLACK)
    for column, title in enumerate(("image", *(f"epoch {epoch}" for epoch in epochs))):
        canvas.text(_LEFT + column * across + width / 2, _TITLE / 2, title, 20, WHITE, "mm")
    for case in range(count):
        for kind, maps in enumerate((aleatoric, epistemic)):
            top = _TITLE + (2 * case + kind) * pitch + 30
            inside = cords[case]
            canvas.text(12, top + height / 2 - 12, f"case {case + 1}", 18, GREY, "lm")
            canvas.text(12, top + height / 2 + 12, ("error", "variance")[kind], 18, WHITE, "lm")
            grey = to_bytes(np.repeat(enlarged(images[case], SCALE)[..., None], 3, axis=-1))
            canvas.paste(_LEFT, top, grey)
            brightest = max(float(np.percentile(maps[:, case][:, inside], BRIGHTEST_PERCENTILE)), 1e-9)
            for column, values in enumerate(maps[:, case], start=1):
                left = _LEFT + column * across
                colours = heat_colours(repeated(values / brightest, SCALE))
                shown = np.where(repeated(inside, SCALE)[..., None], to_bytes(colours), grey // 3)
                canvas.paste(left, top, shown)
                canvas.text(left + width / 2, top - 14, f"{1000 * values[inside].mean():.3g}", 17, WHITE, "mm")
    return canvas.array()
