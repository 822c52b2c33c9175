"""Pictures of an analysis: the AnoCurve, and the slices with the anomaly map.

Drawing is apart from writing: the `draw_…` functions return an RGB array (H, W, 3) uint8, the others write a
PNG. No picture carries the name of the image: it may be shown around.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..curve import patient_peak
from ..roi.region import middle_slice
from .canvas import (
    BLUE,
    DARK,
    GREY,
    ORANGE,
    RESEARCH_USE_ONLY,
    SKY,
    VERMILION,
    WHITE,
    Axes,
    Canvas,
    enlarged,
    nice_ticks,
    number_text,
    repeated,
    save_png,
    text_width,
    to_bytes,
)

# --------------------------------------------------------------------------------------------------------------
# what both pictures of an analysis say


def verdict(analysis) -> str:
    """The result in one sentence."""
    if analysis.thresholds is None:
        return "Nothing is flagged: no thresholds for this score and choice of slices."
    where = list(analysis.flagged)
    if elsewhere := strongest_elsewhere(analysis):
        where.append(f"the cord at {elsewhere[0]:.0f} mm")
    return f"Flagged: {', '.join(where)}" if where else "Nothing is flagged: no score exceeds its threshold."


def mm_left(analysis, number: int) -> float:
    """How far a slice of the stack lies to the patient's left of the one with most cord; negative on the right."""
    return (number - middle_slice(analysis.region.cord)) * analysis.stack.grid.slice_spacing_mm


def slice_label(analysis, number: int) -> str:
    """For a title: `slice 7, middle` or `slice 5, 6.6 mm right`."""
    distance = mm_left(analysis, number)
    side = f"{abs(distance):.1f} mm {'left' if distance > 0 else 'right'}" if distance else "middle"
    return f"slice {number}, {side}"


def strongest_elsewhere(analysis) -> tuple[float, int, float] | None:
    """Position in mm, slice and score of a flagged patient's peak, where it is that of no flagged segment."""
    at = patient_peak(analysis.curve)
    s, number = float(analysis.curve.s_mm[at]), int(analysis.curve.slice_of_maximum[at])
    if not analysis.patient_flagged or any(x.flagged and x.start_mm <= s < x.stop_mm for x in analysis.segments):
        return None
    return s, number, analysis.patient_score


def findings(analysis) -> list[tuple[float, int, float]]:
    """Position in mm, slice and score of the peak of each flagged segment, and of the patient if it is elsewhere."""
    elsewhere = strongest_elsewhere(analysis)
    found = [(s.peak_mm, s.peak_slice, s.score) for s in analysis.segments if s.flagged]
    return [*found, elsewhere] if elsewhere else found


# --------------------------------------------------------------------------------------------------------------
# AnoCurve

_BANDS = ((246, 246, 246), (234, 234, 234))  # neighbouring segments
FLAGGED_BAND = (253, 226, 205)
_SLICE_LINE = (150, 176, 203)
_CURVE_SIZE = (1600, 860)
_CURVE_BOX = (130, 210, 1380, 690)  # left, top, right, bottom of the frame


def anocurve_picture(path: Path, analysis) -> None:
    """Write `draw_anocurve` as a PNG."""
    save_png(path, draw_anocurve(analysis))


def anocurve_axes(analysis, canvas: Canvas) -> Axes:
    """The axes of `draw_anocurve`: mm along the centreline, and the anomaly from 0 to above all that is drawn."""
    thresholds = analysis.thresholds
    limits = [thresholds.segment, thresholds.patient] if thresholds else []
    top = 1.15 * max([np.nanmax(analysis.curve.maximum), *limits])
    s = analysis.curve.s_mm
    return Axes(canvas, _CURVE_BOX, (float(s[0]), float(s[-1])), (0.0, float(top) or 1.0))


def map_title(analysis) -> str:
    """What the anomaly map is, by the settings of the score in use."""
    if _score_settings(analysis)["evidence"] == "discriminator":
        return "Anomaly: probability of a change, 0-1"
    return "Anomaly: |image - reconstruction|, image 0-1"


