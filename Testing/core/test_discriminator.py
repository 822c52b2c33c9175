"""Corruptions and the training of the discriminator."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from U2ADLib.errors import Cancelled, ModelError
from U2ADLib.package import load_model
from U2ADLib.scoring.discriminator import Discriminator, DiscriminatorArchitecture
from U2ADLib.simulation.corrupt import corrupt
from U2ADLib.training.corrupted import WINDOW, CorruptionConfig, draw_example
from U2ADLib.training.data import SliceSet
from U2ADLib.training.discriminator import (
    DiscriminatorConfig,
    as_input,
    discriminator_loss,
    train_discriminator,
)

TINY = DiscriminatorArchitecture(widths=(4, 8))
SHORT = DiscriminatorConfig(rounds=2, examples=50, steps=6, batch=4, warmup_steps=2)


def healthy(count=3):
    """Bent cords of level 0.3 in CSF of 0.9, in standard slices."""
    rng = np.random.default_rng(0)
    images, cords = np.zeros((count, 256, 256), np.float16), np.zeros((count, 256, 256), bool)
    for k in range(count):
        for row in range(30, 226):
            middle = 128 + 12 * np.sin(row / 40 + k)
            cords[k, row, int(middle) - 4 : int(middle) + 4] = True
            images[k, row, int(middle) - 9 : int(middle) + 9] = 0.9
        images[k][cords[k]] = 0.3
        images[k] += rng.normal(0, 0.01, (256, 256)).clip(-0.05, 0.05).astype(np.float16)
    return SliceSet(images.clip(0, 1), cords, np.array([f"p{k}" for k in range(count)]), np.zeros(count, bool))


def test_corruptions_lie_in_the_cord_and_brighten_it():
    data, rng = healthy(1), np.random.default_rng(1)
    image, cord = data.images[0].astype(np.float32), data.cords[0]
    sizes, contrasts = [], []
    for _ in range(60):
        changed, mask = corrupt(image, cord, rng)
        assert mask.any()
        assert not (mask & ~cord).any()
        near = F.max_pool2d(torch.from_numpy(mask.astype(np.float32))[None, None], 11, 1, 5)[0, 0].numpy() > 0
        np.testing.assert_allclose(changed[~near], image[~near], atol=1e-3)
        sizes.append(mask.sum())
        contrasts.append((changed - image)[mask].mean() / 0.6)
    assert min(sizes) < 12
    assert max(sizes) > 60
    assert 0.02 < np.median(contrasts) < 0.4
    assert max(contrasts) > 0.3


def test_examples_repeat_with_their_seed_and_some_are_lesion_free():
    data, weights = healthy(), np.full(3, 1 / 3)
    twice = [
        [draw_example(data, weights, np.random.default_rng([5, k]), CorruptionConfig()) for k in range(40)]
        for _ in range(2)
    ]
    for one, other in zip(*twice, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.image.shape == WINDOW
        assert one.image.min() >= 0
        assert one.image.max() <= 1
        assert one.cord.sum() > 100
    assert 20 <= sum(example.corrupted.any() for example in twice[0]) <= 38


def test_what_the_discriminator_sees_of_an_example():
    data = healthy(1)
    example = draw_example(data, np.ones(1), np.random.default_rng(3), CorruptionConfig(corrupted=1, mask_error=0))
    one, target = as_input(example, DiscriminatorArchitecture())
    assert one.shape == (3, 160, 40)
    assert target.shape == (160, 40)
    assert (target == 1).sum() == example.corrupted.sum()
    assert not (target < 0).any()
    assert (one[1] > 0).sum() == example.cord.sum()


def test_what_may_not_be_healthy_does_not_count():
    data = healthy(1)
    unknown = np.zeros_like(data.cords)
    unknown[0, 60:200] = data.cords[0, 60:200]
    config = CorruptionConfig(corrupted=1, mask_error=0)
    example = draw_example(data, np.ones(1), np.random.default_rng(4), config, unknown)
    assert not (example.unknown & example.corrupted).any()
    assert (example.unknown | example.corrupted)[example.cord].mean() > 0.5
    one, target = as_input(example, TINY)
    assert (target == -1).sum() == example.unknown.sum()
    inputs, targets = torch.from_numpy(one)[None].float(), torch.from_numpy(target)[None].float()
    torch.manual_seed(0)
    network = Discriminator(TINY).eval()
    plain = discriminator_loss(network, inputs, targets, SHORT)
    known = (inputs[:, 1] > 0.5) & (targets >= 0)
    crossed = F.binary_cross_entropy_with_logits(network(inputs)[known], targets[known])
    assert plain[1].item() == pytest.approx(crossed.item(), rel=1e-5)


def test_loss_against_a_slow_version():
    torch.manual_seed(1)
    network = Discriminator(TINY).eval()
    inputs = torch.randn(2, 3, 16, 40)
    inputs[:, 1] = 0
    inputs[:, 1, :, 14:26] = 1
    targets = torch.zeros(2, 16, 40)
    targets[0, 4:8, 16:20] = 1
    targets[0, 0, 0] = 1  # outside the cord: does not count
    config = DiscriminatorConfig(dice_weight=0.5, slice_weight=0.25)
    total, pixels, dice, slices = (v.item() for v in discriminator_loss(network, inputs, targets, config))
    logits = network(inputs).detach().numpy()
    slow_pixels, slow_dice, slow_slices = [], [], []
    for b in range(2):
        values, both, sums = [], 0, 0
        padded = np.full((18, 42), 0.0)
        for r in range(16):
            for c in range(40):
                inside = 14 <= c < 26
                padded[r + 1, c + 1] = max(logits[b, r, c], -12) if inside else -12
                if inside:
                    p, y = 1 / (1 + np.exp(-logits[b, r, c])), targets[b, r, c].item()
                    slow_pixels.append(-np.log(p if y else 1 - p))
                    both, sums = both + p * y, sums + p + y
        for r in range(16):
            for c in range(40):
                values.append(padded[r : r + 3, c : c + 3].sum() / 9)
        spoken = np.mean(sorted(values)[-8:])
        slow_slices.append(np.log1p(np.exp(-spoken if b == 0 else spoken)))
        slow_dice.append(1 - (2 * both + 1) / (sums + 1))
    assert pixels == pytest.approx(np.mean(slow_pixels), rel=1e-4)
    assert dice == pytest.approx(np.mean(slow_dice), rel=1e-4)
    assert slices == pytest.approx(np.mean(slow_slices), rel=1e-4)
    assert total == pytest.approx(pixels + 0.5 * dice + 0.25 * slices, rel=1e-5)


def test_a_killed_training_ends_in_the_same_weights(tmp_path):
    data = healthy()
    whole, curves = train_discriminator(data, tmp_path / "whole", TINY, SHORT)
    assert [c["round"] for c in curves] == [1, 2]

    def kill(stage, done, total):
        if stage == "Training" and done == 8:
            raise Cancelled

    with pytest.raises(Cancelled):
        train_discriminator(data, tmp_path / "killed", TINY, SHORT, progress=kill)
    said = []
    resumed, _ = train_discriminator(data, tmp_path / "killed", TINY, SHORT, say=said.append)
    assert said == ["Resuming after round 1 of 2."]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_corrected_cords_are_other_data(tmp_path):
    data, short = healthy(), replace(SHORT, rounds=1, steps=1)
    train_discriminator(data, tmp_path, TINY, short)
    with pytest.raises(ModelError, match="other data or settings"):
        train_discriminator(replace(data, cords=data.cords & (np.arange(256) < 130)), tmp_path, TINY, short)


def test_it_can_look_at_reconstructions(tmp_path):
    architecture = DiscriminatorArchitecture(("gain", "inside", "rebuilt", "uncertainty"), (4, 8))
    short = DiscriminatorConfig(rounds=1, examples=50, steps=2, batch=4)
    trained, curves = train_discriminator(healthy(), tmp_path, architecture, short, network=load_model().network)
    assert trained.architecture == architecture
    assert np.isfinite(curves[0]["loss"])
