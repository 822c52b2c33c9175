"""From a network's opinion on every pixel to one cord: a single, continuous tube.

The network looks at one sagittal slice at a time. What it cannot know is known here: neighbouring slices show
the same cord, a cord is one long narrow tube that runs from head to feet, and it has no gaps or holes.
Everything is in stack coordinates [slice, row, column], with pixels of 1 mm in the plane.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from ..errors import InputError

CLOSE_MM = 2.0  # slices nearer to each other than this show the same cord and vote on it

NARROWEST_MM, WIDEST_MM = 3, 16  # a cord from front to back, along an image row; 16 mm is a cord tilted by 55°
SHORTEST_PIECE_MM = 3  # a piece that spans fewer rows has no direction
MOST_PIECES = 50  # only the largest are looked at: bounds the work on a noisy map

HALF_WIDTH_MM = 8.0  # a slice farther to the side of the cord's middle shows none of it …
HALF_WIDTH_PER_DEPTH = 0.8  # … nor one farther than this times its depth: a cord is 1.6 to 1.7 times as wide as deep
SMOOTH_ROWS = 15.0  # the middle changes its side slowly from head to feet

LONGEST_GAP_MM = 15.0  # a longer gap is not bridged
IN_LINE_MM = 5.0  # one end, prolonged, misses the other by no more: a neck bends by 3 mm over the longest gap
BESIDE_MM = 7.0  # nor are the ends farther apart from side to side; thick slices lie 5 mm apart
WIDTH_RATIO = 2.0  # nor is one so many times as wide as the other
END_MM = 8  # rows that tell the direction and the width of a piece's end
END_SHARE = 0.6  # a piece ends where its section falls below this share: a cord cut off obliquely tapers
FEWEST_ROWS = 4  # that give a direction

STRAY_SHARE = 0.05  # a slice with less than this share of the fullest slice's pixels shows no cord
CUT_SHARE = 0.8  # an outermost slice with more than this share is not the cord's side
SHALLOW_MM = 4.5  # a cord is 6 to 9 mm deep, less only where it is compressed
SHORTEST_MM = 30.0  # less is no cord …
SHORT_MM = 60.0  # … and less than this is not much of a neck
LENGTH_STEP = 5  # rows: the length is measured in steps that the roughness of the mask does not lengthen


@dataclass(frozen=True, eq=False)
class Tube:
    """The cord, a single tube without gaps.

    cord: (S, H, W) bool. doubts: sentences for the user. confidence: 0–1, the network's mean probability over
    the cord's pixels; bridged stretches lower it.
    """

    cord: np.ndarray
    doubts: tuple[str, ...]
    confidence: float


@dataclass(frozen=True, eq=False)
class _End:
    """One end of a piece of cord, or one side of a gap in a single slice.

    row: where it is. column, slope: a line through its last rows. slice: its middle, in slices. depth: mm from
    front to back in its widest slice. widths, shifts: (S,) width in every slice (0 without cord), and how far
    its middle lies behind `column`.
    """

    row: int
    column: float
    slope: float
    slice: float
    depth: float
    widths: np.ndarray
    shifts: np.ndarray


@dataclass(frozen=True, eq=False)
class _Piece:
    """One component. weight: summed probability of its tube-like rows; rows: how many these are."""

    label: int
    weight: float
    rows: int
    top: _End
    bottom: _End


def clean_tube(probability: np.ndarray, slice_spacing_mm: float, threshold: float = 0.5) -> Tube:
    """The cord in a map of cord probabilities (S, H, W), 0–1; S may be 1.

    Slices that are close to each other vote on each pixel; what is too far to the side is left out. Of the
    components of what remains, those that continue one another from head to feet are chained across gaps of up
    to 15 mm; the chain with the largest summed probability × length is the cord, and its gaps are bridged.
    Raises InputError if there is no tube that is at least 30 mm long.
    """
    probability = np.asarray(probability)
    mask = _near_its_middle(_consensus(probability >= threshold, slice_spacing_mm), slice_spacing_mm)
    # Filled first: an outline (a ventricle, the bladder) would otherwise pass for two thin tubes.
    mask = _without_wide_runs(filled(mask))
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    chain = _best_chain(_pieces(labels, count, probability), slice_spacing_mm)
    cord = np.isin(np.arange(count + 1), [piece.label for piece in chain])[labels]
    doubts = []
    for upper, lower in pairwise(chain):
        _bridge(cord, upper.bottom, lower.top)
        gap = _gap_mm(upper.bottom, lower.top)
        doubts.append(
            f"The cord was not recognised over {gap:.0f} mm, {upper.bottom.row - chain[0].top.row + 1} mm below its "
            f"upper end (row {upper.bottom.row + 1}); the gap was bridged between both ends."
        )
    cord, patched = _patched(filled(cord), slice_spacing_mm)
    if patched:
        doubts.append(f"Gaps that other slices do not have were filled in {patched} slice(s).")
    cord = _without_stray_slices(cord)
    length = _length_mm(cord)
    if length < SHORTEST_MM:
        seen = f" (the longest piece that looks like one is {length:.0f} mm long)" if length else ""
        raise InputError(
            f"No spinal cord was found in the image{seen}. It should be a sagittal T2-weighted image of the neck. "
            "If it is, give a mask of the cord with --cord."
        )
    if length < SHORT_MM:
        doubts.append(f"Only {length:.0f} mm of the cord were found.")
    doubts += _cut_sides(cord) + _off_the_middle(cord)
    return Tube(cord, tuple(doubts), float(np.clip(probability[cord].mean(), 0, 1)))


# --- pixels ---


def _consensus(mask, spacing):
    """The majority of the slices within CLOSE_MM of each slice; thick slices keep their own opinion.

    A majority, not an average: an average of a slice that is sure with two that are not is undecided. Beyond
    the outermost slices these are repeated, so that they keep theirs, too.
    """
    reach = int(np.ceil(CLOSE_MM / spacing)) - 1
    reach = min(reach, (len(mask) - 1) // 2)
    if reach < 1:
        return mask
    votes = ndimage.uniform_filter1d(mask.astype(np.float32), 2 * reach + 1, axis=0, mode="nearest")
    return votes > 0.5


def _near_its_middle(mask, spacing):
    """Without what lies farther from right to left than a cord is wide: muscle beside the spine can look like cord, and
    a slice that touches the cord's side looks as if it showed it.

    The middle is first that of the 16 mm of slices that show most, then, twice, that of what lies near it at each row.
    How wide the cord is follows from its depth in the middle.
    """
    area = mask.sum(axis=2, dtype=float)  # (slices, rows): mm from front to back
    place = np.arange(len(mask))
    windows = [area[np.abs(place - k) * spacing <= HALF_WIDTH_MM].sum() for k in place]
    middle = np.full(mask.shape[1], float(np.argmax(windows)))
    reach = np.full(mask.shape[1], HALF_WIDTH_MM)
    rows = np.arange(mask.shape[1])

    def along(values, weight):
        """Smoothed mean of what is known at some rows."""
        total, known = (ndimage.gaussian_filter1d(v, SMOOTH_ROWS, mode="nearest") for v in (values * weight, weight))
        seen = known > 1e-3
        return np.interp(rows, rows[seen], total[seen] / known[seen]) if seen.any() else None

    for _ in range(2):
        near = np.where(np.abs(place[:, None] - middle) * spacing <= reach, area, 0)
        total, depth = near.sum(0), np.minimum(near.max(0), WIDEST_MM)
        found = along(place @ near / np.maximum(total, 1), total)
        if found is None:
            break
        middle = found
        reach = np.minimum(HALF_WIDTH_MM, HALF_WIDTH_PER_DEPTH * along(depth, (depth > 0).astype(float)))
    return mask & (np.abs(place[:, None] - middle) * spacing <= np.maximum(reach, spacing / 2))[:, :, None]


def filled(mask):
    """Without holes in any slice."""
    mask = mask.copy()
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        mask[k] = ndimage.binary_fill_holes(mask[k])
    return mask


def _without_wide_runs(mask):
    """Without the stretches of image rows that are wider than a cord.

    This takes away the brain and parts the cord from what it has run into; the gap it leaves is bridged.
    """
    size = WIDEST_MM + 1
    core = ndimage.minimum_filter1d(mask.astype(np.uint8), size, axis=2, mode="constant")
    return mask & ~ndimage.maximum_filter1d(core, size, axis=2, mode="constant").astype(bool)


def _without_stray_slices(cord):
    area = cord.sum(axis=(1, 2))
    return cord & (area >= STRAY_SHARE * area.max())[:, None, None]


def _tables(cord):
    """(S, H) width in pixels and middle column (0 without cord) of every row of every slice."""
    width = cord.sum(axis=2)
    middle = cord @ np.arange(cord.shape[2], dtype=float) / np.maximum(width, 1)
    return width, middle


def _length_mm(cord):
    """Length of a cord's middle, from its highest to its lowest row."""
    width, middle = _tables(cord)
    area = width.sum(axis=0)
    rows = np.flatnonzero(area)
    if not len(rows):
        return 0.0
    centre = (width * middle).sum(axis=0)[rows] / area[rows]
    steps = np.append(np.arange(0, len(rows) - 1, LENGTH_STEP), len(rows) - 1)
    # A row of pixels is 1 mm high: the first and the last add half a mm each.
    return float(np.hypot(np.diff(rows[steps]), np.diff(centre[steps])).sum()) + 1


