"""Planted lesions and degradations in cords of known geometry and brightness."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from U2ADLib.errors import InputError, UsageError
from U2ADLib.simulation.degrade import (
    CONDITIONS,
    NEGATIVES,
    Blur,
    CentralCanal,
    CoilBumps,
    Degradation,
    Drift,
    EdgeNoise,
    FlowVoids,
    FollowedEdge,
    MaskError,
    MotionGhost,
    Noise,
    Swell,
    draw_degradation,
)
from U2ADLib.simulation.plant import CONTRASTS, LESION_KINDS, _LocalLine, plant_in_volume, plant_lesion
from U2ADLib.volume import Volume

CSF = 3.0  # relative to the cord


def neck(tilt_deg=0.0, width=9, gain=1.0):
    """A straight cord through the middle of a slice, tilted to the back, with 4 px of CSF on both sides."""
    rows, columns = np.mgrid[:160, :160] - 80
    angle = np.deg2rad(tilt_deg)
    across = columns * np.cos(angle) - rows * np.sin(angle)
    along = columns * np.sin(angle) + rows * np.cos(angle)
    cord = (np.abs(across) < width / 2) & (np.abs(along) < 70)
    image = np.where(np.abs(across) < width / 2 + 4, CSF, 0.3)
    image[np.abs(across) < width / 2] = 1
    return image * gain, cord, along, across


@pytest.mark.parametrize("kind", LESION_KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_a_lesion_stays_in_the_cord(kind, seed):
    image, cord, _, _ = neck(tilt_deg=25)
    planted = plant_lesion(image, cord, kind, np.random.default_rng(seed))
    assert planted.mask.sum() >= 4
    assert not (planted.mask & ~cord).any()
    reach = 0 if kind == "A1" else 3  # the blurred edge
    outside = ~binary_dilation(planted.mask, iterations=reach) if reach else ~planted.mask
    np.testing.assert_allclose(planted.image[outside], image[outside], atol=0.01)
    again = plant_lesion(image, cord, kind, np.random.default_rng(seed))
    np.testing.assert_array_equal(again.image, planted.image)
    assert again.description == planted.description


@pytest.mark.parametrize("kind", [kind for kind in LESION_KINDS if kind[0] in "hls"])
def test_contrast_is_the_share_of_the_way_to_the_csf(kind):
    image, cord, _, _ = neck()
    added = plant_lesion(image, cord, kind, np.random.default_rng(3)).image - image
    assert added.max() == pytest.approx(CONTRASTS[kind] * (CSF - 1), rel=0.06)


def test_contrast_is_local():
    """The cord is four times as bright at its lower end; a lesion keeps its share of what surrounds it."""
    gain = np.geomspace(1, 4, 160)[:, None]
    image, cord, _, _ = neck(gain=gain)
    for seed in range(6):
        added = plant_lesion(image, cord, "long50", np.random.default_rng(seed)).image - image
        row, _ = np.unravel_index(added.argmax(), added.shape)
        assert added.max() == pytest.approx(0.5 * (CSF - 1) * gain[row, 0], rel=0.15)


@pytest.mark.parametrize("tilt", [0, 35, -35])
def test_a_long_lesion_follows_the_cord(tilt):
    image, cord, along, across = neck(tilt)
    planted = plant_lesion(image, cord, "long50", np.random.default_rng(1))
    assert np.ptp(along[planted.mask]) + 1 == pytest.approx(20, abs=1.6)
    assert np.ptp(across[planted.mask]) + 1 == pytest.approx(planted.description["lesions"][0]["width_mm"], abs=1.6)
    row, column = planted.description["lesions"][0]["centre_row_column"]
    np.testing.assert_allclose(np.argwhere(planted.mask).mean(0), (row, column), atol=0.8)


@pytest.mark.parametrize("seed", range(8))
def test_a_homogeneous_lesion_has_the_area_of_its_ellipse(seed):
    image, cord, _, _ = neck(width=25)
    planted = plant_lesion(image, cord, "h50", np.random.default_rng(seed))
    one = planted.description["lesions"][0]
    assert planted.mask.sum() == pytest.approx(np.pi / 4 * one["width_mm"] * one["length_mm"], rel=0.1)


def test_small_lesions_are_2_to_3_mm():
    image, cord, along, across = neck()
    for seed in range(20):
        mask = plant_lesion(image, cord, "small50", np.random.default_rng(seed)).mask
        assert 4 <= mask.sum() <= 9
        assert max(np.ptp(along[mask]), np.ptp(across[mask])) <= 3


def test_border_lesions_touch_the_border():
    image, cord, _, across = neck()
    for seed in range(10):
        mask = plant_lesion(image, cord, "border", np.random.default_rng(seed)).mask
        assert np.abs(across[mask]).max() == pytest.approx(4, abs=0.6)  # the outermost of the cord's nine pixels
        assert np.abs(across[mask].mean()) > 1.5


def test_the_papers_lesions():
    """App. A.1: 1–3 ellipses, width 0.7–1 × cord, length 1–4 × width, mean and variance between cord and CSF."""
    image, cord, _, _ = neck()
    noise = np.random.default_rng(0).normal(0, 1, image.shape)
    image = image + np.where(cord, 0.05, 0.2) * noise
    counts = set()
    for seed in range(40):
        planted = plant_lesion(image, cord, "A1", np.random.default_rng(seed))
        lesions = planted.description["lesions"]
        counts.add(len(lesions))
        for one in lesions:
            assert 0.68 * 9 <= one["width_mm"] <= 1.02 * 9
            assert 0.99 <= one["length_mm"] / one["width_mm"] <= 4.01
        assert 0.95 < planted.description["mean"] < CSF * 1.05
        assert 0.05**2 * 0.9 < planted.description["variance"] < 0.2**2 * 1.2
        expected = planted.description["mean"]
        allowed = 5 * np.sqrt(planted.description["variance"] / planted.mask.sum())
        assert planted.image[planted.mask].mean() == pytest.approx(expected, abs=allowed)
    assert counts == {1, 2, 3}


def test_what_cannot_be_planted():
    image, cord, along, _ = neck()
    with pytest.raises(UsageError, match="not a kind of lesion"):
        plant_lesion(image, cord, "h99", np.random.default_rng(0))
    with pytest.raises(InputError, match="too thin or too short"):
        plant_lesion(image, cord & (np.abs(along) < 7), "h50", np.random.default_rng(0))
    with pytest.raises(InputError, match="T2-weighted"):
        plant_lesion(1 / image, cord, "A1", np.random.default_rng(0))
    for kind in LESION_KINDS:
        for dark in (1 / image, np.where(cord, image, 0)):
            with pytest.raises(InputError, match="nothing brighter than the cord"):
                plant_lesion(dark, cord, kind, np.random.default_rng(0))


# Volumes


def rotation(degrees):
    a, b = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, a, -b], [0, b, a]]) @ np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]])


GRIDS = {
    "1 mm RAS": (np.eye(3), (1, 1, 1)),
    "sagittal PIL": (np.array([[0, 0, -1], [-1, 0, 0], [0, -1, 0]]), (0.7, 0.7, 3.3)),
    "oblique": (rotation(20), (0.8, 0.8, 0.8)),
    "left-handed": (np.diag((-1, 1, 1)), (0.9, 0.9, 0.9)),
}


def volume_neck(grid, dtype=np.int16):
    """A cord that bends to the back (radius 200 mm), 8 × 12 mm, with 3 mm of CSF around it. Signal 200 and 600."""
    directions, spacing = GRIDS[grid]
    shape = np.ceil(np.abs(np.linalg.inv(directions)) @ (40, 50, 120) / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = np.array((10, -20, 30)) - affine[:3, :3] @ ((shape - 1) / 2)
    volume = Volume(np.zeros(shape, dtype), affine)
    x, y, z = np.moveaxis(volume.to_ras(np.moveaxis(np.indices(shape), 0, -1)) - (10, -20, 30), -1, 0)
    forwards = y + z**2 / 400
    cord = (np.hypot(forwards / 4, x / 6) < 1) & (np.abs(z) < 55)
    sac = np.hypot(forwards / 7, x / 9) < 1
    return volume.with_array(np.where(cord, 200, np.where(sac, 600, 50)).astype(dtype)), cord


def planted_in(grid, *, centre, contrast=0.5, ap_mm=5.0, length_mm=16.0, rl_mm=7.0, dtype=np.int16):
    volume, cord = volume_neck(grid, dtype)
    rng = np.random.default_rng(0)
    size = {"ap_mm": ap_mm, "length_mm": length_mm, "rl_mm": rl_mm}
    return volume, cord, *plant_in_volume(volume, cord, centre_ras=centre, contrast=contrast, rng=rng, **size)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_lesion_in_a_volume(grid, dtype):
    at = np.array((10, -20 - 15**2 / 400, 45))  # 15 mm above the middle, in the middle of the cord
    volume, cord, planted, mask = planted_in(grid, centre=at, dtype=dtype)
    assert planted.same_grid(volume)
    assert planted.array.dtype == volume.array.dtype
    assert not (mask & ~cord).any()
    np.testing.assert_array_equal(planted.array[~cord], volume.array[~cord])
    size, added = np.pi / 6 * 5 * 16 * 7, (planted.array - volume.array.astype(float)) / (0.5 * 400)
    assert added.sum() * volume.voxel_mm3 == pytest.approx(size, rel=0.1)  # its soft border is symmetric
    assert mask.sum() * volume.voxel_mm3 == pytest.approx(size, rel=0.2 if grid == "sagittal PIL" else 0.08)
    np.testing.assert_allclose(volume.to_ras(np.argwhere(mask)).mean(0), at, atol=0.6)
    core = tuple(np.round(volume.to_ijk(at)).astype(int))
    assert float(planted.array[core]) - 200 == pytest.approx(0.5 * 400, rel=0.03)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_place_outside_the_cord_means_the_cord_at_its_level(grid):
    """A disc's tip, 9 mm in front of the cord's middle."""
    slope = -30 / 200  # dy/dz of the middle, 30 mm above the centre
    middle = np.array((10, -20 - 30**2 / 400, 60))
    tip = middle + 9 * np.array((0, 1, -slope)) / np.hypot(1, slope)
    volume, _, _, mask = planted_in(grid, centre=tip)
    np.testing.assert_allclose(volume.to_ras(np.argwhere(mask)).mean(0), middle, atol=0.9)


def test_a_lesion_in_a_volume_follows_the_bend():
    volume, _, _, mask = planted_in("1 mm RAS", centre=(10, -20, 30), length_mm=50, ap_mm=3, rl_mm=3)
    points = volume.to_ras(np.argwhere(mask)) - (10, -20, 30)
    assert np.ptp(points[:, 2]) == pytest.approx(46, abs=2)  # its pointed ends fill no voxel
    assert np.abs(points[:, 1] + points[:, 2] ** 2 / 400).max() < 2


def test_a_lesion_is_cut_to_the_cord():
    _, cord, _, mask = planted_in("1 mm RAS", centre=(10, -20 + 3.5, 30), ap_mm=6)
    assert 0 < mask.sum() < 0.8 * np.pi / 6 * 6 * 16 * 7
    assert not (mask & ~cord).any()


def test_a_lesion_thinner_than_a_slice_is_fainter():
    at = np.array((10, -20, 30))  # the middle of the middle slice
    _, _, planted, mask = planted_in("sagittal PIL", centre=at, rl_mm=1.5, ap_mm=4)
    assert mask.any()
    assert 0.2 * 400 * 0.4 < planted.array[mask].max() - 200 < 0.5 * 400 * 0.75


def test_axes_of_a_cord():
    """RAS, of a cord that runs to the feet and a little to the front."""
    way = np.array([0, 0.2, -1]) / np.sqrt(1.04)
    line = _LocalLine(np.linspace(-20, 20, 41)[:, None] * way)
    forwards, right = line.axes(np.zeros(1))
    np.testing.assert_allclose(forwards[0], [0, -way[2], way[1]], atol=1e-9)
    np.testing.assert_allclose(right[0], [1, 0, 0], atol=1e-9)


def test_places_without_cord_are_refused():
    with pytest.raises(InputError, match="away from the cord"):
        planted_in("1 mm RAS", centre=(10, 60, 30))
    volume, cord = volume_neck("1 mm RAS")
    size = {"centre_ras": (10, -20, 30), "contrast": 0.5, "ap_mm": 3, "length_mm": 5, "rl_mm": 3}
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="empty"):
        plant_in_volume(volume, cord & False, rng=rng, **size)
    with pytest.raises(InputError, match="shape"):
        plant_in_volume(volume, cord[1:], rng=rng, **size)
    with pytest.raises(InputError, match="T2-weighted"):
        plant_in_volume(volume.with_array(800 - volume.array), cord, rng=rng, **size)


def test_a_lesion_in_a_real_cord(shared_data):
    nibabel = pytest.importorskip("nibabel")
    stem = shared_data / "errsm" / "sub-errsm24" / "anat" / "sub-errsm24_T2w"
    files = [nibabel.load(f"{stem}{end}.nii.gz") for end in ("", "_label-SC_seg", "_label-discs_dlabel")]
    image, cord, discs = (np.asarray(file.dataobj) for file in files)
    volume = Volume(image, files[0].affine)
    tip = volume.to_ras(np.argwhere(discs == 5)[0])
    planted, mask = plant_in_volume(
        volume, cord > 0, centre_ras=tip, contrast=0.5, ap_mm=4, length_mm=12, rl_mm=4, rng=np.random.default_rng(0)
    )
    assert mask.sum() * volume.voxel_mm3 == pytest.approx(np.pi / 6 * 4 * 12 * 4, rel=0.2)
    assert abs(volume.to_ras(np.argwhere(mask)).mean(0)[2] - tip[2]) < 2
    brighter = planted.array[mask].mean() / image[mask].mean()
    assert 1.5 < brighter < 2.5  # half the way to a CSF of 3–4 × cord, with soft edges
    assert planted.array.dtype == image.dtype
    np.testing.assert_array_equal(planted.array[cord == 0], image[cord == 0])


# Degradations


def test_drift_and_coil_bumps_have_their_factor():
    image, cord, _, _ = neck()
    for change in (Drift.draw(np.random.default_rng(1)), CoilBumps(1.8, ((0.6, 50, 20), (-0.3, 100, 15)))):
        gain = change.apply(image, cord) / image
        np.testing.assert_allclose(gain, gain[:, :1] * np.ones_like(gain))
        assert gain.max() / gain.min() == pytest.approx(change.factor)


@pytest.mark.parametrize("grain", [0.0, 0.7])
def test_noise_has_its_strength(grain):
    image, cord, _, _ = neck()
    noisy = Noise(0.05, grain, seed=4).apply(image, cord)
    assert noisy[cord].std() == pytest.approx(0.05, rel=0.1)
    neighbours = np.corrcoef((noisy - image)[:, :-1][cord[:, :-1] & cord[:, 1:]],
                             (noisy - image)[:, 1:][cord[:, :-1] & cord[:, 1:]])[0, 1]  # fmt: skip
    assert neighbours == pytest.approx(np.exp(-1 / (4 * grain**2)) if grain else 0, abs=0.12)


@pytest.mark.parametrize("upper", [True, False])
def test_noise_grows_towards_an_end(upper):
    wide, cord = np.ones((160, 400)), np.zeros((160, 400), bool)
    cord[20:140] = True
    noisy = EdgeNoise(0.2, 30.0, upper, 0.0, seed=1).apply(wide, cord)
    strength = (noisy - 1).std(axis=1)[:: 1 if upper else -1]  # by the row's distance from that end of the image
    np.testing.assert_allclose(strength[[0, 20, 50, 80]], 0.2 * np.exp([0, 0, -1, -2]), rtol=0.15)


def test_a_swell_changes_the_whole_width_of_the_cord_and_no_fluid():
    image, cord, _, across = neck()
    made = np.stack([Swell(0.05, 8.0, seed).apply(image, cord) for seed in range(20)])
    inner = cord & (np.abs(across) < 3)
    levels = np.where(inner, made, np.nan)[:, cord.any(1)]
    assert np.nanmax(np.nanstd(levels, axis=2)) < 1e-3  # the same across the cord
    along = np.nanmean(levels, axis=2)
    assert along.std() == pytest.approx(0.05, rel=0.2)
    assert np.abs(along - 1).max() <= 0.1 + 1e-6
    assert np.corrcoef(along[:, :-8].ravel(), along[:, 8:].ravel())[0, 1] == pytest.approx(np.exp(-0.25), abs=0.1)
    fluid = np.abs(across) > 7
    np.testing.assert_allclose(made[:, fluid], np.broadcast_to(image[fluid], made[:, fluid].shape))


def test_blur_has_its_width():
    point = np.zeros((41, 41))
    point[20, 20] = 1
    blurred = Blur(4.0).apply(point, point > 0)
    assert blurred[20, 22] / blurred[20, 20] == pytest.approx(0.5, abs=0.01)


def test_a_ghost_repeats_the_picture():
    image = np.ones((100, 20))
    image[50] = 5
    ghost = MotionGhost(shift_px=15, strength=0.1, phase=0).apply(image, image > 0)
    np.testing.assert_allclose(ghost[[20, 35, 50, 65], 0], [1.2, 1.6, 5.2, 1.6])


def test_flow_voids_darken_csf_and_nothing_else():
    image, cord, _, _ = neck()
    changed = FlowVoids.draw(np.random.default_rng(0)).apply(image, cord)
    np.testing.assert_array_equal(changed[cord], image[cord])
    np.testing.assert_array_equal(changed[image < 0.5], image[image < 0.5])
    assert changed[image == CSF].min() < 0.8 * CSF


def test_a_central_canal_is_a_thin_line_in_the_middle():
    image, cord, along, across = neck(tilt_deg=20)
    added = CentralCanal(contrast=0.2, width_mm=1.0).apply(image, cord) - image
    inside = cord & (np.abs(along) < 60)
    assert np.abs(across[inside & (added > 0.05)]).max() < 1.3
    assert added[inside & (np.abs(across) < 0.15)].min() > 0.75 * 0.2 * (CSF - 1)


def test_thin_csf_changes_the_mask_and_not_the_picture():
    image, cord, _, _ = neck()
    for seed in range(6):
        degraded, mask = draw_degradation("thin csf", np.random.default_rng(seed), 160).apply(image, cord)
        np.testing.assert_array_equal(degraded, image)
        border = mask & ~cord
        assert border.sum() > 100
        assert (image[border] == CSF).mean() > 0.9


@pytest.mark.parametrize(
    ("error", "moved"), [("forwards", (0, -1)), ("backwards", (0, 1)), ("up", (-1, 0)), ("down", (1, 0))]
)
def test_shifted_masks(error, moved):
    _, cord, _, _ = neck()
    shifted = np.argwhere(MaskError(error).apply(None, cord)).mean(0) - np.argwhere(cord).mean(0)
    np.testing.assert_allclose(shifted, moved, atol=1e-9)


def test_grown_and_shrunk_masks():
    _, cord, _, _ = neck()
    widths = [MaskError(error).apply(None, cord)[80].sum() for error in ("eroded", "none", "dilated")]
    assert widths == [7, 9, 11]


def test_a_followed_edge_is_near_the_true_one():
    image, cord, _, _ = neck(tilt_deg=15)
    mask = FollowedEdge(seed=1).apply(image, cord)
    assert 0.85 < 2 * (mask & cord).sum() / (mask.sum() + cord.sum()) < 0.99
    assert not (mask & ~binary_dilation(cord, iterations=2)).any()


@pytest.mark.parametrize("name", [*CONDITIONS, *NEGATIVES])
def test_degradations_are_drawn_once_and_applied_the_same(name):
    image, cord, _, _ = neck(tilt_deg=10)
    drawn = draw_degradation(name, np.random.default_rng(7), len(image))
    assert drawn == draw_degradation(name, np.random.default_rng(7), len(image))
    first, second = drawn.apply(image, cord), drawn.apply(image, cord)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    # The unit does not matter.
    np.testing.assert_allclose(drawn.apply(image * 250, cord)[0], first[0] * 250)
    if name in NEGATIVES and name != "thin csf":
        np.testing.assert_array_equal(first[1], cord)
    assert np.median(first[0][cord]) < 1.6 + 0.6 * (name in ("clinical", "mismatch", "bias field"))


def test_a_lesion_does_not_shape_its_own_mask():
    image, cord, _, _ = neck()
    bright = np.where(cord & (np.abs(np.arange(160) - 80) < 10)[:, None], CSF, image)
    degradation = Degradation(mask=FollowedEdge(seed=3))
    _, mask = degradation.apply(bright, cord, healthy=image)
    _, wanted = degradation.apply(image, cord)
    np.testing.assert_array_equal(mask, wanted)


def test_unknown_degradation():
    with pytest.raises(UsageError, match="'blurry' is not a degradation"):
        draw_degradation("blurry", np.random.default_rng(0), 100)
