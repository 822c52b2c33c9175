"""What makes a healthy cord look different without a lesion: cameras, motion, anatomy and wrong masks.

Each change is a frozen dataclass: `draw` chooses its parameters, `apply` is a pure function of the image and the cord.
Images are (H, W) with pixels of 1 mm and rows from head to feet; cords are (H, W) bool. Changes of the picture return
an image and take one in which the healthy cord's median is 1 (`Degradation` sees to that); changes of the mask return
a mask.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, gaussian_filter1d, zoom

from ..errors import UsageError
from .plant import CordInSlice

FWHM = 2.355  # of a Gaussian with standard deviation 1


# ----------------------------------------------------------------------------------------------------- the picture


@dataclass(frozen=True)
class Drift:
    """Smooth change of brightness from head to feet. `factor`: largest to smallest."""

    factor: float
    weights: tuple[float, float, float]  # of a line, a cosine and a faster sine
    cosine: tuple[float, float]  # its frequency and phase
    sine_phase: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Drift":
        weights = rng.uniform(-1, 1, 3) * (1, 1, 0.3)
        cosine = rng.uniform(0.4, 1), rng.uniform(-1, 1)
        return cls(rng.uniform(1.2, 2.0), tuple(weights), cosine, rng.uniform(0, 6))

    def apply(self, image, cord):
        t = np.linspace(-1, 1, image.shape[0])
        waves = t, np.cos(np.pi * (t * self.cosine[0] + self.cosine[1])), np.sin(1.5 * np.pi * t + self.sine_phase)
        curve = sum(weight * wave for weight, wave in zip(self.weights, waves, strict=True))
        curve = (curve - curve.min()) / (curve.max() - curve.min())
        return image * (self.factor**curve)[:, None]


@dataclass(frozen=True)
class CoilEdge:
    """Brighter or darker towards one end of the cord: times 1 + height · exp(−rows from that end / length)."""

    height: float
    length: float
    upper: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "CoilEdge":
        return cls(rng.uniform(-0.5, 0.5), rng.uniform(4, 25), bool(rng.random() < 0.5))

    def apply(self, image, cord):
        return image * (1 + self.height * np.exp(-_rows_from_end(cord, self.upper) / self.length))[:, None]


@dataclass(frozen=True)
class CoilBumps:
    """One to three broad bumps of brightness along the neck. bumps: (height, centre in mm, width in mm)."""

    factor: float  # largest to smallest
    bumps: tuple[tuple[float, float, float], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, rows: int) -> "CoilBumps":
        count = int(rng.integers(1, 4))
        bumps = ((rng.uniform(-0.35, 0.8), rng.uniform(0, rows), rng.uniform(12, 35)) for _ in range(count))
        return cls(rng.uniform(1.3, 2.2), tuple(bumps))

    def apply(self, image, cord):
        rows = np.arange(image.shape[0])
        gain = np.ones(len(rows))
        for height, centre, width in self.bumps:
            gain = gain + height * np.exp(-0.5 * ((rows - centre) / width) ** 2)
        gain = np.maximum(gain, 0.35)
        gain = gain / gain.min()
        if gain.max() > 1.05:
            gain = gain ** (np.log(self.factor) / np.log(gain.max()))
        return image * gain[:, None]


@dataclass(frozen=True)
class Noise:
    """Rician noise. sigma: of each channel. grain_px: standard deviation of its grain, 0 is white."""

    sigma: float
    grain_px: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, grainy: bool = False) -> "Noise":
        return cls(rng.uniform(0.03, 0.07), rng.uniform(0.4, 0.8) if grainy else 0.0, int(rng.integers(2**32)))

    def apply(self, image, cord):
        return _with_noise(image, self.sigma, self.grain_px, self.seed)


@dataclass(frozen=True)
class EdgeNoise:
    """Noise that grows towards one end of the cord, as where the coils hardly reach: an image whose brightness was
    evened out is noisier there. sigma, grain_px: as in `Noise`, at that end; sigma falls by a factor e every `length`
    rows."""

    sigma: float
    length: float
    upper: bool
    grain_px: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "EdgeNoise":
        upper = bool(rng.random() < 0.5)
        return cls(rng.uniform(0.03, 0.25), rng.uniform(4, 25), upper, rng.uniform(0, 0.8), int(rng.integers(2**32)))

    def apply(self, image, cord):
        sigma = self.sigma * np.exp(-_rows_from_end(cord, self.upper) / self.length)[:, None]
        return _with_noise(image, sigma, self.grain_px, self.seed)


@dataclass(frozen=True)
class Swell:
    """The whole width of the cord gets a little brighter and darker along it, as where it thickens for the arms.

    share: standard deviation, part of the cord's level. rows: standard deviation of the smoothing.
    """

    share: float
    rows: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Swell":
        return cls(rng.uniform(0.02, 0.08), rng.uniform(4, 12), int(rng.integers(2**32)))

    def apply(self, image, cord):
        # Twice as long as the image, so that its standard deviation is not that of a few waves alone.
        wave = gaussian_filter1d(np.random.default_rng(self.seed).standard_normal(2 * len(image)), self.rows)
        wave = 1 + self.share * np.clip(wave / wave.std(), -2, 2)[: len(image), None]
        inside = gaussian_filter(cord.astype(float), 0.5)  # what lies half in the fluid changes by half
        return image * (1 + (wave - 1) * inside)


@dataclass(frozen=True)
class Blur:
    """A Gaussian. fwhm_mm: full width at half of its maximum."""

    fwhm_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Blur":
        return cls(rng.uniform(1.2, 1.5))

    def apply(self, image, cord):
        return gaussian_filter(image, self.fwhm_mm / FWHM)


@dataclass(frozen=True)
class Coarse:
    """Measured on fewer pixels and interpolated. factor: of the number of pixels along each side."""

    factor: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Coarse":
        return cls(rng.uniform(0.65, 0.85))

    def apply(self, image, cord):
        coarse = zoom(image, self.factor, order=1)
        return zoom(coarse, [n / m for n, m in zip(image.shape, coarse.shape, strict=True)], order=1)


@dataclass(frozen=True)
class FlowVoids:
    """Moving CSF loses signal in patches; the cord keeps its own."""

    depth: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "FlowVoids":
        return cls(0.25, int(rng.integers(2**32)))

    def apply(self, image, cord):
        flow = gaussian_filter(np.random.default_rng(self.seed).standard_normal(image.shape), 3)
        loss = np.clip(1 - self.depth * np.maximum(flow / flow.std(), 0), 0.4, 1)
        fluid = binary_dilation(cord, iterations=4) & ~cord & (image > 1.5)
        return np.where(fluid, image * loss, image)


@dataclass(frozen=True)
class MotionGhost:
    """Swallowing and breathing repeat the picture, faintly, along the direction of phase encoding.

    shift_px: rows (positive: towards the feet); the repetition interferes with the picture with the phase (radians).
    """

    shift_px: int
    strength: float
    phase: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "MotionGhost":
        shift = int(rng.integers(12, 60)) * int(rng.choice((-1, 1)))
        return cls(shift, rng.uniform(0.04, 0.12), rng.uniform(0, 2 * np.pi))

    def apply(self, image, cord):
        ghost = np.roll(image, self.shift_px, axis=0) + np.roll(image, -self.shift_px, axis=0)
        return np.abs(image + self.strength * np.exp(1j * self.phase) * ghost)


@dataclass(frozen=True)
class CentralCanal:
    """A central canal that shows as a thin bright line: normal. contrast: part of the way from cord to CSF."""

    contrast: float
    width_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "CentralCanal":
        return cls(rng.uniform(0.1, 0.3), rng.uniform(0.6, 1.2))

    def apply(self, image, cord):
        place = CordInSlice(image, cord)
        line = np.exp(-0.5 * (place.across * FWHM / self.width_mm) ** 2)
        return image + place.to_slice(line * self.contrast * (place.csf_ratio - 1) * place.level(place.s))


def _rows_from_end(cord: np.ndarray, upper: bool) -> np.ndarray:
    """How many rows each row (H,) lies below the cord's upper end, or above its lower one; 0 beyond it."""
    rows, every = np.flatnonzero(cord.any(1)), np.arange(len(cord))
    return np.maximum(every - rows[0] if upper else rows[-1] - every, 0)


