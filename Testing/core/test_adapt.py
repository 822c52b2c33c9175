"""Uncertainty-guided adaptation: what is masked, what is left alone, and what is on disk at any moment."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from U2ADLib.analysis import analyse
from U2ADLib.cli import build_parser, main
from U2ADLib.config import Architecture, MonteCarloConfig
from U2ADLib.errors import Cancelled, InputError, ModelError, UsageError
from U2ADLib.files import file_sha256
from U2ADLib.io import read_volume, write_volume
from U2ADLib.mae import EdgeMAE, patchify
from U2ADLib.masking import masks_from_scores, roi_patches
from U2ADLib.montecarlo import monte_carlo
from U2ADLib.package import load_model, save_model, update_card
from U2ADLib.scoring.discriminator import Discriminator, DiscriminatorArchitecture
from U2ADLib.simulation.phantom import PhantomConfig, simulate_phantom
from U2ADLib.training import adapt as module
from U2ADLib.training import adapt_recipe, augment
from U2ADLib.training.adapt import COLUMNS, AdaptConfig, adapt, learning_rate
from U2ADLib.training.adapt_recipe import adapt_from_folder
from U2ADLib.training.data import SliceSet, concatenate
from U2ADLib.training.guidance import anomalous, eu_scores, patch_sums, touched_patches
from U2ADLib.training.loss import reconstruction_loss
from U2ADLib.volume import reorient

ROOT = Path(__file__).resolve().parents[2]
TINY = Architecture(width=32, heads=4, depth=1, decoder_width=16, decoder_heads=2, decoder_depth=1)
SHORT = AdaptConfig(
    epochs=6, au_from=4, refresh=2, batch=4, eu_rate=1e-2, au_rate=3e-3, warmup_steps=2, watch_epochs=(0, 3), k=2
)
SMALL = PhantomConfig(spacing_mm=(3.3, 1.0, 1.0), shape=(5, 220, 180))


def slice_set(person, count=2, seed=0):
    """Cords whose brightness is a smooth wave along them, each with a bright spot."""
    rng = np.random.default_rng(seed)
    cords = np.zeros((count, 256, 256), bool)
    cords[:, 60:140, 120:129] = True
    wave = 0.3 + 0.1 * np.sin(np.arange(256) / 20 + rng.uniform(0, 6, (count, 1)))
    images = np.where(cords, wave[:, :, None], 0.8)
    for image in images:
        row = rng.integers(70, 120)
        image[row : row + 6, 123:126] = 0.9
    return SliceSet(images.astype(np.float16), cords, np.array([person] * count), np.zeros(count, bool))


@pytest.fixture(scope="module")
def slices():
    return concatenate([slice_set(name, seed=seed) for seed, name in enumerate("abcd")])


@pytest.fixture(scope="module")
def network():
    return EdgeMAE(TINY).initialise(torch.Generator().manual_seed(0)).eval()


def weights(network):
    return torch.cat([values.flatten() for values in network.state_dict().values()])


# ----------------------------------------------------------------------------------------------------------------------
# EU: what is masked


def share_masked(uncertainty, weight, tau=1.0, draws=4000):
    """How often each patch of one image is masked, (N,)."""
    generator = torch.Generator().manual_seed(0)
    uncertainty = torch.tensor(uncertainty, dtype=torch.float32).expand(draws, -1)
    roi = torch.ones_like(uncertainty, dtype=torch.bool)
    scores = eu_scores(uncertainty, roi, torch.rand(roi.shape, generator=generator), tau, weight)
    masks = masks_from_scores(roi, scores, 0.75)
    assert masks.target_valid.all()
    return torch.zeros(roi.shape).scatter_(1, masks.target, 1.0).mean(0).numpy()


# Patch sums of EU as a trained network gives them: log-normal, far below 1, the highest about eight times the mean.
EU = np.array([0.03 * np.exp(1.2 * NormalDist().inv_cdf((i + 0.5) / 52)) for i in range(52)])


def at_quantiles(shares):
    """Mean shares of the three patches next to the minimum, the median, the 90th percentile and the maximum of EU."""
    return np.array([shares[:3].mean(), shares[25:28].mean(), shares[46:49].mean(), shares[-2:].mean()])


def test_unsure_patches_are_masked_more_often():
    assert 7 < EU.max() / EU.mean() < 9
    shares = share_masked(EU, "text")
    assert shares.mean() == pytest.approx(39 / 52)
    np.testing.assert_allclose(at_quantiles(shares), [0.60, 0.73, 0.97, 1.00], atol=0.06)
    assert np.all(np.diff(at_quantiles(shares)) > 0)


def test_undivided_uncertainty_is_nearly_random_masking():
    shares = at_quantiles(share_masked(EU, "raw"))
    np.testing.assert_allclose(shares, [0.74, 0.74, 0.79, 0.86], atol=0.06)
    assert shares[-1] > shares[0]


def test_the_printed_formula_masks_unsure_patches_less_often():
    shares = at_quantiles(share_masked(EU, "printed"))
    assert np.all(np.diff(shares) < 0)
    assert shares[0] > 0.95
    assert shares[-1] < 0.45


def test_without_weights_all_patches_are_equal():
    shares = share_masked(EU, "uniform")
    np.testing.assert_allclose(shares, 0.75, atol=0.03)


def test_temperature_sharpens_and_scale_does_not_matter():
    base = share_masked(EU, "text")
    np.testing.assert_array_equal(share_masked(EU * 1e-4, "text"), base)
    sharp, flat = at_quantiles(share_masked(EU, "text", 0.3)), at_quantiles(share_masked(EU, "text", 100))
    assert sharp[0] < at_quantiles(base)[0] < flat[0]
    np.testing.assert_allclose(flat, 0.75, atol=0.05)
    assert share_masked(np.zeros(52), "text").mean() == pytest.approx(0.75)  # no uncertainty at all


@pytest.mark.parametrize("weight", ["text", "raw", "printed"])
def test_weights_are_those_of_the_formulas(weight):
    """Against the formulas, image by image; patches outside the ROI are nowhere in them."""
    rng = np.random.default_rng(0)
    uncertainty, uniform = rng.random((3, 20)) * 0.3, rng.random((3, 20))
    roi = rng.random((3, 20)) < 0.6
    scores = eu_scores(*(torch.from_numpy(a) for a in (uncertainty, roi, uniform)), 0.4, weight).numpy()
    for i in range(3):
        eu, p = uncertainty[i][roi[i]], uniform[i][roi[i]]
        if weight == "text":
            e = np.exp(eu / eu.mean() / 0.4)
            expected = e / e.sum() * p
        elif weight == "raw":
            e = np.exp(eu / 0.4)
            expected = e / e.sum() * p
        else:
            expected = -np.log(np.exp(eu / 0.4)) / np.exp(eu / 0.4).sum() * p
        found = scores[i][roi[i]]
        if weight == "printed":  # up to a factor for the image, which changes no order
            expected, found = expected / expected.min(), found / found.min()
        np.testing.assert_allclose(found, expected)


def test_patch_uncertainty_is_a_sum_over_the_cord():
    rng = np.random.default_rng(1)
    maps, cords = rng.random((2, 32, 32)).astype(np.float32), rng.random((2, 32, 32)) < 0.4
    found = patch_sums(torch.from_numpy(maps), torch.from_numpy(cords), 8).numpy()
    for i in range(2):
        for row in range(4):
            for column in range(4):
                at = i, slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
                assert found[i, 4 * row + column] == pytest.approx(maps[at][cords[at]].sum(), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# AU: what is left alone


def test_likely_anomalies_by_hand():
    """300 pixels of cord, 30 of them in the highest tenth: four components, a diagonal pair, and single pixels."""
    cord = np.zeros((40, 40), bool)
    cord[5:35, 10:20] = True
    error = np.where(cord, 0.01, 5.0)  # outside the cord nothing counts, however high
    error[6:9, 11:14] = 0.30  # 9 px, sum 2.7
    error[12, 11:16] = 0.50  # 5 px, sum 2.5
    error[16, 12] = error[17, 13] = 1.20  # 2 px that touch at a corner, sum 2.4
    error[20:23, 11:14] = 0.25  # 9 px, sum 2.25: the fourth
    for row in (26, 28, 30, 32, 34):
        error[row, 15] = 3.0  # single pixels, the highest of all
    assert np.count_nonzero(error[cord] > np.percentile(error[cord], 90)) == 30
    expected = np.zeros_like(cord)
    expected[6:9, 11:14] = expected[12, 11:16] = True
    expected[16, 12] = expected[17, 13] = True
    np.testing.assert_array_equal(anomalous(error, cord), expected)
    assert anomalous(error, cord, count=4)[21, 12]
    assert anomalous(error, cord, smallest=1)[26:32, 15].any()
    assert not anomalous(np.where(cord, 0.3, 0), cord).any()  # nothing is above anything
    assert not anomalous(error, np.zeros_like(cord)).any()


def test_left_alone_patches_are_never_masked_and_never_in_the_loss(network, slices, tmp_path, monkeypatch):
    """Whatever their share of the cord: here the brightest two fifths of it."""
    monkeypatch.setattr(module, "anomalous", lambda error, cord, *_: cord & (np.arange(256)[:, None] < 92))
    seen = []

    def rebuild(called, architecture, images, cords, masks):
        result = original(called, architecture, images, cords, masks)
        seen.append((roi_patches(cords, 8), masks, result[-1]))
        return result

    original = module.rebuild
    monkeypatch.setattr(module, "rebuild", rebuild)
    still = augment.AugmentConfig(0, 0, 0, 0, 0, 0)
    config = replace(SHORT, epochs=2, au_from=0, augmentation=still)
    _, curves = adapt(network, slices, tmp_path, config)
    assert curves[0]["excluded"] > 0.25
    alone = np.zeros((32, 32), bool)
    alone[60 // 8 : 92 // 8 + 1, 120 // 8 : 128 // 8 + 1] = True
    alone = torch.from_numpy(alone.ravel())
    assert len(seen) == 4
    for roi, masks, weight in seen:
        assert not (alone[masks.target] & masks.target_valid).any()
        assert torch.equal(masks.target_valid.sum(1), (roi & ~alone).sum(1))  # all others, which are fewer than 75 %
        assert not weight[alone[masks.target]].any()
        assert weight.sum() > 0


def test_pixels_that_a_lesion_moved_to_are_left_alone():
    """The maps move with the image: each moved bright pixel lies in a patch that is left alone, and no far patch is."""
    drawn = augment.draw(augment.AugmentConfig(noise_sigma=0), (40, 128, 128), torch.Generator().manual_seed(2))
    drawn = replace(drawn, brightness=torch.ones(40), contrast=torch.ones(40))
    lesions = torch.zeros(40, 128, 128)
    lesions[:, 60, 50:52] = 1.0
    images, _ = augment.apply(lesions, lesions > 0, drawn)
    moved = augment.move(lesions[:, None], drawn)[:, 0]
    torch.testing.assert_close(moved.clamp(0, 1), images)
    alone = touched_patches(moved, 8)
    bright = (patchify(images, 8) > 0.02).any(2)
    assert not (bright & ~alone).any()
    assert int(alone.sum(1).max()) <= 4
    assert len({tuple(row.nonzero().flatten().tolist()) for row in alone}) > 5


def test_whole_pixel_shifts_mark_no_neighbours():
    config = augment.AugmentConfig(0, 0, 0, 12, 0, 0)
    drawn = augment.draw(config, (50, 256, 256), torch.Generator().manual_seed(0))
    marked = torch.zeros(50, 1, 256, 256)
    marked[:, :, 96:104, 120:128] = 1  # one whole patch
    moved = augment.move(marked, drawn)[:, 0]
    for one, alone in zip(moved > 0.5, touched_patches(moved, 8), strict=True):
        assert torch.equal(touched_patches(one[None].float(), 8)[0], alone)
        assert int(one.sum()) == 64


# ----------------------------------------------------------------------------------------------------------------------
# the run


def test_both_stages_and_their_maps(network, slices, tmp_path):
    before = weights(network).clone()
    told = []
    others = slice_set("z", seed=9)
    adapted, curves = adapt(
        network, slices, tmp_path, SHORT, validation=others, progress=lambda *step: told.append(step)
    )
    assert torch.equal(weights(network), before)
    assert not torch.equal(weights(adapted), before)
    assert not adapted.training
    assert [line["epoch"] for line in curves] == list(range(7))
    assert [line.get("stage") for line in curves] == [None, *["EU"] * 4, *["AU"] * 2]
    assert [line["epoch"] for line in curves if "adapted_ssim" in line] == [0, 2, 4, 6]
    assert [line["epoch"] for line in curves if "held_out_ssim" in line] == [0, 2, 4, 6]
    assert [line["epoch"] for line in curves if "excluded" in line] == [4]
    assert curves[-1]["adapted_mse"] < 0.2 * curves[0]["adapted_mse"]
    with open(tmp_path / "curves.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[6]["adapted_psnr"]) == pytest.approx(curves[6]["adapted_psnr"])
    assert float(rows[3]["loss"]) == pytest.approx(curves[3]["loss"])
    # Each stage counts up to its own end.
    for stage in ("EU", "AU"):
        steps = [(done, total) for title, done, total in told if title == f"Adapting, {stage} stage"]
        assert len({total for _, total in steps}) == 1
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]
    # Maps of three people at the refreshes nearest to epochs 0 and 3, and at the end.
    maps = load_file(tmp_path / "maps.safetensors")
    assert maps["epochs"].tolist() == [0, 2, 6]
    assert maps["aleatoric"].shape[:2] == maps["epistemic"].shape[:2] == (3, 3)
    first, last, left, right = maps["window"].tolist()
    window = np.s_[first : last + 1, left : right + 1]
    for case, number in enumerate(maps["slice"].tolist()):
        np.testing.assert_array_equal(maps["image"][case], slices.images[number].astype(np.float32)[window])
        np.testing.assert_array_equal(maps["cord"][case] > 0, slices.cords[number][window])
    for name in ("curves.png", "maps.png"):
        assert (tmp_path / name).stat().st_size > 5000


def test_maps_and_figures_are_those_of_the_monte_carlo(network, slices, tmp_path):
    """Against the whole images, not cut to the cord, and the whole Monte Carlo at once."""
    from U2ADLib.evaluation.reconstruction import reconstruction_quality

    config = replace(SHORT, epochs=1, au_from=None)
    _, curves = adapt(network, slices, tmp_path, config)
    images = slices.images.astype(np.float32)
    rebuilt = monte_carlo(network, images, slices.cords, MonteCarloConfig(config.k), config.seed)
    for name, value in reconstruction_quality(images, slices.cords, rebuilt).items():
        assert curves[0][f"adapted_{name}"] == pytest.approx(value, rel=1e-5)
    maps = load_file(tmp_path / "maps.safetensors")
    first, last, left, right = maps["window"].tolist()
    for name in ("aleatoric", "epistemic"):
        whole = getattr(rebuilt, name)[maps["slice"].numpy()]
        np.testing.assert_allclose(maps[name][0], whole[:, first : last + 1, left : right + 1])


def test_stages_can_be_left_out(network, slices, tmp_path):
    kinds = {}
    for name, au_from in (("eu", None), ("au", 0)):
        _, curves = adapt(network, slices, tmp_path / name, replace(SHORT, epochs=2, au_from=au_from))
        kinds[name] = [line["stage"] for line in curves[1:]]
    assert kinds == {"eu": ["EU", "EU"], "au": ["AU", "AU"]}


def test_schedules():
    config = AdaptConfig(warmup_steps=0)
    rates = [learning_rate(config, epoch, 0, 12) for epoch in (0, 75, 149, 150, 175, 199)]
    assert rates[:2] == pytest.approx([3e-4, 1.5e-4])
    assert rates[3:5] == pytest.approx([1e-4, 0.5e-4])
    assert 0 < rates[2] < 1e-7
    assert 0 < rates[5] < 1e-6
    paper = replace(config, schedule="paper")
    rates = [learning_rate(paper, epoch, 0, 12) for epoch in (0, 49, 50, 149, 150, 199)]
    assert rates == pytest.approx([3e-3, 3e-3, 3e-4, 3e-5, 3e-6, 3e-6])  # 3e-6 is all the AU stage gets
    assert learning_rate(AdaptConfig(), 150, 0, 12) == pytest.approx(1e-4 / 50)  # each stage warms up


def test_what_cannot_be_configured():
    for changes in (
        {"tau": 0}, {"eu_weight": "x"}, {"schedule": "x"}, {"epochs": 100}, {"refresh": 0}, {"k": 1},
        {"au_from": -1}, {"batch": 0}, {"mask_ratio": 1.0},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            AdaptConfig(**changes)
    assert AdaptConfig().refreshes() == list(range(0, 201, 10))
    assert AdaptConfig(au_from=145).refreshes()[14:17] == [140, 145, 150]
    assert AdaptConfig().watched() == {0, 50, 100, 150, 200}


class Kill(BaseException):
    """As sudden as a power cut: not an Exception, so nothing tidies up."""


@pytest.fixture(scope="module")
def straight(network, slices, tmp_path_factory):
    """A run that was never killed: its folder, weights and curves, and how often it reported progress."""
    folder, calls = tmp_path_factory.mktemp("straight"), []
    adapted, curves = adapt(network, slices, folder, SHORT, progress=lambda *call: calls.append(call))
    return folder, weights(adapted), curves, len(calls)


@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 0.99])
def test_a_killed_run_resumes_to_the_same_weights(network, slices, straight, tmp_path, share):
    """In both stages, in a step and in a refresh, right after a refresh and between two."""
    folder, expected_weights, expected_curves, calls = straight
    left = int(share * calls)

    def kill(*_):
        nonlocal left
        left -= 1
        if left < 0:
            raise Kill

    with pytest.raises(Kill):
        adapt(network, slices, tmp_path, SHORT, progress=kill)
    resumed, curves = adapt(network, slices, tmp_path, SHORT)
    assert curves == expected_curves
    assert torch.equal(weights(resumed), expected_weights)
    for name in ("maps.safetensors", "maps.png", "curves.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_state_of_another_adaptation_is_refused(network, slices, tmp_path):
    short = replace(SHORT, epochs=1, au_from=None)
    adapt(network, slices, tmp_path, short)
    other = EdgeMAE(TINY).initialise(torch.Generator().manual_seed(1))
    for changed in ((other, slices, short), (network, slice_set("a"), short), (network, slices, replace(short, tau=2))):
        with pytest.raises(ModelError, match="other data or settings"):
            adapt(changed[0], changed[1], tmp_path, changed[2])


def test_loss_of_parts_adds_up_to_that_of_the_whole():
    """Parts with different numbers of masked pixels: the mean of their means would be wrong."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(6, 5, 4, generator=generator) for _ in range(4)]
    weight = (torch.rand(6, 5, 4, generator=generator) < torch.linspace(0.1, 0.9, 6)[:, None, None]).float()
    whole = reconstruction_loss(*values, weight)
    parts = [
        reconstruction_loss(*(v[part] for v in values), weight[part], pixels_in_loss=weight.sum())
        for part in (slice(0, 3), slice(3, 6))
    ]
    for k in range(3):
        torch.testing.assert_close(parts[0][k] + parts[1][k], whole[k])


