"""A simulated T2-weighted sagittal neck: what to train, test and demonstrate with where no patient may be used.

The anatomy is drawn in coordinates of the spinal canal and rendered on the voxel grid of the scan:

- s: millimetres along the canal's midline, 0 at the disc C2/C3, growing towards the feet
- d: millimetres in front of that midline, in the sagittal plane and perpendicular to it
- x: millimetres to the right of that midline

Every tissue is a soft shape painted over what is already there; thick slices are the mean of several thin ones.
Sizes are anatomical averages, signals are relative to the spinal cord. Nothing in it was taken from a person's image.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ..config import SEGMENT_NAMES
from ..errors import UsageError
from ..roi.labels import disc_labels
from ..volume import Volume, reorient

# Discs by their number (Spinal Cord Toolbox: 3 = C2/C3): s of the middle in mm, before `level_scale`. Number 2 stands
# for the place where the body of C2 ends and its dens begins.
DISC_S = {
    2: -15.5,
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
CORD_TOP_S = -36.0  # the masks begin below the foramen magnum, as manual ones do
# The cord's width at s (mm), front to back and right to left: medulla (two places), C1, C3, C5, C7, T1, T4.
_CORD_S = (-62, -44, -28, 9, 45, 77, 97, 165)
_CORD_AP = (13.0, 10.5, 8.6, 7.5, 7.4, 6.3, 6.0, 5.8)
_CORD_RL = (17.0, 14.0, 11.6, 12.0, 12.5, 10.5, 9.6, 8.8)
_CURVE_S = (-110, -60, -20, 15, 45, 75, 105, 150, 230)  # where the slopes of `PhantomConfig.curve_deg` hold
_BODY_HEIGHT, _DISC_HEIGHT = 0.64, 0.32  # as parts of the distance between discs
_PROCESS_MM = (24, 13, 14, 17, 22, 31, 33, 32, 31, 30)  # length of the spinous processes of C2, C3, …
_PROCESS_SLANT = (0.10, 0.30, 0.38, 0.42, 0.42, 0.32, 0.42, 0.55, 0.65, 0.7)  # how steeply they fall


@dataclass(frozen=True)
class Lesion:
    """A T2-bright ellipsoid in the cord.

    :param segment: "C4-5" lies at the disc C4/C5.
    :param contrast: its brightness above the cord's, as a part of the difference between CSF and cord.
    :param offset_mm: its centre from the cord's: along the cord to the feet, to the front, to the right.
    """

    segment: str
    contrast: float
    ap_mm: float
    length_mm: float
    rl_mm: float
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Bulge:
    """A disc that bulges into the canal by `depth_mm`; the ligament behind folds in by half as much."""

    segment: str
    depth_mm: float


@dataclass(frozen=True)
class PhantomConfig:
    """Anatomy, contrast and scan of one phantom. Lengths in mm, angles in degrees, signals relative to the cord's."""

    # the scan
    spacing_mm: tuple[float, float, float] = (3.3, 0.7, 0.7)  # between slices, rows and columns
    thickness_mm: float = 3.0  # of a slice
    shape: tuple[int, int, int] = (15, 320, 320)  # slices, rows and columns
    axes: str = "PIL"  # where the voxel axes point to
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of patient and scan together, about R, A and S
    centre_s_mm: float = 45.0  # what lies in the middle of the field of view from head to feet
    forward_mm: float = 6.0  # how far the middle of the field of view lies in front of the canal
    # the patient
    curve_deg: tuple[float, ...] = (14, 12, 2, -5, -2, 10, 21, 25, 21)  # the canal's slope to the back, head to feet
    bend_mm: float = 1.0  # how far the spine leaves the middle plane
    twist_deg: float = 1.0  # about the neck's axis
    level_scale: float = 0.98  # distance between discs, relative to the average adult's
    cord_scale: tuple[float, float] = (1.0, 1.0)  # front to back and right to left
    sac_ap_mm: float = 12.5  # cord and CSF at C5, front to back
    cord_forward_mm: float = 0.4  # the cord's place in the canal
    body_depth_mm: float = 16.5  # of the vertebrae
    skin_mm: float = 56.0  # from the canal to the skin behind
    bulges: tuple[Bulge, ...] = ()
    lesions: tuple[Lesion, ...] = ()
    fused: tuple[str, ...] = ()  # segments whose two vertebrae have grown together: marrow instead of a disc
    worn: tuple[str, ...] = ()  # segments whose disc is thin and dark
    # signals
    csf: float = 2.3
    body: float = 0.9
    disc: float = 0.55
    fat: float = 2.2
    muscle: float = 0.42
    grey_matter: float = 0.06  # brighter than white matter by
    central_canal: float = 0.05  # brighter than the cord by
    flow_void: float = 0.25  # what its motion takes from the CSF
    # the camera
    drift: float = 1.5  # largest to smallest brightness along the neck
    drift_phase: float = 0.3  # where along the neck it is largest (0–1)
    coil_mm: float = 130.0  # towards the front the signal falls to 1/e over this distance
    acquired_mm: float = 0.9  # pixel that was measured; the image is interpolated from it
    apodisation: float = 0.6  # 0: the spectrum is cut off, edges ring; 1: it fades out, edges are soft
    noise: float = 0.04  # standard deviation in each channel
    cord_signal: float = 260.0  # stored value of a signal of 1


@dataclass(frozen=True)
class Phantom:
    """A simulated image and its truth; volumes on one grid.

    volume: int16; cord, csf: uint8 masks; discs: uint8, single voxels 3 (C2/C3) … 8 (C7/T1) at the posterior tips;
    lesions: uint8, numbered from 1 in the order of the configuration; description: JSON-able.
    """

    volume: Volume
    cord: Volume
    csf: Volume
    discs: Volume
    lesions: Volume
    description: dict