def _with_noise(image, sigma, grain_px, seed):
    """Rician noise; `sigma` of each channel is a number or one for each row, (H, 1)."""
    channels = np.random.default_rng(seed).standard_normal((2, *image.shape))
    if grain_px:
        channels = gaussian_filter(channels, (0, grain_px, grain_px))
        channels /= channels.std()
    real, imaginary = channels * sigma
    return np.hypot(image + real, imaginary)


# -------------------------------------------------------------------------------------------------------- the mask


@dataclass(frozen=True)
class MaskError:
    """A mask that is wrong by one pixel: "none", "dilated", "eroded", "forwards", "backwards", "up" or "down"."""

    error: str

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "MaskError":
        """None, wider, narrower, to the front, to the back, along the cord: equally likely."""
        error = rng.choice(("none", "dilated", "eroded", "forwards", "backwards", "along"))
        return cls(str(rng.choice(("up", "down")) if error == "along" else error))

    @classmethod
    def draw_outwards(cls, rng: np.random.Generator) -> "MaskError":
        """One that takes in CSF."""
        return cls(str(rng.choice(("dilated", "forwards", "backwards"))))

    def apply(self, image, cord):
        if self.error == "dilated":
            return binary_dilation(cord)
        if self.error == "eroded":
            return binary_erosion(cord)
        shifts = {"none": (0, 0), "forwards": (0, -1), "backwards": (0, 1), "up": (-1, 0), "down": (1, 0)}
        return np.roll(cord, shifts[self.error], axis=(0, 1))


