"""Lesions planted in a cord that has none: in a standard sagittal slice, and in a volume.

Their brightness is given as a *contrast*: the part of the way from the local cord to the local CSF. A slice is (H, W)
with pixels of 1 mm, rows from head to feet; the cord may run in any direction that `Centreline` follows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, gaussian_filter, gaussian_filter1d

from ..errors import InputError, UsageError
from ..roi.centreline import PROFILE_STEP_MM, Centreline
from ..roi.region import analysed_slices
from ..sagittal import standardise
from ..volume import Volume

# Kind → contrast. A1 is the paper's (App. A.1); the others are harder, each with its own row in a table.
CONTRASTS = {
    "A1": None,
    "h08": 0.08,
    "h15": 0.15,
    "h25": 0.25,
    "h50": 0.50,
    "h75": 0.75,
    "small25": 0.25,
    "small50": 0.50,
    "long08": 0.08,
    "long15": 0.15,
    "long50": 0.50,
    "border": 0.50,
}
LESION_KINDS = tuple(CONTRASTS)

END_MM = 8.0  # lesions keep away from the ends of the cord mask
NARROWEST_MM = 4.0  # where the cord is narrower nothing is planted
SMALLEST_PX = 4  # a lesion has at least so many pixels
ATTEMPTS = 50
EDGE_SIGMA_PX = 0.6  # softness of a lesion's border in a slice
RING_PX = 3  # the CSF is looked for so far around the cord …
CSF_PERCENTILE = 85  # … and is its bright part
LEVEL_SIGMA_MM = 10.0  # the local cord is averaged over this stretch
NO_FLUID = "There is nothing brighter than the cord around it: is this a T2-weighted image?"

# In a volume
EDGE_MM = 1.2  # width of the lesion's border
WINDOW_MM = 15.0  # cord and CSF levels are taken from this far above and below the lesion's centre
SAMPLE_MM = 0.7  # thick voxels are divided, for their partial volume
FARTHEST_MM = 35.0  # a disc's tip is not farther from the middle of the cord


@dataclass(frozen=True)
class PlantedLesion:
    """image (H, W) float32 in the input's unit; mask (H, W) bool, inside the cord; description: JSON-able."""

    image: np.ndarray
    mask: np.ndarray
    description: dict


