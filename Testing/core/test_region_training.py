"""What the region model learns from: targets lie on the anatomy however it is moved, and a run can be resumed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from U2ADLib.errors import InputError, ModelError, UsageError
from U2ADLib.io import write_volume
from U2ADLib.package import load_region_model
from U2ADLib.roi.labels import read_discs
from U2ADLib.roi.network import DISC_NUMBERS, RegionArchitecture, RegionNet, neighbours
from U2ADLib.sagittal import whole_field
from U2ADLib.training.axial import AxialTrainConfig
from U2ADLib.training.region import RegionTrainConfig, region_loss, train_region
from U2ADLib.training.region_data import (
    CANVAS,
    UNKNOWN,
    RegionSlices,
    draw_batch,
    join,
    slices_of_volume,
)
from U2ADLib.training.region_recipe import train_region_from_folder

TINY = RegionArchitecture(widths=(4, 8, 8), groups=2, blocks=1, heads=2)
SHORT = RegionTrainConfig(steps=6, batch=2, warmup_steps=1, steps_per_epoch=2)


def one_slice(phantom=False, tips=None) -> RegionSlices:
    """A vertical cord with a bright dot at each disc's tip, 17 mm apart."""
    if tips is None:
        tips = np.full((len(DISC_NUMBERS), 2), np.nan, np.float32)
        tips[:7] = [[120 + 17 * k, 140 + 2 * k] for k in range(7)]
    image = np.zeros(CANVAS, np.float16)
    cord = np.zeros(CANVAS, np.uint8)
    cord[90:270, 150:158] = 1
    for row, column in tips[np.isfinite(tips).all(1)].round().astype(int):
        image[row, column] = 1
    return RegionSlices(
        image[None, None].repeat(3, 1),
        cord[None],
        (cord if phantom else np.full(CANVAS, UNKNOWN, np.uint8))[None],
        tips[None],
        np.array([[True] * 6 + [phantom] * (len(DISC_NUMBERS) - 6)]),
        np.array(["a"]),
        np.array([phantom]),
    )


def test_targets_lie_on_the_anatomy():
    batch = draw_batch(one_slice(), np.array([0]), np.random.default_rng(0), change=False)
    for number, (row, column) in zip(range(3, 10), batch.tips[0, :7].tolist(), strict=True):
        r, c = round(row), round(column)
        assert batch.heat[0, r, c] > 0.9
        assert float(batch.level[0, r, c]) == pytest.approx(number, abs=0.05)
        assert batch.level_known[0, r, c]
    row, column = batch.tips[0, :2].mean(0).tolist()
    assert float(batch.level[0, round(row), round(column)]) == pytest.approx(3.5, abs=0.05)
    assert batch.masks[0, 0].sum() == 180 * 8
    assert not batch.masks_known[0, 1].any()  # the canal of a real neck is not known
    assert batch.level_known[0].float().mean() < 0.3


def test_below_the_last_label_nothing_is_known():
    real = draw_batch(one_slice(), np.array([0]), np.random.default_rng(0), change=False)
    last = int(real.tips[0, 6, 0])
    assert not real.heat_known[0, last + 12 :].any()
    tips = one_slice().tips[0].copy()
    tips[4:] = np.nan
    cut = draw_batch(one_slice(phantom=True, tips=tips), np.array([0]), np.random.default_rng(0), change=False)
    assert cut.heat_known.all()  # a phantom whose lower discs are out of view has none in view


def test_image_mask_and_tips_move_together():
    """The brightest pixels of a moved and turned slice are where its tips are said to be."""
    rng = np.random.default_rng(3)
    image = one_slice()
    wide = image.images[0, 0].astype(np.float32)
    from scipy.ndimage import gaussian_filter

    wide = gaussian_filter(wide, 1.5)
    data = RegionSlices(
        (wide / wide.max())[None, None].astype(np.float16).repeat(3, 1), image.cords, image.canals, image.tips,
        image.tips_known, image.people, image.phantom,
    )  # fmt: skip
    from U2ADLib.training import region_data

    original = region_data.changed
    region_data.changed = lambda images, rng: images
    try:
        for _ in range(5):
            batch = draw_batch(data, np.array([0]), rng)
            for row, column in batch.tips[0, :7].tolist():
                if 8 < row < 248 and 8 < column < 184:
                    part = batch.images[0, 1, round(row) - 5 : round(row) + 6, round(column) - 5 : round(column) + 6]
                    at = np.unravel_index(int(part.argmax()), part.shape)
                    assert np.hypot(at[0] - 5, at[1] - 5) < 1.6
            cord = batch.masks[0, 0].nonzero().float().mean(0)
            assert cord[1] > batch.tips[0, :7, 1].mean() - 30  # the cord went along
    finally:
        region_data.changed = original


def test_nothing_is_asked_beyond_the_field_of_view():
    """Where a window was cut off, the image is empty and no target counts."""
    rng, cut = np.random.default_rng(5), 0
    data = one_slice(phantom=True)
    for _ in range(60):
        batch = draw_batch(data, np.array([0]), rng)
        empty = (batch.images == 0).all(1)[0]
        rows, columns = empty.all(1), empty.all(0)
        if rows.any() or columns.any():
            cut += 1
            outside = rows[:, None] | columns
            assert not batch.masks_known[0][:, outside].any()
            assert not batch.heat_known[0][outside].any()
            assert not batch.level_known[0][outside].any()
    assert cut > 2


