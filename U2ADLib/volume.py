"""A volume: array and geometry, always together.

Arrays are indexed [i, j, k]; the affine maps voxel indices (of centres) to RAS millimetres, as nibabel and MRML do.
"""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from .errors import InputError

SHEAR_TOLERANCE = 1e-3  # largest cosine between two voxel axes that still counts as a right angle
SMALLEST_SPACING_MM, FARTHEST_MM = 1e-6, 1e6
GRID_TOLERANCE_MM = 1e-2  # grids whose corners are closer than this are the same
_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image of three dimensions and where it lies in the patient.

    :param array: (I, J, K), real numbers. One slice is a volume with an axis of length 1.
    :param affine: (4, 4), voxel index → RAS mm. Oblique and left-handed axes are fine, shear is not.
    :param name: the file's stem; nothing else about the patient.
    :raises InputError: no such image can exist.
    """

    array: np.ndarray
    affine: np.ndarray
    name: str = "volume"

    def __post_init__(self):
        array, affine = np.asarray(self.array), np.array(self.affine, float)
        if array.ndim != 3 or not array.size:
            raise InputError(f"{self.name} has the shape {array.shape}: a volume needs three dimensions.")
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
            raise InputError(f"{self.name} holds values of type {array.dtype}: real numbers are needed.")
        if affine.shape != (4, 4) or not (abs(affine) < FARTHEST_MM).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise InputError(f"The geometry of {self.name} is broken: its affine is no 4 × 4 matrix of millimetres.")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() < SMALLEST_SPACING_MM:
            raise InputError(f"The geometry of {self.name} is broken: its voxel spacing is {_listed(spacing)} mm.")
        cosines = affine[:3, :3] / spacing
        skew = np.abs(cosines.T @ cosines - np.eye(3)).max()
        if skew > SHEAR_TOLERANCE:
            raise InputError(
                f"The axes of {self.name} are sheared (a cosine of {skew:.3f} between two of them): it cannot be shown "
                "slice by slice. Resample it to a grid with right angles first."
            )
        affine.flags.writeable = False
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm between voxel centres along i, j and k."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def directions(self) -> np.ndarray:
        """(3, 3); column a is the unit vector of voxel axis a in RAS."""
        return self.affine[:3, :3] / self.spacing

    @property
    def axis_codes(self) -> str:
        """Where each voxel axis points to, by the nearest anatomical direction: "PSR"."""
        return "".join(_CODES[axis][sign > 0] for axis, sign in _nearest_axes(self.directions))

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing))

    def with_array(self, array: np.ndarray) -> "Volume":
        """Another array on the same grid. :raises ValueError: its shape is another."""
        if np.shape(array) != self.array.shape:
            raise ValueError(f"An array of shape {np.shape(array)} does not lie on a grid of {self.array.shape}.")
        return Volume(array, self.affine, self.name)

    def to_ras(self, ijk: np.ndarray) -> np.ndarray:
        """Voxel indices (…, 3) → RAS mm."""
        return np.asarray(ijk, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_ijk(self, ras: np.ndarray) -> np.ndarray:
        """RAS mm (…, 3) → voxel indices, not rounded."""
        return (np.asarray(ras, float) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def same_grid(self, other: "Volume", tolerance_mm: float = GRID_TOLERANCE_MM) -> bool:
        """Whether both have the same shape and every corner lies within the tolerance."""
        if self.array.shape != other.array.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.array.shape])).reshape(3, -1).T
        return bool(np.linalg.norm(self.to_ras(corners) - other.to_ras(corners), axis=1).max() <= tolerance_mm)


@dataclass(frozen=True)
class Reorientation:
    """A permutation and flips of voxel axes: axis a of the result is axis `axes[a]` of the input, flipped or not."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]  # of the result's axes

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Input's array → result's; a view."""
        return np.flip(np.transpose(array, self.axes), [a for a in range(3) if self.flips[a]])

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Result's array → input's; a view."""
        return np.transpose(np.flip(array, [a for a in range(3) if self.flips[a]]), np.argsort(self.axes))


def reorient(volume: Volume, codes: str) -> tuple[Volume, Reorientation]:
    """The same voxels with axes that point (most nearly) to `codes`, for instance "LIP"; nothing is interpolated."""
    axis_of = {code: axis for axis, pair in enumerate(_CODES) for code in pair}
    if sorted(axis_of.get(code, -1) for code in codes) != [0, 1, 2]:
        raise ValueError(f"{codes!r} does not name three different anatomical directions.")
    nearest = _nearest_axes(volume.directions)
    axes = tuple(next(a for a in range(3) if nearest[a][0] == axis_of[code]) for code in codes)
    flips = tuple(_CODES[nearest[a][0]][nearest[a][1] > 0] != code for a, code in zip(axes, codes, strict=True))
    change = Reorientation(axes, flips)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        matrix[old, new] = -1 if flip else 1
        matrix[old, 3] = volume.array.shape[old] - 1 if flip else 0
    return Volume(change.apply(volume.array), volume.affine @ matrix, volume.name), change


def resample(volume: Volume, reference: Volume, order: int = 1) -> Volume:
    """The volume on the reference's grid.

    :param order: 0 nearest neighbour (labels; keeps the type), 1 linear (float32). Outside the source's voxels: 0.
    """
    matrix = np.linalg.inv(volume.affine) @ reference.affine
    return reference.with_array(_sample(volume.array, matrix, reference.array.shape, order))


def volume_hash(volume: Volume) -> str:
    """SHA-256 of voxels, shape, type and geometry (rounded to 1 µm)."""
    geometry = np.round(volume.affine, 3) + 0.0  # no negative zeros
    digest = sha256(f"{volume.array.shape} {volume.array.dtype.str} {geometry.tolist()}".encode())
    digest.update(np.ascontiguousarray(volume.array).tobytes())
    return digest.hexdigest()


def _sample(array, matrix, shape, order):
    from scipy.ndimage import affine_transform

    def transformed(source, order, mode):
        return affine_transform(source, matrix[:3, :3], matrix[:3, 3], shape, order=order, mode=mode, cval=0)

    # A voxel reaches half a spacing beyond its centre; without that a single slice would have no thickness.
    within = transformed(np.ones(array.shape, np.uint8), 0, "grid-constant") > 0
    result = transformed(array.astype(float) if order else array, order, "nearest")
    return np.where(within, result, 0).astype(np.float32 if order else array.dtype)


def _nearest_axes(directions):
    """For each voxel axis (anatomical axis, sign). Each anatomical axis is used once, the clearest first."""
    # The orthogonal matrix nearest to the directions, as nibabel does, so that small numerical skew has no say.
    u, _, vt = np.linalg.svd(directions)
    matrix = u @ vt
    result = [None] * 3
    strength = np.abs(matrix)
    for _ in range(3):
        row, column = np.unravel_index(np.argmax(strength), (3, 3))
        result[column] = (int(row), 1 if matrix[row, column] > 0 else -1)
        strength[row], strength[:, column] = -1, -1
    return result


def _listed(values):
    return " × ".join(f"{value:g}" for value in values)
