import numpy as np
import pytest
import torch

from U2ADLib.config import Architecture
from U2ADLib.mae import EdgeMAE, patchify, position_embedding, unpatchify


@pytest.fixture(scope="module")
def network():
    return EdgeMAE(Architecture(depth=2, decoder_depth=2)).initialise(torch.Generator().manual_seed(0)).eval()


def test_the_papers_size():
    """24 × 128 encoder and 8 × 64 decoder: counted by hand from the layers."""

    def block(d):
        return 4 * d + (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)

    expected = 24 * block(128) + 8 * block(64)
    expected += (64 * 128 + 128) + 128 + 2 * 128 + (128 * 64 + 64) + 64 + 2 * 64 + 2 * (64 * 64 + 64)
    assert sum(p.numel() for p in EdgeMAE().parameters()) == expected == 5_183_872


def test_patches_are_cut_row_by_row_and_put_back():
    image = torch.arange(256.0).view(1, 16, 16)
    patches = patchify(image, 8)
    assert patches[0, 1].view(8, 8)[0, 0] == 8  # second patch begins at row 0, column 8
    assert patches[0, 2].view(8, 8)[0, 0] == 8 * 16
    assert torch.equal(unpatchify(patches, 8), image)


def test_positions_are_sine_and_cosine_of_row_and_column():
    table = position_embedding(4, 8).view(4, 4, 8)
    frequencies = [1, 1 / 100]
    row, column = 3, 2
    expected = [f(p * w) for p in (row, column) for f in (np.sin, np.cos) for w in frequencies]
    np.testing.assert_allclose(table[row, column], expected, atol=1e-6)


def test_padding_changes_nothing(network):
    generator = torch.Generator().manual_seed(1)
    patches = torch.rand(1, 5, 64, generator=generator)
    visible, target = torch.tensor([[3, 40, 70, 500, 900]]), torch.tensor([[4, 41, 71]])
    alone = network(patches, visible, target)
    padded = network(
        torch.cat([patches, torch.full((1, 3, 64), 9.0)], 1),
        torch.cat([visible, torch.zeros(1, 3, dtype=torch.long)], 1),
        torch.cat([target, torch.zeros(1, 2, dtype=torch.long)], 1),
        torch.tensor([[True] * 5 + [False] * 3]),
        torch.tensor([[True] * 3 + [False] * 2]),
    )
    for one, other in zip(alone, padded, strict=True):
        torch.testing.assert_close(one, other[:, :3], atol=1e-5, rtol=1e-5)


def test_order_of_tokens_carries_no_meaning(network):
    patches = torch.rand(1, 5, 64, generator=torch.Generator().manual_seed(2))
    visible, target = torch.tensor([[3, 40, 70, 500, 900]]), torch.tensor([[4, 41, 71]])
    order = torch.tensor([2, 0, 4, 1, 3])
    one, _ = network(patches, visible, target)
    other, _ = network(patches[:, order], visible[:, order], target[:, [2, 1, 0]])
    torch.testing.assert_close(one, other[:, [2, 1, 0]], atol=1e-5, rtol=1e-5)


def test_attention_is_that_of_the_formula(network):
    """One block against softmax(q kᵀ / √d) v written out."""
    block, z = network.encoder[0], torch.rand(2, 7, 128, generator=torch.Generator().manual_seed(3))
    normed = block.norm1(z)
    q, k, v = (part.view(2, 7, 16, 8).transpose(1, 2) for part in block.qkv(normed).split(128, dim=2))
    attention = torch.softmax(q @ k.transpose(2, 3) / 8**0.5, dim=3) @ v
    middle = z + block.project(attention.transpose(1, 2).reshape(2, 7, 128))
    expected = middle + block.contract(torch.nn.functional.gelu(block.expand(block.norm2(middle))))
    torch.testing.assert_close(block(z, None), expected, atol=1e-5, rtol=1e-5)
