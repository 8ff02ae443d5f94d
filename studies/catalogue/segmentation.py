"""Accuracy against cost of every reducer in semantic segmentation."""

from __future__ import annotations

from studies.catalogue.declaration import Question, Study
from studies.config import Recipe

BACKBONE_NAME = "scenes_vit_sincos"
BUDGETS = "0.8,0.65"  # last-layer fusion has a floor, near .6 of the MACs at depth 6

BACKBONE = Recipe(
    epochs=50, batch_size=32, lr=2e-3, min_lr=1e-6, warmup_epochs=6, warmup_shape="cosine", warmup_start=0.04
)
FINETUNE = Recipe(
    epochs=18, batch_size=16, lr=5e-3, backbone_lr=0.25, layer_decay=0.75, warmup_epochs=1, warmup_shape="cosine",
    evaluate_every=2, epoch_offset=1000,
)  # fmt: skip

# A smoke run: everything happens, nothing is learnt to the end.
QUICK_BACKBONE = Recipe(
    epochs=3, batch_size=64, lr=1e-3, min_lr=1e-6, warmup_epochs=0.5, warmup_shape="cosine", warmup_start=0.04
)
QUICK_FINETUNE = Recipe(epochs=2, batch_size=64, lr=5e-4, warmup_epochs=0.1, epoch_offset=1000)

STUDY = Study(
    name="segmentation",
    summary="the same for semantic segmentation",
    claim="with last-layer fusion Cropr at 0.65 of the dense MACs stays within 1.5 mIoU of the dense model.",
    source=(
        "arXiv 2412.00965 (ADE20k, EVA-02-L: 56.7 of 56.8 mIoU), at the size of a laptop: one to four handwritten "
        "digits on a photograph, eleven classes, the background among them."
    ),
    expected="Cropr at 0.65 within 1.5 mIoU of dense over three seeds, random pruning on the same schedule below it.",
    seen=(
        "over three seeds dense 64.7, Cropr at 0.65 -1.3, EViT -1.3, DynamicViT -2.0, random pruning -2.5, ToMe -8.4: "
        "the margin is met in the mean (by seed -2.6, -0.5, -0.7), and not decided by three seeds. On earlier scenes "
        "(half of the photographs' contrast, half as many training digits again, commit c1f24d6) Cropr at 0.65 was "
        "-1.46 over three seeds, random pruning -5.5."
    ),
    time="9 minutes on 2 cores for one seed, and 2 for its backbone (one run).",
    values=(
        "each seed trains its own backbone on the pixels' classes for 50 epochs; every model is then fine-tuned "
        "on the same for 18, with the same data in the same order. Cropr and random pruning have the paper's "
        "curriculum of pruning rates. The backbone's position embeddings start as sines: with learned ones it "
        "took twice the epochs, and Cropr's queries, one for each patch, did not find theirs. The factors of the "
        "learning rates of each method were chosen by `cropr-study tune segmentation` on validation scenes of "
        "seed 0 (segmentation.json beside this file); the dense model's among those that never pull its backbone "
        "away by more than a point."
    ),
    question=Question("cropr", "dense", margin_points=1.5, budget=0.65, metric="miou"),
    task="segmentation",
    budgets=BUDGETS,
    backbone=BACKBONE_NAME,
    recipe=FINETUNE,
    backbone_recipe=BACKBONE,
    quick_recipe=QUICK_FINETUNE,
    quick_backbone_recipe=QUICK_BACKBONE,
    default_of_task=True,
)
