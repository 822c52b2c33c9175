import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from U2ADLib.config import Architecture
from U2ADLib.errors import InputError, ModelError
from U2ADLib.training import augment
from U2ADLib.training.data import SliceSet, concatenate, sampling_weights
from U2ADLib.training.loss import reconstruction_loss, sobel
from U2ADLib.training.pretrain import PretrainConfig, learning_rate, pretrain


def slice_set(person, count=4, phantom=False, seed=0):
    """Cords whose brightness is a smooth wave along them."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 256, 256), 0.8)
    cords = np.zeros(images.shape, bool)
    cords[:, 60:160, 120:128] = True
    wave = 0.3 + 0.1 * np.sin(np.arange(256) / 20 + rng.uniform(0, 6, (count, 1)))
    images = np.where(cords, wave[:, :, None], images)
    return SliceSet(images.astype(np.float16), cords, np.array([person] * count), np.full(count, phantom))


TINY = Architecture(width=32, heads=4, depth=1, decoder_width=16, decoder_heads=2, decoder_depth=1)
SHORT = PretrainConfig(epochs=4, slices_per_epoch=24, batch=4, warmup_steps=2, learning_rate=1e-2, validate_every=2)


def test_loss_is_the_mean_over_weighted_pixels():
    pixels, truth = torch.zeros(1, 2, 4), torch.full((1, 2, 4), 0.5)
    edges, true_edges = torch.zeros(1, 2, 4), torch.full((1, 2, 4), 0.2)
    weight = torch.zeros(1, 2, 4)
    weight[0, 0, :3] = 1
    truth[0, 1] = 99  # not weighted: must not count
    total, mse, edge = reconstruction_loss(pixels, edges, truth, true_edges, weight)
    assert mse == pytest.approx(0.25)
    assert edge == pytest.approx(0.04)
    assert total == pytest.approx(0.25 + 0.1 * 0.04)


def test_sobel_is_that_of_scikit_image():
    from skimage.filters import sobel as reference

    image = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    ours = sobel(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(ours[1:-1, 1:-1], reference(image)[1:-1, 1:-1], atol=1e-5)


def test_augmentation_is_drawn_first_and_applied_after():
    config = augment.AugmentConfig(noise_sigma=0, brightness=0, contrast=0, rotation_degrees=0, scale=0)
    drawn = augment.draw(config, (6, 64, 64), torch.Generator().manual_seed(0))
    image = torch.zeros(6, 64, 64)
    image[:, 32, 20] = 0.7
    moved, cords = augment.apply(image, image > 0, drawn)
    again, _ = augment.apply(image, image > 0, drawn)
    assert torch.equal(moved, again)
    for one, cord in zip(moved, cords, strict=True):
        row, column = divmod(int(one.argmax()), 64)
        assert one[row, column] == pytest.approx(0.7, abs=1e-4)  # whole pixels: nothing is blurred
        assert torch.nonzero(cord).tolist() == [[row, column]]
        assert abs(row - 32) <= 12
        assert abs(column - 20) <= 12
    assert len({int(one.argmax()) for one in moved}) > 1


def test_noise_brightness_and_contrast_have_the_drawn_size():
    drawn = augment.draw(augment.AugmentConfig(), (400, 16, 16), torch.Generator().manual_seed(0))
    assert float(drawn.noise.std()) == pytest.approx(0.02, rel=0.02)
    for factor in (drawn.brightness, drawn.contrast):
        assert 0.8 <= float(factor.min()) < 0.81
        assert 1.19 < float(factor.max()) <= 1.2


def test_every_person_and_both_kinds_get_their_share():
    data = concatenate([slice_set("a", 2), slice_set("b", 6), slice_set("p", 5, True), slice_set("q", 3, True)])
    weights = sampling_weights(data, real_share=0.4)
    shares = {name: weights[data.people == name].sum() for name in "abpq"}
    assert shares == pytest.approx({"a": 0.2, "b": 0.2, "p": 0.3, "q": 0.3})


def test_schedule_falls_to_a_tenth_every_quarter():
    config = PretrainConfig(warmup_steps=10)
    rates = [learning_rate(config, epoch, 1000) for epoch in (0, 49, 50, 149, 150, 199)]
    assert rates == pytest.approx([3e-3, 3e-3, 3e-4, 3e-5, 3e-6, 3e-6])
    assert learning_rate(config, 0, 0) == pytest.approx(3e-4)


def test_training_learns_and_writes_its_curves(tmp_path):
    network, curves = pretrain(slice_set("a", 8), slice_set("b", 3, seed=1), tmp_path, TINY, SHORT)
    assert curves[-1]["mse"] < 0.5 * curves[0]["mse"]
    best = min(c["held_out_mse"] for c in curves if "held_out_mse" in c)
    assert best < 0.03
    with open(tmp_path / "curves.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert float(rows[3]["held_out_mse"]) == pytest.approx(curves[3]["held_out_mse"])
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert not network.training


class Kill(BaseException):
    """As sudden as a power cut: not an Exception, so nothing tidies up."""


@pytest.mark.parametrize("step", [0, 6, 13, 23])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, step):
    data, held_out = slice_set("a", 8), slice_set("b", 2, seed=1)
    straight, _ = pretrain(data, held_out, tmp_path / "straight", TINY, SHORT)

    def kill(stage, done, total):
        if done == step:
            raise Kill

    with pytest.raises(Kill):
        pretrain(data, held_out, tmp_path / "killed", TINY, SHORT, progress=kill)
    resumed, curves = pretrain(data, held_out, tmp_path / "killed", TINY, SHORT)
    assert [c["epoch"] for c in curves] == [1, 2, 3, 4]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_state_of_another_training_or_a_damaged_one_is_refused(tmp_path):
    data = slice_set("a", 4)
    pretrain(data, None, tmp_path, TINY, SHORT)
    with pytest.raises(ModelError, match="other data or settings"):
        pretrain(slice_set("c", 4, seed=5), None, tmp_path, TINY, SHORT)
    corrected = replace(data, cords=data.cords & (np.arange(256) < 125))
    with pytest.raises(ModelError, match="other data or settings"):
        pretrain(corrected, None, tmp_path, TINY, SHORT)
    record = json.loads((tmp_path / "state.json").read_text())
    with open(tmp_path / record["tensors"], "ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelError, match="damaged"):
        pretrain(data, None, tmp_path, TINY, SHORT)


def test_nothing_to_learn_from():
    with pytest.raises(InputError, match="no slice to learn from"):
        concatenate([])