def random_config(kind: str, rng: np.random.Generator) -> PhantomConfig:
    """A random neck, without lesions unless it is "varied", and a random scan of it.

    :param kind: "space" (3D, 1 mm isotropic, CSF 3.7–5.4 × cord), "clinical" (2D TSE, slices 3.3–5 mm apart), or
        "varied": pixels of 1 mm, and far more anatomy and contrast than any scanner shows, to learn regions from, with
        up to two lesions.
    """
    if kind not in ("space", "clinical", "varied"):
        raise UsageError(f"A phantom is of kind 'space', 'clinical' or 'varied', not {kind!r}.")

    def between(low, high):
        return round(float(rng.uniform(low, high)), 3)

    thorax, lordosis = between(10, 38), between(-14, 22)
    if kind == "varied":
        thorax, lordosis = between(5, 45), between(-34, 34)
    curve = np.array((12, 9, 2, 0, 0, 0.2 * thorax, 0.75 * thorax, thorax, thorax)) + between(-6, 10)
    curve = curve + lordosis * np.array((0.3, 0.3, -0.1, -0.5, -0.35, 0.2, 0.5, 0.5, 0.4)) + rng.uniform(-4, 4, 9)
    if kind == "space":
        camera = {
            "spacing_mm": (1.0, 1.0, 1.0),
            "thickness_mm": 1.0,
            "shape": (int(rng.integers(15, 25)), 216, 256),
            "axes": str(rng.choice(("PSR", "PIR", "RSP", "LPS"))),
            "csf": between(3.5, 5.4),
            "body": between(0.4, 0.7),
            "disc": between(0.35, 0.8),
            "fat": between(2.5, 4.0),
            "muscle": between(0.25, 0.45),
            "flow_void": between(0.05, 0.3),
            "coil_mm": between(45, 90),
            "acquired_mm": between(1.0, 1.35),
            "noise": between(0.02, 0.1),
        }
        bulging, deepest = 0.2, 1.2
    elif kind == "varied":
        rows, columns = (round(mm / 16) * 16 for mm in (rng.uniform(160, 320), rng.uniform(160, 272)))
        camera = {
            "spacing_mm": (between(2.0, 5.0), 1.0, 1.0),
            "thickness_mm": between(1.0, 4.5),
            "shape": (5, rows, columns),
            "axes": "LIP",
            "csf": between(1.3, 5.5),
            "body": between(0.3, 1.6),
            "disc": between(0.15, 1.6),
            "fat": between(1.0, 4.5),
            "muscle": between(0.2, 0.9),
            "flow_void": between(0.05, 0.7),
            "coil_mm": between(40, 200),
            "acquired_mm": between(0.8, 1.8),
            "noise": between(0.01, 0.12),
        }
        bulging, deepest = 0.45, 4.5
    else:
        pixel, gap = between(0.4, 0.8), between(3.3, 5.0)
        size = int(np.clip(round(rng.uniform(190, 250) / pixel / 16) * 16, 256, 384))
        camera = {
            "spacing_mm": (gap, pixel, pixel),
            "thickness_mm": round(gap * between(0.8, 1.0), 3),
            "shape": (2 * int(rng.integers(4, 9)) + 1, size, size),
            "axes": str(rng.choice(("PIL", "PIR", "LIP", "ASR"))),
            "csf": between(1.7, 2.7),
            "body": between(0.6, 1.05),
            "disc": between(0.25, 0.7),
            "fat": between(1.8, 3.2),
            "muscle": between(0.3, 0.6),
            "flow_void": between(0.1, 0.5),
            "coil_mm": between(70, 160),
            "acquired_mm": round(pixel * between(1.05, 1.6), 3),
            "noise": between(0.02, 0.08),
        }
        bulging, deepest = 0.35, 2.2
    bulges = (Bulge(name, between(0.3, deepest)) for name in SEGMENT_NAMES.values() if rng.random() < bulging)
    config = PhantomConfig(
        **camera,
        rotation_deg=(between(-6, 6), between(-6, 6), between(-6, 6)),
        centre_s_mm=between(35, 60),
        forward_mm=between(-4, 16),
        curve_deg=tuple(round(float(slope), 2) for slope in curve),
        bend_mm=between(-3, 3),
        twist_deg=between(-4, 4),
        level_scale=between(0.88, 1.08),
        cord_scale=(between(0.86, 1.14), between(0.88, 1.12)),
        sac_ap_mm=between(11, 15),
        cord_forward_mm=between(-1.5, 1.5),
        body_depth_mm=between(14.5, 18.5),
        skin_mm=between(45, 68),
        bulges=tuple(bulges),
        grey_matter=between(0, 0.12),
        central_canal=between(0, 0.12),
        drift=between(1.1, 2.0),
        drift_phase=between(0, 1),
        apodisation=between(0, 1),
        cord_signal=between(120, 420),
    )
    if kind != "varied":
        return config
    names = tuple(SEGMENT_NAMES.values())
    lesions = (
        Lesion(
            str(rng.choice(names)), between(0.2, 1.0), between(2, 7), between(3, 30), between(3, 9),
            (between(-6, 6), between(-2, 2), between(-3, 3)),
        )
        for _ in range(rng.integers(0, 3))
    )  # fmt: skip
    return replace(
        config,
        lesions=tuple(lesions),
        fused=tuple(name for name in names if rng.random() < 0.06),
        worn=tuple(name for name in names if rng.random() < 0.2),
        centre_s_mm=between(10, 95) if rng.random() < 0.8 else between(95, 190),
        forward_mm=between(-25, 30),
        bend_mm=between(-5, 5),
        level_scale=between(0.8, 1.15),
        cord_scale=(between(0.75, 1.2), between(0.8, 1.15)),
        sac_ap_mm=between(9.5, 16.5),
        drift=between(1.0, 3.0),
    )


def phantom_config(kind: str, seed: int, lesions: Sequence[Lesion] = (), bulges: Sequence[Bulge] = ()) -> PhantomConfig:
    """The average neck (kind "average") or a random one (`random_config`); lesions and bulging discs of choice take the
    place of its own."""
    config = PhantomConfig() if kind == "average" else random_config(kind, np.random.default_rng(seed))
    return replace(config, lesions=tuple(lesions) or config.lesions, bulges=tuple(bulges) or config.bulges)