def test_neighbours_are_about_three_and_a_half_millimetres_away():
    assert neighbours(9, 1.0).tolist()[4] == [0, 4, 8]
    assert neighbours(9, 1.0).tolist()[1] == [0, 1, 5]  # the outermost, where there is none
    assert neighbours(5, 3.3).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    assert neighbours(1, 5.0).tolist() == [[0, 0, 0]]


def test_slices_carry_their_neighbours(phantom):
    """The three channels of a slice are the volume's slices: that to the right, itself, that to the left."""
    stack, rows, columns = whole_field(phantom.volume)
    images = stack.images[:, rows, columns]
    slices = slices_of_volume(phantom.volume, "a", phantom.cord.array > 0)
    height, width = images.shape[1:]
    top, left = ((c - n) // 2 for c, n in zip(CANVAS, (height, width), strict=True))
    for found in slices.images:
        inside = found[:, top : top + height, left : left + width].astype(np.float32)
        k = int(np.abs(images - inside[1]).mean((1, 2)).argmin())
        for channel, at in zip(inside, (max(k - 1, 0), k, min(k + 1, len(images) - 1)), strict=True):
            np.testing.assert_allclose(channel, images[at], atol=1e-3)


def test_slices_of_a_volume(phantom):
    tips = read_discs(phantom.discs, cord=phantom.cord).points
    slices = slices_of_volume(phantom.volume, "a", phantom.cord.array > 0, discs=tips)
    assert len(slices) >= 3
    near = slices.tips_known.any(1)
    assert near.any()
    k = int(np.flatnonzero(near)[0])
    rows = slices.tips[k, :6, 0]
    assert (np.diff(rows) > 10).all()
    # The tips lie in front of the cord, at its level.
    for row, column in slices.tips[k, :6].round().astype(int):
        cord = np.flatnonzero(slices.cords[k][row] == 1)
        assert not len(cord) or -6 < cord[0] - column < 15
    assert (slices.canals == UNKNOWN).all()


def test_a_perfect_answer_costs_next_to_nothing():
    batch = draw_batch(one_slice(phantom=True), np.array([0]), np.random.default_rng(0), change=False)

    class Perfect(torch.nn.Module):
        def forward(self, x):
            heat = torch.logit(batch.heat.clamp(1e-6, 1 - 1e-6))
            return torch.stack([*(40 * batch.masks.movedim(1, 0) - 20), heat, (batch.level - 5.5) / 3], 1)

    losses = [float(v) for v in region_loss(Perfect(), batch, 60.0)]
    assert losses[0] < 0.01
    worse = region_loss(RegionNet(TINY).initialise(torch.Generator().manual_seed(0)), batch, 60.0)
    assert float(worse[0].detach()) > 1


class Kill(BaseException):
    pass


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    data = join([one_slice(), one_slice(phantom=True)])
    straight, curves = train_region(data, data, tmp_path / "a", TINY, SHORT)
    assert len(curves) == 3
    assert set(curves[-1]) >= {"loss", "held_out_dice", "held_out_discs_named"}

    def kill(stage, done, total):
        if done == 3:
            raise Kill

    with pytest.raises(Kill):
        train_region(data, data, tmp_path / "b", TINY, SHORT, progress=kill)
    resumed, _ = train_region(data, data, tmp_path / "b", TINY, SHORT)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(ModelError, match="other data or settings"):
        train_region(one_slice(), None, tmp_path / "b", TINY, SHORT)


def test_corrected_labels_are_other_data(tmp_path):
    data = one_slice()
    train_region(data, None, tmp_path, TINY, SHORT)
    for name in ("cords", "canals", "tips"):
        changed = getattr(data, name).copy()
        changed[0, 0] = 1
        with pytest.raises(ModelError, match="other data or settings"):
            train_region(replace(data, **{name: changed}), None, tmp_path, TINY, SHORT)


def test_phantoms_that_are_only_watched_are_refused(tmp_path):
    for count, seed in ((3, 10), (3, 30), (100_001, 9), (3, -1)):
        with pytest.raises(UsageError, match="a seed from 0 to 9 "):
            train_region_from_folder(tmp_path, tmp_path / "m", phantoms=count, config=replace(SHORT, seed=seed))


def test_from_a_folder(phantom, tmp_path):
    anat = tmp_path / "data" / "sub-a" / "anat"
    anat.mkdir(parents=True)
    write_volume(anat / "sub-a_T2w.nii.gz", phantom.volume)
    write_volume(anat / "sub-a_T2w_label-discs_dlabel.nii.gz", phantom.discs)
    settings = {"architecture": TINY, "config": SHORT, "outline": AxialTrainConfig(steps=2, steps_per_epoch=2)}
    out = train_region_from_folder(tmp_path / "data", tmp_path / "model", phantoms=3, device="cpu", **settings)
    model = load_region_model(out)
    assert model.network.architecture == TINY
    card = json.loads((out / "model.json").read_text())
    assert card["training"]["people"] == ["sub-a"]
    assert card["training"]["phantoms"] == {"varied": 3, "clinical": 1}
    with pytest.raises(InputError, match="no labelled image of sub-b"):
        train_region_from_folder(tmp_path / "data", tmp_path / "m", held_out=["sub-b"])
