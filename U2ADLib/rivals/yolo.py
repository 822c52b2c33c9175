"""YOLOv8 on segments (paper, B.2), as a plug-in of ultralytics.

ultralytics is under the AGPL-3.0, which asks more of those who pass software on than U2AD's own licence: it is no part
of U2AD, is not installed with it, and is imported only where somebody who installed it asks for this method.

This file has been run only up to where ultralytics begins: what is tested is the data set that it writes, and what it
says where the library is missing.

ultralytics writes its checkpoints as pickles into the training's folder and reads them there at the end of its own
training. U2AD neither reads nor keeps them: what is saved and loaded here is safetensors. For the same reason a
training that was stopped begins anew, and a finished one is read from the safetensors beside them.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import find_spec
from math import ceil
from pathlib import Path

import numpy as np

from ..errors import InstallationError, ModelError
from ..training.checkpoint import load_state, save_state
from .boxes import anomalous_rectangles, check_annotated
from .detector import Box, Training, TrainingSlices, settings_of, trained
from .pace import check_budget

LICENCE = (
    "YOLOv8 needs ultralytics, which is under the AGPL-3.0 licence and therefore no part of U2AD. If that licence "
    "suits you, install it yourself: pip install ultralytics."
)
DATA = "data.yaml"


@dataclass(frozen=True)
class YOLOSettings:
    """The rest is as ultralytics has it."""

    network: str = "yolov8n.yaml"  # a description, without weights: they would have to be downloaded
    batch: int = 16
    image_size: int = 256
    least: float = 0.001  # confidence of a box that is told
    most: int = 20  # boxes of a slice


class YOLOv8:
    """A `detector.BoxDetector`. Each stage begins with untrained weights."""

    name = "yolov8"
    learns = True
    supervised = True

    def __init__(self, **settings):
        """:raises InstallationError: ultralytics is not installed. :raises UsageError: a setting that there is not."""
        self.settings = settings_of(YOLOSettings, self.name, settings)
        if find_spec("ultralytics") is None:
            raise InstallationError(LICENCE)
        self.device = "cpu"  # of inference; that of the training after one
        self.network = None  # ultralytics' DetectionModel

    def fit(self, slices: TrainingSlices, training: Training) -> None:
        """See `detector.Rival`. Minutes are of time: ultralytics counts no others. Where there are minutes, it does not
        look at the steps.

        :raises InputError: no slice is annotated, or none shows an anomalous segment.
        """
        check_annotated(slices, self.name)
        check_budget(training.budget)
        self.device = training.device
        kept, recipe = Path(training.folder) / "trained", self._recipe(slices, training)
        if stored := load_state(kept):
            tensors, record = stored
            if record["recipe"] != recipe:
                raise ModelError(
                    f"{training.folder} holds a training with other data or settings: choose another folder, or "
                    "delete it."
                )
            self._take(tensors)
            return
        data = Path(training.folder) / "data"
        shutil.rmtree(data, ignore_errors=True)  # a training that was stopped may have left more slices
        described = write_dataset(slices, data)
        model = _yolo(self.settings.network)
        training.progress("Training", 0, 1)
        minutes, steps = training.budget.minutes, training.budget.steps
        model.train(
            data=str(described),
            epochs=ceil((10**6 if steps is None else max(steps, 1)) * self.settings.batch / len(slices)),
            time=None if minutes is None else minutes / 60,
            batch=self.settings.batch,
            imgsz=self.settings.image_size,
            device=str(training.device),
            seed=training.seed,
            project=str(Path(training.folder).resolve()),
            name="ultralytics",
            exist_ok=True,
            pretrained=False,
            amp=False,  # its check downloads weights
            plots=False,
            val=False,
            verbose=False,
            workers=0,
        )
        training.progress("Training", 1, 1)
        self.network = model.model
        save_state(kept, self._weights(), {"epoch": 0, "recipe": recipe})

    def boxes(self, images: np.ndarray) -> list[list[Box]]:
        """See `detector.BoxDetector`."""
        network, model = trained(self.network, self.name), _yolo(self.settings.network)
        model.model = network
        found = []
        for image in images:
            grey = np.repeat(_bytes(image)[:, :, None], 3, axis=2)
            (made,) = model.predict(
                grey,
                conf=self.settings.least,
                max_det=self.settings.most,
                imgsz=self.settings.image_size,
                device=str(self.device),
                verbose=False,
            )
            corners, confidences = made.boxes.xyxy.cpu().numpy(), made.boxes.conf.cpu().numpy()
            boxes = [
                Box(float(top), float(left), float(bottom), float(right), float(confidence))
                for (left, top, right, bottom), confidence in zip(corners, confidences, strict=True)
            ]
            found.append(sorted(boxes, key=lambda box: -box.confidence))
        return found

    def save(self, folder: Path) -> None:
        """See `detector.Rival`."""
        trained(self.network, self.name)
        save_state(Path(folder), self._weights(), {"epoch": 0, **self._record()})

    def load(self, folder: Path) -> None:
        """See `detector.Rival`."""
        tensors, record = load_state(Path(folder)) or ({}, {})
        if {name: record.get(name) for name in self._record()} != self._record():
            raise ModelError(f"{folder} does not hold {self.name} with these settings: train it again.")
        self._take(tensors)

    def _take(self, tensors) -> None:
        from ultralytics.nn.tasks import DetectionModel

        network = DetectionModel(self.settings.network, ch=3, nc=1, verbose=False)
        network.load_state_dict(tensors)
        self.network = network.float().eval()

    def _weights(self) -> dict:
        return {name: value.clone() for name, value in self.network.float().state_dict().items()}

    def _record(self) -> dict:
        return {"method": self.name, "network": self.settings.network}

    def _recipe(self, slices: TrainingSlices, training: Training) -> dict:
        arrays = (slices.images, slices.segments, slices.anomalous)
        return {
            **self._record(),
            "settings": asdict(self.settings),
            "budget": asdict(training.budget),
            "seed": training.seed,
            "data": sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest(),
        }


def write_dataset(slices: TrainingSlices, folder: Path) -> Path:
    """Write slices and boxes as ultralytics reads them; returns the file that describes them.

    `images/00000.png` …, and beside them `labels/00000.txt`: a line for each box, class 0, then column and row of its
    middle, width and height, as shares of the slice. Slices without an anomalous segment have an empty file.
    """
    from PIL import Image

    folder = Path(folder).resolve()
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    height, width = slices.images.shape[1:]
    for k, (image, segments, anomalous) in enumerate(
        zip(slices.images, slices.segments, slices.anomalous, strict=True)
    ):
        Image.fromarray(_bytes(image)).save(folder / "images" / f"{k:05d}.png")
        lines = [
            f"0 {(box.left + box.right) / 2 / width:.6f} {(box.top + box.bottom) / 2 / height:.6f} "
            f"{(box.right - box.left) / width:.6f} {(box.bottom - box.top) / height:.6f}\n"
            for box in anomalous_rectangles(segments, anomalous)
        ]
        (folder / "labels" / f"{k:05d}.txt").write_text("".join(lines), encoding="utf-8")
    # JSON is YAML, too. There are no slices to validate on: those that are learnt from stand in their place.
    described = {"path": str(folder), "train": "images", "val": "images", "names": ["hyperintensity"]}
    (folder / DATA).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return folder / DATA


def _bytes(image):
    """(H, W) uint8 from 0–1."""
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _yolo(network):
    """ultralytics' model, without what it would tell its makers."""
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics import YOLO

    return YOLO(network)
