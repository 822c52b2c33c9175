"""The whole way, from a volume to scores: geometry, orientation, planted lesions, and inputs that must be refused."""

import itertools
from dataclasses import asdict, replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made_analysis import LESION_SLICE, made_analysis, made_volumes

from U2ADLib.analysis import MAPS, analyse, relabelled, scored, with_thresholds
from U2ADLib.config import ScoreConfig
from U2ADLib.errors import Cancelled, InputError, UsageError
from U2ADLib.io import read_volume, write_volume
from U2ADLib.package import load_model
from U2ADLib.roi.labels import read_discs
from U2ADLib.simulation.labelled import planted
from U2ADLib.simulation.phantom import Lesion, PhantomConfig, simulate_phantom
from U2ADLib.volume import Volume, reorient, resample

ORIENTATIONS = [
    "".join(codes) for order in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*order)
]


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def reference(phantom, tiny):
    return analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=tiny)


def scores(analysis):
    return {s.name: s.score for s in analysis.segments} | {"patient": analysis.patient_score}


def turn(volume, matrix):
    """The same voxels with the header turned in space."""
    affine = np.eye(4)
    affine[:3, :3] = matrix
    return Volume(volume.array, affine @ volume.affine, volume.name)


def rotation(axis, degrees):
    a = np.deg2rad(degrees)
    matrix = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    matrix[i, i] = matrix[j, j] = np.cos(a)
    matrix[i, j], matrix[j, i] = -np.sin(a), np.sin(a)
    return matrix


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_scores_do_not_depend_on_the_orientation_of_the_array(phantom, tiny, reference, codes):
    parts = [reorient(v, codes)[0] for v in (phantom.volume, phantom.cord, phantom.discs)]
    result = analyse(parts[0], cord=parts[1], discs=parts[2], model=tiny)
    assert scores(result) == pytest.approx(scores(reference), abs=1e-5)
    # nibabel brings both maps to the same axes by itself.
    ours, theirs = (
        nibabel.as_closest_canonical(nibabel.Nifti1Image(a.on_input("anomaly"), a.volume.affine))
        for a in (result, reference)
    )
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_image_and_header_turned_together_by_30_degrees(phantom, tiny, reference, axis, tmp_path):
    """The header is turned by SimpleITK, in its own coordinates (LPS), and read back from a file."""
    parts = []
    to_lps = np.diag([-1.0, -1.0, 1.0])
    for name in ("volume", "cord", "discs"):
        write_volume(tmp_path / f"{name}.mha", getattr(phantom, name))
        image = sitk.ReadImage(str(tmp_path / f"{name}.mha"))
        turned = to_lps @ rotation(axis, 30) @ to_lps
        image.SetDirection((turned @ np.reshape(image.GetDirection(), (3, 3))).ravel())
        image.SetOrigin(turned @ np.array(image.GetOrigin()))
        sitk.WriteImage(image, str(tmp_path / f"{name}-turned.mha"))
        parts.append(read_volume(tmp_path / f"{name}-turned.mha"))
    result = analyse(parts[0], cord=parts[1], discs=parts[2], model=tiny)
    assert scores(result) == pytest.approx(scores(reference), abs=1e-5)
    for name in MAPS:
        np.testing.assert_allclose(result.on_input(name), reference.on_input(name), rtol=1e-4, atol=1e-4)


def test_left_handed_and_mirrored_headers_are_the_same_anatomy(phantom, tiny, reference):
    """Mirroring array and header together changes nothing but the order in memory."""
    parts = []
    for v in (phantom.volume, phantom.cord, phantom.discs):
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = v.array.shape[0] - 1
        parts.append(Volume(v.array[::-1], v.affine @ flip, v.name))
    assert np.linalg.det(parts[0].affine) * np.linalg.det(phantom.volume.affine) < 0
    result = analyse(parts[0], cord=parts[1], discs=parts[2], model=tiny)
    assert scores(result) == pytest.approx(scores(reference), abs=1e-5)