def simulate_phantom(config: PhantomConfig, seed: int) -> Phantom:
    """The phantom of a configuration.

    :param seed: decides on texture, noise and on what differs from level to level.
    :raises UsageError: a lesion or bulge lies in an unknown segment.
    """
    rng = np.random.default_rng(seed)
    frame = _Frame(config, rng)
    anatomy = _Anatomy(config, frame, rng)
    image, cord, csf, lesions = anatomy.render()
    upright = frame.volume(_measure(image, frame, config, rng))
    grid, change = reorient(upright, config.axes)

    tips = {number: anatomy.disc_tip(number) for number in list(DISC_S)[1:]}
    tips = {n: tip for n, tip in tips.items() if disc_labels(upright, {n: tip}).any()}
    discs = disc_labels(upright, {n: tips[n] for n in SEGMENT_NAMES if n in tips})

    def stored(array, dtype):
        return grid.with_array(np.ascontiguousarray(change.apply(array), dtype))

    description = {
        "config": asdict(config),
        "seed": seed,
        "disc_tips_ras_mm": {str(n): tip.round(2).tolist() for n, tip in tips.items()},
        "lesion_centres_ras_mm": [anatomy.lesion_centre(lesion).round(2).tolist() for lesion in config.lesions],
    }
    return Phantom(
        volume=grid,
        cord=stored(cord, np.uint8),
        csf=stored(csf, np.uint8),
        discs=stored(discs, np.uint8),
        lesions=stored(lesions, np.uint8),
        description=description,
    )


class _Frame:
    """The canal's midline in space, the voxel grid, and where in the canal's coordinates each pixel lies.

    Before `rotation_deg` the slices are planes of constant x. Arrays are [slice, row, column]: right to left, head to
    feet, front to back.
    """

    def __init__(self, config, rng):
        self.rotation = Rotation.from_euler("xyz", config.rotation_deg, degrees=True)
        self.spacing = config.spacing_mm
        self.slice_x, self.row_z, self.column_y = (
            ((n - 1) / 2 - np.arange(n)) * gap for n, gap in zip(config.shape, config.spacing_mm, strict=True)
        )
        step = 0.5
        self.s = np.arange(-130.0, 260.0, step)
        slope = gaussian_filter1d(np.interp(self.s, _CURVE_S, np.deg2rad(config.curve_deg)), 10 / step)
        # The direction of d; that of s is (front_z, −front_y).
        self.front_y, self.front_z = np.cos(slope), -np.sin(slope)
        y, z = step * np.cumsum(self.front_z), -step * np.cumsum(self.front_y)
        self.z = z - np.interp(config.centre_s_mm, self.s, z)
        seen = y[np.abs(self.z) < abs(self.row_z[0])]
        self.y = y - (seen.max() + seen.min()) / 2 - config.forward_mm
        wave = np.sin(2 * np.pi * (self.s / rng.uniform(240, 520) + rng.uniform()))
        self.x = config.bend_mm * wave + rng.uniform(-0.2, 0.2) * config.spacing_mm[0]
        self.twist = np.tan(np.deg2rad(config.twist_deg))

        pixel_y, pixel_z = np.meshgrid(self.column_y, self.row_z)
        _, nearest = cKDTree(np.stack([self.y, self.z], 1)).query(np.stack([pixel_y.ravel(), pixel_z.ravel()], 1))
        dy, dz = pixel_y.ravel() - self.y[nearest], pixel_z.ravel() - self.z[nearest]
        ny, nz = self.front_y[nearest], self.front_z[nearest]
        self.pixel_s = (self.s[nearest] + dy * nz - dz * ny).astype(np.float32)  # (pixels,)
        self.pixel_d = (dy * ny + dz * nz).astype(np.float32)
        # Far from the spine its perpendiculars cross. There, pixels are measured straight to the front of the midline.
        self.row_s = np.interp(-self.row_z, -self.z, self.s).astype(np.float32)
        self.pixel_e = (pixel_y - np.interp(self.row_s, self.s, self.y)[:, None]).astype(np.float32)  # (row, column)

    def midline_x(self, s, d):
        """x (mm, to the right) of the spine's own middle plane."""
        return np.interp(s, self.s, self.x) + self.twist * d

    def at(self, s, d, x):
        """RAS mm of a point."""
        y = np.interp(s, self.s, self.y) + d * np.interp(s, self.s, self.front_y)
        z = np.interp(s, self.s, self.z) + d * np.interp(s, self.s, self.front_z)
        return self.rotation.apply((self.midline_x(s, d) + x, y, z))

    def volume(self, array):
        """An array [slice, row, column] with its place in space."""
        dx, dz, dy = self.spacing
        affine = np.eye(4)
        affine[:3, :3] = self.rotation.as_matrix() @ ((-dx, 0, 0), (0, 0, -dy), (0, -dz, 0))
        affine[:3, 3] = self.rotation.apply((self.slice_x[0], self.column_y[0], self.row_z[0]))
        return Volume(array, affine, "phantom")


class _Texture:
    """A smooth random function of position with mean 0 and a standard deviation near 0.6."""

    low = np.array((-60.0, -140.0, -140.0))  # of (x, s, d)
    high = np.array((60.0, 270.0, 190.0))

    def __init__(self, rng, *lengths_mm):
        self.lengths = np.array(lengths_mm)
        counts = np.ceil((self.high - self.low) / self.lengths).astype(int) + 2
        self.values = rng.standard_normal(counts).astype(np.float32)

    def __call__(self, x, s, d):
        """Values (slices, *pixels) at s and d (*pixels) and, the same for all pixels of a slice, its mean x."""
        x = np.reshape(x, (len(x), -1)).mean(1)
        (i, part_x), (j, part_s), (k, part_d) = (self._cell(axis, v) for axis, v in enumerate((x, s, d)))
        part_x = part_x[:, None, None]
        planes = self.values[i] * (1 - part_x) + self.values[i + 1] * part_x
        width = planes.shape[2]
        flat, corner = planes.reshape(len(x), -1), j * width + k
        near = flat[:, corner] * (1 - part_d) + flat[:, corner + 1] * part_d
        far = flat[:, corner + width] * (1 - part_d) + flat[:, corner + width + 1] * part_d
        return near + part_s * (far - near)

    def _cell(self, axis, value):
        """The grid's cell in which a value lies, and where in it (0–1)."""
        low, high, length = self.low[axis], self.high[axis], self.lengths[axis]
        position = (np.clip(value, low, high) - low) / length
        cell = position.astype(np.int32)
        return cell, (position - cell).astype(np.float32)


