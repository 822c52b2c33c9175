"""Pictures of an analysis and of a training, drawn with Pillow so that they work wherever the method does.

Drawing is apart from writing: the `draw_…` functions return an RGB array (H, W, 3) uint8, the others write a PNG.
Everything is drawn at twice its size and averaged, which smooths the edges of lines.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SUPERSAMPLING = 2
DOTS_PER_INCH = 150

# Okabe & Ito: told apart by colour-blind readers, and different in brightness on a black-and-white print.
BLUE, VERMILION, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)
LINE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
BLACK, DARK, GREY, PALE, WHITE = (0, 0, 0), (60, 60, 60), (130, 130, 130), (222, 222, 222), (255, 255, 255)

# Pillow's built-in font has no glyphs for these.
_PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "×": "x", "²": "2", "³": "3", "≥": ">=", "≤": "<=", "µ": "u"})


class Canvas:
    """An RGB picture that is drawn in its final pixels, with smooth edges. The origin is the upper left corner."""

    def __init__(self, width: int, height: int, background=WHITE):
        self._image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), background)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, x, y, text, size=22, colour=BLACK, anchor="lm", turned=False):
        """`anchor` as in Pillow ("lm": x is the left end, y the middle). `turned`: read from bottom to top, middle at x, y."""
        text = text.translate(_PLAIN)
        font = ImageFont.load_default(size * SUPERSAMPLING)
        at = (x * SUPERSAMPLING, y * SUPERSAMPLING)
        if not turned:
            self._draw.text(at, text, colour, font, anchor)
            return
        left, top, right, bottom = font.getbbox(text)
        ink = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(ink).text((-left, -top), text, 255, font)
        ink = ink.transpose(Image.Transpose.ROTATE_90)
        corner = (round(at[0] - ink.width / 2), round(at[1] - ink.height / 2))
        self._image.paste(colour, (*corner, corner[0] + ink.width, corner[1] + ink.height), ink)

    def line(self, points, colour=BLACK, width=1.0):
        """Through points (N, 2) of x, y."""
        flat = [(float(x) * SUPERSAMPLING, float(y) * SUPERSAMPLING) for x, y in points]
        self._draw.line(flat, colour, max(1, round(width * SUPERSAMPLING)), joint="curve")

    def rectangle(self, left, top, right, bottom, colour):
        """Filled; the pixels left ≤ x < right, top ≤ y < bottom."""
        corners = [round(value * SUPERSAMPLING) for value in (left, top, right, bottom)]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            self._draw.rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), colour)

    def dot(self, x, y, radius, colour):
        """A filled circle."""
        box = [(v + sign * radius) * SUPERSAMPLING for sign in (-1, 1) for v in (x, y)]
        self._draw.ellipse(box, colour)

    def array(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return np.asarray(self._image.reduce(SUPERSAMPLING))


def text_width(text: str, size: int = 22) -> float:
    """Width of a line of text in pixels."""
    return ImageFont.load_default(size * SUPERSAMPLING).getlength(text.translate(_PLAIN)) / SUPERSAMPLING


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write an RGB array (H, W, 3) uint8 beside its place and move it there."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    Image.fromarray(picture).save(temporary, format="PNG", dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    os.replace(temporary, path)


def nice_ticks(low: float, high: float, count: int = 6, whole: bool = False) -> np.ndarray:
    """Round numbers (steps of 1, 2 or 5 × 10ⁿ) in low … high, about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    return step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)


def _log_ticks(low, high):
    """Decades, with their 2 and 5 where there are few; on logarithms to base 10."""
    decades = np.arange(np.floor(low), np.ceil(high) + 1)
    steps = (1, 2, 5) if high - low < 2 else (1,)
    ticks = np.array([d + np.log10(m) for d in decades for m in steps])
    return ticks[(ticks >= low - 1e-9) & (ticks <= high + 1e-9)]