def resampled_on_turned_grid(phantom, degrees):
    """Image (linear) and labels (nearest) on a grid that is turned in the sagittal plane about the neck's middle."""
    volume = phantom.volume
    centre = volume.to_ras((np.array(volume.array.shape) - 1) / 2)
    turned = np.eye(4)
    turned[:3, :3] = rotation(0, degrees)
    turned[:3, 3] = centre - turned[:3, :3] @ centre
    grid = Volume(volume.array, turned @ volume.affine)
    image = resample(volume, grid, order=1)
    cord = resample(phantom.cord, grid, order=0)
    discs = np.zeros(volume.array.shape, np.uint8)
    for number in range(3, 9):
        at = grid.to_ijk(phantom.discs.to_ras(np.argwhere(phantom.discs.array == number)[0]))
        discs[tuple(np.round(at).astype(int))] = number
    return image, cord, grid.with_array(discs)


def test_a_bright_lesion_tops_its_segment_with_the_bundled_model(phantom):
    result = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs)
    best = max(result.segments, key=lambda s: s.score)
    assert best.name == "C4-5"
    assert best.flagged
    assert result.patient_flagged
    # The strongest voxel lies on the lesion, in the patient's millimetres.
    anomaly = result.on_input("anomaly")
    peak = phantom.volume.to_ras(np.unravel_index(anomaly.argmax(), anomaly.shape))
    lesion = phantom.lesions.to_ras(np.argwhere(phantom.lesions.array == 1))
    assert np.linalg.norm(lesion - peak, axis=1).min() < 1.5
    assert anomaly.max() == pytest.approx(result.anomaly.max(), rel=0.02)
    assert result.lesions[0]["segment"] == "C4-5"
    assert result.lesions[0]["length [mm]"] == pytest.approx(14, abs=5)


def test_a_lesion_in_a_real_neck(shared_data):
    """4 × 12 mm at a quarter of the contrast at C4-5. The model knows this neck: it is no figure."""
    anat = shared_data / "errsm" / "sub-errsm24" / "anat" / "sub-errsm24_T2w"
    volume, cord, labels = (
        read_volume(f"{anat}{part}.nii.gz") for part in ("", "_label-SC_seg", "_label-discs_dlabel")
    )
    discs = read_discs(labels, cord=cord)
    made = planted(volume, cord.array > 0, discs, lesions=[Lesion("C4-5", 0.25, 4, 12, 4)])
    healthy, ill = (analyse(v, cord=cord, discs=labels) for v in (volume, made.volume))
    assert healthy.flagged == ()
    assert ill.flagged == ("C4-5",)
    # Without any label, too.
    found = analyse(made.volume)
    assert max(found.segments, key=lambda s: s.score).name == "C4-5"


@pytest.mark.parametrize(("degrees", "tolerance"), [(20, 0.1), (-20, 0.1), (30, 0.3), (-30, 0.3)])
def test_resampled_to_a_turned_grid(phantom, degrees, tolerance):
    """Interpolated, so not equal. The bundled model learnt from necks turned by 8° at most; 30° is a quarter off."""
    straight = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs)
    image, cord, discs = resampled_on_turned_grid(phantom, degrees)
    turned = analyse(image, cord=cord, discs=discs)
    top, top_turned = (max(a.segments, key=lambda s: s.score) for a in (straight, turned))
    assert top_turned.name == top.name == "C4-5"
    assert top_turned.score == pytest.approx(top.score, rel=tolerance)
    assert top_turned.peak_mm == pytest.approx(top.peak_mm, abs=7)  # half of the lesion: the curve is flat along it


def test_maps_lie_on_the_input(reference, phantom):
    for name in MAPS:
        values = reference.on_input(name)
        assert values.shape == phantom.volume.array.shape
        assert not values[phantom.cord.array == 0].any(), name
    np.testing.assert_array_equal(reference.on_input("cord"), phantom.cord.array)
    labels = reference.on_input("segments")
    assert set(np.unique(labels)) == {0, 3, 4, 5, 6, 7, 8}
    # Each disc lies beside its own segment.
    for number in range(3, 9):
        disc = phantom.discs.to_ras(np.argwhere(phantom.discs.array == number)[0])
        points = phantom.volume.to_ras(np.argwhere(labels > 0))
        nearest = points[np.linalg.norm(points - disc, axis=1).argmin()]
        assert labels[tuple(np.round(phantom.volume.to_ijk(nearest)).astype(int))] == number


