"""Classification: loss, top-1, calibration, and the predictions that paired statistics need.

Letters: B batch, C classes, D width, L patches, n test items.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr.method.objective import Counts, Criterion, CrossEntropy, Labelled, Objective, Term, Terms
from cropr.vit import ReducedViT
from results.statistics.metrics.calibration import calibration_error
from results.statistics.metrics.statistic import PLACES
from studies.data import Batch
from studies.tasks import Evaluation
from studies.training.distributed import ALONE, World

__all__ = ["BackboneObjective", "criterion", "eval_batch", "evaluate"]


def criterion(label_smoothing: float = 0.0) -> Criterion:
    """Cross-entropy of logits [B, C] with classes [B], or with soft targets [B, C] (mixup)."""
    return CrossEntropy(label_smoothing)


class BackboneObjective(nn.Module, Objective):
    """Class loss plus the loss of a linear layer that names each patch: class labels alone leave a small model at
    chance for long. The layer is gone after training."""

    name = "CE of classes + CE of patches"

    def __init__(self, embed_dim: int, num_classes: int, label_smoothing: float = 0.0):
        nn.Module.__init__(self)
        Objective.__init__(self, criterion(label_smoothing))
        self.patch_criterion = criterion()
        self.patch_head = nn.Linear(embed_dim, num_classes + 1)
        nn.init.trunc_normal_(self.patch_head.weight, std=0.02)
        nn.init.zeros_(self.patch_head.bias)

    def forward(self, model: ReducedViT, batch: Labelled) -> tuple[Terms, Counts]:
        assert batch.patch_target is not None  # only data sets with labels of patches train a backbone
        tokens = model.forward_features(batch.images)
        classes = self.criterion(model.forward_head(tokens), batch.target)
        named = self.patch_head(tokens.patches).flatten(0, 1)
        patches = self.patch_criterion(named, batch.patch_target.flatten())
        return {"class": Term(classes, "label"), "patch": Term(patches, "patch")}, self.counts(model, batch)

    def counts(self, model: ReducedViT, batch: Labelled) -> Counts:
        assert batch.patch_target is not None
        patches = self.patch_criterion.count(batch.patch_target)
        return {"label": self.criterion.count(batch.target), "patch": patches}


def eval_batch(image_size: int) -> int:
    """Images of a batch in evaluation."""
    return 250


@torch.inference_mode()
def evaluate(
    model: ReducedViT,
    batches: Iterable[Batch],
    device: str,
    amp: torch.dtype | None = None,
    world: World = ALONE,
) -> Evaluation:
    """Score `model` (put into eval mode) on every item of `batches`, and of those that other processes of `world`
    have: top1 and ece (shares), loss (nats), and top1 by the place of the object, where the data set knows it (`place`
    then is one of the predictions). Predictions hold the `target`, the `prediction` and its `confidence` (top
    softmax probability, float16) [n], in the order of items."""
    model.eval()
    columns: dict[str, list[Tensor]] = {"item": [], "cluster": [], "target": [], "prediction": [], "confidence": []}
    losses = []
    for batch in batches:
        truth = None if batch.truth is None else batch.truth.to(device)
        with torch.autocast(device, dtype=amp, enabled=amp is not None), model.told(truth):
            logits = model(batch.images.to(device)).float()
        target = batch.target.to(device)
        losses.append(F.cross_entropy(logits, target, reduction="sum"))
        made = {"prediction": logits.argmax(dim=1), "confidence": logits.softmax(dim=1).amax(dim=1).half()}
        rows = {**batch._asdict(), "target": target, **made}
        if batch.place is not None:
            columns.setdefault("place", [])
        for name, column in columns.items():
            column.append(rows[name])
    arrays = world.gather_items({name: torch.cat([part.cpu() for part in column]) for name, column in columns.items()})
    hit = arrays["prediction"] == arrays["target"]
    top1, ece = float(hit.mean()), calibration_error(hit, arrays["confidence"])
    loss = float(world.gather(torch.stack(losses).sum().cpu()[None]).sum()) / len(arrays["target"])
    found = {"top1": top1, "ece": ece, "loss": loss}
    if "place" in arrays:
        there = {name: arrays["place"] == number for number, name in enumerate(PLACES)}
        found |= {f"top1_{name}": float(hit[own].mean()) for name, own in there.items() if own.any()}
    return Evaluation(found, arrays)