def _cut_sides(cord):
    area = cord.sum(axis=(1, 2))
    if len(area) <= 3:
        return []
    sides = [name for name, at in (("right", 0), ("left", -1)) if area[at] >= CUT_SHARE * area.max()]
    return [f"The outermost slice on the {side} still shows the full cord: it may be cut off there." for side in sides]


def _off_the_middle(cord):
    """Doubts about where the slices lie: beside the cord's middle, or with the cord at the picture's edge."""
    doubts = []
    depth = cord.sum(axis=2).max(axis=0)
    if np.median(depth[depth > 0]) < SHALLOW_MM:
        doubts.append(
            f"The cord is only {np.median(depth[depth > 0]):.0f} mm deep where it is largest: the slices may lie "
            "beside its middle."
        )
    columns = np.flatnonzero(cord.any(axis=(0, 1)))
    edges = [name for name, at, edge in (("front", 0, 0), ("back", -1, cord.shape[2] - 1)) if columns[at] == edge]
    return doubts + [f"The cord touches the {edge} edge of the image: it may be cut off there." for edge in edges]


# --- pieces ---


def _pieces(labels, count, probability):
    """The components that look like a piece of a cord, from the highest to the lowest."""
    boxes = ndimage.find_objects(labels)
    height = np.array([box[1].stop - box[1].start for box in boxes], int)
    weight = np.asarray(ndimage.sum_labels(probability, labels, np.arange(1, count + 1)))
    order = np.argsort(-weight * height, kind="stable")[:MOST_PIECES]
    pieces = []
    for k in order[height[order] >= SHORTEST_PIECE_MM]:
        box = boxes[k]
        part = labels[box] == k + 1
        width, middle = np.zeros((2, *labels.shape[:2]))
        width[box[:2]], middle[box[:2]] = _tables(part)
        middle += box[2].start
        depth = width.max(axis=0)
        tubelike = (depth >= NARROWEST_MM) & (depth <= WIDEST_MM)
        if np.count_nonzero(tubelike) < SHORTEST_PIECE_MM:
            continue
        sums = np.where(part, probability[box], 0).sum(axis=(0, 2))
        first, last = _full_rows(width.sum(axis=0))
        top, bottom = _end(width, middle, first, +1), _end(width, middle, last, -1)
        pieces.append(
            _Piece(int(k + 1), float(sums[tubelike[box[1]]].sum()), int(np.count_nonzero(tubelike)), top, bottom)
        )
    return sorted(pieces, key=lambda piece: piece.top.row)


