"""What the networks that find boxes have in common (paper, B.2): examples, training, and boxes back on the slice.

A detector sees a window of fixed size from the middle of the slice: standard slices are centred on the cord, and where
exactly it is a detector is not told. It learns from augmented slices; the boxes are drawn anew around the segments as
the augmentation has moved them. Tensors have boxes as torchvision does: left, top, right and bottom, in pixels of the
window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch

from ..config import SEGMENT_NAMES
from ..training import augment
from ..training.step import descend
from .boxes import check_annotated
from .crop import check_size, middle, middle_corner
from .detector import Box, Training, TrainingSlices
from .learning import LearnedRival, Networks, learn

SLICES_AT_ONCE = 8


@dataclass(frozen=True)
class DetectorSettings:
    """What the training of a detector is told. size: rows and columns of the window."""

    size: tuple[int, int] = (256, 256)
    batch: int = 4
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    most: int = 20  # boxes of a slice


@dataclass(frozen=True)
class Examples:
    """images (B, h, w) float32, 0–1; of each, boxes (n, 4) float32 and the cord in them, masks (n, h, w) bool."""

    images: torch.Tensor
    boxes: list[torch.Tensor]
    masks: list[torch.Tensor]


class LearnedDetector(LearnedRival):
    """A `detector.BoxDetector` with one network, "detector"; a subclass builds it, and gives its losses and boxes."""

    supervised = True
    settings_type = DetectorSettings
    of_maps = frozenset({"most"})

    def losses(self, network: torch.nn.Module, examples: Examples) -> dict[str, torch.Tensor]:
        """Losses by name, the same every time, whose sum is descended. The network is in training mode."""
        raise NotImplementedError

    def detect(self, network: torch.nn.Module, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Boxes (n, 4) and confidences (n,) in 0–1 of images (B, h, w). The network is in evaluation mode."""
        raise NotImplementedError

    def fit(self, slices: TrainingSlices, training: Training) -> None:
        """See `detector.Rival`. :raises InputError: no slice is annotated, or none shows an anomalous segment."""
        check_annotated(slices, self.name)
        super().fit(slices, training)

    def train(self, networks: Networks, slices: TrainingSlices, training: Training, recipe: dict) -> None:
        network, settings = networks["detector"], self.settings
        draw = examples_of(slices, settings.size, training.device)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

        def step(chosen, generator):
            losses = self.losses(network, draw(chosen, generator))
            descend(network, optimiser, sum(losses.values()), settings.clip_norm)
            return losses

        annotation = sha256(slices.segments.tobytes() + slices.anomalous.tobytes()).hexdigest()
        learn(
            networks,
            {"detector": optimiser},
            step,
            slices,
            training,
            batch=settings.batch,
            recipe={**recipe, "annotation": annotation},
        )

    def boxes(self, images: np.ndarray) -> list[list[Box]]:
        """See `detector.BoxDetector`."""
        network = self.trained()["detector"]
        corner = middle_corner(images.shape[1:], self.settings.size)
        found = []
        for start in range(0, len(images), SLICES_AT_ONCE):
            window = torch.from_numpy(np.ascontiguousarray(images[start : start + SLICES_AT_ONCE], np.float32))
            with torch.inference_mode():
                made = self.detect(network, middle(window.to(self.device), self.settings.size))
            found += [on_slice(*one, self.settings.size, corner, self.settings.most) for one in made]
        return found


def examples_of(
    slices: TrainingSlices, size: tuple[int, int], device: torch.device | str
) -> Callable[[torch.Tensor, torch.Generator], Examples]:
    """A function from the numbers of slices (B,) and a generator, both on the device, to augmented examples there.

    :raises UsageError: the window is larger than the slices.
    """
    check_size(size, slices.images.shape[1:])
    images, cords, segments, anomalous = (
        torch.from_numpy(np.ascontiguousarray(values)).to(device)
        for values in (slices.images, slices.cords, slices.segments, slices.anomalous[:, list(SEGMENT_NAMES)])
    )
    numbers = torch.tensor(list(SEGMENT_NAMES), device=device)[:, None, None]

    def draw(chosen: torch.Tensor, generator: torch.Generator) -> Examples:
        drawn = augment.draw(augment.AugmentConfig(), (len(chosen), *images.shape[1:]), generator)
        some, inside = augment.apply(images[chosen].float(), cords[chosen], drawn)
        marked = (segments[chosen, None] == numbers) & anomalous[chosen, :, None, None]
        moved = augment.move(marked.float(), drawn) > 0.5
        some, inside, moved = (middle(values, size) for values in (some, inside, moved))
        boxes = [rectangles(one) for one in moved]
        return Examples(some, boxes, [cord_in(*one) for one in zip(boxes, inside, strict=True)])

    return draw


def rectangles(masks: torch.Tensor) -> torch.Tensor:
    """Smallest rectangles (n, 4) float32 of those masks (S, h, w) bool that are not empty."""
    found = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            found.append(torch.stack([columns[0, 0], rows[0, 0], columns[-1, 0] + 1, rows[-1, 0] + 1]))
    return torch.stack(found).float() if found else torch.zeros(0, 4, device=masks.device)


def cord_in(boxes: torch.Tensor, cord: torch.Tensor) -> torch.Tensor:
    """The cord's pixels (n, h, w) bool in each of the boxes (n, 4), which have whole numbers."""
    masks = torch.zeros(len(boxes), *cord.shape, dtype=torch.bool, device=cord.device)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = cord[top:bottom, left:right]
    return masks


def on_slice(boxes, confidences, size, corner, most: int) -> list[Box]:
    """Boxes of the slice, the highest confidence first, from those of its window (rows, columns), which is clipped to.

    :param boxes: (n, 4) with confidences (n,). :param corner: row and column where the window begins.
    """
    height, width = size
    top, left = corner
    boxes = boxes.float().cpu().numpy().clip(0, [width, height, width, height])
    boxes += np.float32([left, top, left, top])
    confidences = confidences.float().cpu().numpy()
    best = np.argsort(-confidences, kind="stable")[:most]
    return [Box(*(float(boxes[k, side]) for side in (1, 0, 3, 2)), float(confidences[k])) for k in best]
