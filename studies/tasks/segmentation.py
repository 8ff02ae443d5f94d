"""Semantic segmentation: loss of the labelled pixels, mIoU, and the confusion of every image for paired statistics.

Letters: B batch, C classes, S image side, h w and H W sides of images and masks in pixels, n test items.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.dense import DenseViT
from cropr.method.dense_objective import DenseObjective
from cropr.method.objective import Criterion, CrossEntropy
from studies.data import IGNORE_INDEX, Batch
from studies.tasks import Evaluation
from studies.tasks.seg_metrics import (
    BoundaryCounts,
    boundary_counts,
    boundary_metrics,
    confusion,
    segmentation_metrics,
)
from studies.tasks.sliding import sliding_window
from studies.training.distributed import ALONE, World

__all__ = ["BackboneObjective", "criterion", "eval_batch", "evaluate", "predict"]

PIXELS = 2**18  # of a batch in evaluation


def criterion(label_smoothing: float = 0.0) -> Criterion:
    """Cross-entropy of logits [B, C, S, S] with labels [B, S, S]; unlabelled pixels do not count."""
    return CrossEntropy(label_smoothing, ignore_index=IGNORE_INDEX)


class BackboneObjective(DenseObjective):
    """The same loss as that of fine-tuning: masks say where things are, and a small model needs no other labels."""

    name = "CE of pixels"

    def __init__(self, embed_dim: int, num_classes: int, label_smoothing: float = 0.0):
        super().__init__(criterion(label_smoothing))


def eval_batch(image_size: int) -> int:
    """Images of a batch in evaluation: full logits of every pixel are in memory at once."""
    return max(1, min(250, PIXELS // image_size**2))


@torch.inference_mode()
def evaluate(
    model: DenseViT,
    batches: Iterable[Batch],
    device: str,
    amp: torch.dtype | None = None,
    world: World = ALONE,
) -> Evaluation:
    """Score `model`, a DenseViT (put into eval mode), on every item of `batches`, and of those that other processes of
    `world` have.

    Images of the model's size are seen whole (single scale), others through windows of that size that overlap by a
    third; logits are resized to the mask. Metrics: see seg_metrics.py, and the loss (nats a pixel); a class that occurs
    nowhere has none. Predictions hold `confusion` [n, C, C] int32, pixels of each image, rows are labels.
    """
    model.eval()
    columns: dict[str, list[Tensor]] = {"item": [], "cluster": [], "confusion": []}
    losses, boundaries = [], []
    for batch in batches:
        target = batch.target.to(device)
        truth = None if batch.truth is None else batch.truth.to(device)
        with torch.autocast(device, dtype=amp, enabled=amp is not None), model.told(truth):
            logits = predict(model, batch.images.to(device), target.shape[-2:])
        losses.append(F.cross_entropy(logits, target, reduction="sum", ignore_index=IGNORE_INDEX))
        said = logits.argmax(dim=1)
        found = confusion(said, target, logits.shape[1], IGNORE_INDEX)
        boundaries.append([part.sum(0) for part in boundary_counts(said, target, logits.shape[1], IGNORE_INDEX)])
        for name, rows in (("item", batch.item), ("cluster", batch.cluster), ("confusion", found.int())):
            columns[name].append(rows)
    arrays = world.gather_items({name: torch.cat([part.cpu() for part in column]) for name, column in columns.items()})
    total = torch.from_numpy(arrays["confusion"].sum(axis=0, dtype=np.int64))
    counts = (torch.stack(parts).sum(0).cpu()[None] for parts in zip(*boundaries, strict=True))
    boundary = BoundaryCounts(*(world.gather(part).sum(0) for part in counts))
    metrics = segmentation_metrics(total) | boundary_metrics(boundary)
    loss = float(world.gather(torch.stack(losses).sum().cpu()[None]).sum()) / max(1, int(total.sum()))
    return Evaluation({name: value for name, value in metrics.items() if value == value} | {"loss": loss}, arrays)


def predict(model: nn.Module, images: Tensor, size: torch.Size) -> Tensor:
    """Images [B, 3, h, w] -> logits [B, C, H, W] float32 of a mask of `size` H, W."""
    rows, columns = model.grid_size
    window = rows * model.vit.patch_embed.patch_size[0]
    if images.shape[-2] > window or images.shape[-1] > columns * model.vit.patch_embed.patch_size[1]:
        logits = sliding_window(model, images, window, window * 2 // 3, model.vit.num_classes)
    else:
        logits = model(images).float()
    return logits if logits.shape[-2:] == size else F.interpolate(logits, size=size, mode="bilinear")