def _full_rows(area):
    """The first and the last row whose section is not much smaller than is usual near that end."""
    rows = np.flatnonzero(area)
    first, last = (
        near[np.argmax(area[near] >= END_SHARE * np.median(area[near]))]
        for near in (rows[: 2 * END_MM], rows[: -2 * END_MM - 1 : -1])
    )
    return int(first), int(last)


def _end(width, middle, row, inward):
    """The end at `row`, from tables (S, H) and the direction (±1) of the rows that belong to it."""
    rows = row + inward * np.arange(END_MM)
    rows = rows[(rows >= 0) & (rows < width.shape[1])]
    rows = rows[width[:, rows].any(axis=0)]
    width, middle = width[:, rows], middle[:, rows]
    area = width.sum(axis=0)
    centre = (width * middle).sum(axis=0) / area
    slope, column = np.polyfit(rows - row, centre, 1) if len(rows) >= FEWEST_ROWS else (0.0, centre[0])
    line = column + slope * (rows - row)
    shifts = (width * (middle - line)).sum(axis=1) / np.maximum(width.sum(axis=1), 1)
    return _End(
        row=int(row),
        column=float(column),
        slope=float(slope),
        slice=float(np.arange(len(width)) @ width.sum(axis=1) / area.sum()),
        depth=float(np.median(width.max(axis=0))),
        widths=np.median(width, axis=1),
        shifts=shifts,
    )


