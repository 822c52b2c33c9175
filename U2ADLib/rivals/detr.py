"""Deformable DETR (Zhu et al., ICLR 2021) on segments (paper, B.2), by transformers, from untrained weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrFrozenBatchNorm2d

from .detection import DetectorSettings, Examples, LearnedDetector

GROUPS = 8  # of channels that are normalised together


@dataclass(frozen=True)
class DETRSettings(DetectorSettings):
    """The published network: ResNet-50, 6 + 6 layers of 256 with 8 heads, 4 scales, 300 queries, auxiliary losses."""

    stem: int = 64  # channels
    channels: tuple[int, ...] = (256, 512, 1024, 2048)  # of the backbone's stages
    depths: tuple[int, ...] = (3, 4, 6, 3)
    block: str = "bottleneck"  # or "basic"
    used: tuple[int, ...] = (2, 3, 4)  # stages that the transformer sees
    levels: int = 4  # scales; those beyond the stages are made by strided convolutions
    width: int = 256
    heads: int = 8
    layers: int = 6  # of the encoder and of the decoder
    hidden: int = 1024
    points: int = 4  # that a head looks at in each scale
    queries: int = 300
    dropout: float = 0.1
    clip_norm: float = 0.1


class DETR(LearnedDetector):
    """With iterative refinement of the boxes, without which it finds the cord but not the lesion in a few minutes.

    transformers freezes the batch statistics and the first layers of the backbone, for weights that are loaded; there
    are none here, so all of it learns, and groups of channels are normalised instead. The decoder's layers have heads
    of their own.
    """

    name = "detr"
    settings_type = DETRSettings
    presets: ClassVar = {
        "small": {
            "size": (256, 64), "stem": 16, "channels": (32, 64, 128), "depths": (1, 1, 1), "block": "basic",
            "used": (2, 3), "levels": 2, "width": 64, "heads": 4, "layers": 2, "hidden": 128, "queries": 40,
            "dropout": 0.0, "learning_rate": 1e-3,
        }
    }  # fmt: skip
    libraries = ("transformers",)

    def build(self):
        settings = self.settings
        backbone = ResNetConfig(
            num_channels=1,
            embedding_size=settings.stem,
            hidden_sizes=list(settings.channels),
            depths=list(settings.depths),
            layer_type=settings.block,
            out_features=[f"stage{number}" for number in settings.used],
        )
        config = DeformableDetrConfig(
            backbone_config=backbone,
            num_channels=1,
            num_labels=1,
            num_queries=settings.queries,
            num_feature_levels=settings.levels,
            d_model=settings.width,
            encoder_layers=settings.layers,
            decoder_layers=settings.layers,
            encoder_attention_heads=settings.heads,
            decoder_attention_heads=settings.heads,
            encoder_ffn_dim=settings.hidden,
            decoder_ffn_dim=settings.hidden,
            encoder_n_points=settings.points,
            decoder_n_points=settings.points,
            dropout=settings.dropout,
            auxiliary_loss=True,
            with_box_refine=True,
            tie_word_embeddings=False,
            disable_custom_kernels=True,
        )
        network = DeformableDetrForObjectDetection(config)
        network.model.decoder.bbox_embed = network.bbox_embed  # what moves the boxes between layers must learn, too
        _unfreeze(network.model.backbone)
        return {"detector": network}

    def losses(self, network, examples: Examples):
        height, width = examples.images.shape[1:]
        scale = examples.images.new_tensor([width, height, width, height])
        labels = [
            {
                "class_labels": torch.zeros(len(boxes), dtype=torch.long, device=boxes.device),
                "boxes": _centred(boxes) / scale,
            }
            for boxes in examples.boxes
        ]
        return {"loss": network(pixel_values=_standard(examples.images), labels=labels).loss}

    def detect(self, network, images):
        found = network(pixel_values=_standard(images))
        height, width = images.shape[1:]
        corners = _cornered(found.pred_boxes) * images.new_tensor([width, height, width, height])
        return list(zip(corners, found.logits[:, :, 0].sigmoid(), strict=True))


def _unfreeze(backbone: nn.Module) -> None:
    """Let all of it learn, with group instead of frozen batch normalisation."""
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, DeformableDetrFrozenBatchNorm2d):
                setattr(module, name, nn.GroupNorm(GROUPS, len(child.weight)))
    backbone.requires_grad_(True)


def _standard(images):
    """(B, 1, h, w) about 0 from (B, h, w) in 0–1."""
    return (images[:, None] - 0.5) / 0.25


def _centred(boxes):
    """Left, top, right, bottom → middle column and row, width, height."""
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def _cornered(boxes):
    """Inverse of `_centred`, for (…, 4)."""
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
