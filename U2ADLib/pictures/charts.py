"""Curves of a training: line charts under each other on one x axis."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np

from .canvas import DARK, GREY, LINE_COLOURS, Axes, Canvas, save_png, text_width


def line_chart(path: Path, panels: list[dict], x_label: str) -> None:
    """Write `draw_line_chart` as a PNG."""
    save_png(path, draw_line_chart(panels, x_label))


def draw_line_chart(panels: list[dict], x_label: str) -> np.ndarray:
    """Charts under each other on one x axis, such as the curves of a training.

    :param panels: dicts with "title", "lines": {label: (xs, ys)} and optionally "log": True. Values that are
        not finite (or not positive, where logarithmic) are left out; a panel without any says "no data yet".
    """
    width, height, above, below = 1200, 400, 80, 80
    canvas = Canvas(width, height * len(panels))
    every_x = _joined(xs for panel in panels for xs, _ in panel["lines"].values())
    x_range = _wide(every_x.min(), every_x.max()) if len(every_x) else (0.0, 1.0)
    for k, panel in enumerate(panels):
        top = k * height
        box = (120, top + above, width - 40, top + height - below)
        canvas.text(box[0], top + 24, panel["title"], 24)
        log = panel.get("log", False)
        ys = _joined(ys for _, ys in panel["lines"].values())
        ys = ys[np.isfinite(ys) & ((ys > 0) | (not log))]
        if not len(ys):
            Axes(canvas, box, x_range, (0.0, 1.0)).frame(x_label, whole_x=True)
            canvas.text((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, "no data yet", 24, GREY, "mm")
            continue
        low, high = (ys.min() / 1.1, ys.max() * 1.1) if log else _wide(ys.min(), ys.max(), 0.06)
        axes = Axes(canvas, box, x_range, (low, high), log)
        axes.frame(x_label, whole_x=True)
        at = box[0]
        for colour, (label, (xs, ys)) in zip(cycle(LINE_COLOURS), panel["lines"].items(), strict=False):
            axes.curve(xs, ys, colour)
            canvas.line([(at, top + 58), (at + 36, top + 58)], colour, 4)
            canvas.text(at + 44, top + 58, label, 20, DARK)
            at += 44 + text_width(label, 20) + 40
    return canvas.array()


def _joined(sequences: Iterable) -> np.ndarray:
    return np.concatenate([np.empty(0), *(np.asarray(values, float) for values in sequences)])


def _wide(low, high, margin=0.0):
    """A range that is never empty."""
    if high <= low:
        pad = abs(low) * 0.1 or 0.5
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)