def curve_title(analysis) -> str:
    """What the AnoCurve is, by the settings of the score in use."""
    settings = _score_settings(analysis)
    what, unit = ("probability", "0-1") if settings["evidence"] == "discriminator" else ("anomaly", "image: 0-1")
    return f"{'Highest' if settings['across'] == 'max' else 'Mean'} {what} across the cord ({unit})"


def _score_settings(analysis):
    return analysis.provenance["configuration"]["score_settings"]


def draw_anocurve(analysis) -> np.ndarray:
    """The AnoCurve against the position along the cord (paper, Fig. 2): each slice thin, their maximum bold.

    Segments are bands with name and score, thresholds are dashed, flagged segments and their peaks coloured.
    """
    curve, thresholds = analysis.curve, analysis.thresholds
    canvas = Canvas(*_CURVE_SIZE)
    axes = anocurve_axes(analysis, canvas)
    left, top, right, bottom = _CURVE_BOX
    canvas.text(left, 40, "AnoCurve: anomaly along the cord", 30)
    canvas.text(left, 84, verdict(analysis), 24, VERMILION if findings(analysis) else DARK)

    for k, segment in enumerate(analysis.segments):
        start, stop = np.clip(axes.x([segment.start_mm, segment.stop_mm]), left, right)
        canvas.rectangle(start + 1, top - 92, stop - 1, bottom, FLAGGED_BAND if segment.flagged else _BANDS[k % 2])
        lines = [(segment.name, 22), (f"{segment.score:.3f}", 18), (f"slice {segment.peak_slice}", 16)]
        for y, (text, size) in zip((-70, -42, -18), lines, strict=True):
            canvas.text((start + stop) / 2, top + y, text, size, VERMILION if segment.flagged else DARK, "mm")
    axes.frame("Position along the cord [mm]", curve_title(analysis))
    canvas.text(left, bottom + 48, "head", 20, DARK, "lm")
    canvas.text(right, bottom + 48, "feet", 20, DARK, "rm")

    for values in curve.values if len(curve.slices) > 1 else ():
        axes.curve(curve.s_mm, values, _SLICE_LINE, 1.5)
    if thresholds:
        _draw_thresholds(axes, analysis)
    axes.curve(curve.s_mm, curve.maximum, BLUE, 3)
    for s, _, score in findings(analysis):
        canvas.dot(axes.x(s), axes.y(score), 9, WHITE)
        canvas.dot(axes.x(s), axes.y(score), 7, VERMILION)
    if elsewhere := strongest_elsewhere(analysis):
        s, number, score = elsewhere
        text = f"{score:.3f}, slice {number}"
        side = 1 if axes.x(s) < right - 200 else -1
        anchor = "lm" if side > 0 else "rm"
        canvas.text(axes.x(s) + 14 * side, axes.y(score), text, 18, VERMILION, anchor, halo=WHITE)

    _draw_curve_legend(canvas, analysis)
    return canvas.array()


def _draw_thresholds(axes, analysis):
    """The segments' threshold over the segments, the patient's over all that counts, named on the right."""
    left, _, right, _ = axes.box
    thresholds, segments = analysis.thresholds, analysis.segments
    lines = [("patient threshold", thresholds.patient, *axes.x(analysis.curve.counted_mm), 3)]
    if segments:
        start, stop = np.clip(axes.x([segments[0].start_mm, segments[-1].stop_mm]), left, right)
        lines.append(("segment threshold", thresholds.segment, start, stop, 12))
    lines.sort(key=lambda line: -line[1])
    free_from = -np.inf
    for name, value, start, stop, dash in lines:
        y = float(axes.y(value))
        axes.canvas.dashes((start, y), (stop, y), DARK, 2, dash, 6)
        at = max(y, free_from)  # two labels never overlap
        axes.canvas.text(right + 12, at - 2, name, 19, DARK, "ls")
        axes.canvas.text(right + 12, at + 6, f"{value:.3f}", 19, DARK, "lt")
        free_from = at + 50


