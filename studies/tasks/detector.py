"""What stands behind the encoder of a detector: a simple feature pyramid and torchvision's Mask R-CNN heads.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), arXiv 2203.16527; He et al.,
"Mask R-CNN", arXiv 1703.06870. The pyramid is made of the last map alone. What differs from ViTDet: torchvision's box
head (two layers) in place of four convolutions and one layer; for small images fewer levels, channels and regions, and
masks of half the size.

Letters: B images, L patches, D width, C classes, K objects of an image at most, F channels of the pyramid, h and w
sides of the patch grid, H and W of an image in pixels.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from studies.data import Instances

__all__ = ["DetectionHead", "Detections", "Features", "SimplePyramid", "attach"]

SMALL_PATCH = 8  # pixels, below which images are small, and so are pyramid and heads
ASPECTS = (0.5, 1.0, 2.0)
Size = tuple[int, int]  # height and width in pixels


class Detections(NamedTuple):
    """What was found in an image, the best first."""

    boxes: Tensor  # [n, 4] x0 y0 x1 y1 in pixels
    classes: Tensor  # [n] 0..C-1
    scores: Tensor  # [n] 0..1
    masks: Tensor | None  # [n, H, W] bool; None from a detector of boxes alone


class Features(NamedTuple):
    """The last map on its way to the losses."""

    maps: Tensor  # [B, D, h, w]
    head: DetectionHead


class SimplePyramid(nn.Module):
    """Map [B, D, h, w] -> maps [B, F, s h, s w] for each scale s, the finest first, and one of half the last."""

    def __init__(self, embed_dim: int, channels: int, scales: tuple[float, ...]):
        super().__init__()
        self.levels = nn.ModuleList(self._level(embed_dim, channels, scale) for scale in scales)

    @staticmethod
    def _level(embed_dim: int, channels: int, scale: float) -> nn.Sequential:
        half, quarter = embed_dim // 2, embed_dim // 4
        ways: dict[float, tuple[int, list[nn.Module]]] = {
            4.0: (quarter, [
                nn.ConvTranspose2d(embed_dim, half, 2, 2), LayerNorm2d(half), nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, 2),
            ]),
            2.0: (half, [nn.ConvTranspose2d(embed_dim, half, 2, 2)]),
            1.0: (embed_dim, []),
            0.5: (embed_dim, [nn.MaxPool2d(2)]),
        }  # fmt: skip
        width, resize = ways[scale]
        return nn.Sequential(
            *resize, nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels),
        )  # fmt: skip

    def forward(self, maps: Tensor) -> OrderedDict[str, Tensor]:
        found = OrderedDict((str(i), level(maps)) for i, level in enumerate(self.levels))
        found["pool"] = F.max_pool2d(found[str(len(self.levels) - 1)], 1, 2)
        return found


class PyramidRoIAlign(MultiScaleRoIAlign):
    """Of maps of these strides in pixels. torchvision takes the strides from the sizes of images, as powers of two,
    which is wrong where images are padded or patches are 14 pixels wide."""

    def __init__(self, strides: Sequence[float], output_size: int):
        super().__init__([str(i) for i in range(len(strides))], output_size, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        first, *_, last = (round(math.log2(stride)) for stride in strides)
        self.map_levels = LevelMapper(first, last, self.canonical_scale, self.canonical_level)


class DetectionHead(nn.Module):
    """Takes the place of a ViT's classifier. Tokens pass through it as they are; `read` makes of their map what is
    trained, and `detect` what is found. So the model as it is called, counted and timed is the encoder. Without
    `masks` it is Faster R-CNN, of boxes alone."""

    def __init__(self, embed_dim: int, num_classes: int, patch_size: int, masks: bool = True):
        super().__init__()
        self.masks = masks
        small = patch_size < SMALL_PATCH
        scales, channels = ((2.0, 1.0, 0.5), 32) if small else ((4.0, 2.0, 1.0, 0.5), 256)
        hidden, proposals, sampled, most = (128, 64, 16, 10) if small else (1024, 1000, 512, 100)
        self.num_proposals, self.num_detections = proposals, most  # of an image, at most
        self.num_labels, self.patch_size = num_classes + 1, patch_size  # of a patch: the background is 0
        self.pyramid = SimplePyramid(embed_dim, channels, scales)
        strides = [patch_size / scale for scale in scales]
        anchors = AnchorGenerator(
            tuple((round(4 * stride),) for stride in (*strides, 2 * strides[-1])), (ASPECTS,) * (len(scales) + 1)
        )
        limits = {"training": proposals, "testing": proposals}
        self.rpn = RegionProposalNetwork(
            anchors, RPNHead(channels, len(ASPECTS), conv_depth=1 if small else 2),
            fg_iou_thresh=0.7, bg_iou_thresh=0.3, batch_size_per_image=min(256, 2 * sampled), positive_fraction=0.5,
            pre_nms_top_n=limits, post_nms_top_n=limits, nms_thresh=0.7,
        )  # fmt: skip
        self.roi_heads = RoIHeads(
            PyramidRoIAlign(strides, 7), TwoMLPHead(channels * 49, hidden),
            FastRCNNPredictor(hidden, num_classes + 1),
            fg_iou_thresh=0.5, bg_iou_thresh=0.5, batch_size_per_image=sampled, positive_fraction=0.25,
            bbox_reg_weights=None, score_thresh=0.05, nms_thresh=0.5, detections_per_img=most,
            **({
                "mask_roi_pool": PyramidRoIAlign(strides, 7 if small else 14),  # masks have twice as many cells
                "mask_head": MaskRCNNHeads(channels, (channels,) * (2 if small else 4), 1),
                "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes + 1),
            } if masks else {}),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L, D], as they are."""
        return tokens

    def macs(self, num_patches: int) -> int:
        """Of what a call of the model does behind the encoder: nothing (see the class)."""
        return 0

    def read(self, maps: Tensor) -> Tensor | Features:
        """[B, D, h, w] -> itself, in training with the way to the losses."""
        return Features(maps, self) if self.training else maps

    def losses(self, maps: Tensor, objects: Instances) -> Tensor:
        """[] the sum of Mask R-CNN's losses (of proposals: objectness, boxes; of regions: class, boxes, masks), each a
        mean over what torchvision samples, times B."""
        images, targets = self._images(maps, objects.sizes.tolist()), objects.targets()
        features = self.pyramid(maps.float())
        proposals, of_proposals = self.rpn(images, features, targets)
        _, of_regions = self.roi_heads(features, proposals, images.image_sizes, targets)
        return sum((*of_proposals.values(), *of_regions.values()), start=maps.new_zeros(())) * len(maps)

    @torch.inference_mode()
    def detect(
        self, maps: Tensor, sizes: Sequence[Size] | None = None, originals: Sequence[Size] | None = None
    ) -> list[Detections]:
        """[B, D, h, w] -> what is in each image. In eval mode.

        `sizes`: of the B images within the square, beyond which there is padding and no object; None: they fill it.
        `originals`: the sizes that they had before, in whose pixels boxes and masks are then; None: these.
        """
        images = self._images(maps, sizes)
        features = self.pyramid(maps.float())
        proposals, _ = self.rpn(images, features)
        found, _ = self.roi_heads(features, proposals, images.image_sizes)
        originals = images.image_sizes if originals is None else originals
        return [self._resized(*each) for each in zip(found, images.image_sizes, originals, strict=True)]

    @staticmethod
    def _resized(found: dict[str, Tensor], size: Size, original: Size) -> Detections:
        """What torchvision found in an image of `size`, in one of the size `original`."""
        scale = found["boxes"].new_tensor((original[1] / size[1], original[0] / size[0]) * 2)
        boxes = found["boxes"] * scale
        masks = paste_masks_in_image(found["masks"], boxes, original)[:, 0] > 0.5 if "masks" in found else None
        return Detections(boxes, found["labels"] - 1, found["scores"], masks)

    def _images(self, maps: Tensor, sizes: Sequence[Size] | None) -> ImageList:
        """Stands for the images, of which only the sizes are asked."""
        square = maps.shape[-2] * self.patch_size, maps.shape[-1] * self.patch_size
        found = [square] * len(maps) if sizes is None else [(height, width) for height, width in sizes]
        return ImageList(maps.new_empty(1).expand(len(maps), 3, *square), found)


def attach(vit: nn.Module, num_classes: int, masks: bool = True) -> nn.Module:
    """`vit` with a detector in the place of its classifier, drawn from the global generator."""
    vit.reset_classifier(0)
    vit.num_classes = num_classes
    vit.head = DetectionHead(vit.embed_dim, num_classes, vit.patch_embed.patch_size[0], masks)
    return vit