@pytest.mark.parametrize("mm", [0.7, 1.3])
def test_maps_do_not_fade_at_the_cord_s_border(phantom, tiny, mm):
    """A reconstruction that is the same everywhere is so on a grid of other pixels, and 0 outside the cord."""
    shape = (round(180 / mm), round(220 / mm), 9)
    affine = phantom.volume.affine @ np.diag([mm, mm, 1, 1])
    reference = Volume(np.zeros(shape, np.int16), affine, "finer")
    image, cord = resample(phantom.volume, reference), resample(phantom.cord, reference, order=0)
    found = analyse(image, cord=cord, model=tiny, region_model=None)
    flat = replace(found.reconstruction, mean=np.where(found.region.cord[list(found.slices)], np.float32(0.5), 0))
    rebuilt = replace(found, reconstruction=flat).on_input("reconstruction")
    shown = rebuilt > 0
    np.testing.assert_allclose(rebuilt[shown], found.stack.to_intensity(0.5), rtol=1e-5)
    assert not shown[found.on_input("cord") == 0].any()
    analysed = shown.any(axis=(0, 1))
    assert np.count_nonzero(analysed) == len(found.slices)
    assert np.count_nonzero(shown) > 0.97 * np.count_nonzero(found.on_input("cord")[..., analysed])


def test_error_map_is_the_distance_between_image_and_reconstruction(reference, phantom):
    """In the input's intensities: |x − μ| = error · (high − low), where the image was not clipped."""
    stack = reference.stack
    image, mean, error = phantom.volume.array, reference.on_input("reconstruction"), reference.on_input("error")
    inside = (mean > 0) & (image > stack.low) & (image < stack.high)
    np.testing.assert_allclose(
        np.abs(image - mean)[inside], error[inside] * (stack.high - stack.low), atol=2e-3 * stack.high
    )


def test_without_discs_everything_but_the_segments(phantom, tiny, reference):
    result = analyse(phantom.volume, cord=phantom.cord, model=tiny, region_model=None)
    assert result.segments == ()
    assert result.missing == ("C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1")
    assert result.patient_score == pytest.approx(reference.patient_score, rel=1e-6)
    assert any("cannot be named" in note for note in result.notes)


def test_what_stands_out_at_the_image_s_edge_is_told_and_not_flagged(monkeypatch):
    """The lesion lies 75 mm below the image's upper edge, and counts only as a part of C4-5."""
    unnamed = made_analysis(monkeypatch, discs=())
    assert unnamed.patient_flagged
    assert not any("edge" in note for note in unnamed.notes)
    config = ScoreConfig(edge_mm=90)
    configuration = unnamed.provenance["configuration"] | {"score_settings": asdict(config)}
    at_edge = scored(
        unnamed.volume, unnamed.stack, unnamed.region, unnamed.slices, unnamed.reconstruction, unnamed.evidence,
        score="paper", score_config=config, thresholds=unnamed.thresholds, notes=("before",),
        provenance=unnamed.provenance | {"configuration": configuration},
    )  # fmt: skip
    assert (at_edge.patient_flagged, at_edge.lesions) == (False, [])
    assert at_edge.patient_score < unnamed.patient_score
    np.testing.assert_array_equal(at_edge.anomaly, unnamed.anomaly)
    before, note = at_edge.notes
    assert (before, note.split(" (")[0]) == ("before", "Near the image's edge")
    assert f"slice {LESION_SLICE}" in note
    assert f"{unnamed.patient_score:.2f}" in note
    assert with_thresholds(with_thresholds(at_edge, 0.9, 0.9), 0.2, 0.25).notes == at_edge.notes
    assert with_thresholds(at_edge, 0.9, 0.9).notes == ("before",)
    named = relabelled(at_edge, read_discs(made_volumes()[2]))
    assert [segment.name for segment in named.segments if segment.flagged] == ["C4-5"]
    assert (named.patient_flagged, len(named.lesions)) == (True, 1)
    assert not any("edge" in note for note in named.notes)


def test_levels_shifted_by_one(phantom, tiny, reference):
    result = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=tiny, shift_levels=1)
    shifted = {s.name: s.score for s in result.segments}
    assert shifted["C4-5"] == pytest.approx(scores(reference)["C3-4"])
    with pytest.raises(UsageError, match="Levels can only be shifted"):
        analyse(phantom.volume, cord=phantom.cord, model=tiny, region_model=None, shift_levels=1)


