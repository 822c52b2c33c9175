"""The cord's centreline in the sagittal plane.

Positions along the neck are measured on it: `s`, the arc length in mm from the cord's upper end, grows
towards the feet. All coordinates are stack coordinates (row, column) in pixels of 1 mm, so pixels and mm are
interchangeable.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from ..errors import InputError

STEP_MM = 1.0  # distance of the centreline's points
PROFILE_STEP_MM = 0.5  # sampling across the cord
HALF_WIDTH_MM = 15.0  # reach of a profile to each side of the centreline: cords are up to 10 mm deep
SHORTEST_MM = 10.0  # less cord than this has no direction

# The curve keeps bends that are wider than this and drops what is shorter (the wobble of a hand-drawn or
# voxelised mask). The natural curvature of a neck has a wavelength of 150 mm and more.
CUTOFF_WAVELENGTH_MM = 40.0
REFINEMENTS = 4  # rounds of moving the curve to the middle of the cross-sections; it is still after two or three


@dataclass(frozen=True)
class Centreline:
    """A smooth curve through the middle of the cord, sampled every 1 mm from its upper to its lower end.

    points: (N, 2) row and column. tangents: (N, 2) unit vectors towards the feet. s: (N,) mm, `s[0]` = 0.
    covered: (N,) bool, False where the cord mask has a gap.
    """

    points: np.ndarray
    tangents: np.ndarray
    s: np.ndarray
    covered: np.ndarray

    @property
    def length(self) -> float:
        """Length in mm."""
        return float(self.s[-1])

    @classmethod
    def from_cord(cls, cord: np.ndarray) -> "Centreline":
        """Fit to a cord mask (S, H, W) bool; the slices are looked at together.

        The cord may be tilted by up to about 60° and may have gaps, which are bridged smoothly. The curve
        ends where it leaves the mask. Raises InputError if there is less than 1 cm of cord.
        """
        depth = np.asarray(cord).sum(axis=0, dtype=float)  # slices that show cord at each pixel
        rows = np.flatnonzero(depth.any(axis=1))
        if len(rows) < SHORTEST_MM / 2:
            raise InputError(
                f"The cord mask is only {len(rows)} mm long in the analysed window: too short to follow the cord."
            )
        points = _row_by_row(depth, rows)
        for _ in range(REFINEMENTS):
            points = _resample(_extended(points, SHORTEST_MM))
            normals = _normals(_tangents(points))
            profile, offsets = _profile(depth, points, normals)
            weight = profile.sum(axis=1)
            shift = (profile @ offsets) / np.where(weight > 0, weight, 1)
            points = _smoothed(points + shift[:, None] * normals, weight)
            points = _inside(points, depth)
        points = _resample(points)
        length = STEP_MM * (len(points) - 1)
        if length < SHORTEST_MM:
            raise InputError(f"The cord mask is only {length:.0f} mm long: too short to follow the cord.")
        covered = _sampled(depth > 0, points.T) > 0.49  # the ends are where it is 0.5
        return cls(points, _tangents(points), STEP_MM * np.arange(len(points)), covered)

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and unit tangents (…, 2) at the positions `s` (mm), straight on beyond the ends."""
        s = np.asarray(s, float)
        inner = np.clip(s, 0, self.length)
        points = np.stack([np.interp(inner, self.s, self.points[:, k]) for k in (0, 1)], axis=-1)
        tangents = np.stack([np.interp(inner, self.s, self.tangents[:, k]) for k in (0, 1)], axis=-1)
        tangents /= np.linalg.norm(tangents, axis=-1, keepdims=True)
        return points + (s - inner)[..., None] * tangents, tangents

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Foot of the perpendicular from (N, 2) points: position `s` and signed distance, both (N,) in mm.

        The distance is positive behind the centreline (posterior). Beyond the ends the curve goes straight
        on, so that `s` may be negative or larger than `length`.
        """
        points = np.asarray(points, float).reshape(-1, 2)
        nearest = np.empty(len(points), int)
        for start in range(0, len(points), 4096):  # bounds the distance table
            part = points[start : start + 4096, None, :]
            nearest[start : start + 4096] = ((part - self.points) ** 2).sum(-1).argmin(axis=1)
        # The foot lies on one of the two pieces that meet in the nearest point; only the end pieces go on.
        best_s, best_d, best = np.zeros(len(points)), np.zeros(len(points)), np.full(len(points), np.inf)
        last = len(self.points) - 2
        for piece in (np.clip(nearest - 1, 0, last), np.clip(nearest, 0, last)):
            origin, direction = self.points[piece], self.points[piece + 1] - self.points[piece]
            size = np.linalg.norm(direction, axis=1)
            direction = direction / size[:, None]
            along = ((points - origin) * direction).sum(axis=1)
            along = np.where((along < 0) & (piece > 0), 0, along)
            along = np.where((along > size) & (piece < last), size, along)
            apart = points - origin - along[:, None] * direction
            distance = np.linalg.norm(apart, axis=1)
            closer = distance < best
            side = (apart * _normals(direction)).sum(axis=1)
            best = np.where(closer, distance, best)
            best_d = np.where(closer, np.copysign(distance, side), best_d)
            best_s = np.where(closer, self.s[piece] + along / size * STEP_MM, best_s)
        return best_s, best_d

    def profile(self, image: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Cross-sections of an image (H, W) perpendicular to the centreline at `s`, (len(s), M), bilinear.

        Neighbouring samples are `PROFILE_STEP_MM` apart, from anterior to posterior.
        """
        points, tangents = self.at(s)
        return _profile(image, points, _normals(tangents))[0]