class CordInSlice:
    """Where each pixel of a slice lies along and across the cord, and how bright cord and CSF are there."""

    def __init__(self, image: np.ndarray, cord: np.ndarray):
        self.image, self.cord = np.asarray(image, float), np.asarray(cord, bool)
        self.line = Centreline.from_cord(self.cord[None])
        section = self.line.profile(self.cord, self.line.s)  # (points, samples across)
        offsets = PROFILE_STEP_MM * (np.arange(section.shape[1]) - section.shape[1] // 2)
        pixels = np.maximum(section.sum(1), 1e-6)
        self.width = pixels * PROFILE_STEP_MM  # (points,) mm
        middle = section @ offsets / pixels  # mm behind the centreline, which is smoother than the cord's middle
        bright = (section * self.line.profile(self.image, self.line.s)).sum(1)
        smooth = [gaussian_filter1d(v, LEVEL_SIGMA_MM) for v in (bright, pixels)]
        self._middle, self._level = middle, smooth[0] / smooth[1]
        self.rows, self.columns = np.nonzero(self.cord)
        self.s, across = self.line.project(np.stack([self.rows, self.columns], 1))
        self.across = across - np.interp(self.s, self.line.s, middle)  # mm behind the cord's middle, of its pixels

    def level(self, s: np.ndarray) -> np.ndarray:
        """Brightness of the cord at `s` mm along it."""
        return np.interp(s, self.line.s, self._level)

    @cached_property
    def csf_ratio(self) -> float:
        """CSF relative to the cord next to it."""
        ring = binary_dilation(self.cord, iterations=RING_PX) & ~self.cord
        s, _ = self.line.project(np.argwhere(ring))
        return float(np.percentile(self.image[ring] / np.maximum(self.level(s), 1e-9), CSF_PERCENTILE))

    def to_slice(self, values: np.ndarray) -> np.ndarray:
        """Values of the cord's pixels as a slice, 0 elsewhere."""
        result = np.zeros(self.cord.shape, np.asarray(values).dtype)
        result[self.rows, self.columns] = values
        return result

    def centre(self, s: float, across: float) -> list[float]:
        """Row and column of a place."""
        point, tangent = self.line.at(s)
        backwards = np.array([-tangent[1], tangent[0]])
        return (point + (across + np.interp(s, self.line.s, self._middle)) * backwards).round(1).tolist()


@dataclass(frozen=True)
class _Ellipse:
    """In the coordinates of the cord, mm: it follows its bend."""

    s: float
    across: float  # of the centre, behind the cord's middle
    half_width: float
    half_length: float

    def covers(self, place):
        return ((place.across - self.across) / self.half_width) ** 2 + ((place.s - self.s) / self.half_length) ** 2 <= 1


def plant_lesion(image: np.ndarray, cord: np.ndarray, kind: str, rng: np.random.Generator) -> PlantedLesion:
    """Plant one lesion (A1: one to three) at a random place.

    | kind | shape | signal |
    |---|---|---|
    | A1 (paper, App. A.1) | 1–3 ellipses, width 0.7–1 × cord, length 1–4 × width | every pixel drawn from a normal distribution whose mean and variance lie somewhere between the cord's and the CSF's |
    | h08 … h75 | width 0.6–0.96 × cord, length 5–14 mm | 8 … 75 % of the contrast, blurred edges |
    | small25, small50 | 2–3 mm | the same, with the full contrast in its middle |
    | long08, long15, long50 | width 0.5–0.84 × cord, length 20 mm | the same |
    | border | width 0.3–0.5 × cord, length 5–14 mm, touching the cord's border | 50 % |

    :param image: (H, W), 1 mm, any unit in which 0 is no signal. :param cord: (H, W) bool.
    :raises UsageError: unknown kind. :raises InputError: there is no room for it in this cord, or no fluid around it
        that is brighter.
    """  # noqa: E501
    if kind not in CONTRASTS:
        raise UsageError(f"{kind!r} is not a kind of lesion. The kinds are {', '.join(LESION_KINDS)}.")
    place = CordInSlice(image, cord)
    ellipses, mask = _draw_shape(place, kind, rng)
    description = {
        "kind": kind,
        "csf_to_cord": round(place.csf_ratio, 3),
        "lesions": [
            {
                "centre_row_column": place.centre(one.s, one.across),
                "width_mm": round(2 * one.half_width, 2),
                "length_mm": round(2 * one.half_length, 2),
            }
            for one in ellipses
        ],
    }
    if kind == "A1":
        mean, variance = _draw_signal(place, rng)
        planted = place.image.copy()
        planted[mask] = np.maximum(rng.normal(mean, np.sqrt(variance), mask.sum()), 0)
        description |= {"mean": mean, "variance": variance}
    else:
        if place.csf_ratio <= 1:
            raise InputError(NO_FLUID)
        profile = gaussian_filter(mask.astype(float), EDGE_SIGMA_PX)
        if kind.startswith("small"):
            profile /= profile.max()
        s, _ = place.line.project(np.argwhere(profile > 1e-3))
        profile[profile <= 1e-3] = 0
        profile[profile > 0] *= CONTRASTS[kind] * (place.csf_ratio - 1) * place.level(s)
        planted = place.image + profile
        description["contrast"] = CONTRASTS[kind]
    return PlantedLesion(planted.astype(np.float32), mask, description)


def _draw_shape(place, kind, rng):
    """The ellipses and their pixels."""
    # Half of the lesions end a pixel before the mask's border, half follow its smoothed outline.
    inner = binary_erosion(place.cord) if rng.random() < 0.5 else gaussian_filter(place.cord.astype(float), 0.7) > 0.62
    allowed = place.cord if kind == "border" else inner
    count = int(rng.integers(1, 4)) if kind == "A1" else 1
    ellipses, mask = [], np.zeros(place.cord.shape, bool)
    for _ in range(ATTEMPTS):
        ellipse = _draw_ellipse(place, kind, rng)
        pixels = place.to_slice(ellipse.covers(place)) & allowed
        if pixels.sum() >= SMALLEST_PX:
            ellipses.append(ellipse)
            mask |= pixels
        if len(ellipses) == count:
            return ellipses, mask
    raise InputError("The cord in this slice is too thin or too short to plant a lesion in it.")


def _draw_ellipse(place, kind, rng):
    line = place.line
    candidates = line.s[
        (place.width >= NARROWEST_MM) & line.covered & (line.s > END_MM) & (line.s < line.length - END_MM)
    ]
    if not len(candidates):
        raise InputError("The cord in this slice is too thin or too short to plant a lesion in it.")
    s = float(rng.choice(candidates))
    width = float(np.interp(s, line.s, place.width))
    if kind == "A1":
        half_width = rng.uniform(0.7, 1) * width / 2
        half_length = rng.uniform(1, 4) * half_width
    elif kind.startswith("small"):
        half_width, half_length = rng.uniform(1, 1.5, 2)
    elif kind.startswith("long"):
        half_width, half_length = rng.uniform(0.25, 0.42) * width, 10.0
    elif kind == "border":
        half_width, half_length = rng.uniform(0.15, 0.25) * width, rng.uniform(2.5, 7)
    else:
        half_width, half_length = rng.uniform(0.3, 0.48) * width, rng.uniform(2.5, 7)
    room = max(0.0, width / 2 - half_width)
    across = rng.choice((-1, 1)) * room if kind == "border" else rng.uniform(-0.75, 0.75) * room
    return _Ellipse(s, float(across), float(half_width), float(half_length))


def _draw_signal(place, rng):
    """Mean and variance between those of cord and CSF. CSF: what is bright 2–3 px outside the mask."""
    around = binary_dilation(place.cord, iterations=3) & ~binary_dilation(place.cord)
    fluid, cord = place.image[around], place.image[place.cord]
    bright = fluid[fluid > (cord.mean() + np.percentile(fluid, CSF_PERCENTILE)) / 2]
    if not len(bright) or bright.mean() <= cord.mean():
        raise InputError(NO_FLUID)
    mean = cord.mean() + rng.uniform() * (bright.mean() - cord.mean())
    variance = cord.var() + rng.uniform() * (bright.var() - cord.var())
    return float(mean), float(variance)


# ------------------------------------------------------------------------------------------------------------ volumes


def plant_in_volume(
    volume: Volume,
    cord: np.ndarray,
    *,
    centre_ras: np.ndarray,
    contrast: float,
    ap_mm: float,
    length_mm: float,
    rl_mm: float,
    rng: np.random.Generator,
) -> tuple[Volume, np.ndarray]:
    """An ellipsoid that follows the cord, with a soft border, on any grid.

    :param volume: T2-weighted, any orientation and voxel size; the result has its type, and integers are rounded up or
        down at random so that a faint lesion has no steps.
    :param cord: (I, J, K) mask on the volume's grid. Nothing outside it is changed.
    :param centre_ras: RAS mm. If it is not in the cord, as the tip of a disc, the middle of the cord at its level.
    :param contrast: part of the way from the cord to the CSF, as they are within 15 mm above and below.
    :param ap_mm, length_mm, rl_mm: diameters, front to back, along the cord, right to left.
    :returns: the volume with the lesion, and the voxels of which it fills at least half, (I, J, K) bool.
    :raises InputError: there is no cord near the point, or no CSF around it.
    """
    cord = np.asarray(cord, bool)
    if cord.shape != volume.array.shape:
        raise InputError(f"The cord mask has the shape {cord.shape}, the image {volume.array.shape}.")
    centre_ras = np.asarray(centre_ras, float)
    voxels = np.argwhere(cord)
    if not len(voxels):
        raise InputError("The cord mask is empty.")
    away = np.linalg.norm(volume.to_ras(voxels) - centre_ras, axis=1)
    if away.min() > FARTHEST_MM:
        raise InputError(f"The place for the lesion is {away.min():.0f} mm away from the cord.")
    reach = max(length_mm, rl_mm, ap_mm) / 2 + EDGE_MM
    # The stretch of cord around the place. It is longer than wide, so that its long axis is the cord's.
    foot = volume.to_ras(voxels[away.argmin()])
    points = volume.to_ras(voxels)
    line = _LocalLine(points[np.linalg.norm(points - foot, axis=1) < max(reach + 5, WINDOW_MM)])
    s0, offset = line.locate(centre_ras[None])
    nearest = np.round(volume.to_ijk(centre_ras)).astype(int)
    within = (nearest >= 0).all() and (nearest < cord.shape).all() and cord[tuple(nearest)]
    centre = offset[0] if within else np.zeros(3)

    def distances(places):
        """Relative distance from the centre (1 at the ellipsoid's surface) of places (…, 3) in RAS mm."""
        s, off = line.locate(places.reshape(-1, 3))
        forwards, right = line.axes(s)
        off = off - centre
        parts = (s - s0) / length_mm, (off * forwards).sum(1) / ap_mm, (off * right).sum(1) / rl_mm
        return 2 * np.sqrt(sum(part**2 for part in parts)).reshape(places.shape[:-1])

    near = np.linalg.norm(points - foot, axis=1) < reach + np.linalg.norm(volume.spacing) + ap_mm
    candidates = voxels[near]
    steps = [(np.arange(n) + 0.5) / n - 0.5 for n in np.ceil(volume.spacing / SAMPLE_MM).astype(int)]
    within_voxel = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    r = distances(volume.to_ras(candidates[:, None] + within_voxel))  # (voxels, samples)
    soft = np.clip(0.5 - (r - 1) * min(ap_mm, length_mm, rl_mm) / 2 / EDGE_MM, 0, 1).mean(1)
    share = (r <= 1).mean(1)
    if not share.any():
        raise InputError("The lesion does not meet the cord: it is too small or too far from the cord's middle.")

    level, csf = _levels(volume, cord, foot)
    where = tuple(candidates.T)
    values = volume.array[where] + contrast * (csf - level) * soft
    mask = np.zeros(cord.shape, bool)
    mask[where] = share >= min(0.5, share.max())  # thinner than half a slice: the voxels that hold most of it
    changed = soft > 0
    return _with_values(volume, tuple(axis[changed] for axis in where), values[changed], rng), mask


def plant_in_slices(
    volume: Volume, cord: np.ndarray, kind: str, rng: np.random.Generator, slices: str | int = "middle"
) -> tuple[Volume, np.ndarray, list[dict]]:
    """One `plant_lesion` in each of the chosen sagittal slices of a volume, as the paper plants them (App. A.1).

    :param volume, cord: as for `plant_in_volume`; slices as for `region.analysed_slices`.
    :returns: the volume, the lesions numbered by their slice (I, J, K) uint8, and their descriptions in that order.
    :raises InputError, UsageError: as `standardise`, `analysed_slices` and `plant_lesion`.
    """
    cord = np.asarray(cord, bool)
    grid = standardise(volume, cord).grid
    images, cords = grid.to_stack(volume.array), grid.to_stack(cord, order=0)
    added, masks, descriptions = np.zeros(images.shape, np.float32), np.zeros(images.shape, np.uint8), []
    for number, k in enumerate(analysed_slices(cords, slices), 1):
        lesion = plant_lesion(images[k], cords[k], kind, rng)
        added[k], masks[k][lesion.mask] = lesion.image - images[k], number
        descriptions.append({"slice": k, **lesion.description})
    added = grid.to_input(added)
    where = np.nonzero(cord & (added != 0))
    planted = _with_values(volume, where, volume.array[where] + added[where], rng)
    return planted, np.where(cord, grid.to_input(masks, order=0), 0), descriptions


def _with_values(volume, where, values, rng):
    """A volume with other values in some voxels: of its own type, integers rounded up or down at random."""
    array = volume.array.copy()
    if np.issubdtype(array.dtype, np.integer):
        values = np.floor(values + rng.random(len(values)))
        values = np.clip(values, np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    array[where] = values.astype(array.dtype)
    return volume.with_array(array)


class _LocalLine:
    """The middle of a stretch of cord: a parabola through its voxels, RAS mm."""

    def __init__(self, points):
        self.origin = points.mean(0)
        _, _, axes = np.linalg.svd(points - self.origin, full_matrices=False)
        self.axis = axes[0] * (-1 if axes[0][2] > 0 else 1)  # to the feet
        t = (points - self.origin) @ self.axis
        across = points - self.origin - t[:, None] * self.axis
        powers = np.stack([np.ones_like(t), t, t**2], 1)
        self.bend, *_ = np.linalg.lstsq(powers, across, rcond=None)  # (3, 3)

    def _at(self, t):
        point = self.origin + t[:, None] * self.axis + np.stack([np.ones_like(t), t, t**2], 1) @ self.bend
        return point, self.axis + np.stack([np.zeros_like(t), np.ones_like(t), 2 * t], 1) @ self.bend

    def locate(self, points):
        """For points (N, 3): arc length along the line (N,) and the way from the line to the point (N, 3), mm."""
        t = (points - self.origin) @ self.axis
        for _ in range(3):  # to the foot of the perpendicular
            on_line, tangent = self._at(t)
            t = t + ((points - on_line) * tangent).sum(1) / (tangent**2).sum(1)
        on_line, _ = self._at(t)
        fine = np.linspace(min(t.min(), 0) - 1, max(t.max(), 0) + 1, 400)
        speed = np.linalg.norm(self._at(fine)[1], axis=1)
        length = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(fine))])
        return np.interp(t, fine, length) - np.interp(0, fine, length), points - on_line

    def axes(self, s):
        """Unit vectors (N, 3) to the front and to the right, perpendicular to the line. s differs little from t."""
        _, tangent = self._at(s)
        tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
        right = np.array([1.0, 0, 0]) - tangent[:, :1] * tangent
        right = right / np.linalg.norm(right, axis=1, keepdims=True)
        return np.cross(right, tangent), right


def _levels(volume, cord, foot):
    """Signal of cord and CSF within WINDOW_MM of a point on the cord."""
    corner = np.argwhere(cord)
    near = corner[np.linalg.norm(volume.to_ras(corner) - foot, axis=1) < WINDOW_MM]
    margin = np.ceil(RING_PX / volume.spacing).astype(int) + 1
    low = np.maximum(near.min(0) - margin, 0)
    box = tuple(slice(a, b) for a, b in zip(low, near.max(0) + margin + 1, strict=True))
    part, mask = volume.array[box].astype(float), cord[box]
    away = distance_transform_edt(~mask, sampling=volume.spacing)
    ring = part[(away > 0) & (away <= RING_PX)]
    level, csf = float(np.median(volume.array[tuple(near.T)])), float(np.percentile(ring, CSF_PERCENTILE))
    if csf <= level:
        raise InputError(NO_FLUID)
    return level, csf
