"""The dual reconstruction loss (paper 3.2.2)."""

import torch
import torch.nn.functional as F


def sobel(images: torch.Tensor) -> torch.Tensor:
    """Edge map: Sobel gradient magnitude of images (B, H, W) in 0–1, scaled to 0–1. Borders repeat."""
    kernel = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernels = torch.stack([kernel, kernel.T])[:, None]
    gradient = F.conv2d(F.pad(images[:, None], (1, 1, 1, 1), mode="replicate"), kernels)
    return (gradient.square().sum(1) / 2 + 1e-12).sqrt()


def reconstruction_loss(pixels, edges, true_pixels, true_edges, weight, edge_weight=0.1, pixels_in_loss=None):
    """L_Recon = L_MSE + λ L_Edge over the masked patches.

    All of shape (B, T, P²); `weight` is 1 for cord pixels of real target patches and 0 elsewhere. The paper prints sums
    of L2 norms; here both terms are means of squared differences over the weighted pixels of the whole batch, as in the
    code of EdgeMAE, so that λ = 0.1 and the learning rate do not depend on the size of the cord.

    :param pixels_in_loss: what the sums are divided by, where this is but a part of a larger batch; else the sum of
        `weight`.
    :returns: (total, L_MSE, L_Edge), scalars.
    """
    pixels_in_loss = (weight.sum() if pixels_in_loss is None else pixels_in_loss).clamp(min=1)
    mse = ((pixels - true_pixels).square() * weight).sum() / pixels_in_loss
    edge = ((edges - true_edges).square() * weight).sum() / pixels_in_loss
    return mse + edge_weight * edge, mse, edge