# ----------------------------------------------------------------------------------------------------------------------
# from images to a package


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Three people with cord masks, one without, a file that is none, and a mask that is empty."""
    folder = tmp_path_factory.mktemp("hospital")
    for number, name in enumerate(("p1", "p2", "p3", "nomask", "empty")):
        phantom = simulate_phantom(SMALL, number)
        write_volume(folder / f"{name}.nii.gz", phantom.volume)
        if name != "nomask":
            cord = phantom.cord if name != "empty" else phantom.cord.with_array(np.zeros_like(phantom.cord.array))
            write_volume(folder / f"{name}_seg.nii.gz", cord)
    (folder / "broken.nii.gz").write_bytes(b"not an image")
    return folder


ONE = replace(SHORT, epochs=2, au_from=1)


def rows_of(path):
    with open(path, encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_images_named_from_where_they_lie_are_left_out_in_plain_words(hospital, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(hospital)
    with pytest.raises(InputError):
        adapt_from_folder(
            ["broken.nii.gz"], tmp_path / "ours", model=tiny_model, region_model="none", few=True, config=ONE,
            device="cpu", say=(said := []).append,
        )  # fmt: skip
    (message,) = [text for text in said if "left out" in text]
    assert "the folder" not in message
    assert str(hospital) not in message


def test_a_copy_is_nobody_else(hospital, tiny_model, tmp_path):
    """The same voxels under another name, turned and as another kind of file, do not make a third person."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("p1", "p1_seg", "p2", "p2_seg"):
        shutil.copy(hospital / f"{name}.nii.gz", images)
    for name in ("", "_seg"):
        write_volume(images / f"p3{name}.nrrd", reorient(read_volume(hospital / f"p1{name}.nii.gz"), "LPS")[0])
    with pytest.raises(InputError, match="of 2 people can be used"):
        adapt_from_folder(
            images, tmp_path / "ours", model=tiny_model, region_model="none", config=ONE, device="cpu",
            say=(said := []).append,
        )  # fmt: skip
    assert "p3.nrrd is left out: It is a copy of p1.nii.gz, and every image counts once." in said


