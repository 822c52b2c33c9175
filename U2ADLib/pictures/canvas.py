"""What every picture is drawn with: an RGB canvas with smooth lines, axes with round numbers, enlarged image planes.

Drawn with Pillow, so that pictures work wherever the method does. Everything is drawn at twice its size and averaged,
which smooths the edges of lines.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SUPERSAMPLING = 2
DOTS_PER_INCH = 150

# Okabe & Ito: told apart by colour-blind readers, and different in brightness on a black-and-white print.
BLUE, VERMILION, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)
ORANGE, SKY = (230, 159, 0), (86, 180, 233)
LINE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
BLACK, DARK, GREY, PALE, WHITE = (0, 0, 0), (60, 60, 60), (130, 130, 130), (205, 205, 205), (255, 255, 255)

RESEARCH_USE_ONLY = "Research use only. Not for diagnosis or treatment."

# Pillow's built-in font has no glyphs for these.
_PLAIN = str.maketrans({
    "–": "-", "—": "-", "−": "-", "×": "x", "²": "2", "³": "3", "≥": ">=", "≤": "<=", "µ": "u", "→": "to",
})  # fmt: skip


class Canvas:
    """An RGB picture that is drawn in its final pixels, with smooth edges. The origin is the upper left corner."""

    def __init__(self, width: int, height: int, background=WHITE):
        self._image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), background)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, x, y, text, size=22, colour=BLACK, anchor="lm", turned=False, halo=None):
        """`anchor` as in Pillow ("lm": x is the left end, y the middle). turned: upwards, with the middle at x, y.

        halo: colour of a border that keeps the text legible on lines.
        """
        text = text.translate(_PLAIN)
        font = ImageFont.load_default(size * SUPERSAMPLING)
        at = (x * SUPERSAMPLING, y * SUPERSAMPLING)
        if not turned:
            border = 0 if halo is None else 3 * SUPERSAMPLING
            self._draw.text(at, text, colour, font, anchor, stroke_width=border, stroke_fill=halo)
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

    def dashes(self, start, stop, colour=BLACK, width=1.5, dash=10.0, gap=7.0):
        """A broken straight line."""
        start, stop = np.asarray(start, float), np.asarray(stop, float)
        length = np.linalg.norm(stop - start)
        for begin in np.arange(0, length, dash + gap):
            ends = np.array([begin, min(begin + dash, length)]) / max(length, 1e-9)
            self.line(start + ends[:, None] * (stop - start), colour, width)

    def polygon(self, points, colour):
        """Filled, through points (N, 2) of x, y."""
        self._draw.polygon([tuple(point) for point in np.asarray(points, float) * SUPERSAMPLING], colour)

    def paste(self, x, y, picture):
        """An RGB array (H, W, 3) uint8 with its upper left corner at whole pixels x, y; its pixels stay as they are."""
        large = np.repeat(np.repeat(picture, SUPERSAMPLING, axis=0), SUPERSAMPLING, axis=1)
        self._image.paste(Image.fromarray(large), (x * SUPERSAMPLING, y * SUPERSAMPLING))

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
    # Level 3: as small as the default of 6 within a few percent, in half the time.
    Image.fromarray(picture).save(temporary, format="PNG", dpi=(DOTS_PER_INCH,) * 2, compress_level=3)
    os.replace(temporary, path)


def nice_ticks(low: float, high: float, count: int = 6, whole: bool = False) -> np.ndarray:
    """Round numbers (steps of 1, 2 or 5 × 10ⁿ) in low … high, about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    return step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)


def log_ticks(low: float, high: float) -> np.ndarray:
    """Round numbers for a logarithmic axis: decades, with their 2 and 5 where these are few."""
    for steps in ((1,), (1, 2, 5)):
        decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        ticks = np.outer(decades, steps).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) > 2:
            return ticks
    return nice_ticks(low, high, 4)


class Axes:
    """A frame in a canvas; `x` and `y` turn values into pixels. log: y is logarithmic."""

    def __init__(self, canvas, box, x_range, y_range, log=False):
        self.canvas, self.box, self.log = canvas, box, log
        self.x_range, self.y_range = x_range, y_range

    def x(self, value):
        left, _, right, _ = self.box
        low, high = self.x_range
        return left + (np.asarray(value, float) - low) / (high - low) * (right - left)

    def y(self, value):
        _, top, _, bottom = self.box
        low, high, value = (np.log10(v) if self.log else np.asarray(v, float) for v in (*self.y_range, value))
        return bottom - (value - low) / (high - low) * (bottom - top)

    def frame(self, x_label="", y_label="", whole_x=False, size=20):
        """Grid, ticks with their numbers, and labels."""
        left, top, right, bottom = self.box
        for tick in nice_ticks(*self.x_range, 10, whole_x):
            at = self.x(tick)
            self.canvas.line([(at, bottom), (at, bottom + 6)], GREY)
            self.canvas.text(at, bottom + 10, number_text(tick), size, DARK, "ma")
        for tick in log_ticks(*self.y_range) if self.log else nice_ticks(*self.y_range, 5):
            at = self.y(tick)
            self.canvas.line([(left, at), (right, at)], PALE)
            self.canvas.text(left - 8, at, number_text(tick), size, DARK, "rm")
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
                    self.canvas.dot(*points[0], 1.5 * width, colour)
                else:
                    self.canvas.line(points, colour, width)


def number_text(value):
    """Short, without −0 and without float noise."""
    return f"{round(float(value), 12) + 0:.6g}"


def enlarged(plane, scale):
    """Smoothly, clipped to 0–1."""
    size = (plane.shape[1] * scale, plane.shape[0] * scale)
    return np.clip(np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)), 0, 1)


def repeated(plane, scale):
    """Each pixel as a square."""
    return np.repeat(np.repeat(plane, scale, axis=0), scale, axis=1)


def to_bytes(values):
    """0–1 → uint8."""
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
