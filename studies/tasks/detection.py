"""Object detection and instance segmentation: Mask R-CNN's losses, box AP and mask AP, and the matches of every image
for paired statistics.

Letters: B batch, C classes, K objects of an image at most, L patches, M cells of a coarse grid, H and W sides of an
image in pixels, n test items.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from torch import Tensor

from cropr.dense import DenseViT
from cropr.method.dense_objective import DenseObjective
from cropr.method.objective import Criterion, cells_of_pixels
from results.statistics.metrics.statistic import PLACES
from studies.data import COCO_AREAS, Batch, Instances, Original
from studies.data.coco_files import to_bbox
from studies.tasks import Evaluation
from studies.tasks.coco_eval import evaluate_coco, evaluator
from studies.tasks.coverage import Coverage, found_by_place, place_of
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

    def present(self, target: Instances, cells: tuple[int, int], num_classes: int) -> Tensor:
        """Of the objects, without crowds, whose masks reach into a cell."""
        pixels = torch.zeros(*target.classes.shape, math.prod(cells), device=target.masks.device)  # [B, K, M]
        pixels.index_add_(2, cells_of_pixels(target.masks, cells).flatten(), target.masks.flatten(2).float())
        named = target.classes.masked_fill(target.crowd, -1)
        classes = F.one_hot(named + 1, num_classes + 1)[..., 1:].float()  # [B, K, C], -1: none
        return torch.einsum("bkm,bkc->bmc", pixels, classes).clamp(max=1)

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
    """Score `model` (put into eval mode) on every item of `batches`, and of those that other processes of `world` have.
    Metrics: the twelve of COCO for boxes and for
    masks (`box_ap`, `mask_ap50`, ...), of a detector of boxes alone those of boxes, as shares. Predictions hold the
    matches of each image (see results/statistics/metrics/average_precision.py), with `box_` and `mask_` before, and how
    many of its objects a box overlaps by half, by their place (`found_by_place`; `box_recall_near_centre`, ...).
    Facts: what scored, the limits between the sizes of objects, and their coverage (see coverage.py), missed where no
    box matches.
    """
    model.eval()
    columns: dict[str, list[Tensor]] = {"item": [], "cluster": []}
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    coverage, areas = Coverage(model), COCO_AREAS
    for batch in batches:
        truth = None if batch.truth is None else batch.truth.to(device)
        precision = torch.autocast(device, dtype=amp, enabled=amp is not None)
        with precision, model.told(truth), coverage.watching():
            maps = model(batch.images.to(device))
        assert isinstance(batch.target, Instances)
        targets, areas = batch.target.targets(), batch.target.areas
        coverage.add([target["masks"] for target in targets])
        originals = batch.originals or _as_they_are(batch.images, targets)
        pixels = [(original.height, original.width) for original in originals]
        detections = model.vit.head.detect(maps.float(), batch.target.sizes.tolist(), pixels)
        for item, original, one in zip(batch.item.tolist(), originals, detections, strict=True):
            height, width = original.height, original.width
            truths += [
                {"image_id": item, "place": place_of(truth["bbox"], height, width), **truth}
                for truth in original.objects
            ]
            found += _found(item, one)
        columns["item"].append(batch.item)
        columns["cluster"].append(batch.cluster)
    metrics: dict[str, float] = {}
    arrays = world.gather_items({name: torch.cat(column) for name, column in columns.items()})
    truths, found = world.gather_rows(truths), world.gather_rows(found)
    kinds = KINDS if model.vit.head.masks else {"box": KINDS["box"]}
    scored = {
        name: evaluate_coco(truths, found, arrays["item"].tolist(), model.vit.num_classes, kind, areas)
        for name, kind in kinds.items()
    }
    for name, of_kind in scored.items():
        metrics |= {f"{name}_{key.lower()}": value for key, value in of_kind.metrics.items()}
        arrays |= of_kind.matches.to_arrays(f"{name}_", beside=arrays if name != "box" else None)
    single = np.array([not truth["iscrowd"] for truth in truths], bool)
    image, place, area = (np.array([truth[key] for truth in truths])[single] for key in ("image_id", "place", "area"))
    matched = scored["box"].found[single]
    arrays["found_by_place"] = found_by_place(image, place, matched, arrays["item"])
    for name, (hits, objects) in zip(PLACES, arrays["found_by_place"].sum(axis=0).tolist(), strict=True):
        metrics |= {f"box_recall_{name}": hits / objects} if objects else {}
    facts = {"evaluator": evaluator(), "object_areas": list(areas)} | coverage.record(area, matched, areas, world)
    return Evaluation(metrics, arrays, facts)


def _as_they_are(images: Tensor, targets: list[dict[str, Tensor]]) -> Sequence[Original]:
    """Images that are scored in the pixels that the model sees."""
    height, width = images.shape[-2:]
    return [Original(height, width, _truths(target)) for target in targets]


def _truths(target: dict[str, Tensor]) -> list[dict[str, Any]]:
    """In COCO's format."""
    rows = zip(target["boxes"].tolist(), target["labels"].tolist(), target["masks"].numpy(), strict=True)
    return [
        {
            "category_id": label - 1, "bbox": to_bbox(box), "segmentation": rle.encode(np.asfortranarray(mask)),
            "area": float(mask.sum()), "iscrowd": 0,
        }
        for box, label, mask in rows
    ]  # fmt: skip


def _found(item: int, one: Detections) -> list[dict[str, Any]]:
    rows = zip(one.boxes.tolist(), one.classes.tolist(), one.scores.tolist(), strict=True)
    found = [
        {"image_id": item, "category_id": category, "bbox": to_bbox(box), "score": score}
        for box, category, score in rows
    ]
    if one.masks is not None:
        for detection, mask in zip(found, one.masks.cpu().numpy().astype(np.uint8), strict=True):
            detection["segmentation"] = rle.encode(np.asfortranarray(mask))
    return found
