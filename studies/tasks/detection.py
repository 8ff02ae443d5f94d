"""Object detection and instance segmentation: Mask R-CNN's losses, box AP and mask AP, and the matches of every image
for paired statistics.

Letters: B batch, C classes, K objects of an image at most, L patches, H and W sides of an image in pixels, n test
items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from torch import Tensor

from cropr.dense import DenseViT
from cropr.dense_objective import DenseObjective
from cropr.objective import Criterion
from studies.data import Batch, Instances
from studies.tasks import Evaluation
from studies.tasks.coco_eval import evaluate_coco
from studies.tasks.detector import Detections, Features
from studies.tasks.segmentation import eval_batch
from studies.training.distributed import ALONE, World

__all__ = ["BackboneObjective", "criterion", "eval_batch", "evaluate"]

KINDS = {"box": "bbox", "mask": "segm"}  # ours -> COCO's


class DetectionLoss:
    """The losses of a detector, of each image alike; of patches cross-entropy with their classes, 0 the background."""

    def __call__(self, logits: Features, target: Instances) -> Tensor:
        return logits.head.losses(logits.maps, target)

    def of_patches(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    def count(self, target: Tensor | Instances) -> Tensor:
        """[] images, or patches."""
        if isinstance(target, Instances):
            return torch.full((), len(target.classes), device=target.classes.device)
        return torch.full((), target.numel(), device=target.device)


def criterion(label_smoothing: float = 0.0) -> Criterion:
    """Mask R-CNN's losses. Raises ValueError for label smoothing, which they have not."""
    if label_smoothing:
        raise ValueError("detection has no label smoothing; use --set label_smoothing=0")
    return DetectionLoss()


class BackboneObjective(DenseObjective):
    """The same losses as those of fine-tuning; heads and backbone are trained together."""

    name = "Mask R-CNN"

    def __init__(self, embed_dim: int, num_classes: int, label_smoothing: float = 0.0):
        super().__init__(criterion(label_smoothing))


@torch.inference_mode()
def evaluate(
    model: DenseViT,
    batches: Iterable[Batch],
    device: str,
    amp: torch.dtype | None = None,
    world: World = ALONE,
) -> Evaluation:
    """Score `model` (put into eval mode) on every item of `batches`. Metrics: the twelve of COCO for boxes and for
    masks (`box_ap`, `mask_ap50`, ...), of a detector of boxes alone those of boxes, as shares. Predictions hold the
    matches of each image (see results/statistics/average_precision.py), with `box_` and `mask_` before their names.

    Raises ValueError where several processes share the items: AP is of all of them.
    """
    if world.size > 1:
        raise ValueError("detection is scored by one process; train without torchrun, or evaluate the saved model")
    model.eval()
    items: list[Tensor] = []
    clusters: list[Tensor] = []
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for batch in batches:
        truth = None if batch.truth is None else batch.truth.to(device)
        with torch.autocast(device, dtype=amp, enabled=amp is not None), model.told(truth):
            maps = model(batch.images.to(device))
        assert isinstance(batch.target, Instances)
        detections = model.vit.head.detect(maps.float())
        for item, target, one in zip(batch.item.tolist(), batch.target.targets(), detections, strict=True):
            truths += _truths(item, target, len(truths))
            found += _found(item, one)
        items.append(batch.item)
        clusters.append(batch.cluster)
    metrics: dict[str, float] = {}
    item, cluster = torch.cat(items).numpy(), torch.cat(clusters).numpy()
    arrays: dict[str, np.ndarray] = {"item": item, "cluster": cluster}
    kinds = KINDS if model.vit.head.masks else {"box": KINDS["box"]}
    for name, kind in kinds.items():
        numbers, matches = evaluate_coco(truths, found, item.tolist(), model.vit.num_classes, kind)
        metrics |= {f"{name}_{key.lower()}": value for key, value in numbers.items()}
        arrays |= matches.to_arrays(f"{name}_")
    return Evaluation(metrics, arrays)


def _truths(item: int, target: dict[str, Tensor], begun: int) -> list[dict[str, Any]]:
    """In COCO's format."""
    rows = zip(target["boxes"].tolist(), target["labels"].tolist(), target["masks"].numpy(), strict=True)
    return [
        {
            "id": begun + number + 1, "image_id": item, "category_id": label - 1, "bbox": _as_coco(box),
            "segmentation": rle.encode(np.asfortranarray(mask)), "area": float(mask.sum()), "iscrowd": 0,
        }
        for number, (box, label, mask) in enumerate(rows)
    ]  # fmt: skip


def _found(item: int, one: Detections) -> list[dict[str, Any]]:
    rows = zip(one.boxes.tolist(), one.classes.tolist(), one.scores.tolist(), strict=True)
    found = [
        {"image_id": item, "category_id": category, "bbox": _as_coco(box), "score": score}
        for box, category, score in rows
    ]
    if one.masks is not None:
        for detection, mask in zip(found, one.masks.cpu().numpy().astype(np.uint8), strict=True):
            detection["segmentation"] = rle.encode(np.asfortranarray(mask))
    return found


def _as_coco(box: list[float]) -> list[float]:
    """x0 y0 x1 y1 -> x y width height"""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
