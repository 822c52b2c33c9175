"""The second look at the cord, in axial planes: geometry in mm, what it keeps, and its training."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, center_of_mass
from test_region_training import SHORT, TINY, Kill

from U2ADLib.errors import ModelError
from U2ADLib.evaluation.regions import compare, phantom_truths
from U2ADLib.io import write_volume
from U2ADLib.package import AXIAL, install_model, load_region_model, package_files, read_card
from U2ADLib.roi import locate as locating
from U2ADLib.roi.axial import PLANE, AxialArchitecture, AxialNet, axial_planes, cord_centres, normalised, second_look
from U2ADLib.roi.tube import Tube
from U2ADLib.training import axial as training
from U2ADLib.training import region_recipe
from U2ADLib.training.axial import AxialTrainConfig, CordVolume, cord_volumes, draw_planes, together, train_axial
from U2ADLib.training.region_recipe import train_region_from_folder
from U2ADLib.volume import Volume

SMALL = AxialArchitecture(widths=(4, 8), groups=2)
BRIEF = AxialTrainConfig(steps=6, volumes=2, planes=2, warmup_steps=1, steps_per_epoch=2)
MIDDLE = (PLANE - 1) / 2


@pytest.fixture
def few_watched(monkeypatch):
    """One phantom of each kind is only watched."""
    for kind in ("VARIED_WATCHED", "CLINICAL_WATCHED"):
        monkeypatch.setattr(region_recipe, kind, 1)


def ramps(slices, rows, columns, spacing):
    """Millimetres to the left, downwards and to the back, (S, H, W) each."""
    k, r, c = np.meshgrid(np.arange(slices) * spacing, np.arange(rows), np.arange(columns), indexing="ij")
    return k.astype(np.float32), r.astype(np.float32), c.astype(np.float32)


def oval(slices=30, rows=60, columns=80, spacing=1.0, at=(14.0, 40.0), half=(6.0, 4.0)):
    """A cord that runs straight down, (S, H, W) bool; middle and half axes in mm, across and from front to back."""
    k, _, c = ramps(slices, rows, columns, spacing)
    return ((k - at[0]) / half[0]) ** 2 + ((c - at[1]) / half[1]) ** 2 <= 1


@pytest.mark.parametrize("spacing", [1.0, 3.3])
def test_planes_are_in_millimetres(spacing):
    """Every pixel of a plane shows what lies there: images whose values are places."""
    left, down, back = (torch.from_numpy(ramp) for ramp in ramps(60, 50, 120, spacing))
    rows, centres = torch.tensor([20, 31]), torch.tensor([[30.0, 55.0], [28.5, 60.25]])
    way = torch.arange(PLANE) - MIDDLE
    for ramp, centre, axis in ((left, centres[:, 0] * spacing, 1), (back, centres[:, 1], 0)):
        planes = axial_planes(ramp, spacing, rows, centres)
        expected = (centre[:, None] + way)[:, None, :, None] if axis else (centre[:, None] + way)[:, None, None, :]
        torch.testing.assert_close(planes, expected.expand_as(planes), atol=1e-3, rtol=0)
    planes = axial_planes(down, spacing, rows, centres)
    assert planes[:, :, 24, 24].tolist() == [[18, 20, 22], [29, 31, 33]]


def test_planes_at_the_ends_of_a_volume():
    _, down, _ = (torch.from_numpy(ramp) for ramp in ramps(10, 20, 60, 3.0))
    planes = axial_planes(down, 3.0, torch.tensor([0, 19]), torch.tensor([[4.5, 30.0]] * 2))
    assert planes[0, :, 24, 24].tolist() == [0, 0, 2]  # the uppermost row again, where there is none above
    assert planes[1, :, 24, 24].tolist() == [17, 19, 19]
    assert float(planes[1, 1, 0, 24]) == 0  # 15 mm to the side there is no slice


def test_turned_and_mirrored_planes():
    """A plane that is mirrored across and turned by 90°: across becomes front to back."""
    left, _, back = (torch.from_numpy(ramp) for ramp in ramps(60, 5, 120, 1.0))
    where = (torch.tensor([2]), torch.tensor([[30.0, 60.0]]))
    mirrored = torch.tensor([[[-1.0, 0.0], [0.0, 1.0]]])
    planes, plain = (axial_planes(left, 1.0, *where, turn)[0, 1] for turn in (mirrored, None))
    torch.testing.assert_close(planes, plain.flip(0))
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    torch.testing.assert_close(
        axial_planes(back, 1.0, *where, quarter)[0, 1, :, 0] - 30, plain[:, 0], atol=1e-3, rtol=0
    )


def test_centres_follow_the_cord():
    cord = np.zeros((20, 60, 80), bool)
    for row in range(10, 50):
        cord[5:12, row, 20 + row // 2 : 27 + row // 2] = True
    rows, centres = cord_centres(cord)
    assert rows.tolist() == list(range(10, 50))
    np.testing.assert_allclose(centres[:, 0], 8)
    np.testing.assert_allclose(centres[10:-10, 1], 23 + rows[10:-10] // 2, atol=0.3)


class Bright(torch.nn.Module):
    """Says that what is bright is cord."""

    def forward(self, planes):
        return 40 * (planes[:, 1:2] - 0.5)


@pytest.mark.parametrize("spacing", [1.0, 2.5])
def test_what_the_planes_show_lies_on_the_slices(spacing):
    """The answer comes back to the very voxels: a bright oval, found with planes that are centred beside it. Its border
    is interpolated twice."""
    shape = (int(36 / spacing), 60, 80)
    truth = oval(*shape, spacing, at=(17.0, 40.0))
    off = np.roll(truth, 5, axis=2)
    off[:, :10] = False
    likely = second_look(Bright(), truth.astype(np.float32), spacing, off)
    found, truth = likely[:, 10:] > 0.5, truth[:, 10:]
    assert (found <= truth).all()
    assert (binary_erosion(truth, np.ones((3, 1, 3)), border_value=1) <= found).all()
    np.testing.assert_allclose(center_of_mass(likely[:, 10:]), center_of_mass(truth), atol=0.05)
    assert not likely[:, :10].any()  # above the cord that was found, nothing is looked at


def test_planes_are_scaled_by_their_brightest_pixels():
    planes = torch.rand(2, 3, PLANE, PLANE) * torch.tensor([0.2, 3.0]).view(-1, 1, 1, 1)
    torch.testing.assert_close(normalised(planes), normalised(5 * planes))
    assert not normalised(torch.zeros(1, 3, PLANE, PLANE)).any()


def test_where_both_looks_contradict_the_first_is_kept():
    tube = oval()
    elsewhere = np.roll(tube, 9, axis=2)
    likely = np.where((np.arange(60) < 20)[None, :, None], elsewhere, oval(half=(5.0, 3.5))).astype(np.float32)
    probability, cord, kept = locating._outlined(tube.astype(np.float32) * 0.6, tube, likely)
    assert kept == 20
    np.testing.assert_array_equal(cord[:, :20], tube[:, :20])
    np.testing.assert_array_equal(cord[:, 20:], oval(half=(5.0, 3.5))[:, 20:])  # which is sure, wins
    assert (cord[:, 20:] == (probability[:, 20:] >= 0.5)).all()


@pytest.mark.parametrize(("slices", "looked"), [(15, True), (3, False)])
def test_a_second_look_needs_slices_to_both_sides(monkeypatch, slices, looked):
    """And what it finds is the cord: here a narrower one."""
    cord = oval(slices, 120, 80, 3.3, at=(3.3 * (slices // 2), 40.0))
    narrow = oval(slices, 120, 80, 3.3, at=(3.3 * (slices // 2), 40.0), half=(3.5, 4.0))
    affine = np.array([[0, 0, -3.3, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    volume = Volume(np.ascontiguousarray(cord.transpose(2, 1, 0)).astype(np.float32), affine, "oval")
    model = replace(load_region_model(), axial=Bright())
    as_given = []

    def maps(network, images, *_):
        as_given.append(images.shape)
        return cord.astype(np.float32) * 0.9, {}

    monkeypatch.setattr(locating, "region_maps", maps)
    monkeypatch.setattr(locating, "clean_tube", lambda *_: Tube(cord, (), 1.0))
    monkeypatch.setattr("U2ADLib.roi.axial.second_look", lambda *_: narrow.astype(np.float32))
    found = locating.locate(volume, model=model)
    expected = narrow if looked else cord
    assert as_given == [cord.shape]
    np.testing.assert_array_equal(found.cord.transpose(2, 1, 0), expected)


# what it learns from


def test_thin_slices_are_also_learnt_as_thick_ones():
    cord = oval(30, 60, 80)
    volume = Volume(np.ascontiguousarray(cord).astype(np.float32), np.diag([1.0, 1, 1, 1]) @ axes("LIP"), "a")
    made = cord_volumes(volume, cord)
    assert [one.slice_spacing_mm for one in made] == pytest.approx([1, 2, 3, 4, 5])
    for one in made:
        voxel = one.slice_spacing_mm
        assert one.cord.sum() * voxel == pytest.approx(cord.sum(), rel=0.15)
        assert one.images.shape == one.cord.shape
        assert ((one.images > 0.5) == one.cord).all()
    thick = Volume(volume.array[::3], np.diag([3.0, 1, 1, 1]) @ axes("LIP"), "a")
    assert [one.slice_spacing_mm for one in cord_volumes(thick, cord[::3])] == pytest.approx([3])
    assert cord_volumes(volume, cord & (np.arange(60) < 15)[None, :, None]) == []


def axes(codes):
    """Affine of 1 mm voxels whose axes point to L, I and P."""
    assert codes == "LIP"
    return np.array([[-1, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


def test_image_and_cord_move_together(monkeypatch):
    monkeypatch.setattr(training, "changed", lambda images, rng: images)
    monkeypatch.setattr(training, "LESION_SHARE", 0)
    for spacing in (1.0, 3.0):
        cord = oval(int(36 / spacing), 60, 80, spacing, at=(17.0, 40.0))
        data = together([("a", False, [CordVolume(cord.astype(np.float16), cord, spacing)])])
        planes, inside = draw_planes(data, [cord_centres(cord)], [0, 0], BRIEF, np.random.default_rng(0))
        assert planes.shape == (4, 3, PLANE, PLANE)
        bright = planes[:, 1:2] / planes[:, 1:2].amax((1, 2, 3), keepdim=True) > 0.5
        assert torch.equal(bright, inside > 0)
        assert (inside.sum((1, 2, 3)) > 30).all()


def test_lesions_are_cord(monkeypatch):
    """They brighten the cord and nothing else, and its mask stays as it was."""
    monkeypatch.setattr(training, "changed", lambda images, rng: images)
    cord = oval(36, 60, 80, at=(17.0, 40.0))
    image = np.where(cord, 0.3, 1.0).astype(np.float16)
    data = together([("a", False, [CordVolume(image, cord, 1.0)])])
    made = {}
    for share in (0, 1):
        monkeypatch.setattr(training, "LESION_SHARE", share)
        config = replace(BRIEF, planes=8)
        made[share] = draw_planes(data, [cord_centres(cord)], [0], config, np.random.default_rng(1))
    mean = [float((planes[:, 1:2] * inside).sum() / inside.sum()) for planes, inside in made.values()]
    assert mean[1] > 1.05 * mean[0]
    planes, inside = made[1]
    outside = planes[:, 1:2][inside == 0]
    assert outside.max() < 1.3


def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    cords = [oval(12, 40, 80, 3.3, at=(18.0, 40.0), half=half) for half in ((6.0, 4.0), (7.0, 3.5))]
    data = together(
        [(name, name == "b", [CordVolume(c.astype(np.float16), c, 3.3)]) for name, c in zip("ab", cords, strict=True)]
    )
    straight, curves = train_axial(data, data, tmp_path / "a", SMALL, BRIEF)
    assert len(curves) == 3
    assert 0 <= curves[-1]["held_out_outline_dice"] <= 1

    def kill(stage, done, total):
        if done == 3:
            raise Kill

    with pytest.raises(Kill):
        train_axial(data, data, tmp_path / "b", SMALL, BRIEF, progress=kill)
    resumed, _ = train_axial(data, data, tmp_path / "b", SMALL, BRIEF)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    moved = together([("a", False, [CordVolume(cords[0].astype(np.float16), np.roll(cords[0], 1, 2), 3.3)])])
    with pytest.raises(ModelError, match="other data or settings"):
        train_axial(moved, moved, tmp_path / "b", SMALL, BRIEF)


def test_it_learns_an_oval(tmp_path):
    """A bright oval in the dark, in ovals it did not learn from."""

    def ovals(*halves):
        cords = [oval(12, 40, 80, 3.3, at=(18.0, 40.0), half=half) for half in halves]
        return together([(str(k), False, [CordVolume(c.astype(np.float16), c, 3.3)]) for k, c in enumerate(cords)])

    config = AxialTrainConfig(steps=60, volumes=2, planes=4, warmup_steps=5, steps_per_epoch=60, learning_rate=1e-2)
    _, curves = train_axial(ovals((6, 4), (7, 3.5)), ovals((5, 5)), tmp_path, SMALL, config)
    assert curves[-1]["held_out_outline_dice"] > 0.8


def test_the_package_holds_both_networks(phantom, few_watched, tmp_path, monkeypatch):
    monkeypatch.setenv("U2AD_MODELS", str(tmp_path / "models"))
    anat = tmp_path / "data" / "sub-a" / "anat"
    anat.mkdir(parents=True)
    write_volume(anat / "sub-a_T2w.nii.gz", phantom.volume)
    write_volume(anat / "sub-a_T2w_label-SC_seg.nii.gz", phantom.cord)
    out = tmp_path / "both"
    settings = {"architecture": TINY, "config": SHORT, "outline": BRIEF, "device": "cpu"}
    train_region_from_folder(tmp_path / "data", out, phantoms=0, **settings)
    model = load_region_model(out)
    assert isinstance(model.axial, AxialNet)
    assert model.sha256.count("+") == 1
    assert read_card(out)["training"]["outline_recipe"]["steps"] == 6
    install_model(out)
    assert (tmp_path / "models" / "both" / AXIAL).is_file()
    assert AXIAL in package_files(read_card(out))
    (tmp_path / "models" / "both" / AXIAL).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="do not match their checksum"):
        load_region_model("both")


def test_without_masks_there_is_no_second_look(phantom, few_watched, tmp_path):
    anat = tmp_path / "data" / "sub-a" / "anat"
    anat.mkdir(parents=True)
    write_volume(anat / "sub-a_T2w.nii.gz", phantom.volume)
    write_volume(anat / "sub-a_T2w_label-discs_dlabel.nii.gz", phantom.discs)
    said = []
    out = train_region_from_folder(
        tmp_path / "data", tmp_path / "m", phantoms=0, architecture=TINY, config=SHORT, device="cpu", say=said.append
    )
    assert load_region_model(out).axial is None
    assert "axial" not in json.loads((out / "model.json").read_text())
    assert any("second time" in line for line in said)


def test_cords_without_a_mask_are_found(phantom, few_watched, tmp_path, monkeypatch):
    """Each by the model that is named after the person, once for both networks."""
    for person in ("sub-a", "sub-b"):
        anat = tmp_path / "data" / person / "anat"
        anat.mkdir(parents=True)
        write_volume(anat / f"{person}_T2w.nii.gz", phantom.volume)
        write_volume(anat / f"{person}_T2w_label-discs_dlabel.nii.gz", phantom.discs)
    write_volume(anat / "sub-b_T2w_label-SC_seg.nii.gz", phantom.cord)
    asked = []
    model = SimpleNamespace(name="other")
    monkeypatch.setattr(region_recipe, "load_region_model", lambda name: asked.append(name) or model)
    monkeypatch.setattr(region_recipe, "locate", lambda *_, **__: SimpleNamespace(cord=phantom.cord.array > 0))
    learnt = []
    monkeypatch.setattr(region_recipe, "train_axial", lambda data, *_, **__: learnt.append(data) or (None, [{}]))
    out = train_region_from_folder(
        tmp_path / "data",
        tmp_path / "m",
        phantoms=0,
        architecture=TINY,
        config=SHORT,
        device="cpu",
        region_models="models/{person}",
    )
    assert asked == ["models/sub-a"]
    assert learnt[0].people.tolist() == ["sub-a", "sub-b"]
    np.testing.assert_array_equal(*(one.cord for one in learnt[0].volumes))
    assert read_card(out)["training"]["found_cords"] == ["sub-a"]


def test_a_missing_model_is_refused_at_once(phantom, tmp_path):
    anat = tmp_path / "data" / "sub-a" / "anat"
    anat.mkdir(parents=True)
    write_volume(anat / "sub-a_T2w.nii.gz", phantom.volume)
    write_volume(anat / "sub-a_T2w_label-discs_dlabel.nii.gz", phantom.discs)
    with pytest.raises(ModelError, match="There is no model 'nowhere/sub-a'"):
        train_region_from_folder(tmp_path / "data", tmp_path / "m", region_models="nowhere/{person}", device="cpu")
    assert not (tmp_path / "m").exists()


# the bundled model


def test_lesions_stay_cord():
    """They are not cut out of it, nor taken for fluid where they touch the cord's border."""
    shares = [compare(locating.locate(t.volume, device="cpu"), t)["lesions"] for t in phantom_truths(3, lesions=True)]
    assert np.mean(shares) > 0.9
