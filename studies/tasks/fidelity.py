"""Fidelity: how near a reduced model's output is to that of the dense model it is made of. It needs no labels.

Of each image: whether both name the same class, the Kullback-Leibler divergence of their classes, and the cosines of
class token and patch features behind the final norm. A patch is compared at its place on the grid, where it is live, or
with the token that it was merged into; of what was dropped nothing is said.

Letters: B batch, P prefix tokens, N live patches, L patches of the grid, C classes, D width, n images.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr.tokens import Tokens, take
from cropr.vit import ReducedViT
from studies.data import Batch
from studies.tasks import Evaluation
from studies.tasks.classification import BackboneObjective, criterion, eval_batch
from studies.training.distributed import ALONE, World

__all__ = ["BackboneObjective", "criterion", "distances", "eval_batch", "evaluate", "patch_cosine"]


@torch.inference_mode()
def evaluate(
    model: ReducedViT,
    batches: Iterable[Batch],
    device: str,
    amp: torch.dtype | None = None,
    world: World = ALONE,
) -> Evaluation:
    """Hold `model` (put into eval mode) against the dense `model.vit` on every image of `batches`, and of those that
    other processes of `world` have: agreement (share), minus_kl (nats), class_cosine and patch_cosine (-1..1), each a
    mean over images, as far as the model has a classifier of two classes or more and a class token. Predictions hold
    the class of either (`target`: the dense model's, `prediction`) and the other figures of each image, [n]."""
    model.eval()
    columns: dict[str, list[Tensor]] = {}
    for batch in batches:
        truth = None if batch.truth is None else batch.truth.to(device)
        with torch.autocast(device, dtype=amp, enabled=amp is not None), model.told(truth):
            images = batch.images.to(device)
            dense, tokens = model.vit.forward_features(images), model.forward_features(images, track=True)
            logits = model.vit.forward_head(dense), model.forward_head(tokens)
        rows = {"item": batch.item, "cluster": batch.cluster, **distances(model, dense, tokens, logits)}
        for name, column in rows.items():
            columns.setdefault(name, []).append(column.cpu())
    arrays = world.gather_items({name: torch.cat(parts) for name, parts in columns.items()})
    metrics = {name: float(arrays[name].mean(dtype="float64")) for name in arrays if name.endswith(("_kl", "_cosine"))}
    if "prediction" in arrays:
        metrics = {"agreement": float((arrays["prediction"] == arrays["target"]).mean()), **metrics}
    return Evaluation(metrics, arrays)


def distances(model: ReducedViT, dense: Tensor, tokens: Tokens, logits: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Of each image, [B] each: `dense` [B, P + L, D] and `tokens` are features behind the final norm, `logits` [B, C]
    the dense model's and the reduced one's. minus_kl is -sum p log(p / q), p the dense model's."""
    found = {}
    if logits[0].shape[1] > 1 and model.vit.num_classes > 1:
        log_p, log_q = (each.double().log_softmax(dim=1) for each in logits)
        found["target"], found["prediction"] = (each.argmax(dim=1) for each in logits)
        found["minus_kl"] = -(log_p.exp() * (log_p - log_q)).sum(dim=1)
    if model.vit.cls_token is not None:
        found["class_cosine"] = F.cosine_similarity(dense[:, 0].double(), tokens.x[:, 0].double(), dim=1)
    found["patch_cosine"] = patch_cosine(dense[:, tokens.num_prefix :], tokens)
    return found


def patch_cosine(dense: Tensor, tokens: Tokens) -> Tensor:
    """[B] mean over the places of the grid that a live patch stands for; `dense` [B, L, D]."""
    if tokens.owner is not None:
        return F.cosine_similarity(dense.double(), take(tokens.patches, tokens.owner).double(), dim=2).mean(dim=1)
    position = tokens.positions()  # -1: a fused token, which stands for no place
    there = position >= 0
    cosine = F.cosine_similarity(take(dense, position.clamp(min=0)).double(), tokens.patches.double(), dim=2)
    return (cosine * there).sum(dim=1) / there.sum(dim=1)
