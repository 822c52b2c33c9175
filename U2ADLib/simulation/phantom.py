"""A simulated T2-weighted neck with its cord, CSF, discs and lesions (sizes and signals: see `PhantomConfig`).

Every voxel gets coordinates in the neck's own frame: `s`, millimetres along the cord from head to feet, `u`,
perpendicular to it in the sagittal plane (posterior positive), and `x`, across. Tissues are painted in that frame, one
over the other, with edges as soft as the voxel is large; then come texture, coil, blur and noise, as in a scanner.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from ..config import SEGMENT_NAMES
from ..errors import UsageError
from ..volume import Volume, reorient

# Template distances from disc to disc, mm: C2/3 → C3/4 is the height of C3, and so on to T3 (method notes, PAM50).
_PITCH = {3: 18.5, 4: 18.5, 5: 16.5, 6: 15.5, 7: 17.0, 8: 21.5, 9: 22.0, 10: 22.5, 11: 23.0}
# Cord half-diameters (AP, RL) at C3, C5, C7, T1, mm.
_CORD_LEVELS = (3.0, 5.0, 7.0, 8.0)
_CORD_AP = (7.5, 7.4, 6.3, 6.0)
_CORD_RL = (12.0, 12.5, 10.5, 9.6)


@dataclass(frozen=True)
class LesionConfig:
    """A soft-edged ellipsoid in the cord, centred in a segment."""

    segment: str  # "C4-5"
    contrast: float = 0.5  # share of the difference between CSF and cord
    ap_mm: float = 4.0
    length_mm: float = 12.0
    rl_mm: float = 5.0
    offset_mm: float = 0.0  # of the centre towards the back


@dataclass(frozen=True)
class PhantomConfig:
    """Geometry of the scan, anatomy and signal. Signals are relative to the cord's."""

    slices: int = 15
    rows: int = 320
    columns: int = 320
    pixel_mm: float = 0.7
    slice_mm: float = 3.3
    codes: str = "LIP"  # where the array's axes point
    tilt_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the whole scan about R, A, S
    lordosis_degrees: float = 15.0  # between C2 and C7; negative: kyphosis
    thoracic_degrees: float = 30.0  # kyphosis below C7
    lean_degrees: float = 8.0  # of the neck at C2, forwards
    lateral_mm: float = 2.0  # side-to-side bend of the cord
    size: float = 1.0  # of the whole neck
    cord_size: float = 1.0
    sac_ap_mm: float = 13.0  # cord and CSF
    cord_shift: float = 0.0  # of the cord in the sac, −1 … 1 of the room there is, towards the back
    top_mm: float = 45.0  # field of view above the disc C2/3
    csf: float = 2.2
    body: float = 0.85
    disc: float = 0.45
    disc_spread: float = 0.25
    muscle: float = 0.45
    fat: float = 3.0
    grey_matter: float = 0.06  # brighter than white matter by
    cord_texture: float = 0.03
    cord_drift: float = 0.04  # slow changes along the cord
    coil: float = 1.6  # ratio of the brightest to the darkest place along the neck
    blur_mm: float = 0.6  # FWHM in the plane
    noise: float = 0.05  # standard deviation
    flow_voids: float = 0.15
    bulges: tuple[tuple[int, float], ...] = ()  # (disc number, depth in mm) that indent sac and cord
    lesions: tuple[LesionConfig, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Phantom:
    """volume int16; cord, csf, discs (single voxels 3 … 8 at the posterior tips) and lesions (1 … n) uint8."""

    volume: Volume
    cord: Volume
    csf: Volume
    discs: Volume
    lesions: Volume
    description: dict


def random_config(kind: str, rng: np.random.Generator, **changes) -> PhantomConfig:
    """Anatomy and signal at random for a scan of the given kind: "clinical" (2D TSE) or "space" (3D, 1 mm)."""
    if kind not in ("clinical", "space"):
        raise UsageError(f"A phantom is of kind 'clinical' or 'space', not {kind!r}.")
    u = rng.uniform
    clinical = kind == "clinical"
    pixel = u(0.4, 0.8) if clinical else 1.0
    field_mm = u(200, 260)
    drawn = dict(
        slices=int(rng.integers(9, 18)) if clinical else 24,
        rows=int(field_mm / pixel),
        columns=int(field_mm / pixel),
        pixel_mm=float(pixel),
        slice_mm=float(u(3.3, 5.0)) if clinical else 1.0,
        codes=str(rng.choice(["LIP", "RIP", "PSR", "PIL"])),
        tilt_degrees=tuple(u(-6, 6, 3).tolist()),
        lordosis_degrees=float(u(-15, 40)),
        thoracic_degrees=float(u(15, 45)),
        lean_degrees=float(u(-5, 18)),
        lateral_mm=float(u(0, 4)),
        size=float(u(0.88, 1.12)),
        cord_size=float(u(0.85, 1.15)),
        sac_ap_mm=float(u(11.0, 15.5)),
        cord_shift=float(u(-0.8, 0.5)),
        top_mm=float(u(25, 80)),
        csf=float(u(1.7, 2.8) if clinical else u(3.2, 5.4)),
        body=float(u(0.6, 1.1) if clinical else u(0.4, 0.75)),
        disc=float(u(0.25, 0.7) if clinical else u(0.35, 0.9)),
        disc_spread=float(u(0.1, 0.4)),
        muscle=float(u(0.25, 0.6)),
        fat=float(u(1.8, 4.0)),
        grey_matter=float(u(0.0, 0.1)),
        cord_texture=float(u(0.01, 0.05)),
        cord_drift=float(u(0.02, 0.08)),
        coil=float(u(1.0, 2.2)),
        blur_mm=float(u(0.5, 1.3)),
        noise=float(u(0.02, 0.07)),
        flow_voids=float(u(0.0, 0.35)),
    )
    return PhantomConfig(**(drawn | changes))


class _Neck:
    """The curve of the cord and the neck's frame: s along it, u across it, x from its middle."""

    def __init__(self, config: PhantomConfig, rng: np.random.Generator):
        size = config.size
        self.disc_s = {3: 0.0}
        for number, pitch in _PITCH.items():
            self.disc_s[number + 1] = self.disc_s[number] + pitch * size * rng.uniform(0.95, 1.05)
        s = np.arange(-150.0, 260.0, 0.5)
        c7 = self.disc_s[7]
        # The slope against the vertical turns from the lean at C2 by the lordosis, and back below C7.
        lordosis = np.interp(s, [-40, c7 * 0.9], [0, 1])
        lordosis = gaussian_filter(lordosis, 30, mode="nearest")
        thoracic = gaussian_filter(np.interp(s, [c7, c7 + 110], [0, 1]), 30, mode="nearest")
        slope = np.deg2rad(config.lean_degrees + config.lordosis_degrees * lordosis - config.thoracic_degrees * thoracic)
        self.s, self.slope = s, slope
        z, y = np.cumsum(np.cos(slope)) * 0.5, np.cumsum(np.sin(slope)) * 0.5
        middle = np.searchsorted(s, (self.disc_s[3] + self.disc_s[8]) / 2)
        self.z, self.y = z - np.interp(0, s, z), y - y[middle]
        bend = rng.uniform(0, 2 * np.pi)
        self.x = config.lateral_mm * np.sin(s / 70 + bend)

    def frame(self, x, y, z):
        """(s, u, x) of points in mm; y posterior, z down, x to the patient's left."""
        at = np.interp(z, self.z, np.arange(len(self.z)))
        index = at.astype(int)
        slope = np.interp(at, np.arange(len(self.z)), self.slope)
        ahead = y - np.interp(z, self.z, self.y)
        # One Newton step towards the foot of the perpendicular; limited where the curve's radius is small.
        s = self.s[index] + (at - index) * 0.5 + np.clip(ahead, -60, 60) * np.sin(slope)
        at = np.interp(s, self.s, np.arange(len(self.s)))
        foot_y, foot_z = np.interp(s, self.s, self.y), np.interp(s, self.s, self.z)
        slope = np.interp(s, self.s, self.slope)
        u = (y - foot_y) * np.cos(slope) - (z - foot_z) * np.sin(slope)
        return s, u, x - np.interp(s, self.s, self.x)

    def point(self, s, u, x=0.0):
        """(x, y, z) of a place in the neck's frame."""
        slope = np.interp(s, self.s, self.slope)
        y = np.interp(s, self.s, self.y) + u * np.cos(slope)
        z = np.interp(s, self.s, self.z) - u * np.sin(slope)
        return np.interp(s, self.s, self.x) + x, y, z


def simulate_phantom(config: PhantomConfig | None = None, seed: int = 0) -> Phantom:
    """Paint, degrade and label. The same configuration and seed give the same bytes."""
    config = config or PhantomConfig()
    rng = np.random.default_rng(seed)
    neck = _Neck(config, rng)
    shape = (config.slices, config.rows, config.columns)
    thick = max(1, round(config.slice_mm))  # a thick slice is the mean of thin ones
    x = (np.arange(config.slices * thick) - (config.slices * thick - 1) / 2) * config.slice_mm / thick
    z = np.arange(config.rows) * config.pixel_mm - config.top_mm
    front = 0.55 * config.columns * config.pixel_mm  # the cord lies behind the middle of the picture
    y = np.arange(config.columns) * config.pixel_mm - front
    # s and u do not depend on x: the neck is straight across, its bend is small.
    s, u, _ = neck.frame(0.0, y[None, :], z[:, None])
    shift = np.interp(s, neck.s, neck.x)
    signal = np.zeros(shape, np.float32)
    parts = {name: np.zeros(shape, np.float32) for name in ("cord", "csf", *range(1, len(config.lesions) + 1))}
    body = _tissue_maps(neck, config, s, u, rng)
    for k, across in enumerate(x):
        slab = k // thick
        image, cord, sac, lesions = _paint(neck, config, body, s, u, across - shift)
        signal[slab] += image / thick
        parts["cord"][slab] += cord / thick
        parts["csf"][slab] += (sac - cord) / thick
        for number, lesion in enumerate(lesions, start=1):
            parts[number][slab] += lesion / thick
    signal = _acquire(signal, config, s, rng)
    affine, change = _geometry(config, y, z)
    discs = np.zeros(shape, np.uint8)
    for number in SEGMENT_NAMES:
        tip = -_sac_front(neck, config, neck.disc_s[number])
        px, py, pz = neck.point(neck.disc_s[number], tip)
        at = ((px - x.mean()) / config.slice_mm + (config.slices - 1) / 2, (pz - z[0]) / config.pixel_mm,
              (py - y[0]) / config.pixel_mm)  # fmt: skip
        at = np.round(at).astype(int)
        if (at >= 0).all() and (at < shape).all():
            discs[tuple(at)] = number
    labels = np.zeros(shape, np.uint8)
    for number in range(1, len(config.lesions) + 1):
        labels[parts[number] > 0.5] = number
    scale = 1000 / np.percentile(signal, 99.5)

    def volume(array, name):
        return Volume(np.ascontiguousarray(change(array)), affine, name)

    return Phantom(
        volume=volume(np.clip(np.round(signal * scale), 0, 32767).astype(np.int16), "phantom"),
        cord=volume((parts["cord"] > 0.5).astype(np.uint8), "phantom_cord"),
        csf=volume((parts["csf"] > 0.5).astype(np.uint8), "phantom_csf"),
        discs=volume(discs, "phantom_discs"),
        lesions=volume(labels, "phantom_lesions"),
        description={"seed": seed, "config": asdict(config), "disc_mm": {str(k): v for k, v in neck.disc_s.items()}},
    )


def _soft(distance, edge=0.5):
    """1 inside (negative distance, mm), 0 outside, linear over ± edge."""
    return np.clip(0.5 - distance / (2 * edge), 0, 1)


def _box(wanted):
    """The smallest window (two slices) around the true pixels; None if there are none."""
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _field(rng, shape, sigma, step=1.0):
    """Smooth random field, mean 0, standard deviation 1; `sigma` in pixels, computed on a coarse grid."""
    factor = max(1, int(sigma / 3))
    coarse = gaussian_filter(rng.standard_normal([n // factor + 2 for n in shape]), sigma / factor)
    fine = zoom(coarse, factor, order=1)[tuple(slice(n) for n in shape)] if factor > 1 else coarse[
        tuple(slice(n) for n in shape)
    ]
    return (fine / max(fine.std(), 1e-9)).astype(np.float32)


def _level(neck, s, values):
    """Interpolate values given at C3, C5, C7 and T1 (middle of the vertebra) over s."""
    at = [(neck.disc_s[v] + neck.disc_s[v + 1]) / 2 for v in (3, 5, 7, 8)]
    return np.interp(s, at, values)


def _indent(neck, config, s):
    """Depth in mm by which discs push the sac's front back."""
    depth = np.zeros_like(s, dtype=float)
    for number, mm in config.bulges:
        depth += mm * np.exp(-0.5 * ((s - neck.disc_s[number]) / 3.5) ** 2)
    return depth


def _sac_front(neck, config, s):
    """Distance from the cord's line to the front of the sac at s, mm."""
    s = np.asarray(s, float)
    return config.sac_ap_mm / 2 + config.cord_shift * _room(neck, config, s) - _indent(neck, config, s)


def _cord_ap(neck, config, s):
    cord = config.cord_size * _level(neck, s, _CORD_AP)
    above = np.clip((-18.0 - s) / 40, 0, 1)  # towards the medulla and the pons
    return cord * (1 + 0.25 * above) + 12 * np.clip((-45 - s) / 18, 0, 1) ** 2


def _room(neck, config, s):
    """Half of the free space in front of and behind the cord, mm."""
    return np.maximum((config.sac_ap_mm - _cord_ap(neck, config, s)) / 2 - 0.6, 0)


def _tissue_maps(neck, config, s, u, rng):
    """What does not change across the thin slices of the middle: signals and masks (H, W) of bone, muscle and skin."""
    shape, mm = s.shape, config.pixel_mm
    maps = {"texture": _field(rng, shape, 1.2 / mm)}
    streak = _field(rng, shape, 2.5 / mm)
    maps["muscle"] = config.muscle * (1 + 0.25 * streak) + np.clip(streak - 1.0, 0, 1) * config.fat * 0.5
    maps["behind"] = 30 + 10 * np.clip((s - 20) / 80, 0, 1.5) + 2 * _field(rng, shape, 20 / mm)
    maps["front"] = 48 - 10 * np.clip((s - 30) / 60, 0, 1) + np.clip(s - 105, 0, 60) * 0.9
    maps["csf_flow"] = 1 - config.flow_voids * np.clip(_field(rng, shape, 2.5 / mm), 0, 2)
    maps["cord"] = (
        1 + config.cord_texture * _field(rng, shape, 0.9 / mm)
        + config.cord_drift * _field(rng, (shape[0], 1), 14 / mm)
    )  # fmt: skip
    level_signal = {n: config.body * (1 + 0.08 * rng.standard_normal()) for n in range(0, 14)}
    disc_signal = {n: config.disc * np.exp(config.disc_spread * rng.standard_normal()) for n in range(0, 14)}
    maps["body"], maps["disc"] = level_signal, disc_signal
    maps["spinous"] = {n: rng.uniform(0.8, 1.2) for n in range(0, 14)}
    return maps


def _paint(neck, config, maps, s, u, x):
    """One thin sagittal slice at the lateral position x (H, W): signal, cord, sac and lesion shares."""
    edge = 0.5 * config.pixel_mm
    front = _sac_front(neck, config, s)
    back = config.sac_ap_mm / 2 - config.cord_shift * _room(neck, config, s)
    image = maps["muscle"] * _soft(u - maps["behind"], 3) + config.fat * (1 - _soft(u - maps["behind"], 3))
    # In front: prevertebral muscle, airway, then soft tissue of the throat and face.
    vertebra_front = front + 2.0 + 16.5 * config.size
    gullet = vertebra_front + 5
    image = np.where(-u > gullet, config.muscle * 1.1 * (1 + 0.15 * maps["texture"]), image)
    airway = _soft(np.maximum(np.abs(-u - gullet - 7) - 6 - 1.5 * np.sin(s / 15), np.abs(x) - 9), 1.0)
    image = image * (1 - airway) + 0.03 * airway
    # Skin and air around the neck.
    outside = 1 - _soft(np.maximum(u - maps["behind"] - 13, -u - maps["front"] - 26), 1.0)
    image = _column(neck, config, maps, image, s, u, x, front, edge)
    image = _posterior(neck, config, maps, image, s, u, x, back, edge)
    image = _skull(config, maps, image, s, u, x)
    # Sac: an ellipse across, wider at the foramen magnum.
    cistern = np.clip((-38 - s) / 14, 0, 1)
    half_width = config.size * 10.5 + 10 * cistern
    front_c, back_c = front + 3 * cistern, back + 10 * cistern
    across = np.sqrt(np.clip(1 - (x / half_width) ** 2, 0, 1))
    seen = np.abs(x) < half_width
    dura = _soft(np.maximum(u - back_c * across - 0.9, -u - front_c * across - 0.9), edge) * seen
    image = image * (1 - dura) + 0.12 * dura
    sac = _soft(np.maximum(u - back_c * across, -u - front_c * across), edge) * seen
    image = image * (1 - sac) + config.csf * maps["csf_flow"] * sac
    # Cord; a bulge that leaves no room flattens it.
    half = _cord_ap(neck, config, s) / 2
    pushed = np.maximum(half - front + 0.3, 0)
    centre, half = pushed / 2, half - pushed / 2
    rl = config.cord_size * _level(neck, s, _CORD_RL) / 2 + 6 * np.clip((-45 - s) / 18, 0, 1) ** 2
    q = np.sqrt(((u - centre) / half) ** 2 + (x / rl) ** 2)
    cord = _soft((q - 1) * np.minimum(half, rl), edge)
    grey = _soft(np.maximum(np.abs(np.abs(x) - 2.2) - 1.3, np.abs(u - centre) - 2.0), 0.6)
    tissue = maps["cord"] * (1 + config.grey_matter * grey)
    lesions = []
    for lesion in config.lesions:
        number = next(n for n, name in SEGMENT_NAMES.items() if name == lesion.segment)
        r = np.sqrt(
            ((s - neck.disc_s[number]) / (lesion.length_mm / 2)) ** 2
            + ((u - centre - lesion.offset_mm) / (lesion.ap_mm / 2)) ** 2
            + (x / (lesion.rl_mm / 2)) ** 2
        )
        share = _soft((r - 1) * lesion.ap_mm / 2, 0.6) * cord
        tissue = tissue + lesion.contrast * (config.csf - 1) * share
        lesions.append(share)
    image = image * (1 - cord) + tissue * cord
    below = cord * (s > -25)  # what counts as spinal cord begins below the foramen magnum
    return image * (1 - outside), below, sac * (s > -25), lesions


def _column(neck, config, maps, image, s, u, x, front, edge):
    """Vertebral bodies, discs, endplates and the ligaments in front of the sac."""
    depth = 16.5 * config.size
    ahead = -u - front - 1.5  # mm in front of the sac's front wall
    wide = _soft(np.abs(x) - 11 * config.size, 1.0)
    column = _soft(np.maximum(-ahead - 1.5, ahead - depth - 1.5), edge) * wide * (s > -34)
    image = image * (1 - column) + 0.1 * column  # ligaments and cortical bone
    whole = (image, s, u, ahead, wide, maps["texture"], x)
    for number in sorted(neck.disc_s):
        centre = neck.disc_s[number]
        box = _box((np.abs(whole[1] - centre - 8) < 24) & (np.abs(whole[3] - depth / 2) < depth))
        if box is None:
            continue
        image, s, u, ahead, wide, texture, x = (part[box] for part in whole)
        half = 0.16 * _PITCH.get(number, 22.0) * config.size
        disc = _soft(np.maximum(np.maximum(-ahead, ahead - depth), np.abs(s - centre) - half + 0.9), edge) * wide
        rim = np.clip(1.15 - (2 * (ahead - depth / 2) / depth) ** 2, 0.25, 1)
        value = maps["disc"][number] * rim
        image[:] = image * (1 - disc) + value * disc
        following = neck.disc_s.get(number + 1, centre + 23 * config.size)
        half_next = 0.16 * _PITCH.get(number + 1, 22.0) * config.size
        waist = 0.6 * np.sin(np.pi * np.clip((s - centre) / (following - centre), 0, 1))
        inside = np.maximum(centre + half + 0.7 - s, s - following + half_next + 0.7)
        bone = _soft(np.maximum(np.maximum(-ahead + waist, ahead - depth + waist), inside), edge) * wide
        vein = np.exp(-0.5 * (((s - (centre + following) / 2) / 0.8) ** 2 + ((ahead - 1.5) / 3) ** 2)) * (np.abs(x) < 4)
        whole[0][box] = image * (1 - bone) + maps["body"][number] * (1 + 0.08 * texture + 0.8 * vein) * bone
    image, s, u, ahead, wide, texture, x = whole
    # C2 with the dens, and the front arch of C1.
    c2_top = -0.16 * 15.5 * config.size - 0.7
    c2 = _soft(np.maximum(np.maximum(-ahead, ahead - depth * 0.95), np.maximum(s - c2_top, c2_top - 17 - s)), edge)
    dens = _soft(np.maximum(np.abs(ahead - 6.5) - 5.0, np.maximum(s - c2_top, c2_top - 33 - s)), edge)
    c2 = np.maximum(c2 * wide, dens * _soft(np.abs(x) - 5.5, 0.8))
    image = image * (1 - c2) + maps["body"][2] * (1 + 0.08 * maps["texture"]) * c2
    line = np.exp(-0.5 * ((s - c2_top + 15) / 0.7) ** 2) * _soft(np.abs(ahead - 6.5) - 4.5, 0.5) * c2
    image = image * (1 - 0.5 * line)
    arch = _soft(np.hypot(ahead - 16.5, s - c2_top + 27) - 4, edge)
    return image * (1 - arch) + maps["body"][1] * arch


def _posterior(neck, config, maps, image, s, u, x, back, edge):
    """Ligamentum flavum, laminae and spinous processes with fat between them."""
    behind = u - back - 1.0
    near = _soft(np.maximum(-behind, behind - 34), 1.0) * _soft(np.abs(x) - 9, 2.0) * (s > -30)
    fatty = config.fat * 0.55 * (1 + 0.3 * maps["texture"])
    image = image * (1 - 0.6 * near) + fatty * 0.6 * near
    whole = (image, s, behind, maps["texture"], x)
    for number in sorted(neck.disc_s):
        middle = neck.disc_s[number] + 4 * config.size
        box = _box((np.abs(whole[1] - middle - 7) < 18) & (np.abs(whole[2] - 20) < 24))
        if box is None:
            continue
        image, s, behind, texture, x = (part[box] for part in whole)
        length = np.interp(number, [2, 3, 5, 8, 13], [22, 16, 15, 30, 30]) * config.size * maps["spinous"][number]
        droop = s - middle - 0.35 * np.clip(behind, 0, 40)
        height = 4.2 + 0.06 * np.clip(behind, 0, 30)
        outer = np.maximum(np.maximum(-behind - 0.4, behind - length - 1), np.abs(droop) - height - 1)
        cortex = _soft(outer, edge) * _soft(np.abs(x) - 5 - 8 * (behind < 4), 1.0)
        image = image * (1 - cortex) + 0.12 * cortex
        inner = np.maximum(np.maximum(-behind + 1.2, behind - length), np.abs(droop) - height)
        bone = _soft(inner, edge) * _soft(np.abs(x) - 4 - 8 * (behind < 4), 1.0)
        whole[0][box] = image * (1 - bone) + maps["body"][number] * (1 + 0.08 * texture) * bone
    image, s, behind, texture, x = whole
    flavum = _soft(np.abs(u - back - 0.6) - 0.6, edge) * _soft(np.abs(x) - 9, 1.0) * (s > -25)
    return image * (1 - flavum) + 0.15 * flavum


def _skull(config, maps, image, s, u, x):
    """Clivus in front of and cerebellum, skull behind the brain stem, above the foramen magnum."""
    up = _soft(s + 42 + 0.25 * np.clip(u, -30, 60), 2.0)
    brain = 1.15 * (1 + 0.12 * np.sin(np.hypot(u - 30, s + 75) * 2.2)) * np.ones_like(image)
    vault = _soft(np.hypot((u - 28) / 48, (s + 85) / 45) - 1, 0.03) * up
    image = image * (1 - up * 0.9) + config.muscle * 0.6 * up * 0.9
    bone = _soft(np.abs(np.hypot((u - 28) / 48, (s + 85) / 45) - 1.06) * 47 - 3, 0.8) * _soft(s + 34, 2.0)
    image = image * (1 - bone) + 0.25 * config.body * bone
    image = image * (1 - vault) + config.csf * 0.9 * vault
    cerebellum = _soft(np.hypot((u - 32) / 30, (s + 85) / 34) - 1, 0.04) * _soft(-(u - 6), 0.8)
    image = image * (1 - cerebellum) + brain * cerebellum
    clivus = _soft(np.maximum(np.abs(-u - 22 + 0.3 * (s + 50)) - 6, np.maximum(s + 44, -s - 110)), 1.0)
    return image * (1 - clivus) + config.body * 1.1 * clivus


def _acquire(signal, config, s, rng):
    """Coil, blur, Rician noise: from tissue to what the scanner writes."""
    drift = gaussian_filter(rng.standard_normal(signal.shape[1] + 200), 60 / config.pixel_mm)[100:-100]
    drift = (drift - drift.min()) / max(np.ptp(drift), 1e-9)
    depth = 0.15 * np.linspace(-1, 1, signal.shape[2]) * rng.uniform(0, 1)  # brighter towards the coil in the back
    coil = np.exp(drift * np.log(config.coil))[:, None] * np.exp(depth)
    sigma = config.blur_mm / 2.355 / config.pixel_mm
    signal = gaussian_filter(signal * coil, (0, sigma, sigma))
    level = np.sqrt(config.coil)
    real = signal + config.noise * level * rng.standard_normal(signal.shape)
    return np.hypot(real, config.noise * level * rng.standard_normal(signal.shape)).astype(np.float32)


def _geometry(config, y, z):
    """Affine of the array as it will be stored, and the function that turns [slice, row, column] into it."""
    # [slice, row, column] runs to the left, down and back; x, y, z are left, posterior, inferior mm.
    standing = np.array(
        [
            [-config.slice_mm, 0, 0, config.slice_mm * (config.slices - 1) / 2],
            [0, 0, -config.pixel_mm, -y[0]],
            [0, -config.pixel_mm, 0, -z[0]],
            [0, 0, 0, 1.0],
        ]
    )
    a, b, c = np.deg2rad(config.tilt_degrees)
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned = np.eye(4)
    turned[:3, :3] = turn_x @ turn_y @ turn_z
    shape = (config.slices, config.rows, config.columns)
    stored, change = reorient(Volume(np.broadcast_to(np.uint8(0), shape), turned @ standing), config.codes)
    return stored.affine, change.apply