def test_one_sagittal_slice(phantom, tiny, reference):
    """A single slice of the stack is a valid volume and scores as the middle slice does."""
    standing, _ = reorient(phantom.volume, "LIP")
    cord, _ = reorient(phantom.cord, "LIP")
    k = int(cord.array.sum(axis=(1, 2)).argmax())
    affine = standing.affine.copy()
    affine[:3, 3] = standing.to_ras([k, 0, 0])
    result = analyse(
        Volume(standing.array[k : k + 1], affine), cord=Volume(cord.array[k : k + 1], affine), discs=phantom.discs,
        model=tiny,
    )  # fmt: skip
    assert result.slices == (0,)
    assert result.on_input("anomaly").shape == (1, *standing.array.shape[1:])
    assert len(result.segments) == 6


def test_slice_rules_and_their_thresholds(phantom, tiny, reference):
    middle = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=tiny, slices="middle")
    assert len(middle.slices) == 1
    same = reference.slices.index(middle.slices[0])
    np.testing.assert_allclose(middle.reconstruction.mean[0], reference.reconstruction.mean[same], atol=1e-5)
    assert middle.thresholds.slices == "middle"
    two = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=tiny, slices=2)
    assert len(two.slices) == 2
    assert two.thresholds is None
    assert two.patient_flagged is None
    assert all(s.flagged is None for s in two.segments)
    assert set(middle.slices) <= set(two.slices) <= set(reference.slices)
    with pytest.raises(UsageError, match="positive number"):
        analyse(phantom.volume, cord=phantom.cord, model=tiny, slices="some")


def test_same_seed_same_result_and_another_seed_another(phantom, tiny, reference):
    again = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=tiny)
    np.testing.assert_array_equal(again.anomaly, reference.anomaly)
    other = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=tiny, seed=1)
    assert np.abs(other.anomaly - reference.anomaly).max() > 0
    assert again.provenance["seed"] == 0
    assert again.provenance["input"]["sha256"] == reference.provenance["input"]["sha256"]


def test_cord_longer_than_the_window_is_centred_on_the_levels(tiny):
    config = PhantomConfig(spacing_mm=(3.3, 1.0, 1.0), shape=(5, 330, 170), centre_s_mm=80)
    phantom = simulate_phantom(config, 3)
    assert phantom.cord.array.any(axis=(0, 2)).sum() > 256
    result = analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=tiny)
    assert [s.name for s in result.segments] == ["C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1"]
    assert any("not analysed" in note and "mm of the cord" in note for note in result.notes)


def test_half_precision_weights_change_scores_by_less_than_a_percent(phantom, tmp_path):
    from U2ADLib.package import save_model

    bundled = load_model()
    # The bundled weights are half precision already: a nearby single-precision network is rounded again.
    network = load_model().network
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * p.abs() * 2e-4)
    exact = replace(bundled, network=network)
    save_model(tmp_path / "half", network, {"scores": {"paper": bundled.card["scores"]["paper"]}})
    results = [
        scores(analyse(phantom.volume, cord=phantom.cord, discs=phantom.discs, model=m, score="paper"))
        for m in (exact, load_model(tmp_path / "half"))
    ]
    assert results[0] == pytest.approx(results[1], rel=0.01)
    assert results[0] != results[1]


def test_cancelling_leaves_by_the_progress(phantom, tiny):
    def stop(stage, done, total):
        if stage == "Reconstruction":
            raise Cancelled

    with pytest.raises(Cancelled):
        analyse(phantom.volume, cord=phantom.cord, model=tiny, progress=stop)


# ---------------------------------------------------------------- inputs that are refused, each with its reason


def changed(volume, function):
    return volume.with_array(function(volume.array.copy()))


def put(array, where, value):
    array = array.astype(float)
    array[where] = value
    return array


def t1w(phantom):
    """Fluid darker than the cord."""
    array = phantom.volume.array.astype(float)
    cord = np.median(array[phantom.cord.array > 0])
    return phantom.volume.with_array(np.where(phantom.csf.array > 0, 0.5 * cord, array))


def axial(phantom):
    """5 mm slices from head to feet."""
    standing, _ = reorient(phantom.volume, "LIP")
    return Volume(standing.array[:, ::5], standing.affine @ np.diag([1, 5, 1, 1])), _every_fifth_row(phantom.cord)


def _every_fifth_row(volume):
    standing, _ = reorient(volume, "LIP")
    return Volume(standing.array[:, ::5], standing.affine @ np.diag([1, 5, 1, 1]))


def swapped(discs):
    array = discs.array.copy()
    array[discs.array == 4], array[discs.array == 6] = 6, 4
    return discs.with_array(array)


