"""Simulated and planted images as files: what is written, read back, and refused."""

import json

import numpy as np
import pytest

from U2ADLib.cli import main
from U2ADLib.dataset import find_cases
from U2ADLib.errors import U2ADError, UsageError
from U2ADLib.files import staged
from U2ADLib.io import read_volume, write_volume
from U2ADLib.pictures.canvas import VERMILION
from U2ADLib.pictures.labelled import draw_labelled
from U2ADLib.roi.labels import read_discs
from U2ADLib.simulation.labelled import planted
from U2ADLib.simulation.phantom import Lesion
from U2ADLib.simulation.plant import LESION_KINDS, plant_in_slices

QUIET = ["--progress", "none"]


@pytest.fixture(scope="module")
def neck(phantom, tmp_path_factory):
    """Files of a phantom, its own lesion aside: a stand-in for a person."""
    folder = tmp_path_factory.mktemp("neck")
    for name in ("volume", "cord", "discs"):
        write_volume(folder / f"{name}.nii.gz", getattr(phantom, name))
    return folder


def test_simulate_writes_a_case_that_batch_finds(tmp_path, capsys):
    words = ["simulate", "--kind", "space", "--seed", "3", "--lesion", "C4-5:0.6:4x10", "--name", "x", *QUIET]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert str(tmp_path / "a" / "x_T2w.nii.gz") in capsys.readouterr().out
    (case,) = find_cases(tmp_path / "a")
    assert (case.cord.name, case.discs.name) == ("x_T2w_label-SC_seg.nii.gz", "x_T2w_label-discs_dlabel.nii.gz")
    image, lesion, discs = (
        read_volume(p) for p in (case.image, tmp_path / "a" / "x_T2w_label-lesion_seg.nii.gz", case.discs)
    )
    assert lesion.same_grid(image)
    # The lesion is 10 mm long and lies at the disc C4/C5 (1 mm voxels).
    where = lesion.to_ras(np.argwhere(lesion.array == 1))
    assert np.ptp(where[:, 2]) == pytest.approx(9, abs=1.5)
    tip = read_discs(discs).points[5]
    assert np.linalg.norm(where.mean(0) - tip) < 12
    made = json.loads((tmp_path / "a" / "x_T2w.json").read_text())
    assert made["config"]["lesions"][0]["length_mm"] == 10
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    words = ["simulate", "--kind", "average", "--out", str(tmp_path), *QUIET]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([*words, "--seed", "1"]) == 3
    assert "--overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert after["mine.txt"] == b"mine"
    assert after["phantom_T2w.nii.gz"] != before["phantom_T2w.nii.gz"]


def test_staged_files_come_all_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "folder"
    with pytest.raises(U2ADError, match="failed"), staged(out, ["a", "b"]) as place:
        (place / "a").write_text("a")  # b is never written
    assert not (tmp_path / "new").exists()
    with pytest.raises(KeyboardInterrupt), staged(out, ["a"]) as place:
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()
    with staged(out, ["a"]) as place:
        (place / "a").write_text("a")
    assert [path.name for path in out.iterdir()] == ["a"]
    with pytest.raises(UsageError, match="cannot be the name of a file"), staged(out, ["../a"]):
        pass
    with pytest.raises(U2ADError, match="that is a file"), staged(out / "a", ["b"]):
        pass


def test_plant_changes_the_cord_and_nothing_else(neck, tmp_path):
    words = ["plant", str(neck / "volume.nii.gz"), "--cord", str(neck / "cord.nii.gz"), *QUIET]
    words += ["--discs", str(neck / "discs.nii.gz"), "--lesion", "C6-7:0.5:4x12x8", "--out", str(tmp_path)]
    assert main(words) == 0
    image = read_volume(tmp_path / "volume-planted_T2w.nii.gz")
    original = read_volume(neck / "volume.nii.gz")
    lesion = read_volume(tmp_path / "volume-planted_T2w_label-lesion_seg.nii.gz").array > 0
    cord = read_volume(neck / "cord.nii.gz").array > 0
    assert image.same_grid(original, 1e-6)
    assert image.array.dtype == original.array.dtype
    change = image.array.astype(float) - original.array
    assert not change[~cord].any()
    assert (lesion <= cord).all()
    assert change[lesion].mean() > 30
    made = json.loads((tmp_path / "volume-planted_T2w.json").read_text())
    assert made["source"] == "volume"
    assert made["lesions"][0]["segment"] == "C6-7"


@pytest.mark.parametrize("kind", LESION_KINDS)
def test_kinds_are_planted_in_the_middle_slice(phantom, kind):
    cord = phantom.cord.array > 0
    volume, lesions, described = plant_in_slices(phantom.volume, cord, kind, np.random.default_rng(1))
    change = volume.array.astype(float) - phantom.volume.array
    assert not change[~cord].any()
    assert len(described) == 1
    slice_axis = int(np.argmax(phantom.volume.spacing))
    assert len(np.unique(np.nonzero(change)[slice_axis])) == 1
    assert (lesions > 0).sum() > 3
    if kind != "A1":
        assert change[lesions > 0].mean() > 0


def test_a_kind_in_every_slice(phantom):
    made = planted(phantom.volume, phantom.cord.array > 0, kind="h50", slices="all", seed=2)
    count = len(made.description["lesions"])
    assert count >= 2
    assert set(np.unique(made.lesions.array)) == set(range(count + 1))
    again = planted(phantom.volume, phantom.cord.array > 0, kind="h50", slices="all", seed=2)
    np.testing.assert_array_equal(made.volume.array, again.volume.array)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "--lesion SEGMENT:CONTRAST:SIZE or --kind KIND"),
        (["--kind", "h99"], 2, "'h99' is not a kind of lesion"),
        (["--kind", "h50", "--slices", "some"], 2, "'all', 'middle' or a positive number"),
        (["--lesion", "C4-5:0.5:4x12"], 3, "needs the label of that disc"),
    ],
)
def test_what_cannot_be_planted(neck, tmp_path, capsys, options, code, message):
    words = ["plant", str(neck / "volume.nii.gz"), "--cord", str(neck / "cord.nii.gz"), "--out", str(tmp_path / "o")]
    assert main([*words, *QUIET, *options]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_picture_shows_the_lesion(phantom):
    picture = draw_labelled(phantom.volume, phantom.cord, phantom.discs, phantom.lesions)
    outline = (picture == VERMILION).all(-1)
    assert outline.sum() > 20
    without = draw_labelled(phantom.volume, phantom.cord, phantom.discs)
    assert not (without == VERMILION).all(-1).any()


def test_a_lesion_of_another_segment_needs_its_disc(phantom):
    discs = read_discs(phantom.discs, cord=phantom.cord)
    made = planted(phantom.volume, phantom.cord.array > 0, discs, lesions=[Lesion("C5-6", 0.4, 4, 8, 4)])
    assert made.discs is not None
    np.testing.assert_array_equal(np.unique(made.discs.array), [0, *sorted(discs.points)])
