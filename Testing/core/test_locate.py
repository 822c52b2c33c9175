"""Cord and discs found without labels: geometry with a network that knows the truth, and the bundled model itself."""

import json
from dataclasses import replace

import numpy as np
import pytest

from U2ADLib.cli import main
from U2ADLib.errors import InputError, ModelError, UsageError
from U2ADLib.evaluation import regions
from U2ADLib.evaluation.regions import Truth, compare, surface_distance
from U2ADLib.io import read_volume, write_volume
from U2ADLib.package import RegionModel, load_model, load_region_model
from U2ADLib.roi import locate as locating
from U2ADLib.roi.labels import Discs, read_discs
from U2ADLib.roi.locate import Located, locate, region_maps
from U2ADLib.roi.network import DISC_NUMBERS, RegionArchitecture, RegionNet
from U2ADLib.roi.source import prepare
from U2ADLib.sagittal import whole_field
from U2ADLib.volume import Volume, reorient

KNOWING = RegionModel("knowing", None, {}, "0" * 64)


def turned(volume: Volume, codes: str, degrees: float) -> Volume:
    """The same anatomy in another orientation of the array, with image and header turned about the vertical."""
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return reorient(Volume(volume.array, turn @ volume.affine, volume.name), codes)[0]


def know(monkeypatch, volume, cord, tips):
    """A network that says what is true: the cord's share of every pixel, a peak at every tip."""
    stack, rows, columns = whole_field(volume)
    share = stack.grid.to_stack(cord.array.astype(np.float32))[:, rows, columns]
    row, column = np.mgrid[: share.shape[1], : share.shape[2]]
    heat = {}
    for number in DISC_NUMBERS:
        heat[number] = np.zeros_like(share)
        if number in tips:
            _, r, c = stack.grid.ras_to_stack(tips[number]) - (0, rows.start, columns.start)
            heat[number][:] = np.exp(-((row - r) ** 2 + (column - c) ** 2) / 12.5)
    monkeypatch.setattr(locating, "region_maps", lambda *args, **kwargs: (share, heat))


@pytest.mark.parametrize("codes", ["LIP", "RAS", "PSR", "SAL"])
@pytest.mark.parametrize("degrees", [0, 20])
def test_what_is_found_lies_on_the_anatomy(monkeypatch, phantom, codes, degrees):
    volume, cord, labels = (turned(v, codes, degrees) for v in (phantom.volume, phantom.cord, phantom.discs))
    tips = read_discs(labels, cord=cord).points
    know(monkeypatch, volume, cord, tips)
    found = locate(volume, model=KNOWING)
    truth = cord.array > 0
    assert 2 * (found.cord & truth).sum() / (found.cord.sum() + truth.sum()) > 0.95
    assert sorted(found.discs.points) == sorted(tips)
    for number, point in found.discs.points.items():
        away = point - tips[number]
        across = volume.directions[:, int(np.argmax(volume.spacing))]  # the slice is that of the cord's middle
        assert np.linalg.norm(away - (away @ across) * across) < 1.0
        assert abs(away @ across) < 4


def test_a_given_cord_is_kept(monkeypatch, phantom):
    tips = read_discs(phantom.discs, cord=phantom.cord).points
    know(monkeypatch, phantom.volume, phantom.cord, tips)
    mask = phantom.cord.array > 0
    assert locate(phantom.volume, cord=mask, model=KNOWING).cord is mask
    prepared = prepare(phantom.volume, cord=phantom.cord, region_model=KNOWING)
    np.testing.assert_array_equal(prepared.cord, mask)
    assert prepared.record["cord"] == "sct"
    assert prepared.record["discs"] == "found"
    assert len(prepared.region.segments) == 6


def test_levels_of_found_discs_can_be_shifted(monkeypatch, phantom):
    tips = read_discs(phantom.discs, cord=phantom.cord).points
    know(monkeypatch, phantom.volume, phantom.cord, tips)
    plain = prepare(phantom.volume, region_model=KNOWING).region
    lower = prepare(phantom.volume, region_model=KNOWING, shift_levels=1).region
    assert lower.missing == ("C2-3",)
    for number in range(4, 9):
        np.testing.assert_allclose(lower.discs[number], plain.discs[number - 1])


def test_no_cord_is_refused_by_name(monkeypatch, phantom):
    nothing = phantom.cord.with_array(np.zeros_like(phantom.cord.array))
    know(monkeypatch, phantom.volume, nothing, {})
    with pytest.raises(InputError, match="phantom: "):
        locate(phantom.volume, model=KNOWING)