class Axes:
    """A frame in a canvas with round ticks; `x` and `y` turn values into pixels. log: y is logarithmic."""

    def __init__(self, canvas, box, x_range, y_range, log=False):
        self.canvas, self.box, self.log = canvas, box, log
        self.x_range = x_range
        self.y_range = tuple(np.log10(y_range)) if log else y_range

    def x(self, value):
        left, _, right, _ = self.box
        low, high = self.x_range
        return left + (np.asarray(value, float) - low) / (high - low) * (right - left)

    def y(self, value):
        return self._at(np.log10(value) if self.log else np.asarray(value, float))

    def _at(self, value):
        _, top, _, bottom = self.box
        low, high = self.y_range
        return bottom - (value - low) / (high - low) * (bottom - top)

    def frame(self, x_label="", y_label="", whole_x=False, size=20):
        """Grid, ticks with their numbers, and labels."""
        left, top, right, bottom = self.box
        for tick in nice_ticks(*self.x_range, 10, whole_x):
            at = self.x(tick)
            self.canvas.line([(at, bottom), (at, bottom + 6)], GREY)
            self.canvas.text(at, bottom + 10, _number(tick), size, DARK, "ma")
        for tick in _log_ticks(*self.y_range) if self.log else nice_ticks(*self.y_range, 5):
            at = self._at(tick)
            self.canvas.line([(left, at), (right, at)], PALE)
            self.canvas.text(left - 8, at, _number(10**tick if self.log else tick), size, DARK, "rm")
        self.canvas.line([(left, top), (left, bottom), (right, bottom)], GREY, 1.5)
        if x_label:
            self.canvas.text((left + right) / 2, bottom + 38, x_label, size, BLACK, "ma")
        if y_label:
            self.canvas.text(left - 88, (top + bottom) / 2, y_label, size, BLACK, turned=True)

    def curve(self, xs, ys, colour, width=2.5):
        """A line, broken where `ys` is not finite; a point alone becomes a dot."""
        xs, ys = np.asarray(xs, float), np.asarray(ys, float)
        seen = np.isfinite(xs) & np.isfinite(ys) & ((ys > 0) | (not self.log))
        for run in np.split(np.arange(len(xs)), np.flatnonzero(np.diff(seen)) + 1):
            if len(run) and seen[run[0]]:
                points = np.stack([self.x(xs[run]), self.y(ys[run])], axis=1)
                if len(run) == 1:
                    self.canvas.dot(*points[0], width, colour)
                else:
                    self.canvas.line(points, colour, width)


def _number(value):
    """Short, without −0 and without float noise."""
    return f"{round(float(value), 12) + 0:.6g}"


def line_chart(path: Path, panels: list[dict], x_label: str) -> None:
    """Write `draw_line_chart` as a PNG."""
    save_png(path, draw_line_chart(panels, x_label))


def draw_line_chart(panels: list[dict], x_label: str) -> np.ndarray:
    """Charts under each other on one x axis, such as the curves of a training.

    :param panels: dicts with "title", "lines": {label: (xs, ys)} and optionally "log": True. Values that are not
        finite (or not positive, where logarithmic) are left out; a panel without any says "no data yet".
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
        for colour, (label, (xs, ys)) in zip(_cycle(panel["lines"]), panel["lines"].items(), strict=True):
            axes.curve(xs, ys, colour)
            canvas.line([(at, top + 58), (at + 36, top + 58)], colour, 4)
            canvas.text(at + 44, top + 58, label, 20, DARK)
            at += 44 + text_width(label, 20) + 40
    return canvas.array()


def _joined(sequences):
    return np.concatenate([np.empty(0), *(np.asarray(values, float) for values in sequences)])


def _cycle(lines):
    return [LINE_COLOURS[k % len(LINE_COLOURS)] for k in range(len(lines))]


def _wide(low, high, margin=0.0):
    """A range that is never empty."""
    if high <= low:
        pad = abs(low) * 0.1 or 0.5
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)
