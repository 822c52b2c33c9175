"""Pages of cases: for a named score the lesions it shows best and worst, and the lesion-free cases it is surest of.

A case is judged by its peak, in standard deviations above the lesion-free peaks of the same person, condition and
repetition. Each is drawn as image with mask (blue) and lesion (red), reconstruction where the method gives one, score,
and curve with the rows of the lesion. A method may give reconstructions by `reconstructions(images, cords)`, (N, H, W)
in the unit of the images.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation

from ...errors import UsageError
from ...pictures.analysis import BRIGHTEST, heat_colours
from ...pictures.canvas import (
    BLACK,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    WHITE,
    Canvas,
    enlarged,
    repeated,
    save_png,
    to_bytes,
)
from . import cases
from .methods import curve_along_cord, final_scores, scores_of
from .parts import Part
from .run import cases_of, file_name, fitted
from .study import LESION_KINDS

MOST, PER_ROW = 20, 5
SCALE, HALF_WIDTH, CURVE_PX = 3, 26, 90  # of a tile: pixels per mm, mm to either side of the cord, width of the curve
GAP, TITLE = 14, 34


def draw_pages(setup, jobs: Sequence, score: str) -> list[Path]:
    """Three contact sheets as PNG in the run's folder. :raises UsageError: there is no such score."""
    ranked = _ranked(setup, jobs, score)
    lesioned = [one for one in ranked if one[-1] in LESION_KINDS]
    without = [one for one in ranked if one[-1] == cases.NONE]
    sheets = {"best": lesioned[::-1][:MOST], "worst": lesioned[:MOST], "false": without[::-1][:MOST]}
    paths = []
    for name, chosen in sheets.items():
        path = setup.out / "pages" / f"{file_name(score)}-{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, draw_sheet(f"{score}: {name}", _shown(setup, chosen)))
        paths.append(path)
    return paths


def _ranked(setup, jobs, score):
    """(standing, job, number of the case, variant, kind) of all tested cases, the lowest first."""
    found = []
    for job in jobs:
        if not job.is_test or job.condition == "negatives":
            continue
        part = Part.load(job.path(setup.out))
        names = part.variants.tolist()
        if score not in names or not len(part.lesion_kinds):
            continue
        v = names.index(score)
        usual = part.peak[v][part.kinds == cases.NONE]
        standing = (part.peak[v] - usual.mean()) / max(usual.std(), 1e-9)
        # A clean lesion-free slice is the same image every time.
        same = (part.kinds == cases.NONE) & (part.repeats > 0) if job.condition == "clean" else part.kinds == ""
        found += [(standing[k], job, k, v, part.kinds[k]) for k in np.flatnonzero(~same)]
    if not found:
        raise UsageError(f"There is no score {score!r} in this run; see results.csv for their names.")
    return sorted(found, key=lambda one: one[0])


def _shown(setup, chosen):
    """Dicts for `draw_sheet`, in the order given; each part is made again once."""
    made = {}
    order = {one[1:3]: number for number, one in enumerate(chosen)}
    for job, group in groupby(sorted(chosen, key=lambda one: repr(one[1])), key=lambda one: one[1]):
        method, expected = fitted(setup, job.method, job.fold)
        counted = [case for case in cases_of(setup, job) if case.counts]
        for standing, _, k, v, _ in group:
            case = counted[k]
            stacked = case.image[None], case.mask[None]
            maps = {name: values[0] for name, values in method.maps(*stacked).items()}
            variant = scores_of(method, maps)[v]
            score, domain = final_scores(maps, case.mask, expected, [variant])[variant]
            rebuilt = getattr(method, "reconstructions", None)
            made[order[job, k]] = {
                "title": f"{case.kind}, {case.condition}, {case.person} {case.slice_index}: {standing:+.1f}",
                "case": case,
                "score": score,
                "domain": domain,
                "across": variant.across,
                "rebuilt": None if rebuilt is None else rebuilt(*stacked)[0],
            }
    return [made[number] for number in sorted(made)]


def draw_sheet(title: str, shown: Sequence[dict]) -> np.ndarray:
    """RGB (H, W, 3) uint8: cases side by side, see the top of the file."""
    tiles = 3 if any(one["rebuilt"] is not None for one in shown) else 2
    height, tile = shown[0]["score"].shape[0] * SCALE, 2 * HALF_WIDTH * SCALE
    width = tiles * (tile + 4) + CURVE_PX
    rows = -(-len(shown) // PER_ROW)
    canvas = Canvas(GAP + PER_ROW * (width + GAP), 2 * TITLE + rows * (height + TITLE + GAP), BLACK)
    canvas.text(GAP, TITLE, title, 24, WHITE)
    top_score = max(np.quantile(one["score"][one["domain"]], 0.995) for one in shown)
    for number, one in enumerate(shown):
        left = GAP + number % PER_ROW * (width + GAP)
        top = 2 * TITLE + number // PER_ROW * (height + TITLE + GAP) + TITLE
        canvas.text(left, top - TITLE / 2, one["title"], 18, WHITE)
        for k, picture in enumerate(_tiles(one, max(top_score, 1e-9))):
            canvas.paste(left + k * (tile + 4), top, picture)
        _draw_curve(canvas, one, left + tiles * (tile + 4), top)
    return canvas.array()


def _tiles(one, top_score):
    """The pictures of a case, RGB."""
    case = one["case"]
    middle = int(np.argwhere(case.mask)[:, 1].mean())
    first = int(np.clip(middle - HALF_WIDTH, 0, case.image.shape[1] - 2 * HALF_WIDTH))
    window = np.s_[:, first : first + 2 * HALF_WIDTH]
    bright = BRIGHTEST * np.median(case.image[case.mask])
    planes = [case.image, *([] if one["rebuilt"] is None else [one["rebuilt"]])]
    pictures = [to_bytes(np.repeat(enlarged(plane[window] / bright, SCALE)[..., None], 3, -1)) for plane in planes]
    for mask, colour in ((case.mask, SKY), (case.lesion, VERMILION)):
        inside = repeated(mask[window], SCALE)
        pictures[0][binary_dilation(inside) & ~inside] = colour
    heat = to_bytes(heat_colours(np.clip(one["score"][window] / top_score, 0, 1)))
    heat[~one["domain"][window]] = 0
    return [*pictures, repeated(heat, SCALE)]


def _draw_curve(canvas, one, left, top):
    """Downwards along the cord; the rows of the lesion are marked."""
    curve = curve_along_cord(one["score"], one["domain"], one["across"])
    rows = np.flatnonzero(np.isfinite(curve))
    low, high = min(curve[rows].min(), 0), max(curve[rows].max(), 1e-9)
    x = left + (curve[rows] - low) / (high - low) * (CURVE_PX - 6)
    for row in np.flatnonzero(one["case"].lesion.any(1)):
        canvas.rectangle(left + CURVE_PX - 5, top + row * SCALE, left + CURVE_PX, top + (row + 1) * SCALE, VERMILION)
    zero = left - low / (high - low) * (CURVE_PX - 6)
    canvas.line([(zero, top), (zero, top + len(curve) * SCALE)], GREY)
    points = np.stack([x, top + (rows + 0.5) * SCALE], 1)
    for run in np.split(points, np.flatnonzero(np.diff(rows) > 1) + 1):
        canvas.line(run, ORANGE, 1.5)