def _draw_curve_legend(canvas, analysis):
    left, _, right, bottom = _CURVE_BOX
    y = bottom + 92
    canvas.line([(left, y), (left + 40, y)], BLUE, 4)
    if len(analysis.slices) > 1:
        text = f"maximum over {len(analysis.slices)} slices"
        canvas.text(left + 50, y, text, 19, DARK)
        x = left + 50 + text_width(text, 19) + 40
        canvas.line([(x, y), (x + 40, y)], _SLICE_LINE, 1.5)
        canvas.text(x + 50, y, "each slice", 19, DARK)
    else:
        canvas.text(left + 50, y, slice_label(analysis, analysis.slices[0]), 19, DARK)
    remark = f"Not analysed: {', '.join(analysis.missing)}" if analysis.missing else ""
    if not analysis.segments:
        remark = "No disc labels: segments are not named"
    canvas.text(right, y, remark, 19, DARK, "rm")
    canvas.text(left, y + 44, RESEARCH_USE_ONLY, 18, GREY)


# --------------------------------------------------------------------------------------------------------------
# overlay on the slices

# Perceptually uniform (lightness rises evenly), in steps of 1/8, after "inferno" of van der Walt and Smith (CC0).
_HEAT = np.array([
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
    (249, 201, 50), (252, 255, 164),
]) / 255  # fmt: skip
OPAQUE_FROM = 0.5  # of the highest value on the colour bar; below, the heat is transparent in proportion
MOST_OPAQUE = 0.85
HEAT_TOP = 2.5  # the colour bar ends at this many segment thresholds, so that people can be compared

BRIGHTEST = 2.5  # medians of the cord are shown white: the window is set for the cord, CSF may be saturated
MARGIN_PX = (8, 26)  # around the cord, in image rows and columns
_TICK_MM = np.array([9.0, 13.0])  # distance from the centreline
_ARROW_MM = np.array([7.0, 17.0])  # tip and tail
_GUTTER, _TITLE, _GAP, _HEADER, _FOOTER = 76, 34, 26, 120, 64  # px of the picture
_BACKGROUND, _TEXT, _DIM = (24, 24, 24), (235, 235, 235), (165, 165, 165)


def heat_colours(values: np.ndarray) -> np.ndarray:
    """0–1 (any shape) → RGB (…, 3) 0–1, from black over purple and orange to light yellow."""
    at = np.clip(values, 0, 1) * (len(_HEAT) - 1)
    return np.stack([np.interp(at, np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)], axis=-1)


