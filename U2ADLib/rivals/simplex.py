"""Simplex noise of several octaves (Wyatt et al. 2022), from a bank, since the library needs seconds for an image.

Each octave has one large field; an image's octave is a piece of it from a random place, turned over, transposed and
negated at random, which does not change how such noise is distributed.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

OCTAVES = 6
WAVELENGTH_PX = 64  # of the first octave; halved from each to the next
PERSISTENCE = 0.8  # factor of the amplitude from each to the next
FIELD_POINTS = 320
FINEST = 16  # points in a wavelength, at most: longer waves are computed on fewer points and made finer


def simplex_noise(shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Noise (B, H, W), mean 0 and standard deviation 1, on the generator's device; sides at most 320 px."""
    device = generator.device
    noise = torch.zeros(shape, device=device)
    shares = torch.rand((shape[0], OCTAVES, 2), generator=generator, device=device).tolist()
    turns = torch.randint(2, (shape[0], OCTAVES, 4), generator=generator, device=device).tolist()
    for image, places, ways in zip(noise, shares, turns, strict=True):
        for field, place, (rows, columns, over, negative) in zip(_fields(str(device)), places, ways, strict=True):
            piece = field.T if over else field
            for axis, length in enumerate(shape[1:]):
                piece = piece.narrow(axis, int(place[axis] * (piece.shape[axis] - length + 1)), length)
            piece = piece.flip([axis for axis, turned in enumerate((rows, columns)) if turned])
            image.sub_(piece) if negative else image.add_(piece)
    return noise


@cache
def _fields(device: str) -> tuple[torch.Tensor, ...]:
    """A square field of each octave, their variances summing to 1."""
    if device != "cpu":
        return tuple(one.to(device) for one in _fields("cpu"))
    from opensimplex import OpenSimplex

    fields = []
    for octave in range(OCTAVES):
        wavelength = WAVELENGTH_PX / 2**octave
        step = max(int(wavelength // FINEST), 1)
        points = np.arange(FIELD_POINTS) * step / wavelength
        field = torch.from_numpy(OpenSimplex(octave).noise2array(points, points)).float()
        if step > 1:
            field = F.interpolate(field[None, None], scale_factor=step, mode="bicubic")[0, 0]
        fields.append((field - field.mean()) / field.std() * PERSISTENCE**octave)
    total = sum(PERSISTENCE ** (2 * octave) for octave in range(OCTAVES)) ** 0.5
    return tuple(field / total for field in fields)