def doubled(discs):
    array = discs.array.copy()
    array[tuple(np.argwhere(discs.array == 7)[0])] = 4
    return discs.with_array(array)


BAD = {
    "NaN": (lambda p: {"volume": changed(p.volume, lambda a: put(a, (1, 2, 3), np.nan))}, "1 voxels that are not num"),
    "infinite": (lambda p: {"volume": changed(p.volume, lambda a: put(a, (1, 2, 3), np.inf))}, "not numbers"),
    "constant": (lambda p: {"volume": changed(p.volume, np.ones_like)}, "constant"),
    "T1w": (lambda p: {"volume": t1w(p)}, "does not look T2-weighted"),
    "axial": (lambda p: dict(zip(("volume", "cord"), axial(p), strict=True), discs=None), "axial slices 5.0 mm apart"),
    "no cord mask": (lambda p: {"cord": None, "region_model": None}, "No cord mask"),
    "empty mask": (lambda p: {"cord": changed(p.cord, np.zeros_like)}, "empty"),
    "mask elsewhere": (lambda p: {"cord": shifted(p.cord, (0, 0, 900))}, "mm"),
    "lumbar discs": (lambda p: {"discs": changed(p.discs, lambda a: np.where(a > 0, a + 18, 0))}, "C2/3"),
    "discs elsewhere": (lambda p: {"discs": shifted(p.discs, (0, 60, 0))}, "do not belong to this image"),
    "no discs in the labels": (lambda p: {"discs": changed(p.discs, np.zeros_like)}, "empty|no "),
    "doubled disc": (lambda p: {"discs": doubled(p.discs)}, "C3/4"),
    "discs out of order": (lambda p: {"discs": swapped(p.discs)}, "Correct the labels"),
    "wrong convention": (lambda p: {"disc_convention": "totalspineseg"}, "TotalSpineSeg|63"),
    "unknown rule": (lambda p: {"slices": "none"}, "positive number"),
}


def shifted(volume, mm):
    affine = volume.affine.copy()
    affine[:3, 3] += mm
    return Volume(volume.array, affine, volume.name)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(phantom, tiny, name):
    change, message = BAD[name]
    arguments = {"volume": phantom.volume, "cord": phantom.cord, "discs": phantom.discs, "model": tiny} | change(
        phantom
    )
    with pytest.raises((InputError, UsageError), match=message) as caught:
        analyse(arguments.pop("volume"), **arguments)
    assert len(str(caught.value)) > 40  # says what is wrong and what to do


GOOD = {
    "uint8": lambda p: {"volume": changed(p.volume, lambda a: (a / a.max() * 255).astype(np.uint8))},
    "float": lambda p: {"volume": changed(p.volume, lambda a: a / 7.0)},
    "negative values": lambda p: {"volume": changed(p.volume, lambda a: a.astype(np.int16) - 500)},
    "mask with a gap": lambda p: {"cord": with_gap(p.cord)},
    "a disc is missing": lambda p: {"discs": changed(p.discs, lambda a: np.where(a == 5, 0, a))},
    "mask on another grid": lambda p: {"cord": resample(p.cord, coarser(p.cord), 0)},
}


def with_gap(cord):
    standing, change = reorient(cord, "LIP")
    array = standing.array.copy()
    rows = np.flatnonzero(array.any(axis=(0, 2)))
    array[:, rows[len(rows) // 2] : rows[len(rows) // 2] + 6] = 0
    return cord.with_array(change.undo(array))


def coarser(volume):
    shape = tuple((n + 1) // 2 if mm < 2 else n for n, mm in zip(volume.array.shape, volume.spacing, strict=True))
    steps = [2 if mm < 2 else 1 for mm in volume.spacing]
    return Volume(np.zeros(shape, np.uint8), volume.affine @ np.diag([*steps, 1]))


@pytest.mark.parametrize("name", GOOD)
def test_unusual_input_is_analysed_and_noted(phantom, tiny, reference, name):
    arguments = {"volume": phantom.volume, "cord": phantom.cord, "discs": phantom.discs} | GOOD[name](phantom)
    result = analyse(arguments.pop("volume"), **arguments, model=tiny)
    if name in ("uint8", "float", "negative values"):
        assert scores(result) == pytest.approx(scores(reference), rel=0.02, abs=0.003)
    else:
        assert len(result.notes) > len(reference.notes) or result.missing
