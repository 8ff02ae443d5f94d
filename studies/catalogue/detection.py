"""Box AP and mask AP against the cost of the encoder, of every reducer in object detection."""

from __future__ import annotations

from studies.catalogue.declaration import Question, Study
from studies.config import Recipe

BACKBONE = Recipe(epochs=30, batch_size=16, lr=1e-3, min_lr=1e-6, warmup_epochs=2, warmup_shape="cosine")
FINETUNE = Recipe(
    epochs=5, batch_size=16, lr=1e-3, backbone_lr=0.25, layer_decay=0.75, warmup_epochs=1, warmup_shape="cosine",
    evaluate_every=3, epoch_offset=1000,
)  # fmt: skip
QUICK_BACKBONE = Recipe(epochs=2, batch_size=32, lr=1e-3, warmup_epochs=0.5)
QUICK_FINETUNE = Recipe(epochs=1, batch_size=32, lr=5e-4, warmup_epochs=0.1, epoch_offset=1000)

STUDY = Study(
    name="detection",
    summary="the same for object detection and instance segmentation",
    claim="with last-layer fusion Cropr at 0.65 of the encoder's MACs stays within 2 box AP of the dense model.",
    source=(
        "arXiv 2412.00965 (COCO, EVA-02-L and Cascade Mask R-CNN: 63.0 box AP at 1,273 of 2,790 G MACs of linear "
        "layers), at the size of a laptop: one to four handwritten digits on a photograph, boxes and masks."
    ),
    expected="Cropr at 0.65 within 2 box AP and 2 mask AP of dense, random pruning on the same schedule below it.",
    seen=(
        "over three seeds (commit c9259bb): dense 80.3 box AP and 39.7 mask AP; at 0.65 Cropr -1.1 [-2.0, -0.2] and "
        "0.0, EViT -1.1 and -0.4, random pruning -1.6 and -0.5, ToMe -4.1 and -4.0, DynamicViT, whose masks do not "
        "settle, -6.7 and -2.4; at 0.8 Cropr -0.5 and +0.2, EViT -0.6 and -0.1, random -1.2 and -0.5, ToMe -1.5 and "
        "-1.0, DynamicViT -4.8 and -1.5. Cropr minus random by size of objects at 0.65 +0.8, +0.4, +0.4 box AP. With "
        "backbones of another day's CPU (commit 0f62679) dense 79.8, Cropr at 0.65 -0.5 and +0.6."
    ),
    time=(
        "from nothing, on 2 cores of an AMD EPYC with nothing beside: one seed (11 runs) 10 min 20 s, --quick 92 s, "
        "one run each. Three seeds, beside other work, about 20 minutes."
    ),
    values=(
        "ours, not tuned: encoder, pyramid (2, 1 and 1/2 of the grid) and heads are trained together, then fine-tuned "
        "with each reducer. MACs and speed are those of the encoder alone."
    ),
    question=Question("cropr", "dense", margin_points=2, budget=0.65, metric="box_ap"),
    task="detection",
    budgets="0.8,0.65",
    backbone="scenes_vit_sincos",
    recipe=FINETUNE,
    backbone_recipe=BACKBONE,
    quick_recipe=QUICK_FINETUNE,
    quick_backbone_recipe=QUICK_BACKBONE,
    default_of_task=True,
)
