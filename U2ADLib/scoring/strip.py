"""The cord made upright: each image row is cut around the cord's centre, by whole pixels, so that no value changes."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from .inpainting import centre_columns

WIDTH = 40  # columns (mm): the widest cord and the fluid to both sides
CENTRE_SMOOTHING = 3  # rows


@dataclass(frozen=True)
class Strip:
    """Rows `first` … `first + len(columns) − 1` of an image, and the columns (rows, WIDTH) cut from each."""

    first: int
    columns: np.ndarray

    @classmethod
    def around(cls, cord: np.ndarray, multiple: int = 8) -> "Strip":
        """The rows that show cord, as many as a multiple of `multiple` where the image has room. cord: (H, W) bool."""
        rows = np.flatnonzero(cord.any(axis=1))
        wanted = -(-(rows[-1] - rows[0] + 1) // multiple) * multiple
        first = int(min(max(rows[0] - (wanted - (rows[-1] - rows[0] + 1)) // 2, 0), max(len(cord) - wanted, 0)))
        centre = np.interp(np.arange(len(cord)), rows, centre_columns(cord)[rows])
        centre = np.round(gaussian_filter1d(centre, CENTRE_SMOOTHING, mode="nearest")).astype(int)
        columns = centre[first : first + wanted, None] + np.arange(-WIDTH // 2, WIDTH // 2)
        return cls(first, columns)

    def cut(self, values: np.ndarray) -> np.ndarray:
        """(…, H, W) → (…, rows, WIDTH). Beyond the image's sides its last column is repeated."""
        columns = np.clip(self.columns, 0, values.shape[-1] - 1)
        rows = values[..., self.first : self.first + len(columns), :]
        return np.take_along_axis(rows, np.broadcast_to(columns, (*rows.shape[:-1], WIDTH)), axis=-1)

    def paste(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """(rows, WIDTH) → (H, W), 0 where nothing was cut."""
        result = np.zeros(shape, values.dtype)
        inside = (self.columns >= 0) & (self.columns < shape[1])
        rows = np.broadcast_to(self.first + np.arange(len(self.columns))[:, None], self.columns.shape)
        result[rows[inside], self.columns[inside]] = values[inside]
        return result