def test_from_a_folder_to_a_package(hospital, tiny_model, tmp_path):
    said, source = [], {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    out = adapt_from_folder(
        hospital, tmp_path / "ours", model=tiny_model, region_model="none", few=True, config=ONE, device="cpu",
        say=said.append,
    )  # fmt: skip
    assert {path.name: path.read_bytes() for path in tiny_model.iterdir()} == source
    used, left_out = rows_of(out / "training" / "used.csv"), rows_of(out / "training" / "left_out.csv")
    assert [row["file"] for row in used] == ["p1.nii.gz", "p2.nii.gz", "p3.nii.gz"]
    assert {row["cord"] for row in used} == {"given"}
    reasons = {row["file"]: row["why"] for row in left_out}
    assert set(reasons) == {"broken.nii.gz", "empty.nii.gz", "nomask.nii.gz"}
    assert "No cord mask was found" in reasons["nomask.nii.gz"]
    assert any("broken.nii.gz is left out" in message for message in said)
    text = (out / "model.json").read_text(encoding="utf-8")
    card = json.loads(text)
    assert str(hospital) not in text + str(reasons)
    assert not any(name in text for name in ("p1", "p2", "nomask"))
    assert card["thresholds"] == []
    assert card["training"]["source"] == {"name": "tiny", "sha256": load_model(tiny_model).sha256}
    assert [card["training"][name] for name in ("images", "left_out", "people_count")] == [3, 3, 3]
    assert "people" not in card["training"]
    assert [entry["name"] for entry in card["lineage"]] == ["tiny"]
    before, after = (card["metrics"]["adapted_slices"][when] for when in ("before", "after"))
    assert set(before) == set(after) == {"mse", "psnr", "ssim", "variance"}
    assert after["mse"] < before["mse"]
    model, source_model = load_model(out), load_model(tiny_model)
    assert (model.scores, model.preprocessing) == (source_model.scores, source_model.preprocessing)
    assert model.network.architecture == source_model.network.architecture
    phantom = simulate_phantom(SMALL, 5)
    result = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=model, device="cpu")
    assert result.patient_score > 0
    assert result.patient_flagged is None
    # A finished model stays as it is; adapted once more, it has a longer lineage.
    with pytest.raises(UsageError, match="finished model"):
        adapt_from_folder(hospital, out, model=tiny_model, few=True, config=ONE, device="cpu")
    # Whom the source learnt from must not be judged by what was adapted from it either.
    known = {"people": ["sub-known"], "validation_people": ["sub-held"]}
    update_card(out, training=card["training"] | known, discriminator_training={"people": ["sub-shown"]})
    images = [hospital / f"p{n}.nii.gz" for n in (1, 2)]
    again = adapt_from_folder(
        images, tmp_path / "again", model=out, few=True, config=replace(ONE, epochs=1, au_from=0), device="cpu"
    )
    card = json.loads((again / "model.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in card["lineage"]] == ["tiny", "ours"]
    assert card["training"]["people_count"] == 2
    assert {name: card["training"][name] for name in known} == known
    assert card["discriminator_training"] == {"people": ["sub-shown"]}


@pytest.mark.parametrize(("contrast", "phantoms"), [("T2w", 60), ("PDw", 0)])
def test_phantoms_teach_the_score_of_t2w_models_alone(hospital, tmp_path, monkeypatch, contrast, phantoms):
    asked = []

    def adapted(source, *_, phantoms, **options):
        asked.append(phantoms)
        return source.discriminators

    monkeypatch.setattr(adapt_recipe, "adapt_discriminators", adapted)
    network = EdgeMAE(Architecture(depth=1, decoder_depth=1)).initialise(torch.Generator().manual_seed(0))
    discriminators = [Discriminator(DiscriminatorArchitecture(widths=(4, 8)))]
    save_model(tmp_path / "source", network, {"purpose": {"contrast": contrast}}, "float32", discriminators)

    def run(config):
        images = [hospital / "p1.nii.gz"]
        return adapt_from_folder(
            images, tmp_path / "m", model=tmp_path / "source", few=True, config=config, device="cpu"
        )

    one = replace(SHORT, epochs=1, au_from=None)
    if phantoms:
        with pytest.raises(UsageError, match="judged on"):
            run(replace(one, seed=100))
        assert not (tmp_path / "m").exists()
    card = json.loads((run(one) / "model.json").read_text(encoding="utf-8"))
    assert asked == [phantoms]
    assert card["discriminator_adaptation"]["phantoms"] == phantoms


def test_a_cord_without_mask_is_found(hospital, tiny_model, tmp_path):
    config = replace(ONE, epochs=1, au_from=None)
    out = adapt_from_folder(
        [hospital / "nomask.nii.gz"], tmp_path / "m", model=tiny_model, few=True, config=config, device="cpu"
    )
    (row,) = rows_of(out / "training" / "used.csv")
    assert row["cord"] == "found"
    assert int(row["slices"]) > 0


def test_too_few_are_refused(hospital, tiny_model, tmp_path):
    def attempt(data=hospital, **options):
        adapt_from_folder(
            data, tmp_path / "m", model=tiny_model, region_model="none", config=ONE, device="cpu", **options
        )

    with pytest.raises(
        InputError, match=r"slices of 3 people .* at least 20 slices .*3 image\(s\) were left out.*--few"
    ):
        attempt()
    with pytest.raises(InputError, match="slices of 2 people"):
        attempt(people=["p1", "p2"], min_slices=1)
    with pytest.raises(InputError, match="no image of sub-x"):
        attempt(people=["sub-x"])
    with pytest.raises(InputError, match="No image can be used"):
        attempt([hospital / "broken.nii.gz"], few=True)
    with pytest.raises(InputError, match="no image and no folder"):
        attempt([hospital / "absent.nii.gz"])
    assert not (tmp_path / "m").exists()


def test_cancelled_in_the_middle_state_is_kept_and_no_package(hospital, tiny_model, tmp_path):
    def run(out, **options):
        return adapt_from_folder(
            hospital, out, model=tiny_model, region_model="none", few=True, config=ONE, device="cpu", **options
        )

    def cancel(*_):
        if (out / "training" / "state.json").exists():
            raise Cancelled

    out = tmp_path / "m"
    with pytest.raises(Cancelled, match=r"up to epoch 1 of 2.*the same command goes on"):
        run(out, progress=cancel)
    assert json.loads((out / "training" / "state.json").read_text())["epoch"] == 1
    assert not (out / "model.json").exists()
    said = []
    run(out, say=said.append)
    assert "Resuming after epoch 1 of 2." in said
    run(tmp_path / "straight")
    assert file_sha256(out / "weights.safetensors") == file_sha256(tmp_path / "straight" / "weights.safetensors")

    def at_once(*_):
        raise Cancelled

    with pytest.raises(Cancelled):
        run(tmp_path / "never", progress=at_once)
    assert not (tmp_path / "never").exists()


def test_the_command_and_two_processes_that_share_it(hospital, tiny_model, tmp_path, capsys):
    """torchrun with two processes ends where one ends, though a batch's parts hold different numbers of patches."""
    words = [
        "adapt", str(hospital), "--model", str(tiny_model), "--region-model", "none", "--few", "--epochs", "4",
        "--au-from", "2", "--refresh", "2", "--batch", "5", "--device", "cpu", "--progress", "json",
    ]  # fmt: skip
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"Adapting, EU stage", "Adapting, AU stage"} <= {line.get("stage") for line in lines}
    assert lines[-1]["result"] == str(tmp_path / "one")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "U2ADLib"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, *words, "--out", str(tmp_path / "two")], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    if done.returncode and "could not be connected" in done.stdout + done.stderr:
        pytest.skip(f"TWO PROCESSES COULD NOT BE CONNECTED: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["result"] for line in lines if "result" in line] == [str(tmp_path / "two")]  # one of them reports
    states = [load_file(next((tmp_path / name / "training").glob("state-*.safetensors"))) for name in ("one", "two")]
    moved = max(
        float((values - load_model(tiny_model).network.state_dict()[name.removeprefix("network.")]).abs().max())
        for name, values in states[0].items()
        if name.startswith("network.")
    )
    assert moved > 1e-5
    for name, values in states[0].items():
        if name.startswith("network."):
            torch.testing.assert_close(states[1][name], values, rtol=0, atol=0.02 * moved)
    one, two = (rows_of(tmp_path / name / "training" / "curves.csv") for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for column in ("loss", "mse", "adapted_mse", "adapted_variance", "excluded"):
            assert (a[column] == "") == (b[column] == "")
            if a[column]:
                assert float(b[column]) == pytest.approx(float(a[column]), rel=1e-3)


def test_arguments():
    parse = build_parser().parse_args
    options = parse(["adapt", "a", "b.nii.gz", "--out", "m"])
    assert options.data == [Path("a"), Path("b.nii.gz")]
    default = AdaptConfig()
    for name in ("epochs", "tau", "eu_weight", "schedule", "refresh", "batch", "slices_per_epoch", "seed"):
        assert getattr(options, name) == getattr(default, name)
    assert options.au_from == "default"
    assert parse(["adapt", "a", "--out", "m", "--au-from", "none"]).au_from == "none"
    assert parse(["adapt", "a", "--out", "m", "--au-from", "0"]).au_from == 0
