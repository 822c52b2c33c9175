"""Refusing what is not an image of the contrast that a model is for, with the reason."""

import numpy as np
from scipy import ndimage

from ..config import Purpose
from ..errors import InputError

RING_PX = (2, 4)  # CSF lies so far outside the cord; the first pixel is a mixture
BRIGHT_PERCENTILE = 75  # discs and ligaments that touch the sac are dark
# CSF is 1.8 to 5 times as bright as the cord in T2w, and about half as bright in T1w. Where the canal is narrow and CSF
# moves, what is measured can come down to 1.06 in T2w (1 of 100 clinical phantoms).
T1_RATIO, T2_RATIO = 0.9, 1.2


def refuse_other_contrast(name: str, images: np.ndarray, cords: np.ndarray, purpose: Purpose) -> tuple[str, ...]:
    """images (S, H, W) 0–1 and cords (S, H, W) bool of the analysed slices.

    :returns: notes for the user: a doubt where the fluid is hardly brighter than the cord.
    :raises InputError: the cord has no signal; or the CSF around it is not brighter, where the contrast shows it so.
    """
    cross = ndimage.generate_binary_structure(2, 1)[None]
    near, far = (ndimage.binary_dilation(cords, cross, iterations=n) for n in RING_PX)
    cord = float(np.median(images[cords]))
    fluid = float(np.percentile(images[far & ~near], BRIGHT_PERCENTILE))
    if cord <= 0:
        raise InputError(f"{name} has no signal where the cord mask lies: does the mask belong to this image?")
    if not purpose.bright_fluid:
        return ()
    ratio = fluid / cord
    if ratio < T1_RATIO:
        raise InputError(
            f"{name} does not look {_weighted(purpose)}: the fluid around the cord is {ratio:.2f} times as bright as "
            "the cord, and should be much brighter. Is it a T1-weighted image, or does the cord mask belong to another?"
        )
    if ratio < T2_RATIO:
        return (
            f"Doubt: the fluid around the cord is only {ratio:.2f} times as bright as the cord. Is it "
            f"{_weighted(purpose)}?",
        )
    return ()


def _weighted(purpose):
    return {"T2w": "T2-weighted"}.get(purpose.contrast, f"like {purpose.contrast}")
