"""Mask R-CNN (He et al., ICCV 2017) on segments (paper, B.2), by torchvision, from untrained weights."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn
from torchvision.models.detection import MaskRCNN as Network
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from .detection import DetectorSettings, Examples, LearnedDetector

LEVELS = 5  # of the feature pyramid
GROUPS = 32  # of channels that are normalised together


@dataclass(frozen=True)
class MaskRCNNSettings(DetectorSettings):
    """The paper names no settings. Its detectors' usual backbone is ResNet-50; there are no weights to start from."""

    backbone: str = "resnet50"
    scale: float = 2.0  # a window is enlarged so much: a segment is 8 px wide, the finest features 4 px
    anchors: tuple[float, ...] = (8, 12, 16, 24, 32)  # px of the slice, one for each level: a segment is about 8 × 18
    ratios: tuple[float, ...] = (1.0, 2.0, 3.0)  # height / width
    proposals: int = 512  # looked at in training, of each slice
    least: float = 0.01  # confidence of a box that is told


class MaskRCNN(LearnedDetector):
    """The mask of a box is the cord in it. Batch statistics are replaced by those of groups: batches are small."""

    name = "mask-rcnn"
    settings_type = MaskRCNNSettings
    presets: ClassVar = {
        "small": {
            "backbone": "resnet18",
            "size": (256, 64),
            "proposals": 128,
            "scale": 1.0,
            "learning_rate": 5e-4,
            "batch": 2,
        }
    }
    of_maps = LearnedDetector.of_maps | {"least"}
    libraries = ("torchvision",)

    def build(self):
        settings = self.settings
        sizes = tuple((anchor * settings.scale,) for anchor in settings.anchors)
        backbone = resnet_fpn_backbone(
            backbone_name=settings.backbone, weights=None, trainable_layers=5, norm_layer=partial(nn.GroupNorm, GROUPS)
        )
        network = Network(
            backbone,
            num_classes=2,  # background and hyperintensity
            min_size=int(settings.scale * min(settings.size)),
            max_size=int(settings.scale * max(settings.size)),
            image_mean=[0.5] * 3,
            image_std=[0.25] * 3,
            rpn_anchor_generator=AnchorGenerator(sizes, (settings.ratios,) * LEVELS),
            box_batch_size_per_image=settings.proposals,
            box_score_thresh=settings.least,
            box_detections_per_img=settings.most,
        )
        return {"detector": network}

    def losses(self, network, examples: Examples):
        targets = [
            {
                "boxes": boxes,
                "labels": torch.ones(len(boxes), dtype=torch.long, device=boxes.device),
                "masks": masks.to(torch.uint8),
            }
            for boxes, masks in zip(examples.boxes, examples.masks, strict=True)
        ]
        return network(_in_colour(examples.images), targets)

    def detect(self, network, images):
        return [(found["boxes"], found["scores"]) for found in network(_in_colour(images))]


def _in_colour(images: torch.Tensor) -> list[torch.Tensor]:
    """The list of (3, h, w) that torchvision takes."""
    return list(images[:, None].expand(-1, 3, -1, -1))
