"""The parts of the default score against values known in advance and slow, obvious versions."""

import numpy as np
import pytest
import torch

from U2ADLib.anomaly import erode
from U2ADLib.config import MonteCarloConfig, ScoreConfig
from U2ADLib.errors import ModelError, UsageError
from U2ADLib.package import install_model, load_model, save_model
from U2ADLib.reconstruction import Reconstruction
from U2ADLib.scoring.channels import channels
from U2ADLib.scoring.discriminator import Discriminator, DiscriminatorArchitecture, features
from U2ADLib.scoring.evidence import (
    across_slices,
    discriminator_evidence,
    discriminator_logits,
    error_evidence,
    gain_maps,
    probability,
)
from U2ADLib.scoring.expected import ExpectedError, place_of_pixels
from U2ADLib.scoring.gain import local_gain, local_gain_difference, smooth_inside
from U2ADLib.scoring.inpainting import IN_RING, RidgeInpainting
from U2ADLib.scoring.strip import WIDTH, Strip


def straight(rows=128, columns=64, half_width=4):
    """A cord 2 · half_width columns wide along all rows, level 100, in CSF of 300."""
    cord = np.zeros((rows, columns), bool)
    cord[:, columns // 2 - half_width : columns // 2 + half_width] = True
    return np.where(cord, 100.0, 300.0).astype(np.float32), cord


def leaning(rows=128, columns=64):
    """A cord that leans by a column every four rows, with noise."""
    rng = np.random.default_rng(0)
    cord = np.zeros((rows, columns), bool)
    for row in range(8, rows - 8):
        first = 12 + row // 4
        cord[row, first : first + 8] = True
    return (np.where(cord, 0.3, 0.9) + rng.normal(0, 0.02, cord.shape)).astype(np.float32), cord


# ---------------------------------------------------------------------------------------------------------- local gain


def test_local_gain_follows_a_slope_and_not_a_lesion():
    image, cord = straight()
    slope = np.linspace(1, 2, len(image))[:, None].astype(np.float32)
    level = local_gain(image * slope, cord)
    # The 40th percentile over ±20 rows of a straight line lies a tenth of the window below its middle.
    inside = slice(30, -30)
    np.testing.assert_allclose(level[inside], (100 * slope[:, 0] - 100 / 127 * 4)[inside], rtol=0.01)
    lesion = image.copy()
    lesion[60:72, 28:36] *= 1.5
    np.testing.assert_allclose(local_gain(lesion, cord), 100, rtol=1e-6)
    difference = local_gain_difference(lesion, cord)
    assert difference[65, 30] == pytest.approx(0.5)
    assert difference[20, 30] == pytest.approx(0)


def test_local_gain_where_there_is_hardly_any_cord():
    image, _ = straight()
    thin = np.zeros(image.shape, bool)
    thin[40:80, 31] = True
    np.testing.assert_allclose(local_gain(image, thin), 100, rtol=1e-6)


def test_smoothing_takes_nothing_from_outside():
    inside = np.zeros((20, 20), bool)
    inside[5:15, 8:12] = True
    values = np.where(inside, 2.0, 1000.0)
    smooth = smooth_inside(values, inside)
    np.testing.assert_allclose(smooth[inside], 2, rtol=1e-5)
    assert not smooth[~inside].any()


# ----------------------------------------------------------------------------------------------------- simple rules


def test_places_of_a_block():
    cord = np.zeros((9, 12), bool)
    cord[:, 2:10] = True  # 8 columns wide, over all rows
    places = np.zeros(cord.shape, int)
    places[cord] = place_of_pixels(np.pad(cord, ((9, 9), (0, 0)), mode="edge"))[72:144]
    np.testing.assert_array_equal(places[4, 2:10], [0, 2, 4, 6, 7, 5, 3, 1])


def test_expected_error_makes_lesion_free_slices_standard():
    rng = np.random.default_rng(1)
    _, cord = straight()
    places = np.zeros(cord.shape, int)
    places[cord] = place_of_pixels(cord)
    maps = [5.0 * places + rng.normal(0, 1 + places) for _ in range(4)]
    standard = ExpectedError().fit(maps, [cord] * 4).standardise(5.0 * places + 1 + places, cord)
    np.testing.assert_allclose(standard[cord], 1, atol=0.1)
    assert not standard[~cord].any()


def test_inpainting_learns_what_is_linear_and_never_looks_at_what_it_predicts():
    rng = np.random.default_rng(2)
    _, cord = straight()

    def draw():
        brightness = rng.uniform(1, 3, len(cord))[:, None]
        brightness = np.cumsum(rng.normal(0, 0.05, len(cord)))[:, None] + 2 + 0 * brightness
        return np.where(cord, 1, 1 + brightness).astype(np.float32)

    model = RidgeInpainting(penalty=0.1).fit((draw(), cord) for _ in range(20))
    assert model.weights.shape[1] == (~IN_RING).sum()
    image = draw()
    plain = model.residual(local_gain_difference(image, cord), cord)
    assert np.abs(plain[20:-20, 29:35]).max() < 0.05  # the cord is 1 whatever the fluid does
    difference = local_gain_difference(image, cord)
    changed = difference.copy()
    changed[60:64, 29:35] += 0.5
    found = model.residual(changed, cord)
    np.testing.assert_allclose((found - plain)[60:64, 30:34], 0.5, atol=1e-5)


# ------------------------------------------------------------------------------------------------ strip and channels


def test_a_strip_is_cut_and_pasted_back_unchanged():
    image, cord = leaning()
    strip = Strip.around(cord)
    cut = strip.cut(image)
    assert cut.shape == (112, WIDTH)  # rows 8 … 119 show cord
    np.testing.assert_array_equal(strip.paste(cut, image.shape)[cord], image[cord])
    # Upright: the cord's middle stays in the middle.
    middle = (strip.cut(cord) * np.arange(WIDTH)).sum(1) / strip.cut(cord).sum(1)
    assert np.abs(middle - WIDTH / 2).max() <= 1


def test_a_strip_at_the_side_of_the_image():
    cord = np.zeros((50, 30), bool)
    cord[3:47, :6] = True
    image = np.arange(cord.size, dtype=float).reshape(cord.shape)
    strip = Strip.around(cord)
    assert len(strip.columns) == 48
    assert strip.first == 1
    np.testing.assert_array_equal(strip.paste(strip.cut(image), image.shape)[cord], image[cord])


def test_channels_are_relative_to_the_cord():
    image, cord = straight()
    image[60:64, 30:34] = 150
    mean, variance = np.where(cord, 100.0, 0), np.where(cord, 25.0, 0)
    maps = channels(image, cord, mean=mean, variance=variance)
    assert maps["gain"][61, 31] == pytest.approx(0.5)
    assert maps["rebuilt"][61, 31] == pytest.approx(0.5)
    assert maps["gain"][5, 5] == pytest.approx(2)
    assert maps["rebuilt"][5, 5] == 0
    assert maps["uncertainty"][61, 31] == pytest.approx(0.05)
    np.testing.assert_allclose(maps["depth"][64, 28:32], [0.2, 0.4, 0.6, 0.8])
    assert features(maps, ("gain", "inside")).shape == (2, *image.shape)


# ------------------------------------------------------------------------------------------------------------ evidence


@pytest.fixture(scope="module")
def discriminators():
    torch.manual_seed(0)
    architecture = DiscriminatorArchitecture(("gain", "inside", "depth", "rebuilt"), (8, 8, 8))
    return [Discriminator(architecture).eval() for _ in range(2)]


def made():
    """Three slices, the middle one without its lower half; rebuilt as 0.3 everywhere."""
    image, cord = leaning()
    images, cords = np.stack([image, image * 1.1, image * 0.9]), np.stack([cord] * 3)
    cords[1, 60:] = False
    mean = np.where(cords, 0.3, 0).astype(np.float32)
    return images, cords, Reconstruction(mean, np.where(cords, abs(images - mean), 0), 0.01 * cords, 14, "cpu")


def test_logits_are_those_of_each_slice_alone(discriminators):
    images, cords, rebuilt = made()
    together = discriminator_logits(discriminators, images, cords, rebuilt)
    for k in (0, 2):  # slice 1 is padded to the others' length
        maps = channels(images[k], cords[k], mean=rebuilt.mean[k], variance=rebuilt.epistemic[k])
        strip = Strip.around(cords[k])
        x = torch.from_numpy(strip.cut(features(maps, discriminators[0].architecture.channels)))[None]
        with torch.no_grad():
            logits = [(d(x) + d(x.flip(3)).flip(2)) / 2 for d in discriminators]
        alone = strip.paste(((logits[0] + logits[1]) / 2)[0].numpy(), images[k].shape)
        np.testing.assert_allclose(together[k], np.where(cords[k], alone, 0), atol=1e-4)
    assert not together[~cords].any()


def test_neighbours_against_a_slow_loop():
    rng = np.random.default_rng(3)
    _, cords, _ = made()
    logits = rng.normal(size=cords.shape).astype(np.float32)
    at = [0, 3.3, 6.6]
    found = across_slices(logits, cords, at, 3.0)
    for k, row, column in ((0, 40, 25), (1, 40, 25), (2, 80, 36), (1, 80, 36)):
        weights = [np.exp(-0.5 * ((at[k] - at[j]) / 3.0) ** 2) * cords[j, row, column] for j in range(3)]
        expected = (
            sum(w * logits[j, row, column] for j, w in enumerate(weights)) / sum(weights)
            if cords[k, row, column]
            else 0
        )
        assert found[k, row, column] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(across_slices(logits, cords, at, 0), np.where(cords, logits, 0))


def test_a_lesion_in_neighbouring_slices_counts_more_than_noise_in_one():
    _, cords, _ = made()
    cords[1] = cords[0]
    logits = np.full(cords.shape, -3, np.float32)
    logits[:, 40:44, 23:27] = 2  # in all slices
    logits[0, 80:84, 33:37] = 2  # in one
    together = across_slices(logits, cords, [0, 1, 2], 2.0)
    assert together[0, 41, 24] == pytest.approx(2)
    assert together[0, 81, 34] < 0


def test_evidence_with_the_mask_and_with_a_smaller_one(discriminators):
    images, cords, rebuilt = made()
    config = ScoreConfig(evidence="discriminator", components=0, across="max")
    found = discriminator_evidence(discriminators, images, cords, rebuilt, config, [0, 3, 6])
    logits = discriminator_logits(discriminators, images, cords, rebuilt)
    np.testing.assert_allclose(found.map[0], probability(logits[0], cords[0]), atol=1e-6)
    smaller = erode(cords, 1)
    logits = discriminator_logits(discriminators, images, smaller, rebuilt)
    np.testing.assert_allclose(found.smaller[2], probability(logits[2], smaller[2]), atol=1e-6)
    np.testing.assert_array_equal(found.gain, gain_maps(images, cords))
    assert found.map[cords].min() > 0
    assert found.map.max() < 1
    assert not found.map[~cords].any()
    paper = error_evidence(images, cords, rebuilt, ScoreConfig(erosion_px=1))
    np.testing.assert_array_equal(paper.map, rebuilt.aleatoric)
    np.testing.assert_array_equal(paper.smaller, np.where(erode(cords, 2), rebuilt.aleatoric, 0))


def test_a_package_keeps_its_discriminators(discriminators, tmp_path, monkeypatch):
    network = load_model().network
    default = {"evidence": "discriminator", "components": 0, "across": "max", "bottom_fraction": 0}
    card = {"scores": {"paper": {}, "default": default}, "thresholds": []}
    save_model(tmp_path / "both", network, card, "float32", discriminators)
    model = load_model(tmp_path / "both")
    assert (model.score_name(), model.score_name("paper"), len(model.discriminators)) == ("default", "paper", 2)
    images, cords, rebuilt = made()
    np.testing.assert_allclose(
        discriminator_logits(model.discriminators, images, cords, rebuilt),
        discriminator_logits(discriminators, images, cords, rebuilt),
        atol=1e-6,
    )
    assert model.monte_carlo == MonteCarloConfig()
    assert model.thresholds_for("all") is None
    with pytest.raises(UsageError, match="no score 'best'"):
        model.score_name("best")
    # … also when it is installed, and a damaged one is refused.
    monkeypatch.setenv("U2AD_MODELS", str(tmp_path / "models"))
    installed = install_model(tmp_path / "both", "mine")
    assert load_model("mine").sha256 == model.sha256
    (installed.folder / "discriminators.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="checksum"):
        load_model("mine")
    save_model(tmp_path / "both", network, card | {"scores": {"paper": {}}})
    assert not (tmp_path / "both" / "discriminators.safetensors").exists()
    assert load_model(tmp_path / "both").discriminators == ()