def test_without_discs_the_cord_is_still_a_region(monkeypatch, phantom):
    know(monkeypatch, phantom.volume, phantom.cord, {})
    prepared = prepare(phantom.volume, region_model=KNOWING)
    assert prepared.region.segments == ()
    assert any("disc" in note for note in prepared.notes)


def test_nothing_given_and_no_model(phantom):
    with pytest.raises(InputError, match="--cord"):
        prepare(phantom.volume, region_model=None)
    with pytest.raises(UsageError, match="Levels can only be shifted"):
        prepare(phantom.volume, cord=phantom.cord, region_model=None, shift_levels=1)


def test_maps_do_not_depend_on_padding_or_batches(monkeypatch):
    """Sizes that are no multiple of what the network needs; memory that runs out."""
    import torch

    network = RegionNet(RegionArchitecture(widths=(4, 8), groups=2)).initialise(torch.Generator().manual_seed(0))
    images = np.random.default_rng(0).random((5, 41, 30)).astype(np.float32)
    cord, heat = region_maps(network, images, 3.3)
    assert cord.shape == images.shape
    assert set(heat) == set(DISC_NUMBERS)
    one = region_maps(network, images[1:4], 3.3)[0][1]
    np.testing.assert_allclose(cord[2], one, atol=1e-5)
    forward, told = RegionNet.forward, []

    def limited(self, x):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x)

    monkeypatch.setattr(RegionNet, "forward", limited)
    again, _ = region_maps(network, images, 3.3, say=told.append)
    np.testing.assert_allclose(again, cord, atol=1e-5)
    assert "one slice at a time" in told[0]


def test_packages_are_for_one_thing(tiny_model):
    with pytest.raises(ModelError, match="for analysis, not for region"):
        load_region_model(tiny_model)
    with pytest.raises(ModelError, match="for region, not for analysis"):
        load_model("u2ad-region")


# the bundled model


def test_the_command_writes_the_region(phantom, tmp_path, capsys):
    image = tmp_path / "neck.nii.gz"
    write_volume(image, phantom.volume)
    out = tmp_path / "region"
    assert main(["locate", str(image), "--out", str(out), "--progress", "none", "--device", "cpu"]) == 0
    assert "Confidence" in capsys.readouterr().out
    cord, discs, segments = (read_volume(out / f"{n}.nii.gz") for n in ("cord", "discs", "segments"))
    assert cord.same_grid(phantom.volume)
    assert ((segments.array > 0) <= (cord.array > 0)).all()
    record = json.loads((out / "region.json").read_text())
    assert record["model"]["name"] == load_region_model().name
    assert set(np.unique(discs.array)) - {0} <= set(range(3, 9))
    assert main(["locate", str(image), "--out", str(out), "--progress", "none"]) == 3
    # What was found can be given back, corrected or not.
    words = ["analyse", str(image), "--cord", str(out / "cord.nii.gz"), "--discs", str(out / "discs.nii.gz")]
    assert main([*words, "--out", str(tmp_path / "result"), "--progress", "none", "--device", "cpu"]) == 0


def test_the_bundled_model_on_phantoms_of_unseen_seeds():
    """Clinical scans; what it was measured on in full is in its card."""
    from U2ADLib.simulation.phantom import phantom_config, simulate_phantom

    model = load_region_model()
    for seed in (6_000_000, 6_000_001):
        phantom = simulate_phantom(phantom_config("clinical", seed), seed)
        found = locate(phantom.volume, model=model, device="cpu")
        truth = phantom.cord.array > 0
        assert 2 * (found.cord & truth).sum() / (found.cord.sum() + truth.sum()) > 0.88
        tips = {int(n): np.array(p) for n, p in phantom.description["disc_tips_ras_mm"].items()}
        for number, point in found.discs.points.items():
            assert abs(point[2] - tips[number][2]) < 6, number  # named right: levels are 15 mm apart
        assert len(found.discs.points) == 6


def test_the_bundled_model_outlines_a_neck_it_never_saw(shared_data):
    """The template PAM50, an average of people, from the brain to the lumbar spine. Its levels are named one too low,
    as the model's card says."""
    volume, cord, labels = (
        read_volume(shared_data / "pam50_small" / f"PAM50_small_{name}.nii.gz") for name in ("t2", "cord", "label_disc")
    )
    tips = {n: tip for n, tip in read_discs(labels, cord=cord).points.items() if 3 <= n <= 8}
    row = compare(locate(volume, device="cpu"), Truth("PAM50", volume, cord.array > 0, tips))
    assert row["dice"] > 0.92
    assert row["surface_mm"] < 0.4