def _normals(tangents):
    """Unit vectors perpendicular to the tangents, pointing backwards (posterior) where the cord runs down."""
    return np.stack([-tangents[..., 1], tangents[..., 0]], axis=-1)


def _sampled(image, where):
    """Bilinear samples at (2, …) rows and columns; the image goes on with zeros."""
    return map_coordinates(np.asarray(image, float), where, order=1, mode="grid-constant")


def _profile(image, points, normals):
    count = int(HALF_WIDTH_MM / PROFILE_STEP_MM)
    offsets = PROFILE_STEP_MM * np.arange(-count, count + 1)
    where = points[:, None, :] + offsets[:, None] * normals[:, None, :]
    return _sampled(image, np.moveaxis(where, -1, 0)), offsets


def _tangents(points):
    difference = np.gradient(points, axis=0)
    return difference / np.linalg.norm(difference, axis=1, keepdims=True)


def _resample(points):
    """The same curve with points every STEP_MM of arc length; less than one step is lost at the lower end."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    s = np.arange(0, arc[-1] + 1e-6, STEP_MM)
    return np.stack([np.interp(s, arc, points[:, k]) for k in (0, 1)], axis=1)


def _extended(points, by):
    """The curve, made longer at both ends along the direction of its last centimetre."""
    reach = min(len(points) - 1, int(SHORTEST_MM))
    top, bottom = points[0] - points[reach], points[-1] - points[-1 - reach]
    return np.concatenate([
        [points[0] + by * top / np.linalg.norm(top)], points,
        [points[-1] + by * bottom / np.linalg.norm(bottom)],
    ])  # fmt: skip


def _row_by_row(depth, rows):
    """A first curve: the cord's middle in every image row, bridged over gaps and smoothed."""
    every = np.arange(rows[0], rows[-1] + 1)
    weight = depth[every].sum(axis=1)
    middle = depth[every] @ np.arange(depth.shape[1]) / np.where(weight > 0, weight, 1)
    return _smoothed(np.stack([every, middle], axis=1).astype(float), weight)


def _smoothed(points, weight):
    """Whittaker smoother: least squares with a penalty on the third difference, weighted by the cord seen.

    A parabola passes unchanged, so the curvature of a neck is not flattened, and points without cord (weight
    0) are filled in. The penalty halves a wave of CUTOFF_WAVELENGTH_MM.
    """
    penalty = 1 / (2 * np.sin(np.pi * STEP_MM / CUTOFF_WAVELENGTH_MM)) ** 6
    difference = np.diff(np.eye(len(points)), n=3, axis=0)
    # Squared: an end that is cut off obliquely shows little cord, and that little lies to one side.
    weight = (weight / np.median(weight[weight > 0])) ** 2
    system = np.diag(np.minimum(weight, 1)) + penalty * difference.T @ difference
    return np.linalg.solve(system, np.minimum(weight, 1)[:, None] * points)


def _inside(points, depth):
    """The part of the curve from where it enters the mask to where it leaves it."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.linspace(0, arc[-1], 20 * len(points))
    curve = np.stack([np.interp(fine, arc, points[:, k]) for k in (0, 1)])
    mask = _sampled(depth > 0, curve) - 0.5
    seen = np.flatnonzero(mask >= 0)
    if not len(seen):
        raise InputError("The cord mask does not look like a cord: no line runs along its middle.")
    first, last = seen[0], seen[-1]
    ends = [fine[first], fine[last]]
    if first > 0:  # where the border is crossed between two samples
        ends[0] = np.interp(0, mask[first - 1 : first + 1], fine[first - 1 : first + 1])
    if last < len(fine) - 1:
        ends[1] = np.interp(0, mask[[last + 1, last]], fine[[last + 1, last]])
    at = np.concatenate([ends[:1], arc[(arc > ends[0]) & (arc < ends[1])], ends[1:]])
    return np.stack([np.interp(at, arc, points[:, k]) for k in (0, 1)], axis=1)