class _Anatomy:
    """All that is painted. Tissues are functions of (s, d, x): s and d are (pixels,), x is (slices, pixels)."""

    def __init__(self, config, frame, rng):
        self.config, self.frame = config, frame
        self.edge = max(config.spacing_mm[1], 0.5)  # borders are ramps of this width (mm)
        self._shape_canal(rng)
        levels = len(DISC_S)
        self.disc_s = np.array([DISC_S[n] * config.level_scale for n in DISC_S])
        self.body_signal = (config.body * rng.uniform(0.9, 1.1, levels)).astype(np.float32)
        self.disc_signal = (config.disc * np.exp(rng.normal(0, 0.25, levels))).astype(np.float32)
        self.body_depth = rng.uniform(0.95, 1.05, levels).astype(np.float32)
        self.disc_height = rng.uniform(0.85, 1.12, levels).astype(np.float32)
        numbers = list(DISC_S)
        for name in config.worn:
            at = numbers.index(_number(name))
            self.disc_height[at] *= 0.55
            self.disc_signal[at] = min(0.2 * config.disc, 0.2)
        self.fused = np.array([n in [_number(name) for name in config.fused] for n in numbers])
        self.spur = np.clip(rng.normal(0.2, 0.7, levels), 0, 2.2).astype(np.float32)  # of the front edges (mm)
        self.process = rng.uniform((0.85, -0.08, 0.8, 0.9, -1.5), (1.12, 0.08, 1.15, 1.2, 1.5), (levels, 5))
        self.textures = {
            "muscle": _Texture(rng, 7, 20, 2.2),
            "sheet": _Texture(rng, 10, 38, 5.5),
            "fat": _Texture(rng, 7, 9, 2.4),
            "patch": _Texture(rng, 12, 24, 14),
            "marrow": _Texture(rng, 5, 3.5, 3.5),
            "bump": _Texture(rng, 200, 6, 6),
            "bump2": _Texture(rng, 200, 7, 7),
            "strand": _Texture(rng, 8, 5, 6),
            "flow": _Texture(rng, 6, 14, 2.5),
            "root": _Texture(rng, 4, 2.4, 5),
            "cord": _Texture(rng, 3, 6, 2.2),
        }

    def _shape_canal(self, rng):
        config, s = self.config, self.frame.s
        step = s[1] - s[0]

        def wander(length_mm, size_mm):
            noise = gaussian_filter1d(rng.standard_normal(len(s)), length_mm / step)
            return size_mm * noise / noise.std()

        def at_level(places, values):
            places = np.array(places) * np.where(np.array(places) > 0, config.level_scale, 1)
            return gaussian_filter1d(np.interp(s, places, values), 8 / step)

        # The sac, from the middle of the canal to the front and to the back. It opens towards the head.
        sac = config.sac_ap_mm / 2 + np.interp(s, (-45, -30, -10, 20, 60, 100, 160), (3, 1.6, 0.7, 0, -0.2, -0.1, -0.2))
        front = sac + wander(12, 0.2) + np.interp(s, (-60, -45, -30), (3, 0.5, 0))
        back = sac + wander(12, 0.2) + np.interp(s, (-70, -48, -36, -22), (28, 10, 3, 0))
        for number in list(DISC_S)[1:]:  # behind discs, and before the ligaments' folds, it is a little narrower
            fold = np.exp(-0.5 * ((s - DISC_S[number] * config.level_scale) / 3) ** 2)
            front, back = front - rng.uniform(0.1, 0.6) * fold, back - rng.uniform(0, 0.5) * fold
        for bulge in config.bulges:
            fold = np.exp(-0.5 * ((s - self.segment_s(bulge.segment)) / 3) ** 2)
            front, back = front - bulge.depth_mm * fold, back - 0.5 * bulge.depth_mm * fold
        # The cord gives way where the sac is narrow; where there is no room left, it is flattened and widens.
        half_ap = at_level(_CORD_S, _CORD_AP) * config.cord_scale[0] / 2
        half_rl = at_level(_CORD_S, _CORD_RL) * config.cord_scale[1] / 2
        centre = np.interp(s, (-60, -35, 0), (0, 0.2, 1)) * config.cord_forward_mm + wander(30, 0.3)
        centre = np.minimum(centre, front - half_ap - 0.7)
        centre = np.maximum(centre, half_ap + 0.7 - back)
        low = gaussian_filter1d(np.maximum(centre - half_ap, 0.4 - back), 1.5 / step)
        high = gaussian_filter1d(np.minimum(centre + half_ap, front - 0.4), 1.5 / step)
        self.front, self.back = front, back
        self.cord_middle, self.cord_ap = (low + high) / 2, np.maximum((high - low) / 2, 1.5)
        self.cord_rl = half_rl * np.sqrt(half_ap / self.cord_ap)
        self.sac_rl = np.maximum(10.5 * config.cord_scale[1], self.cord_rl + 2.5)

    def segment_s(self, name):
        """s of the disc in the middle of a segment."""
        return DISC_S[_number(name)] * self.config.level_scale

    def disc_tip(self, number):
        """RAS mm of the posterior tip of a disc, at the front border of the sac."""
        s = DISC_S[number] * self.config.level_scale
        return self.frame.at(s, np.interp(s, self.frame.s, self.front), 0)

    def lesion_centre(self, lesion):
        """RAS mm of a lesion's centre."""
        along, forwards, right = lesion.offset_mm
        s = self.segment_s(lesion.segment) + along
        return self.frame.at(s, np.interp(s, self.frame.s, self.cord_middle) + forwards, right)

    # -------------------------------------------------------------------------------------------------- rendering

    def render(self):
        """Signals (float32) and the masks of cord, CSF and lesions (numbered); all [slice, row, column]."""
        config = self.config
        s, d = self.frame.pixel_s, self.frame.pixel_d
        image = self._paint_body().reshape(config.shape[0], -1)
        thin = int(np.ceil(config.thickness_mm / 0.8))
        offsets = ((np.arange(thin) + 0.5) / thin - 0.5) * config.thickness_mm
        # What is small from right to left is averaged over more thin slices.
        fewer = offsets[1::2] if thin > 3 else offsets
        self._average(image, np.flatnonzero((d > -62) & (d < 36)), fewer, self._paint_spine)
        self._average(image, np.flatnonzero(s < -30), np.zeros(1), self._paint_head)
        canal = np.flatnonzero((np.abs(d) < 14) & (s > -60))
        cord, sac, *lesions = self._average(image, canal, offsets, self._paint_canal, 2 + len(config.lesions))
        cord, sac = cord >= 0.5, sac >= 0.5
        masks = np.zeros((3, *image.shape), np.uint8)
        masks[0][:, canal] = cord
        masks[1][:, canal] = sac & ~cord
        for number, share in enumerate(lesions, 1):
            share = np.where(cord, share, 0)
            # Smaller than half a voxel: the voxels that hold most of it, as in `plant.plant_in_volume`.
            lesion = (share > 0) & (share >= min(0.5, share.max(initial=0)))
            masks[2][:, canal] = np.where(lesion, number, masks[2][:, canal])
        return image.reshape(config.shape), *masks.reshape(3, *config.shape)

    def _average(self, image, pixels, offsets, paint, parts=0):
        """Replace `pixels` by the mean over thin slices of what `paint` makes of them; the mean of what it returns."""
        s, d = self.frame.pixel_s[pixels], self.frame.pixel_d[pixels]
        midline = self.frame.midline_x(s, d)
        signal = np.zeros((len(image), len(pixels)), np.float32)
        fractions = np.zeros((parts, *signal.shape), np.float32)
        for offset in offsets if len(pixels) else ():
            x = ((self.frame.slice_x + offset)[:, None] - midline).astype(np.float32)
            painted = image[:, pixels]
            for fraction, one in zip(fractions, paint(painted, s, d, x) or (), strict=True):
                fraction += one
            signal += painted
        image[:, pixels] = signal / len(offsets)
        return fractions / len(offsets)

    def _along(self, values, s):
        """A property of the canal at s."""
        return _lookup(s, self.frame.s, values)

    def _soft(self, distance):
        """1 inside (negative distance in mm), 0 outside, a ramp between."""
        return np.clip(0.5 - distance / self.edge, 0, 1)

    # ---------------------------------------------------------------------------------------------------- tissues

    def _paint_body(self):
        """Air, skin, fat, muscles, throat and face: all but spine, skull and brain."""
        config, frame = self.config, self.frame
        s, e, x = frame.row_s[:, None], frame.pixel_e, frame.slice_x[:, None, None].astype(np.float32)
        muscle, sheet, lobule = (self.textures[name] for name in ("muscle", "sheet", "fat"))
        fibre = s + 0.3 * e  # the neck's long muscles run down and forwards
        streaks, patch = muscle(x, fibre, e), self.textures["patch"](x, s, e)
        image = (config.muscle * (1 + 0.22 * streaks)).astype(np.float32)
        _paint(image, config.fat * 0.8, 0.75 * _ridge(sheet(x, fibre, e), 0.16) * _step(-0.5, 0.5, patch))
        _paint(image, config.fat * 0.6, 0.5 * _step(0.6, 1.6, streaks + 0.8 * patch))

        # Behind: the skin and the fat below it, thickest over the lower neck.
        surface = config.skin_mm + _lookup(s, (-90, -45, -10, 35, 75, 110, 170), (20, 10, -2, -6, 3, 8, 5))
        upright = self._along(frame.front_y, s)  # what of a step to the front is perpendicular to the neck
        below = e * upright + gaussian_filter1d(surface, 8 / config.spacing_mm[1], axis=0)  # mm below the skin
        thickness = _lookup(s, (-60, 0, 40, 85, 130), (4, 6, 8, 13, 11))
        septa = _ridge(lobule(x, s * 0.4, below * 1.4), 0.25)
        fat = config.fat * (1 - 0.3 * septa) * (0.85 + 0.1 * patch)
        _paint(image, fat, self._soft(below - thickness - 1.2 * streaks))

        # In front: f millimetres before the vertebrae. A saddle between chin and chest is the skin of the neck.
        f = e - (config.sac_ap_mm / 2 + config.body_depth_mm + 3)
        surface = _lookup(s, (-80, -20, 4, 22, 40, 75, 105, 130, 180), (102, 96, 88, 58, 41, 37, 42, 58, 76))
        beyond = f - gaussian_filter1d(surface, 5 / config.spacing_mm[1], axis=0)
        _paint(image, fat, self._soft(-beyond - 5 - 1.5 * patch))
        self._paint_throat(image, s, f, x, streaks, fat)
        for outside in (beyond, -below):
            _paint(image, config.muscle, self._soft(np.abs(outside + 0.9) - 0.9))
            _paint(image, 0, self._soft(-outside))
        return image

    def _paint_throat(self, image, s, f, x, streaks, fat):
        """Tongue, jaw, palate, larynx, airway: in the middle, between the vertebrae and the skin of the front."""
        config = self.config
        tissue = config.muscle

        def oval(at_s, at_f, half_s, half_f, slant=0.0):
            u, v = s - at_s - slant * (f - at_f), f - at_f
            return (np.hypot(u / half_s, v / half_f) - 1) * min(half_s, half_f)

        fan = np.sin(np.arctan2(s - 8, f - 66) * 26 + 1.5 * streaks)
        _paint(image, tissue * (1.05 + 0.16 * fan + 0.12 * streaks), self._soft(oval(-14, 42, 23, 27)))
        _paint(image, fat * 0.75, 0.85 * self._soft(oval(15, 50, 6.5, 22, -0.15)))  # below the chin
        _paint(image, fat * 0.8, 0.7 * self._soft(oval(24, 23, 5, 5)))  # before the epiglottis
        for centre, rim in (((-2, 78, 13, 6.5, 0.25), 2), ((25, 33, 3.6, 5), 1.2)):  # jaw and hyoid bone
            bone = oval(*centre)
            _paint(image, 0.08, self._soft(bone))
            _paint(image, config.fat * 0.55, self._soft(bone + rim))
        palate = np.maximum(np.abs(s + 38 + 0.05 * (f - 55)) - 3, np.abs(f - 58) - 26)
        _paint(image, 0.1, self._soft(palate))
        _paint(image, config.fat * 0.45, self._soft(palate + 1.6))
        # The airway: nose, behind the palate, behind the tongue, larynx, windpipe.
        places = (-70, -45, -30, -12, 8, 24, 38, 50, 62, 90, 130, 180)
        middle = _lookup(s, places, (34, 30, 17, 11, 11, 11, 15, 19, 21, 21, 19, 17))
        half = _lookup(s, places, (16, 13, 8, 3.5, 5, 5.5, 4.5, 2.2, 6, 7.5, 7.5, 8))
        wall, sides = np.abs(f - middle) - half, np.abs(x) - np.where(s > 30, 8, 13)
        tube = np.maximum(wall, sides)
        _paint(image, tissue * 1.25, 0.9 * self._soft(tube - 1.4))  # its lining
        rings = _step(-0.2, 0.6, np.sin(s / 0.75)) * _step(42, 50, s)
        _paint(image, 0.1, 0.7 * self._soft(np.maximum(np.abs(wall - 2.6) - 0.9, sides)) * rings)
        _paint(image, 0.015, self._soft(tube))
        _paint(image, tissue * 1.3, self._soft(oval(-26, 24, 4, 14, -0.75)))  # soft palate
        _paint(image, tissue * 1.5, self._soft(oval(16, 13, 10, 1.3) + np.abs(s - 16) * 0.03))  # epiglottis
        _paint(image, tissue * 1.2, 0.8 * self._soft(oval(-52, 44, 5, 12)))  # turbinate

    def _paint_spine(self, image, s, d, x):
        """Vertebral bodies, discs, ligaments, arches and spinous processes."""
        config = self.config
        bumps = [self.textures[name](np.zeros(1), s, d)[0] for name in ("bump", "bump2")]
        marrow = self.textures["marrow"](x, s, d)
        in_front = d - self._along(self.front, s) - 1.2  # of the bodies' back wall
        s = s + 0.55 * bumps[0]
        wall = in_front + 0.5 * bumps[1]
        side = np.abs(x)

        upper = np.clip(np.searchsorted(self.disc_s, s, side="right") - 1, 0, len(self.disc_s) - 2)
        pitch = np.diff(self.disc_s).astype(np.float32)[upper]
        along = s - (self.disc_s[upper] + self.disc_s[upper + 1]).astype(np.float32) / 2
        nearest = np.where(along < 0, upper, upper + 1)
        depth = config.body_depth_mm * self.body_depth[upper] * _lookup(s, (-20, 0, 60, 150), (0.88, 0.94, 1, 1.15))
        column = np.maximum(-in_front - 1, wall - depth - 1.8)
        below_dens = _step(-1.5, 1.5, s - self.disc_s[0].astype(np.float32))
        _paint(image, 0.08, self._soft(np.maximum(column, side - 14)) * below_dens)  # ligaments and cortical bone
        level, endplate = np.abs(along) / (pitch / 2), np.abs(along) - pitch * _BODY_HEIGHT / 2
        waist = 0.9 * np.clip(1 - 1.5 * level**2, 0, 1)
        spur = self.spur[nearest] * np.exp(-(((level - 0.62) / 0.2) ** 2))
        across = np.maximum(waist - wall, wall - depth + 1.3 * waist - spur)
        rim = (2 * wall / depth - 1) ** 2  # 1 at the front and back edge, 0 in the middle
        body = np.maximum(endplate + 0.5 * (1 - rim), across)
        body = body + 0.7 * np.exp(-(across**2 + endplate**2) / 2.5)  # rounded corners
        vein = np.exp(-((along / 1.5) ** 2) - (wall / 4.5) ** 2) * self._soft(side - 4)
        signal = self.body_signal[upper] * (1 + 0.13 * marrow + 0.12 * bumps[0]) * (1 + 0.7 * vein)
        _paint(image, signal, self._soft(np.maximum(body, side - 12.5)) * below_dens)
        half = pitch * _DISC_HEIGHT / 2 * self.disc_height[nearest]
        off = np.abs(s - self.disc_s[nearest].astype(np.float32))
        disc = np.maximum(off - half * (1.05 - 0.3 * rim), np.maximum(-wall - 0.6, wall - depth + 0.4))
        core = np.clip(1.1 - ((wall / depth - 0.47) / 0.42) ** 2, 0, 1) * np.clip(1 - (off / half) ** 2, 0, 1)
        signal = self.disc_signal[nearest] * (0.4 + 0.85 * core) * (1 + 0.15 * marrow)
        _paint(image, signal, self._soft(np.maximum(disc, side - 12)) * (nearest > 0) * ~self.fused[nearest])
        if self.fused.any():
            bridge = np.maximum(off - pitch * (1 - _BODY_HEIGHT), np.maximum(1 - wall, wall - depth + 1.5))
            bone = self._soft(np.maximum(bridge, side - 12)) * self.fused[nearest]
            _paint(image, self.body_signal[upper] * (1 + 0.13 * marrow), bone)
        self._paint_atlas(image, s, d + 0.4 * bumps[1], x, marrow)
        self._paint_arches(image, s, d + 0.9 * bumps[1], x, marrow)

    def _paint_atlas(self, image, s, d, x, marrow):
        """The dens of C2 and the arches of C1."""
        config = self.config
        foot = float(self.disc_s[0])
        tip = foot - 18 * config.level_scale
        wall = self._along(self.front, np.maximum(s, -34)) + 1.2
        dens = np.hypot(d - wall - 6.3, x * 1.05) - 5.6 * np.sqrt(np.clip((s - tip) / 6, 0, 1))
        dens = np.maximum(dens, np.maximum(tip - s, s - foot - 3))
        _paint(image, 0.06, self._soft(dens - 1.5))
        _paint(image, config.body * (1 + 0.13 * marrow), self._soft(dens))
        _paint(image, 0.3, 0.6 * np.exp(-(((s - foot - 0.5) / 0.8) ** 2)) * self._soft(dens + 1))
        behind = float(np.interp(tip + 9, self.frame.s, self.back))
        before = float(np.interp(tip + 7, self.frame.s, self.front))
        for at_s, at_d, half_s, half_d in ((tip + 6, before + 16.5, 5.5, 3.4), (tip + 10, -behind - 5, 3.8, 3.6)):
            arch = (np.hypot((s - at_s) / half_s, (d - at_d) / half_d) - 1) * 3.4
            _paint(image, 0.06, self._soft(arch - 0.8))
            _paint(image, config.fat * 0.5, self._soft(arch + 0.9))

    def _paint_arches(self, image, s, d, x, marrow):
        """What lies behind the canal: ligaments and fat, laminae, spinous processes."""
        config = self.config
        back = self._along(self.back, s)
        behind = -d - back
        near = np.flatnonzero((behind > -3) & (behind < 34) & (s > -30))
        strand = self.textures["strand"](x, s[near] + 0.5 * d[near], d[near])
        patch = self.textures["patch"](x, s[near], d[near])
        midline = 0.8 * self._soft(np.abs(x[:, near]) - 7) * _step(-30, -20, s[near])
        part = image[:, near]
        _paint(part, 0.25 + 0.1 * strand, midline * _step(26, 14, behind[near]))
        fatty = _ridge(strand, 0.3) * _step(-0.7, 0.6, patch) * _step(32, 20, behind[near])
        _paint(part, config.fat * 0.75, midline * fatty)
        image[:, near] = part
        for n, (length, slant) in enumerate(zip(_PROCESS_MM, _PROCESS_SLANT, strict=True), 1):
            longer, steeper, thicker, brighter, aside = self.process[n].tolist()
            length = min(length * longer, config.skin_mm - 24)
            root_s = float(self.disc_s[n - 1] + self.disc_s[n]) / 2 + 4
            root_d = -float(np.interp(root_s, self.frame.s, self.back)) - 4
            near = np.flatnonzero((np.abs(s - root_s) < 30) & (d < root_d + 14) & (d > root_d - length - 12))
            if not len(near):
                continue
            u, v, w = s[near] - root_s, root_d - d[near], x[:, near]
            part, bone = image[:, near], self.body_signal[n] * brighter * (1 + 0.2 * marrow[:, near])
            # Fat fills the gaps between the laminae, before the ligament that joins them.
            gap = np.hypot((u - 8) / 4.5, (v + 2.6) / 1.7) - 1
            _paint(part, config.fat * 0.8, 0.8 * self._soft(np.maximum(gap * 2, np.abs(w) - 5)))
            side = np.abs(w - aside)
            plate = v + 0.4 * side  # a lamina runs to the side and forwards
            lamina = np.maximum((np.hypot((u + 0.5 - 0.3 * plate) / 6, plate / 2.7) - 1) * 2.7, side - 16)
            fall = slant + steeper
            t = np.clip((v + fall * u) / (1 + fall**2), 0, length)  # along the process, from its root
            away = np.hypot(u - fall * t, v - t)
            radius = (3.1 + 1.4 * (n in (1, 6))) * thicker * (0.9 + 0.5 * (t / length) ** 3)
            process = np.hypot(away, 2.0 * np.maximum(side - 1.5, 0)) - radius
            arch = np.minimum(lamina, process)
            _paint(part, 0.1, self._soft(arch - 0.9))
            _paint(part, bone, self._soft(arch + 0.2))
            image[:, near] = part

    def _paint_head(self, image, s, d, x):
        """Skull base, cerebellum, pons and the fluid around them, where the field of view reaches so far."""
        config = self.config
        brain, fluid = 1.12, config.csf * 0.97
        up = float(self.disc_s[0]) - 24 * config.level_scale - s  # mm above the foramen magnum
        fold, lobule = self.textures["bump"](np.zeros(1), s, d)[0], self.textures["fat"](x, s, d)
        skull = np.maximum((np.hypot((up - 40) / 47, (d + 26) / 52) - 1) * 47, 0.5 * (np.abs(d + 8) - 18) - up)
        here = up > -8
        _paint(image, 0.08, self._soft(skull) * here)
        _paint(image, config.fat * 0.5 * (1 + 0.1 * lobule), self._soft(np.abs(skull + 2.6 + 0.6 * fold) - 1.3) * here)
        # The skull's inside, and the foramen magnum that leads out of it.
        inside = skull + 5.5
        opening = np.maximum(np.abs(d + 7) - 11 - 0.9 * np.maximum(up, 0), -up - 6)
        _paint(image, fluid, self._soft(np.minimum(inside, np.maximum(opening, skull + 1))) * here)
        clivus = np.maximum(np.abs(d - 18 - 0.45 * up + fold) - 5.2, np.maximum(-up - 1, up - 52))
        _paint(image, 0.08, self._soft(clivus - 1.2))
        _paint(image, config.fat * 0.5 * (1 + 0.15 * lobule), self._soft(clivus))
        angle, radius = np.arctan2(d + 13, up - 40), np.hypot(up - 40, d + 13)
        cerebellum = (np.hypot((up - 37) / 26, (d + 36) / 24) - 1) * 24 + 0.8 * fold
        cerebellum = np.maximum(cerebellum, 9 - radius)
        _paint(image, brain, self._soft(cerebellum))
        sulci = np.sin(17 * angle + 1.8 * fold + 0.05 * radius)
        _paint(image, fluid * 0.75, 0.65 * self._soft(cerebellum) * _step(0.6, 1, sulci) * _step(10, 22, radius))
        stem = _lookup(up, (-10, 5, 18, 24, 60), (4.5, 5.2, 6.5, 7, 8))
        medulla = np.maximum(np.maximum(np.abs(d - 0.06 * up) - stem, np.abs(x) - 8 - 0.2 * np.maximum(up, 0)), -up - 4)
        pons = np.maximum((np.hypot((up - 33) / 14, (d - 8) / 12) - 1) * 12, np.abs(x) - 17)
        _paint(image, brain * 0.95, self._soft(np.minimum(medulla, pons) + 0.3 * fold))

    def _paint_canal(self, image, s, d, x):
        """Dura, CSF and roots, the cord and its lesions. Returns the parts of cord, sac and lesions in every voxel."""
        config = self.config
        front, back = self._along(self.front, s), self._along(self.back, s)
        centre, half_ap, half_rl = (self._along(v, s) for v in (self.cord_middle, self.cord_ap, self.cord_rl))
        edge = _ellipse(d - (front - back) / 2, (front + back) / 2, x, self._along(self.sac_rl, s), power=2.6)
        _paint(image, 0.1, self._soft(edge - 0.9))
        sac = self._soft(edge)
        flow = self.textures["flow"](x, s, d)
        _paint(image, config.csf * (1 - config.flow_void * np.clip(flow - 0.1, 0, 1.5)), sac)
        # Roots leave the front and back of the cord's sides, falling away from it.
        away = np.abs(d - centre)
        strand = self.textures["root"](x, s + 0.8 * away, d)
        roots = _step(0.2, 1.2, strand) * np.exp(-(((np.abs(x) - 0.95 * half_rl) / 2.6) ** 2)) * _step(0.8, 1.8, away)
        _paint(image, 1.0, 0.55 * sac * roots)

        u, v = (d - centre) / half_ap, np.abs(x) / half_rl
        cord = self._soft(_ellipse(d - centre, half_ap, x, half_rl))
        horns = np.exp(-(((v - 0.32 + 0.08 * u) / 0.14) ** 2) - (u / 0.55) ** 4)
        grey = np.maximum(horns, np.exp(-((u / 0.16) ** 2)) * (v < 0.32))
        signal = 1 + config.grey_matter * grey + 0.03 * self.textures["cord"](x, s, d)
        signal += config.central_canal * np.exp(-(((d - centre) / 0.6) ** 2) - (x / 1.5) ** 2)
        parts = [cord, sac]
        for lesion in config.lesions:
            along, forwards, right = lesion.offset_mm
            halves = lesion.length_mm / 2, lesion.ap_mm / 2, lesion.rl_mm / 2
            from_centre = s - self.segment_s(lesion.segment) - along, d - centre - forwards, x - right
            r = np.sqrt(sum((a / half) ** 2 for a, half in zip(from_centre, halves, strict=True)))
            outside = (r - 1) * min(halves)  # mm, near the border of the ellipsoid
            signal += lesion.contrast * (config.csf - 1) * np.clip(0.5 - outside / 1.2, 0, 1)
            parts.append(self._soft(outside) * cord)
        _paint(image, signal, cord)
        return [part * (s > CORD_TOP_S) for part in parts]


