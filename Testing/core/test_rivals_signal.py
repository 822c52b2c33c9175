"""Signal rivals and simple rules as methods of the comparison."""

import numpy as np
import pytest

from U2ADLib.errors import InstallationError, ModelError, UsageError
from U2ADLib.rivals import RIVALS, make
from U2ADLib.rivals.dbscan import DBSCAN, nearest_distance
from U2ADLib.rivals.detector import MapDetector
from U2ADLib.rivals.rules import BASELINES
from U2ADLib.rivals.slic import SLIC, superpixels
from U2ADLib.rivals.z_scoring import ZScoring

NAMES = [name for name, (module, _) in RIVALS.items() if module in ("rules", "z_scoring", "slic", "dbscan")]


def slice_with_lesion(seed=0):
    """A cord of 0.4 with a bright lesion of 40 px, in CSF of 0.9: image, cord and lesion."""
    rng = np.random.default_rng(seed)
    image, cord = np.full((256, 256), 0.9, np.float32), np.zeros((256, 256), bool)
    cord[60:180, 120:128] = True
    lesion = np.zeros_like(cord)
    lesion[100:110, 122:126] = True
    image[cord] = 0.4 + rng.normal(0, 0.02, cord.sum())
    image[lesion] += 0.25
    return image, cord, lesion


@pytest.fixture(scope="module")
def stack():
    images, cords, lesions = zip(*(slice_with_lesion(seed) for seed in range(2)), strict=True)
    empty = np.zeros((1, 256, 256), bool)
    return np.array([*images, images[0]]), np.concatenate([cords, empty]), np.concatenate([lesions, empty])


@pytest.mark.parametrize("name", NAMES)
def test_each_makes_maps_that_follow_the_contract(name, stack):
    images, cords, lesions = stack
    method = make(name)
    assert isinstance(method, MapDetector)
    assert (method.name, method.learns, method.supervised) == (name, False, False)
    made = method.anomaly_map(images, cords)
    assert made.anomaly.shape == images.shape
    assert made.anomaly.dtype == np.float32
    assert made.anomaly.min() >= 0
    assert not made.anomaly[~cords].any()
    assert made.reconstruction is made.uncertainty is None
    np.testing.assert_array_equal(made.anomaly, method.anomaly_map(images, cords, seed=5).anomaly)
    if name != "all-positive":
        assert made.anomaly[lesions].mean() > 3 * made.anomaly[cords & ~lesions].mean() + 1e-6 or (
            name == "maximum-intensity" and lesions[0].ravel()[made.anomaly[0].argmax()]
        )


@pytest.mark.parametrize("name", NAMES)
def test_one_that_learns_nothing_is_saved_by_its_settings(name, tmp_path):
    make(name).save(tmp_path)
    make(name).load(tmp_path)
    other = next(one for one in NAMES if one != name)
    with pytest.raises(ModelError, match="another method"):
        make(other).load(tmp_path)
    with pytest.raises(ModelError, match="does not hold"):
        make(name).load(tmp_path / "nothing")


def test_other_settings_are_another_method(tmp_path):
    ZScoring().save(tmp_path)
    with pytest.raises(ModelError, match="other settings"):
        ZScoring(threshold=1).load(tmp_path)


def test_all_positive_is_the_cord(stack):
    images, cords, _ = stack
    np.testing.assert_array_equal(make("all-positive").anomaly_map(images, cords).anomaly, cords.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("maximum-intensity", "maximum intensity"),
        ("global-robust-z", "robust z"),
        ("global-difference", "global |x − median|, smoothed"),
        ("local-robust-z", "local robust z, smoothed"),
    ],
)
def test_a_rule_is_the_function_of_its_name(name, rule, stack):
    images, cords, _ = stack
    made = make(name).anomaly_map(images[:1], cords[:1]).anomaly[0]
    np.testing.assert_allclose(made, BASELINES[rule](images[0], cords[0]), rtol=1e-6)


def small(values):
    """A slice whose cord has these values, side by side."""
    image, cord = np.full((64, 64), 9.0, np.float32), np.zeros((64, 64), bool)
    cord[10, 10 : 10 + len(values)] = True
    image[cord] = values
    return image, cord


