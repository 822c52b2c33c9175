"""From one heat map per disc to named disc tips: the discs as a chain along the cord.

The network names every disc by what it looks like, and errs by one level, misses a disc that has vanished or
sees one where there is none. What it cannot know is known here: discs follow each other along the cord at
nearly equal distances, and none is left out. So all are placed and named together, by the best chain
(dynamic programming), and the best chain can be compared with the same chain named one level off.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.ndimage import map_coordinates

from .centreline import Centreline
from .labels import DISC_NAMES

STEP_MM = 0.5  # of positions along the cord, and across it
FRONT_MM, BACK_MM = 20.0, 2.0  # a tip lies between so far in front of the cord's middle and so far behind it

FLOOR = 0.03  # heat: less says nothing about the place of a disc
ABSENT = 0.1  # a chain ends before a disc with less heat, and within a chain such a disc is interpolated

PITCHES_MM = np.arange(12.0, 23.0)  # typical distances of neighbouring discs that are tried …
PITCH_MM, PITCH_SD_MM = 17.0, 2.5  # … with this mean and standard deviation among people
SPACING_SD_MM = 2.5  # of the distances within a neck
CONTEXT_SD_MM = 5.0  # above C2/3 and below C7/T1 lies not exactly a disc
SPACING_LIMITS_MM = (10.0, 28.0)
USUAL_SPACING_MM = (12.0, 24.0)  # other distances are doubted

PEAK_MM = 3.0  # a tip is the centre of heat within this distance
ROUNDS = 8  # of moving to the centre of heat
FARTHEST_MM = 4.0  # a peak farther from where the chain wants a disc is not this disc's
SHIFT_MM = 4.0  # a name's heat is looked for so far around the disc whose name is in question

AMBIGUOUS_MARGIN = 0.5  # less is doubted: each disc fits its name less than e^0.5 = 1.6 times as well as the next name
LOW_CONFIDENCE = 0.3


@dataclass(frozen=True, eq=False)
class Chain:
    """Discs 3 = C2/3 … 8 = C7/T1 that were found; those that were not have no key.

    points: number → (row, column) of the posterior tip in stack coordinates, not rounded. confidence: number →
    0–1, the heat at the tip. margin: how much better the discs fit their names than names one level higher or
    lower, as the mean over the discs of the difference of log(heat); 0 = the count is a guess. doubts:
    sentences for the user. beyond: numbers of the discs outside the neck that were seen.
    """

    points: dict[int, np.ndarray] = field(default_factory=dict)
    confidence: dict[int, float] = field(default_factory=dict)
    margin: float = 0.0
    doubts: tuple[str, ...] = ()
    beyond: tuple[int, ...] = ()


def fit_chain(heat: dict[int, np.ndarray], centreline: Centreline) -> Chain:
    """Place and name the discs of one neck.

    heat: disc number → (H, W) map, 0–1, in the plane of the centreline; 3 … 8, and as context, which is used
    but not placed, 2 (above C2/3) and 9 … (below C7/T1). Numbers that are left out count as maps
    without heat. Discs beyond the ends of the centreline are not looked for.

    The chain may begin after C2/3 and end before C7/T1 but leaves out no disc in between: one that has no
    heat where the chain needs it is placed between its neighbours. Without any disc the chain is empty.
    """
    numbers = list(range(min(heat, default=3), max(heat, default=8) + 1))
    s = np.arange(0, centreline.length + 1e-9, STEP_MM)
    along, offsets = _along(heat, numbers, centreline, s)
    gain = np.log(np.maximum(along, FLOOR) / ABSENT)
    deviations = [SPACING_SD_MM if {n, n + 1} <= set(DISC_NAMES) else CONTEXT_SD_MM for n in numbers[:-1]]
    # The heat of a disc whose peak is not where the chain needs it is the flank of something else. It must not
    # draw the disc towards it, so the chain is fitted again without this heat.
    trusted, believed = gain.copy(), np.ones(len(numbers), bool)
    while True:
        first, places, _ = best_sequence(trusted, np.array(deviations))
        rows = range(first, first + len(places))
        tips, confidence = {}, {}
        for row, place in zip(rows, places, strict=True):
            number, warmth = numbers[row], float(along[row, place])
            tip = _tip(heat[number], centreline, s[place], offsets[row, place]) if trusted[row, place] >= 0 else None
            if tip is None:
                confidence[number] = min(warmth, ABSENT)
            else:
                tips[number], confidence[number] = tip
        lost = [row for row in rows if numbers[row] not in tips]
        if not believed[lost].any():
            break
        believed[lost], trusted[lost] = False, np.log(FLOOR / ABSENT)
    tips |= _interpolated(centreline, {numbers[row]: s[place] for row, place in zip(rows, places, strict=True)}, tips)
    points = {number: tips[number] for number in DISC_NAMES if number in tips}
    beyond = tuple(number for number in sorted(tips) if number not in DISC_NAMES)
    if not points:
        doubt = "No disc of the neck was recognised in front of the cord: the segments cannot be named."
        return Chain(doubts=(doubt,), beyond=beyond)
    confidence = {number: confidence[number] for number in points}
    margin = _margin(gain, dict(zip(rows, places, strict=True)))
    return Chain(points, confidence, margin, _doubts(centreline, points, confidence, margin), beyond)


def best_sequence(gain: np.ndarray, deviations: np.ndarray) -> tuple[int, list[int], float]:
    """Places of the best chain: the number of its first disc, the places of its discs, and what it is worth.

    gain: (D, N) what disc n at place i (STEP_MM apart) adds to the chain. deviations: (D − 1,) mm, standard
    deviation of the distance of disc n and n + 1. The chain maximises

        Σ gain − Σ ((distance − pitch) / deviation)² / 2 − ((pitch − PITCH_MM) / PITCH_SD_MM)² / 2

    over its first and last disc, their places and the pitch (one of PITCHES_MM) with all distances within
    SPACING_LIMITS_MM. A chain that is worth nothing is empty: (0, [], 0.0).
    """
    discs, places = gain.shape
    low, high = (round(limit / STEP_MM) for limit in SPACING_LIMITS_MM)
    steps = np.arange(low, high + 1)
    misfit = (STEP_MM * steps - PITCHES_MM[:, None]) ** 2 / 2  # (pitch, step)
    # worth[p, n, i]: the best chain with pitch p that ends with disc n at place i; came: the step before it, 0 = first
    worth = np.empty((len(PITCHES_MM), discs, places))
    came = np.zeros(worth.shape, int)
    worth[:, 0] = gain[0]
    for n in range(1, discs):
        # [p, i, k]: the chain before, steps[::-1][k] places above place i
        padded = np.pad(worth[:, n - 1], ((0, 0), (high, 0)), constant_values=-np.inf)
        before = np.lib.stride_tricks.sliding_window_view(padded, len(steps), axis=1)[:, :places]
        total = before - misfit[:, None, ::-1] / deviations[n - 1] ** 2
        best = total.argmax(axis=2)
        value = np.take_along_axis(total, best[..., None], axis=2)[..., 0]
        came[:, n] = np.where(value > 0, steps[::-1][best], 0)
        worth[:, n] = gain[n] + np.maximum(value, 0)
    worth -= ((PITCHES_MM - PITCH_MM) / PITCH_SD_MM)[:, None, None] ** 2 / 2
    p, n, i = (int(k) for k in np.unravel_index(worth.argmax(), worth.shape))
    score = float(worth[p, n, i])
    if score <= 0:
        return 0, [], 0.0
    sequence = [i]
    while came[p, n, i]:
        i -= int(came[p, n, i])
        n -= 1
        sequence.insert(0, i)
    return n, sequence, score


def _along(heat, numbers, centreline, s):
    """(D, N) largest heat across the cord at `s`, and the distance (mm, positive behind) where it is."""
    points, tangents = centreline.at(s)
    normals = np.stack([-tangents[:, 1], tangents[:, 0]], axis=-1)  # backwards
    across = np.arange(-FRONT_MM, BACK_MM + 1e-9, STEP_MM)
    where = np.moveaxis(points[:, None] + across[:, None] * normals[:, None], -1, 0)
    largest, offsets = np.zeros((2, len(numbers), len(s)))
    for k, number in enumerate(numbers):
        if number in heat:
            samples = map_coordinates(np.asarray(heat[number], float), where, order=1, mode="grid-constant")
            largest[k], offsets[k] = samples.max(axis=1), across[samples.argmax(axis=1)]
    return largest, offsets


def _tip(heat, centreline, s, offset):
    """Point and height of the peak of a map near a place; None if it is too far from there or beyond the cord."""
    (point,), (tangent,) = centreline.at([s])
    start = point + offset * np.array([-tangent[1], tangent[0]])
    corner = np.maximum(np.floor(start - FARTHEST_MM - PEAK_MM).astype(int), 0)
    stop = np.ceil(start + FARTHEST_MM + PEAK_MM).astype(int) + 1
    patch = np.asarray(heat[corner[0] : stop[0], corner[1] : stop[1]], float)
    pixels = np.moveaxis(np.indices(patch.shape), 0, -1) + corner
    near = np.where(np.linalg.norm(pixels - start, axis=-1) <= PEAK_MM, patch, 0)
    if not near.any():
        return None
    tip = pixels[np.unravel_index(near.argmax(), near.shape)].astype(float)
    # Repeated, because the centre of what is within reach of a pixel is drawn towards that pixel.
    for _ in range(ROUNDS):
        weight = np.where(np.linalg.norm(pixels - tip, axis=-1) <= PEAK_MM, patch, 0)
        tip = np.tensordot(weight, pixels, 2) / weight.sum()
    at = centreline.project(tip)[0][0]
    if abs(at - s) > FARTHEST_MM or not 0 <= at <= centreline.length:
        return None
    return tip, float(np.clip(near.max(), 0, 1))


def _interpolated(centreline, places, tips):
    """Points for the discs of a chain without a tip, between the tips of others.

    places: number → s in the chain. They follow the curve of the cord: at the place that the chain gave them,
    as far in front of the cord as their neighbours.
    """
    own = sorted(tips)
    lost = [number for number in places if number not in tips and own and own[0] < number < own[-1]]
    if not lost:
        return {}
    at, behind = centreline.project(np.array([tips[number] for number in own]))
    known, wanted = [places[number] for number in own], [places[number] for number in lost]
    points, tangents = centreline.at(np.interp(wanted, known, at))
    normals = np.stack([-tangents[:, 1], tangents[:, 0]], axis=-1)
    return dict(zip(lost, points + np.interp(wanted, known, behind)[:, None] * normals, strict=True))


def _margin(gain, places):
    """How much better the chain fits its names than the names one level off; ≥ 0.

    gain: (D, N). places: disc → its place. Both namings are compared on the discs that have a map for both.
    """
    reach = round(SHIFT_MM / STEP_MM)
    margins = []
    for shift in (-1, 1):
        differences = [
            gain[n, i] - gain[n + shift, max(i - reach, 0) : i + reach + 1].max()
            for n, i in places.items()
            if 0 <= n + shift < len(gain)
        ]
        if differences:
            margins.append(float(np.mean(differences)))
    return max(min(margins, default=0.0), 0.0)


def _doubts(centreline, points, confidence, margin):
    doubts = []
    missing = [name for number, name in DISC_NAMES.items() if number not in points]
    if missing:
        doubts.append(f"Only {len(points)} of {len(DISC_NAMES)} discs were found; missing: {', '.join(missing)}.")
    if min(points) > min(DISC_NAMES):
        doubts.append("C2/3 is not in view, so the levels could not be counted from there: check their names.")
    if margin < AMBIGUOUS_MARGIN:
        doubts.append(
            "The count of the discs is uncertain: one level higher or lower they would fit almost as well. Check "
            "which disc is C2/3."
        )
    at = dict(zip(points, centreline.project(np.array(list(points.values())))[0], strict=True))
    for upper, lower in pairwise(points):
        apart = at[lower] - at[upper]
        if not USUAL_SPACING_MM[0] <= apart <= USUAL_SPACING_MM[1]:
            doubts.append(
                f"{DISC_NAMES[upper]} and {DISC_NAMES[lower]} are {apart:.0f} mm apart, which is unusual "
                f"({USUAL_SPACING_MM[0]:.0f} to {USUAL_SPACING_MM[1]:.0f} mm): check both."
            )
    for number, sure in confidence.items():
        if sure <= ABSENT:
            doubts.append(f"{DISC_NAMES[number]} was not recognised; it was placed between its neighbours.")
        elif sure < LOW_CONFIDENCE:
            doubts.append(f"{DISC_NAMES[number]} was recognised with low confidence only ({sure:.2f}).")
    return tuple(doubts)