def test_figures_of_regions(phantom):
    """Against shifts that are known: 2 mm downwards for every disc, the cord as it is."""
    tips = read_discs(phantom.discs, cord=phantom.cord).points
    truth = Truth("a", phantom.volume, phantom.cord.array > 0, tips)
    lower = {n: tip - np.array([0, 0, 2.0]) for n, tip in tips.items()}
    row = compare(Located(truth.cord, Discs(lower, "found"), {}, ("doubt",), (), {}), truth)
    expected = {"dice": 1, "surface_mm": 0, "named": 1, "tip_mm": 2, "lesions": np.nan, "doubts": 1}
    assert row == pytest.approx(expected, nan_ok=True)
    lesion = np.zeros_like(truth.cord)
    lesion[tuple(np.argwhere(truth.cord)[:4].T)] = True
    cut = truth.cord & ~lesion
    cut[tuple(np.argwhere(lesion)[0])] = True
    row = compare(Located(cut, Discs(lower, "found"), {}, (), (), {}), replace(truth, lesions=lesion))
    assert row["lesions"] == 0.25
    off = {n + 1: tip for n, tip in tips.items() if n < 8}
    assert compare(Located(truth.cord, Discs(off, "found"), {}, (), (), {}), truth)["named"] == 0


def test_people_the_region_model_learnt_from_do_not_count(phantom, monkeypatch, capsys):
    tips = read_discs(phantom.discs, cord=phantom.cord).points
    cord = phantom.cord.array > 0
    cords = {"a": cord, "b": cord, "c": None}
    known, masked, unmasked = (Truth(name, phantom.volume, one, tips) for name, one in cords.items())
    model, written = RegionModel("knowing", None, {"training": {"people": ["a"]}}, "0" * 64), {}
    monkeypatch.setattr(regions, "load_region_model", lambda name: model)
    monkeypatch.setattr(regions, "find_model", lambda *_: None)
    monkeypatch.setattr(regions, "read_card", lambda folder: {"metrics": {"before": 1}})
    monkeypatch.setattr(regions, "update_card", lambda folder, metrics: written.update(metrics))
    monkeypatch.setattr(regions, "locate", lambda *_, **__: Located(cord, Discs(tips, "found"), {}, (), (), {}))

    def figures(*truths):
        written.clear()
        monkeypatch.setattr(regions, "people_truths", lambda *_: truths)
        regions.main(["folder", "--into-card"])
        json.dumps(written, allow_nan=False)
        return written.pop("all people", None), capsys.readouterr().out

    row, said = figures(known, masked, unmasked)
    assert "| a (trained on) |" in said
    assert "1 left out of the summary" in said
    assert row["cases"] == 2
    assert row["mean Dice"] == row["all levels right and Dice over 0.9"] == row["all levels named right"] == 1
    row, _ = figures(unmasked)
    assert [row[name] for name in ("mean Dice", "all levels right and Dice over 0.9")] == [None, None]
    assert row["all levels named right"] == 1
    row, said = figures(known)
    assert row is None
    assert written == {"before": 1}


def test_surface_distance_of_two_boxes():
    a, b = np.zeros((9, 20, 20), bool), np.zeros((9, 20, 20), bool)
    a[:, 4:16, 4:16] = True
    b[:, 4:16, 5:17] = True  # moved by a voxel of 0.5 mm
    everywhere = np.ones_like(a)
    assert surface_distance(a, a, everywhere, (3, 1, 0.5)) == 0
    # Of the faces to front and back every voxel is 0.5 mm away, of the others none but their ends.
    assert 0 < surface_distance(a, b, everywhere, (3, 1, 0.5)) < 0.5
    assert surface_distance(a, np.zeros_like(a), everywhere, (1, 1, 1)) == np.inf


def test_what_counts_as_cord_is_above_a_half():
    level = locating.CORD_FROM
    made = locating._recentred(np.array([0, level / 2, level - 1e-3, level, (1 + level) / 2, 1], np.float32))
    np.testing.assert_allclose(made, [0, 0.25, 0.5, 0.5, 0.75, 1], atol=1e-3)
    assert made[2] < 0.5 <= made[3]
