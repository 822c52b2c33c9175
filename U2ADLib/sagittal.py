"""Sagittal standardisation: any volume → sagittal slices at 1 mm, 256 × 256, 0–1, and the exact way back.

A stack is indexed [slice, row, column]: slices run from the patient's right to left, rows from head to feet, columns
from anterior to posterior. The input's own slices are kept; nothing is ever interpolated across them. In the plane, an
image that has 1 mm pixels is only shifted by whole voxels; a finer one is averaged over the area of a pixel; a coarser
one is interpolated linearly.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .config import Preprocessing
from .errors import InputError
from .volume import Reorientation, Volume, reorient

STACK_CODES = "LIP"  # where slice, row and column point to
COARSEST_MM = 2.5  # in-plane spacing
SMALLEST_MM = 20.0  # in-plane field of view
SAME_SPACING = 1e-3  # relative: a spacing that is so near to 1 mm is 1 mm


@dataclass(frozen=True, eq=False)
class SagittalGrid:
    """The standard window over one volume's grid.

    In the plane, input index = first + step · stack index, separately for rows and columns.
    """

    shape: tuple[int, int, int]  # of the input, reoriented to slices, rows, columns
    affine: np.ndarray  # (4, 4), stack index → RAS mm
    slice_spacing_mm: float
    size: int
    first: tuple[float, float]
    step: tuple[float, float]
    reorientation: Reorientation

    @property
    def inside(self) -> np.ndarray:
        """(size, size) bool: pixels whose centre lies within the input's field of view."""
        rows, columns = (
            (at > -0.5 - 1e-9) & (at < count - 0.5 + 1e-9)
            for at, count in zip(map(self._positions, (0, 1)), self.shape[1:], strict=True)
        )
        return rows[:, None] & columns

    @property
    def edge_rows(self) -> tuple[float, float]:
        """Stack rows at which the input's field of view begins and ends; they may lie outside the window."""
        return tuple((at - self.first[0]) / self.step[0] for at in (-0.5, self.shape[1] - 0.5))

    def to_stack(self, array: np.ndarray, order: int = 1) -> np.ndarray:
        """An array on the input's grid (I, J, K) → (S, size, size); 0 outside the input.

        order=1: area average or linear interpolation, float32. order=0: nearest voxel, keeps the type.
        """
        planes = self.reorientation.apply(array)
        if planes.shape != self.shape:
            raise ValueError(f"An array of shape {array.shape} does not lie on the input's grid.")
        if order == 0:
            return self._gather(planes, [np.floor(self._positions(a) + 0.5).astype(int) for a in (0, 1)])
        for axis in (0, 1):
            if self._whole(axis):
                index = np.round(self._positions(axis)).astype(int)
                indices = [np.arange(planes.shape[1]), np.arange(planes.shape[2])]
                indices[axis] = index
                planes = self._gather(planes, indices)
            else:
                weights = _area_weights(self._positions(axis), self.step[axis], planes.shape[axis + 1])
                planes = np.moveaxis(np.moveaxis(planes, axis + 1, -1).astype(np.float32) @ weights.T, -1, axis + 1)
        return np.ascontiguousarray(planes, dtype=np.float32)

    def to_input(self, stack: np.ndarray, order: int = 1, fill: float = 0) -> np.ndarray:
        """Maps (S, size, size) → the input's grid (I, J, K); `fill` outside the window. order as in `to_stack`."""
        if stack.shape != (self.shape[0], self.size, self.size):
            raise ValueError(f"An array of shape {stack.shape} does not lie on the stack of {self.shape[0]} slices.")
        planes = stack
        seen = [None, None]
        for axis in (0, 1):
            at = (np.arange(self.shape[axis + 1]) - self.first[axis]) / self.step[axis]
            if self._whole(axis):
                at = np.round(at)
            seen[axis] = (at > -0.5 - 1e-9) & (at < self.size - 0.5 + 1e-9)
            at = np.clip(at, 0, self.size - 1)
            low = np.floor(at).astype(int) if order else np.floor(at + 0.5).astype(int).clip(0, self.size - 1)
            lower = np.take(planes, low, axis=axis + 1)
            if order and not self._whole(axis):
                upper = np.take(planes, np.minimum(low + 1, self.size - 1), axis=axis + 1)
                share = (at - low).astype(np.float32)
                share = share[:, None] if axis == 0 else share
                lower = lower + (upper - lower) * share
            planes = lower
        outside = ~(seen[0][:, None] & seen[1])
        result = np.where(outside, np.asarray(fill, stack.dtype), planes).astype(stack.dtype, copy=False)
        return np.ascontiguousarray(self.reorientation.undo(result))

    def ras_to_stack(self, points: np.ndarray) -> np.ndarray:
        """RAS mm (N, 3) → (slice, row, column), not rounded."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(points, float) @ inverse[:3, :3].T + inverse[:3, 3]

    def stack_to_ras(self, points: np.ndarray) -> np.ndarray:
        """(slice, row, column) (N, 3) → RAS mm."""
        return np.asarray(points, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def _positions(self, axis):
        """Input index of every stack row (axis 0) or column (axis 1)."""
        return self.first[axis] + self.step[axis] * np.arange(self.size)

    def _whole(self, axis):
        return self.step[axis] == 1.0

    def _gather(self, planes, indices):
        rows, columns = indices
        good_rows = (rows >= 0) & (rows < planes.shape[1])
        good_columns = (columns >= 0) & (columns < planes.shape[2])
        result = np.zeros((len(planes), len(rows), len(columns)), planes.dtype)
        result[np.ix_(range(len(planes)), good_rows, good_columns)] = planes[
            np.ix_(range(len(planes)), rows[good_rows], columns[good_columns])
        ]
        return result


@dataclass(frozen=True, eq=False)
class SagittalStack:
    """Standard slices of one volume.

    images: (S, 256, 256) float32, 0–1. low, high: the input's intensities that became 0 and 1.
    cord_outside_mm: length of the cord above and below the window, which is not analysed.
    """

    images: np.ndarray
    grid: SagittalGrid
    low: float
    high: float
    cord_outside_mm: float = 0.0

    @property
    def inside(self) -> np.ndarray:
        """(256, 256) bool: pixels within the input's field of view."""
        return self.grid.inside

    def to_intensity(self, values: np.ndarray) -> np.ndarray:
        """0–1 → the input's intensities."""
        return self.low + (self.high - self.low) * values


