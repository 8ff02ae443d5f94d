"""Cost and speed of a whole detector: the encoder, and what stands behind it, which is the same whatever tokens it had.

How long the heads take depends on how many regions the scores let through: of a trained model on real images those are
its own; with random weights they are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import ceil, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cropr.dense import DenseViT
from cropr.reducer import observed
from studies.measure.flops import copy_onto, count_torch
from studies.measure.throughput import measure
from studies.tasks.detector import DetectionHead, Detections

__all__ = ["Whole", "detector_costs", "fixed_regions", "time_whole"]


class Whole(NamedTuple):
    """What is timed as a whole, and on what."""

    models: Mapping[str, DenseViT]  # by variant
    images: Tensor  # [n, 3, H, W], one for each round in turn
    fixed: bool  # as many regions as there can be, whatever the weights


class Detector(nn.Module):
    """Images [1, 3, H, W] -> what is found in them: encoder, pyramid, heads, suppression, masks in place."""

    def __init__(self, model: DenseViT):
        super().__init__()
        self.model = model

    def to(self, *args: Any, **kwargs: Any) -> Detector:
        """As ever, but pyramid and heads stay in float32, as they are scored."""
        super().to(*args, **kwargs)
        self.model.vit.head.float()
        return self

    def forward(self, images: Tensor) -> list[Detections]:
        return self.model.vit.head.detect(self.model(images))


def detector_costs(model: DenseViT) -> dict[str, Any]:
    """MACs (1e9) of one image behind the encoder by torch's counter, which runs on the meta device, so that they
    depend on no weights. Of heads those of the most regions there can be: `num_proposals` are classified, and masks
    drawn for `num_detections`. Pooling of regions and suppression multiply no matrices."""
    head: DetectionHead = copy_onto(model.vit.head, "meta").eval()
    with torch.inference_mode(), torch.device("meta"):
        maps = torch.empty(1, model.vit.embed_dim, *model.grid_size)
        features, regions = list(head.pyramid(maps).values()), head.roi_heads
        channels = features[0].shape[1]
        parts: list[tuple[nn.Module, Any]] = [
            (head.rpn.head, features),
            (nn.Sequential(regions.box_head, regions.box_predictor),
             torch.empty(head.num_proposals, channels, *regions.box_roi_pool.output_size)),
        ]  # fmt: skip
        if head.masks:
            drawn = torch.empty(head.num_detections, channels, *regions.mask_roi_pool.output_size)
            parts.append((nn.Sequential(regions.mask_head, regions.mask_predictor), drawn))
        return {
            "pyramid_macs_g": count_torch(head.pyramid, maps) / 1e9,
            "heads_macs_g": sum(count_torch(part, seen) for part, seen in parts) / 1e9,
            "num_proposals": head.num_proposals,
            "num_detections": head.num_detections,
        }


@contextmanager
def fixed_regions(head: DetectionHead, size: tuple[int, int]) -> Iterator[None]:
    """Within it, each image of `size` (height, width) has `num_proposals` proposals and `num_detections` detections,
    side by side, so that none suppresses another. What the heads choose is worked out and then replaced."""
    found, side = head.num_detections, ceil(sqrt(head.num_detections))
    place = torch.arange(head.num_proposals) % found
    corners = torch.stack([place % side, place // side], dim=1) / side  # x y
    boxes = torch.cat([corners, corners + 1 / side], dim=1) * torch.tensor([size[1], size[0]] * 2)

    def note(name: str, args: Any, output: Any) -> Any:
        if name == "rpn":
            proposals, losses = output
            return [boxes.to(proposals[0])] * len(proposals), losses
        logits, moves = output
        row = torch.arange(len(logits), device=logits.device) % head.num_proposals
        sure = torch.where(row < found, 1 + row % (logits.shape[1] - 1), 0)  # 0: the background
        return 20 * nn.functional.one_hot(sure, logits.shape[1]).to(logits), torch.zeros_like(moves)

    with observed({"rpn": head.rpn, "box_predictor": head.roi_heads.box_predictor}, note):
        yield


def time_whole(whole: Whole, **options: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """`measure` of whole models at batch 1: the setting, and of each variant its figures with the mean number of
    proposals and detections of an image. `options`: of `measure`."""
    height, width = whole.images.shape[-2:]
    with ExitStack() as stack:
        heads = {id(model.vit.head): model.vit.head for model in whole.models.values()}
        for head in heads.values() if whole.fixed else ():
            stack.enter_context(fixed_regions(head, (height, width)))
        detectors = {name: Detector(model) for name, model in whole.models.items()}
        timing = measure(detectors, img_size=height, batch_size=1, images=whole.images, latency=False, **options)
        rows = {row.pop("variant"): row for row in timing["variants"]}
        for name, row in rows.items():
            row |= {} if row["flags"] == ["out of memory"] else mean_regions(detectors[name], whole.images)
            del row["latency_ms"]
    kept = {key: timing[key] for key in ("batch_size", "img_size", "dtype", "compiled", "rounds", "load_of_others")}
    return kept | {"num_images": len(whole.images), "fixed_regions": whole.fixed}, rows


@torch.inference_mode()
def mean_regions(detector: Detector, images: Tensor) -> dict[str, float]:
    """How many proposals and detections an image has."""
    head, weight = detector.model.vit.head, detector.model.vit.patch_embed.proj.weight
    proposed: list[int] = []
    with observed({"rpn": head.rpn}, lambda name, args, output: proposed.extend(map(len, output[0]))):
        found = [len(one.boxes) for image in images.to(weight) for one in detector(image[None])]
    return {"num_proposals": sum(proposed) / len(images), "num_detections": sum(found) / len(images)}
