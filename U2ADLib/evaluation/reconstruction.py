"""How well a cord is rebuilt: MSE, PSNR, SSIM and variance (paper 4.2)."""

import numpy as np
from skimage.metrics import structural_similarity

from ..montecarlo import Reconstruction


def reconstruction_quality(images: np.ndarray, cords: np.ndarray, rebuilt: Reconstruction) -> dict[str, float]:
    """Means over slices (S, H, W), each over its cord pixels.

    PSNR and SSIM take images in 0–1 (data range 1). SSIM is the mean over cord pixels of the SSIM map between the slice
    and the slice with its cord replaced by the reconstruction. Variance is the mean EU × 1000.
    """
    rows = []
    for image, cord, mean, variance in zip(images, cords, rebuilt.mean, rebuilt.epistemic, strict=True):
        mse = float(np.mean((image[cord].astype(float) - mean[cord]) ** 2))
        _, similarity = structural_similarity(
            image.astype(float), np.where(cord, mean, image).astype(float), data_range=1.0, full=True
        )
        rows.append((mse, -10 * np.log10(max(mse, 1e-12)), similarity[cord].mean(), 1000 * variance[cord].mean()))
    return dict(zip(("mse", "psnr", "ssim", "variance"), map(float, np.mean(rows, axis=0)), strict=True))
