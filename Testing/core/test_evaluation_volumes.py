"""Lesions in whole volumes of people left out: geometry, figures by hand, and who is refused."""

import csv

import numpy as np
import pytest

from U2ADLib.errors import InputError, UsageError
from U2ADLib.evaluation.volumes import Scored, averaged, figures, main, planted, table
from U2ADLib.io import write_volume
from U2ADLib.package import find_model, update_card
from U2ADLib.roi.source import prepare
from U2ADLib.simulation.phantom import PhantomConfig, simulate_phantom
from U2ADLib.volume import Volume, reorient


@pytest.fixture(scope="module")
def neck():
    """Without a lesion, in slices of 1.1 mm."""
    return simulate_phantom(PhantomConfig(spacing_mm=(1.1, 1.0, 1.0), shape=(15, 220, 180)), 0)


@pytest.fixture(scope="module")
def folder(neck, tmp_path_factory):
    """That neck as two people."""
    root = tmp_path_factory.mktemp("people")
    for person in ("sub-a", "sub-b"):
        anat = root / person / "anat"
        anat.mkdir(parents=True)
        for name, volume in (("", neck.volume), ("_label-SC_seg", neck.cord), ("_label-discs_dlabel", neck.discs)):
            write_volume(anat / f"{person}_T2w{name}.nii.gz", volume)
    return root


@pytest.mark.parametrize("codes", ["LIP", "RAS", "PSR", "ASL"])
def test_thick_slices_lie_where_the_thin_ones_were(codes):
    rng = np.random.default_rng(0)
    thin = Volume(rng.integers(0, 900, (8, 5, 6)).astype(np.int16), np.diag([1.5, 1, 1, 1.0]), "x")
    thick = reorient(averaged(reorient(thin, codes)[0], 3), "RAS")[0]
    assert thick.array.shape == (2, 5, 6)
    # Slices are counted from whichever side the volume begins: two of eight are left over on the other.
    first = 0 if "R" in codes else 2
    for k in range(2):
        part = slice(first + 3 * k, first + 3 * k + 3)
        np.testing.assert_allclose(thick.array[k], thin.array[part].mean(0), rtol=1e-6)
        centres = thin.to_ras(np.array([[i, 2, 3] for i in range(part.start, part.stop)]))
        np.testing.assert_allclose(thick.to_ras(np.array([k, 2, 3])), centres.mean(0))
    np.testing.assert_allclose(thick.spacing, (4.5, 1, 1))


def test_too_few_slices_to_average():
    with pytest.raises(UsageError, match="2 slices cannot be averaged by 3"):
        averaged(Volume(np.zeros((2, 5, 5)), np.eye(4), "x"), 3)


def test_lesions_lie_in_the_segments_they_are_named_after(neck):
    cord = neck.cord.array > 0
    whole = prepare(neck.volume, cord=neck.cord, discs=neck.discs)
    region, grid = whole.region, whole.stack.grid
    by_name = {segment.name: segment for segment in region.segments}
    seen = list(planted(neck.volume, cord, whole, (0.5,), seed=3))
    assert [(contrast, name) for contrast, name, _ in seen] == [(0.5, name) for name in by_name]
    for _contrast, name, image in seen:
        change = image.array.astype(float) - neck.volume.array
        assert not change[~cord].any()
        assert change.max() > 0
        centre = neck.volume.to_ras(np.argwhere(cord) * 1.0).T @ change[cord] / change.sum()
        s, _ = region.centreline.project(grid.ras_to_stack(centre[None])[:, 1:])
        assert by_name[name].start_mm - 1.5 < s[0] < by_name[name].stop_mm + 1.5


def made(person, contrast=None, segment=None, **segments):
    return Scored(person, False, False, 0.0, 15.0, contrast, segment, segments, max(segments.values()))


def test_figures_by_hand():
    scored = [
        made("a", C23=0.1, C34=0.2),
        made("b", C23=0.3, C34=0.4),
        made("a", 0.1, "C34", C23=0.1, C34=0.5),
        made("b", 0.1, "C23", C23=0.15, C34=0.9),  # what other segments reach does not count
    ]
    (row,) = figures(scored, resamples=200)
    assert row["highest"] == {"a": 0.2, "b": 0.4}
    assert row[0.1]["lesions"] == 2
    assert row[0.1]["auroc"] == pytest.approx(5 / 8)  # 0.5 exceeds four, 0.15 one
    assert row[0.1]["found"] == 0.5
    low, high = row[0.1]["interval"]
    assert (low, high) == (0.0, 1.0)  # twice b: 0.15 exceeds nothing of b's; twice a: 0.5 exceeds all of a's
    assert row["whole"] == {"a": 0.2, "b": 0.4}
    assert "| given | thin | 0 | 15 | 0.20, 0.40 | 0.20, 0.40 | 0.625, 0.00 to 1.00; 50 % |" in table([row])


def test_a_lesion_whose_segment_is_not_found_is_missed():
    scored = [made("a", C23=0.1), made("a", 0.1, "C23", C23=0.5), made("a", 0.1, "C34", C23=0.9)]
    (row,) = figures(scored, resamples=1)
    assert (row[0.1]["lesions"], row[0.1]["auroc"], row[0.1]["found"]) == (2, 0.5, 0.5)


def test_settings_are_judged_apart():
    thick = Scored("a", True, True, 1.0, 15.0, None, None, {"C23": 0.7}, 0.7)
    rows = figures([made("a", C23=0.1), thick], resamples=1)
    assert [(row["cord"], row["slices"], row["neighbours_mm"]) for row in rows] == [
        ("given", "thin", 0.0),
        ("found", "thick", 1.0),
    ]


def test_a_person_from_beginning_to_end(folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        str(folder),
        "--models",
        str(find_model()),
        "--people",
        "sub-a",
        "--neighbours",
        "0",
        "1",
        "--contrasts",
        "0.6",
    ]
    main([*arguments, "--out", str(out)])
    printed = capsys.readouterr().out
    assert (out / "table.md").read_text() in printed
    with open(out / "scores.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # Thin and thick, two settings, one image without a lesion and six with one, six segments and the whole cord.
    assert len(rows) == 2 * 2 * 7 * 7
    lesions = [float(row["score"]) for row in rows if row["segment"] and row["segment"] == row["scored"]]
    healthy = [float(row["score"]) for row in rows if not row["segment"]]
    assert np.median(lesions) > 0.9 > np.median(healthy)
    with pytest.raises(InputError, match=r"scores\.csv already"):
        main([*arguments, "--out", str(out)])


def test_whoever_was_learnt_from_is_refused(folder, tmp_path):
    model = tmp_path / "knows"
    model.mkdir()
    for path in find_model().iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    update_card(model, discriminator_training={"people": ["sub-b"]})
    with pytest.raises(UsageError, match="has learnt from sub-b"):
        main([str(folder), "--models", str(model), "--people", "sub-b"])
    update_card(model, discriminator_training={"people": 5})
    with pytest.raises(UsageError, match="does not say whom"):
        main([str(folder), "--models", str(model), "--people", "sub-b"])
    with pytest.raises(InputError, match="no cord mask with disc labels of sub-c"):
        main([str(folder), "--models", str(model), "--people", "sub-c"])