def standardise(
    volume: Volume,
    cord: np.ndarray | None = None,
    discs: Mapping[int, np.ndarray] | None = None,
    config: Preprocessing | None = None,
) -> SagittalStack:
    """Sagittal slices of 256 × 256 mm around the cord (paper 4.3, with the window centred on the cord).

    :param cord: (I, J, K) bool on the volume's grid. The window is centred on its bounding box; where the cord is
        longer than the window, on the middle between the highest and the lowest disc, or else on the cord's middle.
        Without a cord: on the image's middle.
    :param discs: C2/3 … C7/T1, number → point in RAS mm.
    :returns: the stack; intensities are clipped at percentiles of the pixels in the windows of slices with cord.
    :raises InputError: the image is not sagittal, too coarse, constant, or holds values that are not numbers.
    """
    config = config or Preprocessing()
    finite = np.isfinite(volume.array)
    if not finite.all():
        raise InputError(
            f"{volume.name} holds {np.count_nonzero(~finite)} voxels that are not numbers (NaN or infinite): "
            "replace them, for instance by 0, and try again."
        )
    standing, change = reorient(volume, STACK_CODES)
    _check_sagittal(volume.name, standing)
    spacing, step = standing.spacing[1:], _step(standing, config)
    cord_there = None if cord is None else change.apply(volume.with_array(cord).array)
    centre = _window_centre(standing, cord_there, discs, config.size * step[0])
    first = []
    for axis in (0, 1):
        start = centre[axis] - step[axis] * (config.size - 1) / 2
        # Snapped to a voxel, so that an image of 1 mm is not interpolated; ties (an even window) go down.
        first.append(float(np.floor(start + 0.5 - 1e-6)))
    grid = _grid(standing, change, first, config)
    images = grid.to_stack(volume.array)
    counted, outside = range(len(images)), 0.0
    if cord is not None:
        counted = np.flatnonzero(cord_there.any(axis=(1, 2)))
        at = (np.flatnonzero(cord_there.any(axis=(0, 2))) - first[0]) / step[0]
        outside = float(np.count_nonzero((at < -0.5) | (at > config.size - 0.5)) * spacing[0])
    values = images[counted][:, grid.inside]
    low, high = (float(v) for v in np.percentile(values, (config.low_percentile, config.high_percentile)))
    if not high > low:
        raise InputError(f"{volume.name} is constant ({low:g}) where the neck should be: there is nothing to analyse.")
    return SagittalStack(_rescaled(images, grid, low, high), grid, low, high, outside)