def _measure(image, frame, config, rng):
    """What a scanner makes of it: coil, drift along the neck, a limited spectrum, noise, magnitudes as int16."""
    t = np.linspace(-1, 1, config.shape[1])
    drift = np.cos(np.pi * (0.8 * t + 2 * config.drift_phase)) + 0.3 * np.sin(1.5 * np.pi * t + 9 * config.drift_phase)
    drift = config.drift ** ((drift - drift.min()) / (drift.max() - drift.min()) - 0.5)
    coil = np.exp(-np.maximum(frame.pixel_e, -25) / config.coil_mm)
    image = image * (coil * drift[:, None]).astype(np.float32)
    # Frequencies beyond those measured are absent, from the noise as well; what is kept may fade towards the border.
    # The cosine transform mirrors the image at its edges; the Fourier transform would let one edge ring at the other.
    window = np.ones(config.shape[1:], np.float32)
    for axis in (0, 1):
        n = config.shape[1 + axis]
        reach = np.arange(n) / n * config.acquired_mm / config.spacing_mm[1 + axis]
        fade = np.cos(np.pi / 2 * np.clip((reach - 1 + config.apodisation) / max(config.apodisation, 1e-6), 0, 1)) ** 2
        window *= np.expand_dims(np.where(reach <= 1, fade, 0), 1 - axis)
    noise = rng.standard_normal((2, *config.shape), dtype=np.float32)
    noise *= config.noise / np.sqrt(np.mean(window**2))
    real, imaginary = (idctn(dctn(v, axes=(1, 2)) * window, axes=(1, 2)) for v in (image + noise[0], noise[1]))
    image = np.hypot(real, imaginary)
    return np.clip(np.round(image * config.cord_signal), 0, 32767).astype(np.int16)


def _number(name):
    """The disc's number of a segment."""
    for number, known in SEGMENT_NAMES.items():
        if name == known:
            return number
    raise UsageError(f"{name!r} is not a segment. The segments are {', '.join(SEGMENT_NAMES.values())}.")


def _paint(image, value, share):
    """Cover `image`, in place, by `share` (0–1) with `value`."""
    image += share * (value - image)


def _lookup(places, known_places, values):
    """Linear interpolation, as float32."""
    return np.interp(places, known_places, values).astype(np.float32)


def _step(low, high, value):
    """0 at `low`, 1 at `high`, constant beyond and smooth between; falls where low > high."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _ridge(texture, width):
    """1 where a texture crosses zero: thin winding sheets."""
    return np.exp(-((texture / width) ** 2))


def _ellipse(u, a, v, b, power=2.0):
    """Distance (mm) to the rounded shape |u/a|^p + |v/b|^p = 1, negative inside; right to first order at its border."""
    p, q = np.abs(u / a), np.abs(v / b)
    level = (p**power + q**power) ** (1 / power) + 1e-6
    slope = np.hypot((p / level) ** (power - 1) / a, (q / level) ** (power - 1) / b)
    return (level - 1) / np.maximum(slope, 1e-3)