# --- chains ---


def _gap_mm(upper, lower):
    """Length of what is missing between two ends: none if they are neighbouring rows."""
    rows, columns = lower.row - upper.row, lower.column - upper.column
    return float(np.hypot(rows, columns) * (1 - 1 / rows))


def _continues(upper, lower, spacing):
    """Whether the end `lower` (the top of a piece) continues the end `upper` (the bottom of another)."""
    rows = lower.row - upper.row
    if rows < 1 or _gap_mm(upper, lower) > LONGEST_GAP_MM + 1e-6:
        return False
    # The better of both: the direction of a short piece is not worth much.
    miss = min(
        abs(upper.column + rows * upper.slope - lower.column), abs(lower.column - rows * lower.slope - upper.column)
    )
    narrow, wide = sorted((upper.depth, lower.depth))
    beside = abs(upper.slice - lower.slice) * spacing
    return miss <= IN_LINE_MM and beside <= BESIDE_MM and wide <= WIDTH_RATIO * narrow


def _best_chain(pieces, spacing):
    """The pieces, from the highest to the lowest, of the chain with the largest probability × length; [] if none."""
    chains = []  # for every piece the heaviest chain that ends with it; pieces are sorted, so those above are ready
    for piece in pieces:
        above = [c for c in chains if _continues(c[-1].bottom, piece.top, spacing)]
        chains.append([*max(above, key=lambda c: sum(p.weight for p in c), default=[]), piece])
    return max(chains, key=lambda c: sum(p.weight for p in c) * sum(p.rows for p in c), default=[])


def _bridge(cord, upper, lower):
    """Fill the rows between two ends of a cord (S, H, W), in place, with linearly changing middle and width.

    A slice that shows cord at one end only tapers off towards the other.
    """
    columns = np.arange(cord.shape[2])
    above, below = upper.column + upper.shifts, lower.column + lower.shifts
    for row in range(upper.row + 1, lower.row):
        share = (row - upper.row) / (lower.row - upper.row)
        middle = (1 - share) * above + share * below
        width = (1 - share) * upper.widths + share * lower.widths
        cord[:, row] |= (np.abs(columns - middle[:, None]) < width[:, None] / 2) & (width[:, None] >= 1)


def _patched(cord, spacing):
    """Single slices without gaps that other slices do not have, and in how many slices there were some."""
    cord, patched = cord.copy(), 0
    width, middle = _tables(cord)
    for k in np.flatnonzero(width.any(axis=1)):
        bridged = False
        for above, below in pairwise(np.flatnonzero(width[k])):
            if not 1 < below - above <= LONGEST_GAP_MM + 1:
                continue
            upper, lower = (_end(width[[k]], middle[[k]], *where) for where in ((above, -1), (below, +1)))
            # Where the cord is narrow it is passing out of the slice, and may well not be there.
            if min(upper.depth, lower.depth) >= NARROWEST_MM and _continues(upper, lower, spacing):
                _bridge(cord[k : k + 1], upper, lower)
                bridged = True
        patched += bridged
    return cord, patched
