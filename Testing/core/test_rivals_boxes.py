"""Boxes around segments, what they say of patients, and the detectors that find them."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from U2ADLib.errors import Cancelled, InputError, InstallationError, ModelError, UsageError
from U2ADLib.rivals import make
from U2ADLib.rivals.boxes import anomalous_rectangles, box_scores, iou, segment_rectangles
from U2ADLib.rivals.detection import cord_in, examples_of, on_slice, rectangles
from U2ADLib.rivals.detector import Box, BoxDetector, Budget, Training, TrainingSlices
from U2ADLib.rivals.yolo import write_dataset
from U2ADLib.training import augment

TINY_DETR = {
    "size": (64, 64), "batch": 2, "stem": 8, "channels": (8, 16, 16), "depths": (1, 1, 1), "block": "basic",
    "used": (2, 3), "levels": 2, "width": 32, "heads": 2, "layers": 1, "hidden": 16, "queries": 4, "dropout": 0.1,
}  # fmt: skip
TINY_MASK = {"size": (64, 64), "batch": 2, "backbone": "resnet18", "proposals": 16, "scale": 1.0}


def annotated(count=2):
    """Cords of three segments, C3-4 … C5-6; of every other slice C4-5 is anomalous, and bright in its middle."""
    images = np.full((count, 256, 256), 0.9, np.float32)
    cords, segments = np.zeros(images.shape, bool), np.zeros(images.shape, np.uint8)
    anomalous = np.zeros((count, 9), bool)
    for k in range(count):
        for number, first in ((4, 102), (5, 120), (6, 138)):
            segments[k, first : first + 18, 124:132] = number
        cords[k] = segments[k] > 0
        images[k][cords[k]] = 0.4
        if k % 2 == 0:
            anomalous[k, 5] = True
            images[k, 124:134, 126:130] = 0.7
    return TrainingSlices(images, cords, np.array([f"p{k}" for k in range(count)]), segments, anomalous)


def training(folder, steps=2, stage="target", **rest):
    return Training(stage, folder, Budget(steps=steps), **rest)


# ---------------------------------------------------------------- boxes and scores


def test_overlap_by_hand():
    one = Box(0, 0, 10, 4)
    assert iou(one, one) == 1
    assert iou(one, Box(5, 0, 15, 4)) == pytest.approx(20 / 60)
    assert iou(one, Box(2.5, 1, 7.5, 3)) == pytest.approx(10 / 40)
    assert iou(one, Box(10, 0, 20, 4)) == 0
    assert iou(one, Box(20, 8, 30, 9)) == 0
    empty = Box(3, 3, 3, 3)
    assert iou(one, empty) == iou(empty, empty) == 0


def test_rectangles_enclose_the_cord_of_a_segment():
    segments = np.zeros((20, 20), np.uint8)
    segments[2:5, 3:6] = 3
    segments[5, 4:9] = 3  # a bent cord
    segments[6:9, 8] = 8
    segments[15, 15] = 200  # no segment
    assert segment_rectangles(segments) == {3: Box(2, 3, 6, 9), 8: Box(6, 8, 9, 9)}
    anomalous = np.zeros(9, bool)
    anomalous[[4, 8]] = True  # C3-4 is not in this slice
    assert anomalous_rectangles(segments, anomalous) == [Box(6, 8, 9, 9)]
    assert segment_rectangles(np.zeros((20, 20), np.uint8)) == {}


def test_scores_by_hand():
    places = {"C3-4": Box(0, 0, 10, 4), "C4-5": Box(10, 0, 20, 4)}
    boxes = [
        Box(0, 0, 8, 4, 0.6),  # IoU 0.8 with C3-4
        Box(5, 0, 15, 4, 0.9),  # a third with each: means none
        Box(11, 0, 20, 4, 0.3),  # 0.9 with C4-5
        Box(12, 0, 20, 4, 0.2),
    ]
    patient, segments, top = box_scores([boxes], [places])
    assert patient == 0.9
    assert segments == {"C3-4": 0.6, "C4-5": 0.3}
    assert top is None  # the most confident box lies on no segment
    assert box_scores([boxes[:1] + boxes[2:]], [places]) == (0.6, {"C3-4": 0.6, "C4-5": 0.3}, "C3-4")


def test_half_an_overlap_is_not_enough():
    places = {"C3-4": Box(0, 0, 10, 4)}
    assert box_scores([[Box(0, 0, 5, 4, 0.7)]], [places]) == (0.7, {"C3-4": 0.0}, None)
    assert box_scores([[Box(0, 0, 5.1, 4, 0.7)]], [places]) == (0.7, {"C3-4": 0.7}, "C3-4")


def test_slices_are_scored_together_but_matched_apart():
    first, second = {3: Box(0, 0, 10, 4)}, {3: Box(50, 0, 60, 4), 4: Box(60, 0, 70, 4)}
    found = [[Box(50, 0, 60, 4, 0.8)], [Box(50, 0, 60, 4, 0.5)]]  # in the first slice there is no cord there
    assert box_scores(found, [first, second]) == (0.8, {3: 0.5, 4: 0.0}, None)


def test_no_box_and_no_segment():
    assert box_scores([[], []], [{3: Box(0, 0, 10, 4)}, {}]) == (0.0, {3: 0.0}, None)
    assert box_scores([[Box(0, 0, 1, 1, 0.4)]], [{}]) == (0.4, {}, None)
    assert box_scores([], []) == (0.0, {}, None)


# ---------------------------------------------------------------- examples and windows


def test_boxes_move_with_the_slice():
    data = annotated(2)
    draw = examples_of(data, (128, 128), "cpu")
    corners = set()
    for seed in range(4):
        made = draw(torch.tensor([0, 1]), torch.Generator().manual_seed(seed))
        assert made.images.shape == (2, 128, 128)
        assert len(made.boxes[1]) == 0  # nothing is anomalous there
        ((left, top, right, bottom),) = made.boxes[0].tolist()
        corners.add((left, top))
        image, cord = made.images[0], made.masks[0][0]
        bright = cord & (image > (image[cord].max() + image[cord].min()) / 2)
        rows, columns = bright.nonzero().T.float().mean(1).tolist()
        assert abs(rows - (top + bottom - 1) / 2) < 2  # the lesion is in the middle of its segment
        assert abs(columns - (left + right - 1) / 2) < 2
        assert cord.any(0).nonzero()[[0, -1], 0].tolist() == [left, right - 1]
    assert len(corners) == 4


def test_what_is_no_segment_is_not_marked():
    data = annotated(1)
    data.segments[0, 200:, 200:] = 200  # whatever it is
    data.anomalous[0, [0, 8]] = True  # no segment; one that the slice does not show
    made = examples_of(data, (256, 256), "cpu")(torch.tensor([0]), torch.Generator().manual_seed(0))
    assert len(made.boxes[0]) == 1


def test_rectangles_and_masks_of_tensors():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 2:5, 1:3] = True
    masks[2, 7, 7] = True
    boxes = rectangles(masks)
    assert boxes.tolist() == [[1, 2, 3, 5], [7, 7, 8, 8]]
    cord = torch.ones(8, 8, dtype=torch.bool)
    cord[2] = False
    assert cord_in(boxes, cord).sum((1, 2)).tolist() == [4, 1]
    assert rectangles(masks[1:2]).shape == (0, 4)
    assert cord_in(rectangles(masks[1:2]), cord).shape == (0, 8, 8)


def test_boxes_go_back_to_the_slice():
    boxes, confidences = torch.tensor([[1.0, 2, 5, 6], [-3, 0, 80, 70], [0, 0, 1, 1]]), torch.tensor([0.2, 0.9, 0.1])
    found = on_slice(boxes, confidences, size=(64, 64), corner=(96, 95), most=2)
    assert found == [Box(96, 95, 160, 159, pytest.approx(0.9)), Box(98, 96, 102, 100, pytest.approx(0.2))]


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(("name", "settings"), [("detr", TINY_DETR), ("mask-rcnn", TINY_MASK)])
def test_a_detector_trains_resumes_saves_and_loads(name, settings, tmp_path):
    pytest.importorskip({"detr": "transformers", "mask-rcnn": "torchvision"}[name], reason=f"{name} WAS NOT TESTED")
    data = annotated()
    method = make(name, **settings)
    assert isinstance(method, BoxDetector)
    assert (method.name, method.learns, method.supervised) == (name, True, True)
    with pytest.raises(UsageError, match="not been trained"):
        method.boxes(data.images)
    method.fit(data, training(tmp_path / "stage"))
    found = method.boxes(data.images)
    assert len(found) == 2
    assert found[0]
    for box in found[0]:
        assert 96 <= box.top <= box.bottom <= 160  # the window
        assert 96 <= box.left <= box.right <= 160
        assert 0 <= box.confidence <= 1
    assert [box.confidence for box in found[0]] == sorted((box.confidence for box in found[0]), reverse=True)

    method.save(tmp_path / "model")
    again = make(name, **settings)
    again.load(tmp_path / "model")
    assert again.boxes(data.images) == found
    with pytest.raises(ModelError, match="other settings"):
        make(name, **settings | {"size": (64, 96)}).load(tmp_path / "model")

    def stop(stage, done, total):
        if done == 1:
            raise Cancelled

    other = make(name, **settings)
    with pytest.raises(Cancelled):
        other.fit(data, training(tmp_path / "stopped", progress=stop))
    said = []
    other.fit(data, training(tmp_path / "stopped", say=said.append))
    assert said == ["Resuming after 1 steps."]
    assert other.boxes(data.images) == found
    changed = replace(data, anomalous=np.roll(data.anomalous, 1, axis=1))
    with pytest.raises(ModelError, match="other data"):
        make(name, **settings).fit(changed, training(tmp_path / "stage"))


def test_detr_finds_the_segment_it_has_learnt(tmp_path, monkeypatch):
    still = augment.AugmentConfig(shift_px=0, rotation_degrees=0, scale=0)  # else it takes too long for a test
    monkeypatch.setattr(augment, "AugmentConfig", lambda: still)
    pytest.importorskip("transformers", reason="DETR WAS NOT TESTED")
    settings = TINY_DETR | {"hidden": 64, "layers": 2, "dropout": 0.0, "learning_rate": 3e-3}
    data = annotated(1)
    method = make("detr", **settings)
    method.fit(data, training(tmp_path, steps=60))
    (found,) = method.boxes(data.images)
    assert iou(found[0], segment_rectangles(data.segments[0])[5]) > 0.5


def test_what_is_not_annotated_cannot_be_learnt(tmp_path):
    pytest.importorskip("transformers", reason="DETR WAS NOT TESTED")
    data = annotated()
    with pytest.raises(InputError, match="annotation table"):
        make("detr", **TINY_DETR).fit(replace(data, segments=None, anomalous=None), training(tmp_path))
    with pytest.raises(InputError, match="nothing to learn"):
        make("detr", **TINY_DETR).fit(replace(data, anomalous=np.zeros((2, 9), bool)), training(tmp_path))
    with pytest.raises(UsageError, match="does not fit"):
        make("detr", **TINY_DETR | {"size": (300, 64)}).fit(data, training(tmp_path))


# ---------------------------------------------------------------- the plug-in


def test_the_plug_in_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("U2ADLib.rivals.yolo.find_spec", lambda name: None)
    with pytest.raises(InstallationError, match=r"AGPL-3\.0.*pip install ultralytics"):
        make("yolov8")
    assert "ultralytics" not in sys.modules


def test_the_plug_ins_data_set(tmp_path):
    data = annotated()
    described = write_dataset(data, tmp_path)
    assert json.loads(described.read_text()) == {
        "path": str(tmp_path.resolve()), "train": "images", "val": "images", "names": ["hyperintensity"]
    }  # fmt: skip
    image = np.asarray(Image.open(tmp_path / "images" / "00000.png"))
    np.testing.assert_allclose(image / 255, data.images[0], atol=0.5 / 255 + 1e-6)
    kind, x, y, width, height = (tmp_path / "labels" / "00000.txt").read_text().split()
    assert kind == "0"
    assert [float(v) * 256 for v in (x, y, width, height)] == pytest.approx([128, 129, 8, 18], abs=1e-3)
    assert (tmp_path / "labels" / "00001.txt").read_text() == ""