def of_cord(method, values):
    image, cord = small(values)
    return method.anomaly_map(image[None], cord[None]).anomaly[0][cord]


def test_z_scores_by_hand():
    values = [1, 1, 1, 1, 1, 1, 1, 1, 6, 1.5]  # mean 1.55
    spread = np.std(values)
    expected = np.abs(np.array(values) - 1.55) / spread
    expected[-1] = 0  # 0.05 / 1.49 is below 0.1
    np.testing.assert_allclose(of_cord(ZScoring(), values), expected, rtol=1e-5)
    bright = of_cord(ZScoring(bright_only=True), values)
    np.testing.assert_allclose(bright, np.where(np.arange(10) == 8, expected, 0), rtol=1e-5)
    assert not of_cord(ZScoring(), [2.0] * 5).any()


def test_superpixels_are_scored_by_their_mean():
    image, cord, _ = slice_with_lesion()
    labels = superpixels(image, cord, 100, 10)
    assert ((labels > 0) == cord).all()
    assert 70 <= len(np.unique(labels[cord])) <= 130
    made = SLIC().anomaly_map(image[None], cord[None]).anomaly[0]
    numbers = np.unique(labels[cord])
    means = np.array([image[labels == number].astype(float).mean() for number in numbers])
    for number, mean in zip(numbers, means, strict=True):
        z = abs(mean - means.mean()) / means.std()
        np.testing.assert_allclose(made[labels == number], z if z > 2 else 0, rtol=1e-4)
    assert 0 < (made > 0).sum() < 0.1 * cord.sum()


def test_a_cord_of_a_few_pixels_has_superpixels_too():
    assert of_cord(SLIC(), [0.5]).tolist() == [0]
    values = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9]
    made = of_cord(SLIC(), values)
    assert made.shape == (8,)
    assert np.isfinite(made).all()


def density_clusters(values, epsilon, samples):
    """Members of any cluster, the slow way: cores and what lies within ε of one."""
    near = np.abs(values[:, None] - values[None]) <= epsilon
    core = near.sum(1) >= samples
    return (near & core[None]).any(1)


@pytest.mark.parametrize("seed", range(3))
def test_dbscan_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    image, cord, _ = slice_with_lesion(seed)
    image[cord] += rng.choice([0, 0.1], cord.sum())  # two clusters and a gap
    values = image[cord].astype(float)
    member = density_clusters(values, 0.01, 100)
    assert 0 < (~member).sum() < len(values)
    expected = [0 if m else np.abs(values[member] - v).min() for v, m in zip(values, member, strict=True)]
    made = DBSCAN().anomaly_map(image[None], cord[None]).anomaly[0][cord]
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_dbscan_without_a_cluster_takes_the_median():
    values = [0.1, 0.3, 0.5, 0.55, 0.9]
    np.testing.assert_allclose(of_cord(DBSCAN(), values), [0.4, 0.2, 0, 0.05, 0.4], atol=1e-6)
    assert not of_cord(DBSCAN(samples=3), [0.5, 0.505, 0.51, 0.5]).any()


def test_nearest_distance():
    made = nearest_distance(np.array([0.0, 1.0, 1.4, 3.0]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(made, [1, 0, 0.4, 1])


def test_unknown_names_and_missing_libraries_are_named():
    with pytest.raises(UsageError, match="no method 'magic'"):
        make("magic")
    with pytest.raises(UsageError, match="slic has no setting colour: it has superpixels"):
        make("slic", colour=1)
    with pytest.raises(UsageError, match="it has none"):
        make("all-positive", colour=1)
    with pytest.raises(InstallationError, match="ultralytics"):
        make("yolov8")


@pytest.mark.parametrize("wrapped", [False, True])
def test_libraries_that_do_not_go_together_are_named(monkeypatch, wrapped):
    """As torchvision says it, and as transformers passes it on."""

    def broken(*_):
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            if not wrapped:
                raise
            raise ModuleNotFoundError("Are this object's requirements defined correctly?") from error

    monkeypatch.setattr("U2ADLib.rivals.import_module", broken)
    with pytest.raises(InstallationError, match="detr cannot be loaded: operator torchvision::nms does not exist"):
        make("detr")
