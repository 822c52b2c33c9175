"""A simulated T2-weighted sagittal neck: what to train, test and demonstrate with where no patient may be used.

The anatomy is drawn in coordinates of the spinal canal and rendered on the voxel grid of the scan:

- s: millimetres along the canal's midline, 0 at the disc C2/C3, growing towards the feet
- d: millimetres in front of that midline, in the sagittal plane and perpendicular to it
- x: millimetres to the right of that midline

Every tissue is a soft shape painted over what is already there; thick slices are the mean of several thin ones.
Sizes are textbook averages, signals are relative to the spinal cord. Nothing in it was taken from a person's image.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates, zoom
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ..config import SEGMENT_NAMES, as_dict
from ..volume import Volume, reorient

# Disc number (Spinal Cord Toolbox: 3 = C2/C3) → s of its middle, in mm, before `level_scale`.
DISC_S = {
    2: -15.5,  # where the body of C2 ends and its dens begins
    3: 0.0,
    4: 18.5,
    5: 37.0,
    6: 53.5,
    7: 69.0,
    8: 86.0,
    9: 107.5,
    10: 129.5,
    11: 152.0,
    12: 175.0,
    13: 199.0,
}
LABELLED_DISCS = tuple(SEGMENT_NAMES)
CORD_TOP_S = -36.0  # the mask begins below the foramen magnum, as manual masks do
# The cord's full width at s (mm): front to back and right to left (medulla, C1, C3, C5, C7, T1, T4).
_CORD_S = (-62, -44, -28, 9, 45, 77, 97, 165)
_CORD_AP = (13.0, 10.5, 8.6, 7.5, 7.4, 6.3, 6.0, 5.8)
_CORD_RL = (17.0, 14.0, 11.6, 12.0, 12.5, 10.5, 9.6, 8.8)
_CURVE_S = (-110, -60, -20, 15, 45, 75, 105, 150, 230)  # where `PhantomConfig.curve_deg` holds
_BODY, _DISC = 0.64, 0.32  # height as part of the distance between discs


@dataclass(frozen=True)
class Lesion:
    """A T2-bright ellipsoid in the cord.

    :param segment: "C4-5" lies at the disc C4/C5.
    :param contrast: brightness above the cord, as a part of the difference between CSF and cord.
    :param offset_mm: its centre from the cord's, (along the cord to the feet, to the front, to the right).
    """

    segment: str
    contrast: float
    ap_mm: float
    length_mm: float
    rl_mm: float
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Bulge:
    """A disc that bulges into the canal by `depth_mm`, and a ligament behind that folds in by half as much."""

    segment: str
    depth_mm: float


@dataclass(frozen=True)
class PhantomConfig:
    """The anatomy, contrast and scan of one phantom. Lengths in mm, angles in degrees, signals relative to the cord."""

    # scan
    spacing_mm: tuple[float, float, float] = (3.3, 0.7, 0.7)  # between slices, rows and columns
    thickness_mm: float = 3.0  # of a slice
    shape: tuple[int, int, int] = (15, 320, 320)  # slices, rows, columns
    axes: str = "PIL"  # where the voxel axes point, as a DICOM series has them
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of patient and scan, about R, A and S
    centre_s_mm: float = 45.0  # the point of the canal in the middle of the field of view, from head to feet
    forward_mm: float = 4.0  # how far in front of the canal the field's middle lies
    # anatomy
    curve_deg: tuple[float, ...] = (14, 12, 1, -6, -3, 9, 20, 24, 20)  # canal's slope to the back, head to feet
    bend_mm: float = 1.5  # how far the spine leaves the middle plane
    twist_deg: float = 1.0
    level_scale: float = 0.98  # distance between discs, relative to the average adult
    cord_scale: tuple[float, float] = (1.0, 1.0)  # front–back and right–left
    sac_ap_mm: float = 12.8
    cord_forward_mm: float = 0.4  # cord's position in the canal
    body_depth_mm: float = 16.5
    skin_mm: float = 56.0  # from the canal to the skin of the neck's back
    bulges: tuple[Bulge, ...] = ()
    lesions: tuple[Lesion, ...] = ()
    # signal
    csf: float = 2.3
    body: float = 0.85
    disc: float = 0.5
    fat: float = 2.6
    muscle: float = 0.42
    grey_matter: float = 0.06  # brighter than white matter by
    central_canal: float = 0.06  # brighter than the cord by
    flow_void: float = 0.25  # CSF's loss of signal by its motion
    # camera
    drift: float = 1.5  # largest to smallest brightness along the neck
    drift_phase: float = 0.3  # of that curve, 0–1
    coil_mm: float = 110.0  # the signal falls to 1/e over this distance from the back of the neck
    blur_mm: float = 0.55  # standard deviation
    noise: float = 0.035  # standard deviation in each channel, relative to the cord
    cord_signal: float = 260.0  # stored value


@dataclass(frozen=True)
class Phantom:
    """volume: int16 image; cord, csf: uint8 masks; discs: uint8, single voxels 3 (C2/3) … 8 (C7/T1) at the posterior
    tips; lesions: uint8, numbered from 1. All on one grid. description: the configuration, the seed and the lesions.
    """

    volume: Volume
    cord: Volume
    csf: Volume
    discs: Volume
    lesions: Volume
    description: dict


def random_config(kind: str, rng: np.random.Generator) -> PhantomConfig:
    """A random healthy neck and scan.

    :param kind: "space" (3D, 1 mm isotropic, CSF 3.7–5.4 × cord) or "clinical" (2D TSE, slices of 3.3–5 mm).
    """
    if kind not in ("space", "clinical"):
        raise ValueError(f"A phantom is 'space' or 'clinical', not {kind!r}.")
    u = rng.uniform
    slope, lordosis, thorax = u(-6, 10), u(-14, 22), u(10, 38)
    curve = slope + lordosis * np.array((0.3, 0.3, -0.1, -0.5, -0.35, 0.2, 0.5, 0.5, 0.4))
    curve = curve + np.array((12, 9, 2, 0, 0, 0.2 * thorax, 0.75 * thorax, thorax, thorax)) + u(-4, 4, 9)
    bulges = tuple(Bulge(SEGMENT_NAMES[n], round(u(0.3, 1.6), 2)) for n in LABELLED_DISCS if rng.random() < 0.25)
    if kind == "space":
        scan = dict(spacing_mm=(1.0, 1.0, 1.0), thickness_mm=1.0, shape=(int(rng.integers(15, 25)), 216, 288))
        signal = dict(csf=u(3.7, 5.4), body=u(0.4, 0.7), disc=u(0.35, 0.8), fat=u(2.5, 4.0), blur_mm=u(0.45, 0.7))
        signal |= dict(muscle=u(0.25, 0.45), noise=u(0.015, 0.05), coil_mm=u(45, 90), flow_void=u(0.05, 0.3))
        axes = str(rng.choice(("PSR", "PIR", "RSP", "LPS")))
    else:
        pixel = u(0.4, 0.8)
        size = int(np.clip(round(u(190, 260) / pixel / 16) * 16, 256, 448))
        gap = u(3.3, 5.0)
        scan = dict(spacing_mm=(gap, pixel, pixel), thickness_mm=gap * u(0.8, 1), shape=(2 * int(rng.integers(4, 9)) + 1,
                    size, size))
        signal = dict(csf=u(1.8, 2.7), body=u(0.6, 1.05), disc=u(0.25, 0.7), fat=u(2.0, 3.5), blur_mm=u(0.35, 0.75))
        signal |= dict(muscle=u(0.3, 0.6), noise=u(0.02, 0.08), coil_mm=u(70, 160), flow_void=u(0.1, 0.5))
        axes = str(rng.choice(("PIL", "PIR", "LIP", "ASR")))
    return PhantomConfig(
        **scan,
        **signal,
        axes=axes,
        rotation_deg=tuple(u(-6, 6, 3)),
        centre_s_mm=u(35, 60),
        forward_mm=u(-6, 14),
        curve_deg=tuple(curve),
        bend_mm=u(-3, 3),
        twist_deg=u(-4, 4),
        level_scale=u(0.88, 1.08),
        cord_scale=(u(0.86, 1.14), u(0.88, 1.12)),
        sac_ap_mm=u(11.5, 15),
        cord_forward_mm=u(-1.5, 1.5),
        body_depth_mm=u(14.5, 18.5),
        skin_mm=u(45, 68),
        bulges=bulges,
        grey_matter=u(0, 0.12),
        central_canal=u(0, 0.12),
        drift=u(1.1, 2.0),
        drift_phase=u(0, 1),
        cord_signal=u(120, 420),
    )


def simulate_phantom(config: PhantomConfig, seed: int) -> Phantom:
    """The phantom of a configuration; `seed` decides on texture, noise and what differs from level to level."""
    rng = np.random.default_rng(seed)
    frame = _Frame(config, rng)
    anatomy = _Anatomy(config, rng, frame)
    image, cord, csf, lesions = anatomy.render()
    image = _scan(image, frame, config, rng)
    canonical = frame.volume(image)
    grid, change = reorient(canonical, config.axes)

    def stored(array, dtype):
        return grid.with_array(np.ascontiguousarray(change.apply(array)).astype(dtype))

    numbers = np.zeros(config.shape, np.uint8)
    tips = {}
    for number in LABELLED_DISCS:
        point = anatomy.disc_tip(number)
        index = np.round(canonical.to_ijk(point)).astype(int)
        if (index >= 0).all() and (index < config.shape).all():
            numbers[tuple(index)] = number
            tips[number] = [round(float(v), 2) for v in point]
    placed = [
        as_dict(lesion) | {"number": n + 1, "centre_ras_mm": [round(float(v), 2) for v in anatomy.lesion_centre(lesion)]}
        for n, lesion in enumerate(config.lesions)
    ]
    return Phantom(
        volume=stored(np.round(image), np.int16),
        cord=stored(cord, np.uint8),
        csf=stored(csf, np.uint8),
        discs=stored(numbers, np.uint8),
        lesions=stored(lesions, np.uint8),
        description={"config": as_dict(config), "seed": seed, "lesions": placed, "disc_tips_ras_mm": tips},
    )


class _Frame:
    """The canal's midline in space, the voxel grid, and each pixel's (s, d)."""

    def __init__(self, config, rng):
        self.config = config
        s = np.arange(-130.0, 260.0, 0.5)
        slope = gaussian_filter1d(np.interp(s, _CURVE_S, config.curve_deg), 20, mode="nearest")
        slope = np.deg2rad(slope)
        y, z = -np.cumsum(np.sin(slope)) * 0.5, -np.cumsum(np.cos(slope)) * 0.5
        origin = np.searchsorted(s, config.centre_s_mm)
        self.s, self.y, self.z = s, y - y[origin] - config.forward_mm, z - z[origin]
        self.forwards = np.stack([np.cos(slope), -np.sin(slope)])  # unit normal (y, z), to the front
        bend = np.sin(np.pi * (s + rng.uniform(-40, 40)) / rng.uniform(120, 260))
        self.x0 = config.bend_mm * bend + rng.uniform(-0.3, 0.3) * config.spacing_mm[0]
        # Mean of the field's columns: the canal leaves the middle by up to centimetres in a bent neck.
        middle = np.abs(self.z) < config.shape[1] * config.spacing_mm[1] / 2
        self.y = self.y - 0.5 * (self.y[middle].max() + self.y[middle].min()) - config.forward_mm

        slices, rows, columns = config.shape
        dx, dz, dy = config.spacing_mm
        self.row_z = -(np.arange(rows) - (rows - 1) / 2) * dz
        self.column_y = -(np.arange(columns) - (columns - 1) / 2) * dy
        self.slice_x = -(np.arange(slices) - (slices - 1) / 2) * dx
        py, pz = np.meshgrid(self.column_y, self.row_z)
        index = cKDTree(np.stack([self.y, self.z], 1)).query(np.stack([py.ravel(), pz.ravel()], 1))[1]
        index = index.reshape(rows, columns)
        offset_y, offset_z = py - self.y[index], pz - self.z[index]
        ny, nz = self.forwards[:, index]
        self.pixel_s = (s[index] + offset_y * nz - offset_z * ny).astype(np.float32)  # the tangent is (nz, −ny)
        self.pixel_d = (offset_y * ny + offset_z * nz).astype(np.float32)
        # Far from the spine perpendiculars cross: there, positions are measured straight to the front instead.
        self.level_s = np.interp(-self.row_z, -self.z, s).astype(np.float32)
        self.pixel_e = (py - np.interp(-self.row_z, -self.z, self.y)[:, None]).astype(np.float32)

    def at(self, s, d, x):
        """RAS mm of (s, d, x)."""
        y = np.interp(s, self.s, self.y) + d * np.interp(s, self.s, self.forwards[0])
        z = np.interp(s, self.s, self.z) + d * np.interp(s, self.s, self.forwards[1])
        right = np.interp(s, self.s, self.x0) + x + np.tan(np.deg2rad(self.config.twist_deg)) * d
        return self._rotation().apply(np.array([right, y, z]))

    def _rotation(self):
        return Rotation.from_euler("xyz", self.config.rotation_deg, degrees=True)

    def volume(self, array):
        """An array [slice, row, column] with its geometry."""
        dx, dz, dy = self.config.spacing_mm
        affine = np.eye(4)
        affine[:3, :3] = np.array([[-dx, 0, 0], [0, 0, -dy], [0, -dz, 0]])
        affine[:3, 3] = self.slice_x[0], self.column_y[0], self.row_z[0]
        rotation = np.eye(4)
        rotation[:3, :3] = self._rotation().as_matrix()
        return Volume(array, rotation @ affine, "phantom")


class _Anatomy:
    """Everything that is painted, in the coordinates of the canal."""

    def __init__(self, config, rng, frame):
        self.config, self.rng, self.frame = config, rng, frame
        self.edge = float(max(config.spacing_mm[1], 0.6))  # a border is a ramp this wide
        s = frame.s
        self.discs = np.array([DISC_S[n] for n in sorted(DISC_S)]) * config.level_scale
        cord_s = np.array(_CORD_S) * np.where(np.array(_CORD_S) > 0, config.level_scale, 1)

        def smooth(values):
            return gaussian_filter1d(np.interp(s, cord_s, values), 16)

        def wander(sigma_mm, size):
            noise = gaussian_filter1d(rng.standard_normal(len(s)), sigma_mm / 0.5)
            return size * noise / noise.std()

        # The sac: narrowest about C5, wide at C1, open above.
        sac = config.sac_ap_mm / 2 + np.interp(s, (-45, -30, -10, 20, 60, 100, 160), (3, 1.6, 0.7, 0, -0.3, -0.2, -0.4))
        front = sac + wander(12, 0.25) + np.interp(s, (-60, -45, -30), (3.0, 0.5, 0))
        back = sac + wander(12, 0.25) + np.interp(s, (-70, -48, -36, -22), (28, 11, 3, 0))
        for disc in self.discs[1:]:  # every disc and every fold of the ligament behind it narrows the sac a little
            bump = np.exp(-0.5 * ((s - disc) / 3) ** 2)
            front, back = front - rng.uniform(0.1, 0.7) * bump, back - rng.uniform(0, 0.5) * bump
        for bulge in config.bulges:
            bump = np.exp(-0.5 * ((s - self.segment_s(bulge.segment)) / 3.2) ** 2)
            front, back = front - bulge.depth_mm * bump, back - 0.5 * bulge.depth_mm * bump
        centre = np.interp(s, (-60, -35, 0, 200), (0, 0.2, 1, 1)) * config.cord_forward_mm + wander(30, 0.3)
        ap, rl = smooth(_CORD_AP) * config.cord_scale[0] / 2, smooth(_CORD_RL) * config.cord_scale[1] / 2
        # The cord keeps 0.6 mm of CSF where it can, else it is pushed, and where the sac is too narrow, flattened.
        low, high = centre - ap, centre + ap
        push = np.minimum(0, front - 0.6 - high)
        low, high = low + push, high + push
        push = np.maximum(0, -back + 0.6 - low)
        low, high = low + push, np.minimum(high + push, front - 0.4)
        low, high = gaussian_filter1d(low, 3), gaussian_filter1d(high, 3)
        self.front, self.back = front, back
        self.cord_centre, self.cord_ap = (low + high) / 2, np.maximum((high - low) / 2, 1.5)
        self.cord_rl = rl * np.sqrt(ap / self.cord_ap)
        self.sac_rl = np.maximum(10.5 * config.cord_scale[1], self.cord_rl + 2.5)

        levels = len(self.discs)
        self.body_signal = config.body * rng.uniform(0.9, 1.1, levels)
        self.disc_signal = config.disc * np.exp(rng.normal(0, 0.22, levels))
        self.process_signal = config.body * rng.uniform(0.9, 1.25, levels)

    def segment_s(self, name):
        """s of the disc in the middle of the segment."""
        number = next((n for n, known in SEGMENT_NAMES.items() if known == name), None)
        if number is None:
            raise ValueError(f"{name!r} is not a segment; these are: {', '.join(SEGMENT_NAMES.values())}.")
        return DISC_S[number] * self.config.level_scale

    def disc_tip(self, number):
        """RAS mm of the posterior tip of a disc: the front border of the sac."""
        s = DISC_S[number] * self.config.level_scale
        return self.frame.at(s, np.interp(s, self.frame.s, self.front), 0)

    def lesion_centre(self, lesion):
        """RAS mm of a lesion's centre."""
        along, forwards, right = lesion.offset_mm
        s = self.segment_s(lesion.segment) + along
        return self.frame.at(s, np.interp(s, self.frame.s, self.cord_centre) + forwards, right)

    # ------------------------------------------------------------ rendering

    def render(self):
        """Signal relative to the cord, and the cord, CSF and lesion masks; all [slice, row, column]."""
        config, frame = self.config, self.frame
        shape = config.shape
        image = self._surroundings().reshape(shape[0], -1)
        s, d = frame.pixel_s.ravel(), frame.pixel_d.ravel()
        thin = int(np.ceil(config.thickness_mm / 0.8))
        offsets = ((np.arange(thin) + 0.5) / thin - 0.5) * config.thickness_mm

        spine = np.flatnonzero((d > -62) & (d < 36))
        self._average(image, spine, offsets[:: 2] if thin > 3 else offsets, self._paint_spine)
        head = np.flatnonzero(s < -30)
        self._average(image, head, offsets[thin // 2 : thin // 2 + 1], self._paint_head)
        canal = np.flatnonzero((np.abs(d) < 13) & (s > -60))
        fractions = self._average(image, canal, offsets, self._paint_canal, 2 + len(config.lesions))
        cord, csf = np.zeros((2, *image.shape), bool)
        lesions = np.zeros(image.shape, np.uint8)
        cord[:, canal] = fractions[0] >= 0.5
        csf[:, canal] = (fractions[1] >= 0.5) & ~cord[:, canal]
        for number in range(len(config.lesions)):
            lesions[:, canal] = np.where(fractions[2 + number] >= 0.5, number + 1, lesions[:, canal])
        return image.reshape(shape), cord.reshape(shape), csf.reshape(shape), lesions.reshape(shape)

    def _average(self, image, pixels, offsets, paint, extra=0):
        """Replace `pixels` by the mean over thin slices of what `paint` makes of them."""
        s, d = self.frame.pixel_s.ravel()[pixels], self.frame.pixel_d.ravel()[pixels]
        bend = np.interp(s, self.frame.s, self.frame.x0) + np.tan(np.deg2rad(self.config.twist_deg)) * d
        total = np.zeros((1 + extra, len(image), len(pixels)), np.float32)
        for offset in offsets:
            x = ((self.frame.slice_x + offset)[:, None] - bend).astype(np.float32)
            values = image[:, pixels]
            fractions = paint(values, pixels, s, d, x)
            total[0] += values
            for n in range(extra):
                total[1 + n] += fractions[n]
        total /= len(offsets)
        image[:, pixels] = total[0]
        return total[1:]

    def _along(self, values, s):
        return np.interp(s, self.frame.s, values).astype(np.float32)

    def _soft(self, distance):
        """1 inside (negative distance), 0 outside, a ramp between."""
        return np.clip(0.5 - distance / self.edge, 0, 1)

    def _field(self, sizes_mm, spread=1.0, step=2.0):
        """A smooth random function of (x, s, d); `sizes_mm` are its correlation lengths."""
        half = (40.0, 0.0, 0.0)
        low = np.array((-half[0], -135.0, -130.0))
        counts = (np.array((2 * half[0], 400.0, 260.0)) / step).astype(int)
        # Draw on a grid as coarse as the field allows, then interpolate.
        coarse = np.maximum((counts * step / np.array(sizes_mm)).astype(int), 2) + 3
        table = self.rng.standard_normal(coarse).astype(np.float32) * spread
        scale = (coarse - 3) / (counts * step)

        def sample(x, s, d):
            where = np.broadcast_arrays((x - low[0]) * scale[0] + 1, (s - low[1]) * scale[1] + 1,
                                        (d - low[2]) * scale[2] + 1)
            return map_coordinates(table, where, order=1, mode="nearest")

        return sample

    # ------------------------------------------------------------ tissues

    def _surroundings(self):
        """Air, skin, fat, muscles, throat: everything but spine and head, one sample per slice."""
        config, frame, rng = self.config, self.frame, self.rng
        level, e = frame.level_s[:, None], frame.pixel_e
        x = frame.slice_x[:, None, None]
        image = np.full(config.shape, config.muscle, np.float32)
        # Muscles run along the neck and are parted by planes of fat.
        fibres = self._field((7, 22, 2.6))
        sheets = self._field((9, 45, 4.5))
        tilt = level + 0.35 * e
        streak = fibres(x, tilt, e)
        plane = sheets(x, tilt + 300 * 0, e)
        image *= 1 + 0.22 * streak
        paint(image, config.fat * 0.85, 0.8 * smoothstep(0.75, 1.7, plane))

        # The neck's back: skin, then fat that thickens over the lower neck.
        skin = -config.skin_mm + np.interp(frame.level_s, (-90, -45, -10, 35, 75, 110, 170), (-24, -12, 2, 5, -4, -9, -6))
        fat = np.interp(frame.level_s, (-60, 0, 40, 85, 130), (4, 6, 8, 13, 11)) * rng.uniform(0.7, 1.3)
        depth = e - gaussian_filter1d(skin, 12)[:, None]  # below the skin's surface
        lobules = self._field((6, 5, 2.2))(x, tilt, e)
        paint(image, config.fat * (1 + 0.12 * lobules), self._soft(depth - fat[:, None]))

        # In front: the space before the spine, the throat, tongue and larynx; then skin.
        wall = config.sac_ap_mm / 2 + config.body_depth_mm + 2
        soft_tissue = np.interp(frame.level_s, (-40, -10, 25, 45, 120), (5, 4, 5, 12, 13))
        airway = e - (wall + soft_tissue)[:, None]
        width = np.interp(frame.level_s, (-60, -30, 0, 30, 45, 60, 180), (16, 9, 12, 9, 5, 13, 14))
        tube = np.maximum(-airway, airway - width[:, None])
        tube = np.maximum(tube, np.abs(x) - 9)
        front = wall + np.interp(frame.level_s, (-80, -20, 12, 24, 40, 75, 105, 130, 180),
                                 (105, 96, 78, 52, 40, 38, 42, 62, 80))
        tongue = np.hypot((level + 18) / 26, (e - wall - 46) / 30)
        paint(image, config.muscle * (0.9 + 0.25 * fibres(x, e * 2, level)), self._soft((tongue - 1) * 20))
        paint(image, config.fat * 0.7 * (1 + 0.2 * lobules), 0.8 * self._soft(np.hypot((level - 14) / 9, (e - wall - 42) / 20) * 8 - 8))
        paint(image, 0.15, 0.8 * self._soft(tube - 1.6))
        paint(image, 0.02, self._soft(tube))
        to_skin = e - gaussian_filter1d(front, 8)[:, None]
        paint(image, config.fat * 0.8, self._soft(-to_skin - 4))
        for surface in (to_skin, -depth):
            paint(image, config.muscle, self._soft(np.abs(surface + 1) - 1))  # skin
            paint(image, 0.0, self._soft(-surface))
        return image

    def _paint_spine(self, image, pixels, s, d, x):
        """Vertebrae, discs, ligaments, arches and spinous processes."""
        config = self.config
        front, back = self._along(self.front, s), self._along(self.back, s)
        marrow = self._textures("marrow", (5, 4, 4))(x, s, d)
        ax = np.abs(x)
        behind = d - front - 1.3  # in front of the posterior wall (mm)

        # Which vertebra or disc: the discs above and below.
        above = np.clip(np.searchsorted(self.discs, s, side="right") - 1, 0, len(self.discs) - 2)
        top, bottom = self.discs[above], self.discs[above + 1]
        middle, pitch = (top + bottom) / 2, bottom - top
        along = s - middle
        depth = config.body_depth_mm * np.interp(s, (-20, 0, 60, 150), (0.9, 0.95, 1, 1.15))
        waist = 1.0 * (1 - np.minimum(1, (2 * along / pitch) ** 2 * 1.6))
        across = np.maximum(-behind + waist - 0.3, behind - depth + 1.4 * waist)
        column = self._soft(np.maximum(np.maximum(-behind - 1.2, behind - depth - 1.8), ax - 14) + 0 * x)
        column = column * (s > self.discs[0] - 3)
        paint(image, 0.08, column)  # ligaments and cortical bone, where nothing else comes
        rim = (behind / depth * 2 - 1) ** 2
        height = pitch * _BODY / 2 - 0.45 * (1 - rim)
        sd = np.maximum(np.maximum(np.abs(along) - height, across), ax - 12.5)
        corner = 0.6 * np.exp(-(((across + 0.8) ** 2 + (np.abs(along) - height + 0.8) ** 2) / 3))
        signal = self.body_signal[above] * (1 + 0.14 * marrow)
        # Basivertebral vein: a bright wedge in the middle of the back wall.
        vein = np.exp(-((along / 1.6) ** 2) - (behind / 4.5) ** 2) * (ax < 4)
        signal = signal * (1 + 0.6 * vein)
        # C2's upper half is the dens: narrower, with the dark line of the old growth plate below it.
        paint(image, signal, self._soft(sd + corner) * (s > self.discs[0]))
        nearest = np.where(along < 0, above, above + 1)
        to_disc = np.abs(s - self.discs[nearest])
        half = np.interp(s, (0, 150), (5.4, 5.0)).astype(np.float32) / 2 * config.level_scale
        bulge = 0.7
        in_disc = np.maximum(np.maximum(to_disc - half * (1 - 0.25 * rim), ax - 12), np.maximum(-behind - bulge, behind - depth))
        nucleus = np.clip(1 - ((behind / depth - 0.45) / 0.42) ** 2, 0, 1) * np.clip(1 - (to_disc / half) ** 2, 0, 1)
        annulus = self.disc_signal[nearest] * (0.45 + 0.75 * nucleus)
        paint(image, annulus, self._soft(in_disc) * (nearest > 0) * (s > -6))
        self._paint_atlas(image, s, d, x, front, back, marrow)
        self._paint_arches(image, s, d, x, back, marrow)

    def _paint_atlas(self, image, s, d, x, front, back, marrow):
        """The dens of C2 and both arches of C1."""
        config = self.config
        foot = self.discs[0]
        tip = foot - 19 * config.level_scale
        wall = 1.6 + front
        mid = np.interp(-32.0, self.frame.s, self.front) + 1.6 + 6.0
        d_mid = np.where(s > foot, wall + 6, mid - 0.5)
        taper = np.sqrt(np.clip((s - tip) / 7, 0, 1))
        bone = np.maximum(np.hypot(d - d_mid, x * 1.05) - 5.4 * taper - 0.2, np.maximum(tip - s, s - foot - 5))
        paint(image, 0.06, self._soft(bone - 1.4) * (s < foot + 2))
        paint(image, config.body * (1.0 + 0.14 * marrow), self._soft(bone))
        growth_plate = np.exp(-(((s - foot - 1) / 0.9) ** 2)) * (np.abs(d - d_mid) < 5)
        paint(image, 0.25, 0.5 * growth_plate)
        for centre_s, centre_d, a, b in ((tip + 7, mid + 10.5, 5.5, 3.2), (tip + 9, -12.5 - config.sac_ap_mm / 4, 4.2, 3.2)):
            ring = (np.hypot((s - centre_s) / a, (d - centre_d) / b) - 1) * 3.5
            paint(image, 0.06, self._soft(ring - 1.0))
            paint(image, config.body * 1.05, self._soft(ring + 0.9))

    def _paint_arches(self, image, s, d, x, back, marrow):
        """Flaval ligaments, epidural fat, laminae and spinous processes."""
        config = self.config
        ax = np.abs(x)
        behind = -d - back  # mm behind the sac
        near = self._soft(np.abs(behind - 6) - 6) * self._soft(ax - 10) * (s > -34)
        paint(image, config.fat * 0.55 * (1 + 0.25 * marrow), 0.75 * near)
        lengths = dict(zip(range(1, 12), (0, 26, 15, 16, 19, 25, 33, 34, 33, 32, 31), strict=True))
        for n in range(1, len(self.discs) - 1):
            middle = (self.discs[n - 1] + self.discs[n]) / 2
            length, slant = lengths[n + 1 - 0] if n + 1 in lengths else 30, (0.05 if n == 1 else 0.25 + 0.05 * n)
            root_s, root_d = middle + 3.5, -(np.interp(middle, self.frame.s, self.back) + 4.0)
            axis = np.array((slant, -1.0)) / np.hypot(slant, 1)
            t = np.clip(((s - root_s) * axis[0] + (d - root_d) * axis[1]), 0, length)
            radius = (4.0 + (1.5 if n in (1, 6) else 0)) * (0.75 + 0.35 * t / max(length, 1))
            away = np.hypot(s - root_s - t * axis[0], d - root_d - t * axis[1])
            process = np.hypot(away, np.maximum(ax - 1.2, 0) * 2.2) - radius
            paint(image, 0.10, self._soft(process - 1.1))
            paint(image, self.process_signal[n] * (1 + 0.2 * marrow), self._soft(process))
            # The lamina: an oblique plate that runs from the process to the side and forwards.
            plate_d = root_d + 0.42 * ax - 0.5
            lamina = np.hypot((s - root_s + 1 + 0.3 * (d - plate_d)) / 6.0, (d - plate_d) / 2.6) - 1
            lamina = np.maximum(lamina * 2.6, ax - 16)
            paint(image, 0.10, self._soft(lamina - 1.0))
            paint(image, self.process_signal[n] * 0.9, self._soft(lamina + 0.3))

    def _paint_head(self, image, pixels, s, d, x):
        """Skull base, cerebellum, pons and the fluid around them, where the field of view reaches so far."""
        config = self.config
        brain, fluid = 1.15, config.csf * 0.95
        foramen = self.discs[0] - 24 * config.level_scale
        up = foramen - s  # mm above the foramen magnum
        folia = self._textures("folia", (9, 3.0, 3.0))(x, s, d)
        outer = np.maximum((np.hypot((up - 38) / 46, (d + 26) / 52) - 1) * 46, -up * 1.0 + 0.5 * (np.abs(d + 8) - 18))
        inner = outer + 7
        above = up > -8
        paint(image, 0.10, self._soft(outer) * above)
        paint(image, config.body * 1.2, self._soft(np.abs(outer + 3.0) - 1.6) * above)
        opening = np.maximum(np.abs(d + 7) - (12 + 0.9 * np.maximum(up, 0)), -up - 6)
        inner = np.minimum(inner, np.maximum(opening, outer + 1))
        paint(image, fluid, self._soft(inner) * above)
        clivus_d = 13 + 0.45 * up
        clivus = np.maximum(np.abs(d - clivus_d - 5) - 5.5, np.maximum(-up - 2, up - 50))
        paint(image, 0.1, self._soft(clivus - 1.2))
        paint(image, config.fat * 0.55 * (1 + 0.15 * folia), self._soft(clivus))
        cerebellum = (np.hypot((up - 36) / 27, (d + 36) / 26) - 1) * 26
        paint(image, brain * (1 + 0.05 * folia), self._soft(cerebellum + 1))
        paint(image, fluid * 0.9, self._soft(cerebellum + 1) * 0.55 * smoothstep(0.9, 1.8, folia))
        stem = np.interp(up, (-10, 5, 18, 24, 60), (4.5, 5.2, 6.5, 7, 8))
        medulla = np.maximum(np.abs(d - 0.06 * up) - stem, np.abs(x) - 8 - 0.2 * np.maximum(up, 0))
        pons = (np.hypot((up - 33) / 14, (d - 8) / 13) - 1) * 13
        paint(image, brain * 0.95, self._soft(np.minimum(np.maximum(medulla, -up - 4), np.maximum(pons, np.abs(x) - 17))))

    def _paint_canal(self, image, pixels, s, d, x):
        """Dura, CSF with its motion and roots, the cord and its lesions."""
        config = self.config
        front, back = self._along(self.front, s), self._along(self.back, s)
        half, middle = (front + back) / 2, (front - back) / 2
        sac_distance = ellipse_distance((d - middle), half, x, self._along(self.sac_rl, s), power=2.6)
        paint(image, 0.12, self._soft(sac_distance - 0.9))
        sac = self._soft(sac_distance)
        flow = self._textures("flow", (6, 16, 2.2))(x, s, d)
        csf = config.csf * (1 - config.flow_void * np.clip(flow - 0.2, 0, 1.6))
        paint(image, csf, sac)
        centre, ap, rl = (self._along(v, s) for v in (self.cord_centre, self.cord_ap, self.cord_rl))
        # Rootlets leave the cord's sides towards the feet and to the side; between them is fluid.
        strands = self._textures("roots", (4, 2.2, 5))(x, s - 0.8 * np.abs(x) + 0.8 * np.abs(d - centre), d)
        roots = smoothstep(0.2, 1.2, strands) * np.exp(-(((np.abs(x) - rl * 0.95) / 2.6) ** 2))
        roots = roots * smoothstep(0.8, 1.8, np.abs(d - centre))
        paint(image, 1.0 + 0 * x, 0.55 * sac * roots)
        distance = ellipse_distance(d - centre, ap, x, rl)
        cord = self._soft(distance)
        u, v = (d - centre) / ap, x / rl
        horns = np.exp(-(((np.abs(v) - 0.32 + 0.08 * u) / 0.14) ** 2)) * np.exp(-((u / 0.55) ** 4))
        bridge = np.exp(-((u / 0.16) ** 2)) * (np.abs(v) < 0.32)
        tissue = self._textures("cord", (3, 6, 2.5))(x, s, d)
        signal = 1 + config.grey_matter * np.maximum(horns, bridge) + 0.025 * tissue
        signal = signal + config.central_canal * np.exp(-(((d - centre) / 0.6) ** 2) - (x / 1.5) ** 2)
        fractions = [cord * (s > CORD_TOP_S), sac * (s > CORD_TOP_S)]
        for lesion in config.lesions:
            along, forwards, right = lesion.offset_mm
            r = np.sqrt(
                ((s - self.segment_s(lesion.segment) - along) / (lesion.length_mm / 2)) ** 2
                + ((d - centre - forwards) / (lesion.ap_mm / 2)) ** 2
                + ((x - right) / (lesion.rl_mm / 2)) ** 2
            )
            reach = min(lesion.ap_mm, lesion.length_mm, lesion.rl_mm) / 2
            inside = self._soft((r - 1) * reach)
            profile = np.clip(0.5 - (r - 1) * reach / 1.2, 0, 1)
            signal = signal + lesion.contrast * (config.csf - 1) * profile
            fractions.append(inside * cord)
        paint(image, signal, cord)
        return fractions

    def _textures(self, name, sizes_mm):
        """One random function per tissue, the same in all thin slices."""
        cache = self.__dict__.setdefault("_cache", {})
        if name not in cache:
            cache[name] = self._field(sizes_mm)
        return cache[name]


def _scan(image, frame, config, rng):
    """What the scanner makes of it: coil, drift along the neck, blur, Rician noise, whole numbers."""
    reach = frame.pixel_e + config.skin_mm
    coil = np.exp(-np.maximum(reach - config.skin_mm, -25) / config.coil_mm)
    t = np.linspace(-1, 1, config.shape[1])
    curve = np.cos(np.pi * (t * 0.8 + 2 * config.drift_phase)) + 0.3 * np.sin(1.5 * np.pi * t + 9 * config.drift_phase)
    curve = (curve - curve.min()) / (curve.max() - curve.min()) - 0.5
    image = image * (coil * config.drift ** curve[:, None]).astype(np.float32)
    sigma = (0, config.blur_mm / config.spacing_mm[1], config.blur_mm / config.spacing_mm[2])
    image = gaussian_filter(image, sigma)
    noise = config.noise * rng.standard_normal((2, *config.shape), dtype=np.float32)
    image = np.hypot(image + noise[0], noise[1])
    return np.clip(image * config.cord_signal, 0, 32000)


def paint(image, value, share):
    """Cover `image` in place with `value`, by `share` (0–1)."""
    image += share * (value - image)


def smoothstep(low, high, value):
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def ellipse_distance(u, a, v, b, power=2.0):
    """Distance in mm from the (super-)ellipse |u/a|^p + |v/b|^p = 1, negative inside; exact at first order."""
    p, q = np.abs(u / a), np.abs(v / b)
    level = (p**power + q**power) ** (1 / power) + 1e-6
    gradient = np.hypot((p / level) ** (power - 1) / a, (q / level) ** (power - 1) / b)
    return (level - 1) / np.maximum(gradient, 1e-3)
