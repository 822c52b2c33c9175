"""Phantoms against anatomy in mm, and against their own truth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.spatial.transform import Rotation

from U2ADLib.config import SEGMENT_NAMES
from U2ADLib.errors import UsageError
from U2ADLib.simulation.phantom import (
    Bulge,
    Lesion,
    PhantomConfig,
    phantom_config,
    random_config,
    simulate_phantom,
)
from U2ADLib.volume import reorient

# A straight neck on a fine grid, with an ideal camera: everything can be measured in voxels.
FINE = PhantomConfig(
    spacing_mm=(0.5, 0.5, 0.5), thickness_mm=0.5, shape=(40, 340, 80), axes="LIP", curve_deg=(0.0,) * 9, bend_mm=0,
    twist_deg=0, level_scale=1, forward_mm=0, grey_matter=0, central_canal=0, drift=1, coil_mm=1e9, acquired_mm=0.5,
    apodisation=0, noise=0,
)  # fmt: skip
LESION = Lesion("C4-5", contrast=0.4, ap_mm=4, length_mm=12, rl_mm=5)


@pytest.fixture(scope="module")
def fine():
    return simulate_phantom(replace(FINE, lesions=(LESION,)), seed=5)


@pytest.fixture(scope="module")
def without_lesion():
    return simulate_phantom(FINE, seed=5)


@pytest.fixture(scope="module")
def clinical():
    return simulate_phantom(PhantomConfig(spacing_mm=(3.3, 1, 1), shape=(9, 200, 180), rotation_deg=(5, -4, 3)), seed=2)


def disc_points(phantom):
    """Number → RAS mm of its voxel."""
    return {int(phantom.discs.array[tuple(at)]): phantom.discs.to_ras(at) for at in np.argwhere(phantom.discs.array)}


def row_of(phantom, number):
    return np.argwhere(phantom.discs.array == number)[0][1]


@pytest.mark.parametrize(
    ("behind_discs", "ap", "rl"),
    [((3, 4), 7.5, 12.0), ((5, 6), 7.4, 12.5), ((7, 8), 6.3, 10.5)],  # C3, C5, C7
)
def test_the_cord_has_the_size_of_a_cord(fine, behind_discs, ap, rl):
    row = int(np.mean([row_of(fine, number) for number in behind_discs]))
    section = fine.cord.array[:, row - 3 : row + 4] > 0
    assert section.any(0).sum(1).mean() * 0.5 == pytest.approx(ap, abs=0.6)
    assert section.any(2).sum(0).mean() * 0.5 == pytest.approx(rl, abs=0.8)


def test_discs_are_as_far_apart_as_in_the_average_neck(clinical):
    points = disc_points(clinical)
    assert sorted(points) == sorted(SEGMENT_NAMES)
    apart = [np.linalg.norm(points[n + 1] - points[n]) for n in range(3, 8)]
    np.testing.assert_allclose(apart, 0.98 * np.array([18.5, 18.5, 16.5, 15.5, 17.0]), atol=1.5)
    assert all(points[n + 1][2] < points[n][2] for n in range(3, 8))


def test_a_disc_label_is_at_the_front_border_of_the_sac(fine):
    sac = (fine.cord.array | fine.csf.array) > 0
    for at in np.argwhere(fine.discs.array):
        line = sac[at[0], at[1]]
        assert abs(np.flatnonzero(line)[0] - at[2]) <= 2  # columns run from the front to the back


def test_the_sac_is_as_wide_as_configured(without_lesion):
    sac = (without_lesion.cord.array | without_lesion.csf.array) > 0
    row = (row_of(without_lesion, 5) + row_of(without_lesion, 6)) // 2
    assert sac[20, row].sum() * 0.5 == pytest.approx(FINE.sac_ap_mm, abs=1)


def test_masks(clinical):
    cord, csf = clinical.cord.array > 0, clinical.csf.array > 0
    assert not (cord & csf).any()
    assert label(cord)[1] == 1
    assert clinical.volume.array.dtype == np.int16
    for other in (clinical.cord, clinical.csf, clinical.discs, clinical.lesions):
        assert other.same_grid(clinical.volume)
    assert not clinical.lesions.array.any()


def test_a_lesion_has_its_size(fine):
    voxels = fine.lesions.array == 1
    assert voxels.sum() * fine.volume.voxel_mm3 == pytest.approx(np.pi / 6 * 4 * 12 * 5, rel=0.06)
    assert (fine.cord.array[voxels] == 1).all()
    along, across = voxels.any((0, 2)).sum() * 0.5, voxels.any((0, 1)).sum() * 0.5
    assert (along, across) == (pytest.approx(12, abs=0.8), pytest.approx(4, abs=0.8))


def test_a_lesion_lies_in_its_segment(fine):
    centre = fine.lesions.to_ras(np.argwhere(fine.lesions.array == 1)).mean(0)
    points = disc_points(fine)
    assert min(points, key=lambda number: abs(points[number][2] - centre[2])) == 5
    np.testing.assert_allclose(centre, fine.description["lesion_centres_ras_mm"][0], atol=0.3)


def test_a_lesion_has_its_contrast(fine, without_lesion):
    added = (fine.volume.array.astype(float) - without_lesion.volume.array) / FINE.cord_signal
    core = tuple(np.argwhere(fine.lesions.array == 1).mean(0).round().astype(int))
    assert added[core] == pytest.approx(0.4 * (FINE.csf - 1), rel=0.03)
    far = ~(fine.lesions.array == 1) & (np.abs(np.arange(340) - core[1]) > 20)[:, None]
    assert np.abs(added[far]).max() < 0.02


def test_signals(without_lesion):
    image = without_lesion.volume.array / FINE.cord_signal
    assert np.median(image[without_lesion.cord.array > 0]) == pytest.approx(1, abs=0.03)
    assert np.percentile(image[without_lesion.csf.array > 0], 80) == pytest.approx(FINE.csf, rel=0.1)


def test_a_bulge_narrows_the_sac_and_flattens_the_cord(without_lesion):
    bulging = simulate_phantom(replace(FINE, bulges=(Bulge("C5-6", 4.0),)), seed=5)
    row = row_of(without_lesion, 6)
    cords = [phantom.cord.array[20, row].sum() * 0.5 for phantom in (without_lesion, bulging)]
    fluids = [phantom.csf.array[20, row].sum() * 0.5 for phantom in (without_lesion, bulging)]
    assert cords[0] + fluids[0] - cords[1] - fluids[1] == pytest.approx(4 + 4 / 2, abs=0.8)
    assert cords[1] < cords[0] - 0.5
    elsewhere = row_of(without_lesion, 4)
    np.testing.assert_array_equal(bulging.cord.array[:, elsewhere], without_lesion.cord.array[:, elsewhere])


@pytest.mark.parametrize("axes", ["PIL", "RAS", "LPS", "SRA"])
def test_axes_change_the_storage_and_nothing_else(clinical, axes):
    config = PhantomConfig(spacing_mm=(3.3, 1, 1), shape=(9, 200, 180), rotation_deg=(5, -4, 3), axes=axes)
    other = simulate_phantom(config, seed=2)
    assert other.volume.axis_codes == axes
    for name in ("volume", "cord", "discs"):
        back, _ = reorient(getattr(other, name), clinical.volume.axis_codes)
        np.testing.assert_array_equal(back.array, getattr(clinical, name).array)
        np.testing.assert_allclose(back.affine, clinical.volume.affine, atol=1e-9)


def test_rotation_turns_patient_and_scan(clinical):
    config = PhantomConfig(spacing_mm=(3.3, 1, 1), shape=(9, 200, 180))
    upright = simulate_phantom(config, seed=2)
    np.testing.assert_array_equal(upright.volume.array, clinical.volume.array)
    turn = Rotation.from_euler("xyz", (5, -4, 3), degrees=True)
    for number, point in disc_points(upright).items():
        np.testing.assert_allclose(disc_points(clinical)[number], turn.apply(point), atol=1e-6)
    np.testing.assert_allclose(clinical.volume.spacing, upright.volume.spacing)


def test_front_is_in_front_and_up_is_up(clinical):
    cord = clinical.cord.to_ras(np.argwhere(clinical.cord.array))
    for point in disc_points(clinical).values():
        level = cord[np.abs(cord[:, 2] - point[2]) < 2]
        assert point[1] > level[:, 1].mean() + 2


def test_the_seed_decides():
    config = PhantomConfig(spacing_mm=(4, 1, 1), shape=(5, 180, 120))
    first, again, other = (simulate_phantom(config, seed).volume.array for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_brightness_drifts_by_the_factor(without_lesion):
    drifting = simulate_phantom(replace(FINE, drift=2.0), seed=5)
    gain = drifting.volume.array / np.maximum(without_lesion.volume.array, 1)
    along = np.array([np.median(gain[:, row][without_lesion.volume.array[:, row] > 200]) for row in range(340)])
    assert along.max() / along.min() == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize(("kind", "ratio"), [("space", (2.8, 5.6)), ("clinical", (1.3, 2.8))])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_necks_show_the_whole_cervical_cord(kind, ratio, seed):
    config = random_config(kind, np.random.default_rng(seed))
    phantom = simulate_phantom(config, seed)
    assert json.loads(json.dumps(phantom.description))["disc_tips_ras_mm"].keys() >= {"3", "4", "5", "6", "7", "8"}
    assert sorted(disc_points(phantom)) == sorted(SEGMENT_NAMES)
    z = phantom.cord.to_ras(np.argwhere(phantom.cord.array))[:, 2]
    assert np.ptp(z) > 110
    image = phantom.volume.array
    cord, csf = image[phantom.cord.array > 0], image[phantom.csf.array > 0]
    assert ratio[0] < np.percentile(csf, 75) / np.median(cord) < ratio[1]


@pytest.mark.parametrize("seed", range(6))
def test_varied_necks_have_their_labels_in_view(seed):
    phantom = simulate_phantom(phantom_config("varied", seed), seed)
    cord, lesions = phantom.cord.array > 0, phantom.lesions.array > 0
    assert cord.any()
    assert (lesions <= cord).all()
    assert np.unique(phantom.lesions.array).tolist() == list(range({0: 3, 1: 2, 2: 3}.get(seed, 1)))
    # Every labelled tip lies in front of the cord, within the canal's width of it.
    voxels = phantom.cord.to_ras(np.argwhere(cord))
    for tip in phantom.description["disc_tips_ras_mm"].values():
        assert np.linalg.norm(voxels - tip, axis=1).min() < 12


@pytest.mark.parametrize("kind", ["clinical", "space", "varied"])
def test_lesions_of_choice_take_the_place_of_those_drawn(kind):
    drawn = [random_config(kind, np.random.default_rng(seed)) for seed in range(4)]
    assert [phantom_config(kind, seed) for seed in range(4)] == drawn
    assert any(config.lesions for config in drawn) == (kind == "varied")
    assert phantom_config(kind, 0, [LESION]) == replace(drawn[0], lesions=(LESION,))


def test_a_lesion_smaller_than_a_voxel_is_labelled_where_most_of_it_is():
    tiny = Lesion("C4-5", contrast=0.5, ap_mm=1.5, length_mm=2.0, rl_mm=1.5)
    thick = PhantomConfig(spacing_mm=(4, 1, 1), thickness_mm=4.0, shape=(5, 180, 120))
    with_lesion, without = (simulate_phantom(replace(thick, lesions=made), 1) for made in ((tiny,), ()))
    (voxel,) = np.argwhere(with_lesion.lesions.array)
    added = with_lesion.volume.array - without.volume.array.astype(int)
    brightest = np.argwhere(added == added.max())[0]
    assert np.abs(voxel - brightest).max() <= 1
    assert with_lesion.cord.array[tuple(voxel)]


def test_fused_vertebrae_have_marrow_where_the_disc_was():
    fused = simulate_phantom(replace(FINE, fused=("C4-5",), disc=0.2, body=0.9), seed=5)
    apart = simulate_phantom(replace(FINE, disc=0.2, body=0.9), seed=5)
    tip = np.array(fused.description["disc_tips_ras_mm"]["5"])
    inside = tip + np.array([0, FINE.body_depth_mm / 2, 0])
    at = tuple(np.round(fused.volume.to_ijk(inside)).astype(int))
    assert fused.volume.array[at] > 2 * apart.volume.array[at]


def test_random_configurations_differ_and_repeat():
    draw = lambda seed: random_config("clinical", np.random.default_rng(seed))  # noqa: E731
    assert draw(1) == draw(1) != draw(2)


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="'C9-10' is not a segment"):
        simulate_phantom(replace(FINE, lesions=(replace(LESION, segment="C9-10"),)), 0)
    with pytest.raises(UsageError, match="'space', 'clinical' or 'varied'"):
        random_config("lumbar", np.random.default_rng(0))
