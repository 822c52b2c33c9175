"""How a pseudo-anomaly is made (paper, App. A.1, Fig. A1), on a phantom."""

import numpy as np

from ....simulation.plant import plant_lesion
from ....training.data import slices_of
from ....training.phantoms import random_phantom
from ..pictures import making
from ..sets import SEEDS
from ..training import Comparison
from .context import Context
from .result import Picture, Result
from .scoring import Job

TITLE = "How a pseudo-anomaly is made (Fig. A1)"
KIND = "A1"


def jobs(comparison: Comparison) -> list[Job]:
    """None."""
    return []


def run(context: Context) -> Result:
    """One picture, of a phantom that nothing learns from."""
    seed = SEEDS["test"] + 900_000
    phantom = random_phantom(seed, "clinical")
    slices = slices_of(phantom.volume, phantom.cord.array > 0, f"phantom-{seed}")
    middle = int(slices.cords.sum((1, 2)).argmax())
    image, cord = slices.images[middle].astype(np.float32), slices.cords[middle]
    planted = plant_lesion(image, cord, KIND, np.random.default_rng(seed))
    making(context.picture_path("making"), image, cord, np.clip(planted.image, 0, 1), planted.mask)
    caption = (
        f"Phantom {seed}: (a) image, (b) cord, (c) intensities of cord and fluid, (d) mask, (e) intensities of the "
        f"pseudo-anomaly, (f) image with it. {len(planted.description['lesions'])} ellipses."
    )
    return Result([], [Picture("making.png", TITLE, caption)])
