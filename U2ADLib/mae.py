"""EdgeMAE: the masked autoencoder over cord patches (paper 3.2).

An image is a set of *patch tokens*: only patches that touch the cord (the ROI), not the whole picture, are encoded or
decoded. Images with different numbers of patches share a batch by padding; a boolean `valid` tells real tokens from
padding, and padding is never attended to. Sequence order carries no meaning: each token brings its position on the
patch grid, so the decoder needs no un-shuffling.

Shapes: B images, V visible tokens, T target (masked) tokens, P² pixels in a patch, D the width.
Two things differ from the printed equations: blocks have residual connections (printed without, which cannot train),
and E_pos is the fixed two-dimensional sine-cosine embedding of MAE (He et al., 2022), which the paper leaves open.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .config import Architecture


def patchify(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Cut images (B, H, W) into patches (B, H/P · W/P, P²), row by row: Patchify(·) of Algorithm 1."""
    b, h, w = images.shape
    tiles = images.reshape(b, h // patch, patch, w // patch, patch).transpose(2, 3)
    return tiles.reshape(b, (h // patch) * (w // patch), patch * patch)


def unpatchify(patches: torch.Tensor, patch: int) -> torch.Tensor:
    """Inverse of `patchify` for square images: (B, G², P²) → (B, G·P, G·P)."""
    b, n, _ = patches.shape
    grid = round(n**0.5)
    tiles = patches.reshape(b, grid, grid, patch, patch).transpose(2, 3)
    return tiles.reshape(b, grid * patch, grid * patch)


def axis_embedding(count: int, width: int) -> torch.Tensor:
    """Fixed sine-cosine embedding of positions 0 … count − 1, (count, width); width is even."""
    frequencies = 1.0 / 10000 ** (torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def position_embedding(grid: int, width: int) -> torch.Tensor:
    """E_pos: fixed sine-cosine embedding of the grid's rows and columns, (G², D)."""
    axis = axis_embedding(grid, width // 2)
    rows = axis[:, None].expand(grid, grid, width // 2)
    columns = axis[None].expand(grid, grid, width // 2)
    return torch.cat([rows, columns], dim=2).reshape(grid * grid, width)


class Block(nn.Module):
    """One ViT block: z' = z + MSA(LN(z)); z'' = z' + MLP(LN(z')) (paper 3.2.1, with residuals)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, int(width * mlp_ratio))
        self.contract = nn.Linear(int(width * mlp_ratio), width)

    def forward(self, z: torch.Tensor, attend: torch.Tensor | None) -> torch.Tensor:
        """z (B, L, D); `attend` (B, 1, 1, L) is True where a token may be attended to, None if all may."""
        b, length, width = z.shape
        qkv = self.qkv(self.norm1(z)).view(b, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        z = z + self.project(attention.transpose(1, 2).reshape(b, length, width))
        return z + self.contract(F.gelu(self.expand(self.norm2(z))))


class EdgeMAE(nn.Module):
    """Encoder over visible patches, light decoder, and two heads: pixels and edges (paper 3.2, 4.3)."""

    def __init__(self, architecture: Architecture | None = None):
        super().__init__()
        a = architecture or Architecture()
        self.architecture = a
        pixels = a.patch * a.patch
        self.embed = nn.Linear(pixels, a.width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, a.width))
        self.encoder = nn.ModuleList(Block(a.width, a.heads, a.mlp_ratio) for _ in range(a.depth))
        self.encoder_norm = nn.LayerNorm(a.width)
        self.to_decoder = nn.Linear(a.width, a.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, a.decoder_width))
        self.decoder = nn.ModuleList(
            Block(a.decoder_width, a.decoder_heads, a.mlp_ratio) for _ in range(a.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(a.decoder_width)
        self.pixel_head = nn.Linear(a.decoder_width, pixels)
        self.edge_head = nn.Linear(a.decoder_width, pixels)
        # Fixed, recomputed from the architecture: not part of the weights.
        self.register_buffer("encoder_positions", position_embedding(a.grid, a.width), persistent=False)
        self.register_buffer("decoder_positions", position_embedding(a.grid, a.decoder_width), persistent=False)

    def initialise(self, generator: torch.Generator) -> "EdgeMAE":
        """Draw all weights from the generator (Xavier uniform; biases zero; tokens normal with σ 0.02)."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    bound = (6 / (module.in_features + module.out_features)) ** 0.5
                    module.weight.uniform_(-bound, bound, generator=generator)
                    module.bias.zero_()
            self.class_token.normal_(std=0.02, generator=generator)
            self.mask_token.normal_(std=0.02, generator=generator)
        return self

    def encode(self, patches, positions, valid=None):
        """z_0 = [x_class; x¹E; …; x^{N'}E] + E_pos, then L blocks and a norm: z_L (paper 3.2.1).

        patches (B, V, P²) in 0–1; positions (B, V) indices on the grid; valid (B, V) bool or None.
        Returns (B, 1 + V, D). The class token has no position.
        """
        tokens = self.embed(patches) + self.encoder_positions[positions]
        z = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        attend = _attention_mask(valid)
        for block in self.encoder:
            z = block(z, attend)
        return self.encoder_norm(z)

    def decode(self, z, visible_positions, target_positions, visible_valid=None, target_valid=None):
        """z_input = [x_class; z_L; z_mask] + E_pos, L' blocks, then x̂ = f_proj(z_{L'}) (paper 3.2.2).

        Returns pixels and edges of the targets, each (B, T, P²). Pixels are unbounded, edges lie in 0–1 (sigmoid).
        """
        z = self.to_decoder(z)
        seen = z[:, 1:] + self.decoder_positions[visible_positions]
        hidden = self.mask_token + self.decoder_positions[target_positions]
        z = torch.cat([z[:, :1], seen, hidden], dim=1)
        attend = None
        if visible_valid is not None:
            attend = _attention_mask(torch.cat([visible_valid, target_valid], dim=1))
        for block in self.decoder:
            z = block(z, attend)
        z = self.decoder_norm(z[:, 1 + visible_positions.shape[1] :])
        return self.pixel_head(z), torch.sigmoid(self.edge_head(z))

    def forward(self, patches, visible_positions, target_positions, visible_valid=None, target_valid=None):
        """Reconstruct the target patches from the visible ones: MAE_θ of Algorithm 1.

        patches (B, V, P²): the visible patches. See `encode` and `decode`.
        """
        z = self.encode(patches, visible_positions, visible_valid)
        return self.decode(z, visible_positions, target_positions, visible_valid, target_valid)


def _attention_mask(valid):
    """(B, 1, 1, 1 + L) bool with the class token always on; None when nothing is padded."""
    if valid is None:
        return None
    return F.pad(valid, (1, 0), value=True)[:, None, None]