@dataclass(frozen=True)
class FollowedEdge:
    """A mask as automatic methods make it: it follows the visible edge and wanders along it by a pixel.

    Certain cord (2 px inside the mask) and what is darker than 1.5 times the local cord up to 1 px outside the mask.
    Apply it to the image without lesion, so that a lesion does not shape its own mask.
    """

    seed: int
    wander_px: float = 0.3

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "FollowedEdge":
        return cls(int(rng.integers(2**32)))

    def apply(self, image, cord):
        inner = binary_erosion(cord)
        total, count = (gaussian_filter1d(v.sum(1).astype(float), 10) for v in (np.where(inner, image, 0), inner))
        dark = image < 1.5 * (total / np.maximum(count, 1e-6))[:, None]
        followed = binary_erosion(cord, iterations=2) | (binary_dilation(cord) & dark)
        followed = gaussian_filter(followed.astype(float), 0.7) > 0.5
        wander = gaussian_filter1d(np.random.default_rng(self.seed).standard_normal((2, len(image))), 4, axis=1)
        front, back = np.round(self.wander_px * wander / wander.std(axis=1, keepdims=True)).astype(int)
        mask = np.zeros_like(cord)
        for row in np.flatnonzero(followed.any(1)):
            first, last = np.flatnonzero(followed[row])[[0, -1]]
            mask[row, max(first - front[row], 0) : last + back[row] + 1] = True
        return mask


PictureChange = (
    Drift | CoilEdge | CoilBumps | Noise | EdgeNoise | Swell | Blur | Coarse | FlowVoids | MotionGhost | CentralCanal
)
MaskChange = MaskError | FollowedEdge

# ------------------------------------------------------------------------------------------------------- together


@dataclass(frozen=True)
class Degradation:
    """Changes of the picture, in this order, and one of the mask."""

    picture: tuple[PictureChange, ...] = ()
    mask: MaskChange = MaskError("none")

    def apply(
        self, image: np.ndarray, cord: np.ndarray, healthy: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The degraded image (H, W), in the unit of the input, and the mask (H, W) a method is given.

        :param image: in a unit in which 0 is no signal.
        :param healthy: the image before a lesion was planted: what `FollowedEdge` looks at.
        """
        healthy = image if healthy is None else healthy
        mask = self.mask.apply(healthy, cord)
        level = np.median(healthy[cord])
        for change in self.picture:
            image = level * change.apply(image / level, cord)
        return image, mask


def _clean(rng, rows):
    return Degradation()


def _clinical(rng, rows):
    return Degradation((Blur.draw(rng), Drift.draw(rng), Noise.draw(rng)), MaskError.draw(rng))


def _mismatch(rng, rows):
    bumps, coarse = CoilBumps.draw(rng, rows), Coarse.draw(rng)
    return Degradation((coarse, FlowVoids.draw(rng), bumps, Noise.draw(rng, grainy=True)), FollowedEdge.draw(rng))


# The conditions under which lesions are looked for. "clinical" is also what training may use; "mismatch" is what no
# training has seen.
CONDITIONS: dict[str, Callable[[np.random.Generator, int], Degradation]] = {
    "clean": _clean,
    "clinical": _clinical,
    "mismatch": _mismatch,
}
# Each of these alone is no lesion, and nothing may fire.
NEGATIVES: dict[str, Callable[[np.random.Generator, int], Degradation]] = {
    "bias field": lambda rng, rows: Degradation((Drift.draw(rng),)),
    "noise": lambda rng, rows: Degradation((Noise.draw(rng),)),
    "motion ghost": lambda rng, rows: Degradation((MotionGhost.draw(rng),)),
    "central canal": lambda rng, rows: Degradation((CentralCanal.draw(rng),)),
    "flow voids": lambda rng, rows: Degradation((FlowVoids.draw(rng),)),
    "thin csf": lambda rng, rows: Degradation(mask=MaskError.draw_outwards(rng)),
}


def draw_degradation(name: str, rng: np.random.Generator, rows: int) -> Degradation:
    """Parameters of a condition or a negative for images with so many rows. :raises UsageError: unknown name."""
    known = CONDITIONS | NEGATIVES
    if name not in known:
        raise UsageError(f"{name!r} is not a degradation. They are {', '.join(known)}.")
    return known[name](rng, rows)