def restored(
    volume: Volume, first: tuple[float, float], low: float, high: float, outside: float, config: Preprocessing
) -> SagittalStack:
    """The stack that `standardise` made of the same volume, from what it chose: `grid.first`, `low`, `high` and
    `cord_outside_mm`."""
    grid = _grid(*reorient(volume, STACK_CODES), first, config)
    return SagittalStack(_rescaled(grid.to_stack(volume.array), grid, low, high), grid, low, high, outside)


def _step(standing, config):
    """Input voxels per stack pixel, of rows and columns."""
    scale = [config.spacing_mm / mm for mm in standing.spacing[1:]]
    return [1.0 if abs(s - 1) < SAME_SPACING else float(s) for s in scale]


def _grid(standing, change, first, config):
    step = _step(standing, config)
    matrix = np.diag([1.0, step[0], step[1], 1.0])
    matrix[1:3, 3] = first
    return SagittalGrid(
        shape=standing.array.shape,
        affine=standing.affine @ matrix,
        slice_spacing_mm=float(standing.spacing[0]),
        size=config.size,
        first=tuple(float(f) for f in first),
        step=tuple(step),
        reorientation=change,
    )


def _rescaled(images, grid, low, high):
    return np.where(grid.inside, np.clip((images - low) / (high - low), 0, 1), 0).astype(np.float32)


def whole_field(volume: Volume) -> tuple[SagittalStack, slice, slice]:
    """Standard slices of the whole field of view, and the rows and columns of the stack that it fills.

    For finding the cord: where it lies is not known yet.
    """
    standing, _ = reorient(volume, STACK_CODES)
    size = int(np.ceil(max(np.array(standing.array.shape[1:]) * standing.spacing[1:])))
    stack = standardise(volume, config=Preprocessing(size=size))
    rows, columns = (np.flatnonzero(stack.inside.any(axis=axis)) for axis in (1, 0))
    return stack, slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _check_sagittal(name, standing):
    across, along, depth = standing.spacing
    worst = max(along, depth)
    if worst <= COARSEST_MM:
        high, deep = np.array(standing.array.shape[1:]) * (along, depth)
        if min(high, deep) < SMALLEST_MM:
            raise InputError(
                f"{name} shows only {high:.0f} mm from head to feet and {deep:.0f} mm from front to back: a sagittal "
                "image of the neck is needed."
            )
        return
    kind = "axial" if along == worst else "coronal"
    if worst > across:
        raise InputError(
            f"{name} consists of {kind} slices {worst:.1f} mm apart: a sagittal T2-weighted series is needed."
        )
    raise InputError(
        f"The pixels of {name} are {along:.1f} × {depth:.1f} mm in the sagittal plane; at most {COARSEST_MM} mm are "
        "needed to see a lesion in the cord."
    )


def _window_centre(standing, cord, discs, reach):
    """Centre of the window, which is `reach` input rows high, in input rows and columns."""
    if cord is None:
        return [(n - 1) / 2 for n in standing.array.shape[1:]]
    if not cord.any():
        raise InputError("The cord mask is empty: no voxel is marked as cord. Is it the right file?")
    rows = np.flatnonzero(cord.any(axis=(0, 2)))
    middle = (rows[0] + rows[-1]) / 2
    if rows[-1] - rows[0] + 1 > reach:
        if discs:
            at = standing.to_ijk(np.array(list(discs.values())))[:, 1]
            middle = float(np.clip((at.min() + at.max()) / 2, rows[0], rows[-1]))
        rows = rows[np.abs(rows - middle) <= reach / 2]
        if not len(rows):
            raise InputError("The cord mask is empty where its middle should be: it does not show one cord.")
    columns = np.flatnonzero(cord[:, rows].any(axis=(0, 1)))
    return [middle, (columns[0] + columns[-1]) / 2]


def _area_weights(positions, step, count):
    """(len(positions), count) weights: the average over `step` input voxels around each position.

    A triangle (linear interpolation) where stack pixels are smaller than voxels, else the voxels' share of the pixel.
    The weights of a row add up to 1; rows outside the input are 0.
    """
    index = np.arange(count)
    if step <= 1:
        inner = np.clip(positions, 0, count - 1)
        weights = np.maximum(1 - np.abs(index - inner[:, None]), 0)
    else:
        low = np.maximum(index - 0.5, (positions - step / 2)[:, None])
        high = np.minimum(index + 0.5, (positions + step / 2)[:, None])
        weights = np.maximum(high - low, 0)
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    weights[(positions < -0.5) | (positions > count - 0.5)] = 0
    return weights.astype(np.float32)
