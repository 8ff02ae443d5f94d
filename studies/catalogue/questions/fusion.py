"""What becomes of dropped patches in a dense task: the fusion ablation of Cropr, at one budget."""

from __future__ import annotations

from studies.catalogue import segmentation
from studies.catalogue.declaration import Study

RESTS = ("llf", "drop", "concat", "mask", "nearest", "logits")
REDUCERS = ",".join(["none", *(f"cropr:rest={rest}" for rest in RESTS)])

STUDY = Study(
    name="fusion",
    summary="what becomes of dropped patches in segmentation",
    claim=(
        "patches that come back before the last block, as they were when they were dropped (last-layer fusion), "
        "lose least; without them segmentation is clearly worse."
    ),
    source=(
        "arXiv 2412.00965, ADE20k: none 47.7 mIoU, concatenation at the end 51.8, DToP-style logits 50.1, last-"
        "layer fusion 56.6, dense 56.7."
    ),
    expected="the order of the paper at its ends: last-layer fusion nearest to dense, none farthest.",
    seen=(
        "on seed 0 of earlier scenes (commit c1f24d6) -1.4 mIoU with last-layer fusion, DToP-style logits -1.6, "
        "concatenation -2.2, mask tokens -14.5, none -35.5, nearest kept -45.7. Not made anew on the present "
        "ones."
    ),
    time="7 minutes on 2 cores for one seed, and 3 for its backbone (one run).",
    values=(
        "recipes of the segmentation study. Every mode has the same budget, so that those which do not run the "
        "last block on all patches keep more of them."
    ),
    task="segmentation",
    reducers=REDUCERS,
    budgets="0.65",
    backbone=segmentation.BACKBONE_NAME,
    recipe=segmentation.FINETUNE,
    backbone_recipe=segmentation.BACKBONE,
    quick_recipe=segmentation.QUICK_FINETUNE,
    quick_backbone_recipe=segmentation.QUICK_BACKBONE,
)
