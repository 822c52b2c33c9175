"""An analysis whose every number is known: a straight cord, one bright lesion, a network that knows the normal value.

In the canonical grid [slice, row, column] (right to left, head to feet, anterior to posterior; 3.3 × 1 × 1 mm) the cord
is 8 columns wide, reaches from row 10 to 189 and shows in slices 1 … 5 of 7. Discs lie 20 mm apart, so segments do.
"""

import numpy as np

from U2ADLib.analysis import Analysis, analyse
from U2ADLib.config import MonteCarloConfig, Preprocessing, ScoreConfig
from U2ADLib.package import Model, Thresholds
from U2ADLib.volume import Volume, reorient

CORD_ROWS, CORD_COLUMNS = slice(10, 190), slice(56, 64)
LESION_SLICE, LESION_ROWS = 4, slice(75, 80)  # in C4-5, which reaches from row 70 to 90
DISC_ROWS = {3: 40, 4: 60, 5: 80, 6: 100, 7: 120, 8: 140}
BACKGROUND, CORD, LESION, CSF = 100.0, 300.0, 600.0, 900.0
THRESHOLDS = Thresholds(segment=0.2, patient=0.25, slices="all", origin="made up")


def made_volumes(codes="LIP", turned_deg=0.0, discs=tuple(DISC_ROWS)) -> tuple[Volume, Volume, Volume]:
    """Image, cord and discs with voxel axes towards `codes`, turned about an oblique axis."""
    image = np.full((7, 200, 120), BACKGROUND, np.float32)
    image[:, :, 50:70] = CSF
    cord = np.zeros(image.shape, np.uint8)
    cord[1:6, CORD_ROWS, CORD_COLUMNS] = 1
    image[cord > 0] = CORD
    image[LESION_SLICE, LESION_ROWS, CORD_COLUMNS] = LESION
    labels = np.zeros(image.shape, np.uint8)
    for number in discs:
        labels[3, DISC_ROWS[number], 52] = number
    affine = turn(turned_deg) @ np.array([[-3.3, 0, 0, 12], [0, 0, -1, 40], [0, -1, 0, 90], [0, 0, 0, 1]], float)
    return tuple(reorient(Volume(array, affine, "case7"), codes)[0] for array in (image, cord, labels))


def turn(degrees: float) -> np.ndarray:
    """(4, 4) rotation about the axis (1, 2, 2) / 3 (Rodrigues)."""
    x, y, z = np.array([1, 2, 2]) / 3
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


def made_analysis(
    monkeypatch, codes="LIP", turned_deg=0.0, discs=tuple(DISC_ROWS), thresholds=THRESHOLDS, slices="all"
) -> Analysis:
    """The result for `made_volumes`; no discs where `discs` is empty."""
    from U2ADLib import montecarlo

    def rebuild_the_normal_value(network, images, cords, *args, **kwargs):
        mean = np.where(cords, np.median(images[cords]), 0).astype(np.float32)
        error = np.where(cords, np.abs(images - mean), 0)
        return montecarlo.Reconstruction(mean, error, 0.5 * error, passes=14, device="cpu")

    monkeypatch.setattr(montecarlo, "monte_carlo", rebuild_the_normal_value)
    image, cord, labels = made_volumes(codes, turned_deg, discs)
    model = Model(
        "made-up",
        None,
        {},
        Preprocessing(),
        MonteCarloConfig(),
        {"paper": ScoreConfig()},
        (thresholds,) if thresholds else (),
        "0",
    )
    return analyse(
        image, cord=cord, discs=labels if discs else None, region_model=None, model=model, device="cpu", slices=slices
    )