def heat_overlay(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heat 0–1 over grey 0–1 (any common shape) → RGB (…, 3) uint8. The higher the heat, the less transparent."""
    opacity = MOST_OPAQUE * np.clip(heat / OPAQUE_FROM, 0, 1)[..., None]
    return to_bytes(grey[..., None] * (1 - opacity) + heat_colours(heat) * opacity)


def heat_top(analysis) -> float:
    """The anomaly shown in the last colour: 2.5 segment thresholds, at most 1, as no anomaly is higher; or the highest
    value where there are no thresholds."""
    if analysis.thresholds:
        return min(HEAT_TOP * analysis.thresholds.segment, 1.0)
    return float(analysis.anomaly.max()) or 1.0


def overlay_picture(path: Path, analysis) -> None:
    """Write `draw_overlay` as a PNG."""
    save_png(path, draw_overlay(analysis))


def draw_overlay(analysis) -> np.ndarray:
    """Every analysed slice twice, around the cord: as it is, and with the anomaly map and the outline of the cord.

    Pixels are enlarged 4 times (3 times for more than 4 slices). Segments are named between the two, their
    borders ticked, flagged ones coloured; arrows point to the peaks of findings.
    """
    plan = _plan(analysis, copies=2)
    canvas = Canvas(*plan.page, _BACKGROUND)
    canvas.text(_GAP, 40, "Anomaly map", 30, _TEXT)
    canvas.text(_GAP, 84, verdict(analysis), 24, ORANGE if findings(analysis) else _TEXT)
    _draw_colour_bar(canvas, plan.page[0] - _GAP - 400, analysis)
    for k in range(len(analysis.slices)):
        _draw_tile(canvas, analysis, k, plan)
    _draw_footer(canvas, plan)
    return canvas.array()


def draw_blink_pair(analysis) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of one size to switch between: every analysed slice as it is, and with map and outline.

    Whatever else they show is the same, so only the cord and its outline change.
    """
    plan = _plan(analysis, copies=1)
    pair = []
    for with_map in (False, True):
        canvas = Canvas(*plan.page, _BACKGROUND)
        _draw_colour_bar(canvas, plan.page[0] - _GAP - 400, analysis)
        for k in range(len(analysis.slices)):
            _draw_single(canvas, analysis, k, plan, with_map)
        _draw_footer(canvas, plan)
        pair.append(canvas.array())
    return tuple(pair)


@dataclass(frozen=True)
class _Plan:
    """Where the slices lie on a page, in its pixels."""

    window: tuple[slice, slice]  # rows and columns of the stack
    scale: int
    tile: tuple[int, int]  # height and width of what belongs to one slice
    columns: int
    page: tuple[int, int]  # width, height
    brightest: float  # of the image: white

    @property
    def width(self) -> int:
        """Of one copy of a slice."""
        return (self.window[1].stop - self.window[1].start) * self.scale

    def corner(self, k: int) -> tuple[int, int]:
        """Upper left corner of the k-th slice's title."""
        return _GAP + k % self.columns * self.tile[1], _HEADER + k // self.columns * self.tile[0]


def _plan(analysis, copies):
    """A page for all slices, each `copies` times, about half as wide again as high."""
    count = len(analysis.slices)
    scale = 4 if count <= 4 else 3
    images, cord = (a[list(analysis.slices)] for a in (analysis.stack.images, analysis.region.cord))
    window = overlay_window(cord)
    height, width = ((w.stop - w.start) * scale for w in window)
    tile = (_TITLE + height + _GAP, copies * width + _GUTTER + _GAP)
    columns = min(range(1, count + 1), key=lambda n: abs(np.log(n * tile[1] / (-(-count // n) * tile[0]) / 1.5)))
    rows = -(-count // columns)
    page = (max(columns * tile[1] + _GAP, 1240), _HEADER + rows * tile[0] + _FOOTER)
    return _Plan(window, scale, tile, columns, page, BRIGHTEST * float(np.median(images[cord])) or 1.0)


def _draw_footer(canvas, plan):
    y = plan.page[1] - _FOOTER + 10
    canvas.line([(_GAP, y), (_GAP + 20 * plan.scale, y)], _TEXT, 3)
    text = "20 mm.  Anterior is on the left, slices run from right to left."
    canvas.text(_GAP + 20 * plan.scale + 12, y, text, 19, _DIM)
    canvas.text(_GAP, y + 30, RESEARCH_USE_ONLY, 19, _DIM)


def overlay_window(cord: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a stack (S, H, W) that are shown: those of the cord and a margin."""
    window = []
    for axis, margin in zip((1, 2), MARGIN_PX, strict=True):
        at = np.flatnonzero(cord.any(axis=(0, 3 - axis)))
        window.append(slice(max(at[0] - margin, 0), min(at[-1] + 1 + margin, cord.shape[axis])))
    return tuple(window)


def _draw_tile(canvas, analysis, k, plan):
    """One slice without and with its map, the segments' names between the two."""
    x, y = plan.corner(k)
    right = x + plan.width + _GUTTER
    _draw_title(canvas, analysis, k, (x, y))
    for left, with_map in ((x, False), (right, True)):
        _draw_plane(canvas, analysis, k, plan, (left, y + _TITLE), with_map)
    _draw_names(canvas, analysis, plan, (x + plan.width + _GUTTER / 2, y + _TITLE))
    _draw_ticks(canvas, analysis, plan, (right, y + _TITLE))
    for left in (x, right):
        _draw_arrows(canvas, analysis, k, plan, (left, y + _TITLE))


def _draw_single(canvas, analysis, k, plan, with_map):
    """One slice with or without its map, the segments' names on its left."""
    x, y = plan.corner(k)
    corner = (x + _GUTTER, y + _TITLE)
    _draw_title(canvas, analysis, k, (x + _GUTTER, y))
    _draw_plane(canvas, analysis, k, plan, corner, with_map)
    _draw_names(canvas, analysis, plan, (x + _GUTTER / 2, y + _TITLE))
    _draw_ticks(canvas, analysis, plan, corner)
    _draw_arrows(canvas, analysis, k, plan, corner)


def _draw_title(canvas, analysis, k, corner):
    number = analysis.slices[k]
    canvas.text(corner[0], corner[1] + 14, slice_label(analysis, number), 20, ORANGE if _marks(analysis, k) else _TEXT)


def _draw_plane(canvas, analysis, k, plan, corner, with_map):
    """The pixels of a slice, as they are or with the anomaly map and the outline of the cord."""
    number = analysis.slices[k]
    grey = enlarged(analysis.stack.images[number][plan.window] / plan.brightest, plan.scale)
    if with_map:
        cord = repeated(analysis.region.cord[number][plan.window], plan.scale)
        picture = heat_overlay(grey, repeated(analysis.anomaly[k][plan.window] / heat_top(analysis), plan.scale))
        picture[ndimage.binary_dilation(cord) & ~cord] = SKY
    else:
        picture = to_bytes(np.repeat(grey[..., None], 3, axis=-1))
    canvas.paste(*corner, picture)


def _on_page(plan, corner, points):
    """Stack (row, column) → (x, y) of the page, in the copy of the slice whose upper left corner is `corner`."""
    row, column = np.moveaxis(np.asarray(points) - [w.start for w in plan.window] + 0.5, -1, 0)
    return np.stack([corner[0] + column * plan.scale, corner[1] + row * plan.scale], axis=-1)


def _draw_names(canvas, analysis, plan, middle):
    """Names one below the other, centred at x of `middle`, whose y is the upper end of the slice."""
    for name, s, flagged in _names(analysis):
        row = _on_page(plan, middle, analysis.region.centreline.at(s)[0])[1]
        canvas.text(middle[0], row, name, 19, ORANGE if flagged else _TEXT, "mm")


def _draw_ticks(canvas, analysis, plan, corner):
    """At the segments' borders, on both sides of the cord."""
    for s in _borders(analysis):
        for side in (-1, 1):
            canvas.line(_on_page(plan, corner, _beside(analysis, s, side * _TICK_MM)), SKY, 1.5)


def _draw_arrows(canvas, analysis, k, plan, corner):
    for s in _marks(analysis, k):
        _draw_arrow(canvas, *_on_page(plan, corner, _beside(analysis, s, _ARROW_MM)))


def _marks(analysis, k):
    """Positions in mm of the findings whose peak is in the k-th of the analysed slices."""
    return [s for s, number, _ in findings(analysis) if number == analysis.slices[k]]


def _names(analysis):
    """Text, position in mm and colouring of what is written beside the cord: segments, or the position without them."""
    if analysis.segments:
        return [(s.name, (s.start_mm + s.stop_mm) / 2, s.flagged) for s in analysis.segments]
    return [(f"{s:.0f} mm", s, False) for s in _borders(analysis)]


def _borders(analysis):
    """Positions in mm that get a tick: the segments' ends, or every 20 mm without segments."""
    if analysis.segments:
        return sorted({s for segment in analysis.segments for s in (segment.start_mm, segment.stop_mm)})
    return np.arange(0, analysis.region.centreline.length, 20.0)


def _beside(analysis, s, distances):
    """Stack (row, column) of points at signed distances (N,) in mm from the centreline at s; positive is posterior."""
    point, tangent = analysis.region.centreline.at(s)
    return point + distances[:, None] * np.array([-tangent[1], tangent[0]])


def _draw_arrow(canvas, tip, tail):
    along = (tail - tip) / np.linalg.norm(tail - tip)
    across = np.array([-along[1], along[0]])
    canvas.line([tip + 8 * along, tail], ORANGE, 3)
    canvas.polygon([tip, tip + 13 * along + 6 * across, tip + 13 * along - 6 * across], ORANGE)


def _draw_colour_bar(canvas, x, analysis, y=28, width=400, height=18):
    """Heat over a mid grey, with numbers."""
    top, highest = heat_top(analysis), analysis.anomaly.max()
    ramp = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    canvas.paste(x, y, heat_overlay(np.full(ramp.shape, 0.35), ramp))
    for tick in nice_ticks(0, top, 4):
        at = x + tick / top * width
        canvas.line([(at, y + height), (at, y + height + 5)], _DIM)
        canvas.text(at, y + height + 8, number_text(tick), 18, _TEXT, "ma")
    text = map_title(analysis)
    if highest > top:
        text += f"; last colour: {top:.2g} to {highest:.2g}"
    canvas.text(x + width, y + height + 48, text, 18, _DIM, "rm")
