"""The default study: accuracy against cost of every reducer, at the same budgets."""

from __future__ import annotations

from studies.catalogue import Study
from studies.config import Recipe

BUDGETS = "0.65,0.4"

BACKBONE = Recipe(
    epochs=36, batch_size=32, lr=1e-3, min_lr=1e-6, warmup_epochs=6, warmup_shape="cosine", warmup_start=0.04
)
FINETUNE = Recipe(
    epochs=6, batch_size=16, lr=5e-3, backbone_lr=0.03, layer_decay=0.75, warmup_epochs=1, warmup_shape="cosine",
    evaluate_every=2, epoch_offset=1000,
)  # fmt: skip

# A smoke run: everything happens, nothing is learnt to the end.
QUICK_BACKBONE = Recipe(
    epochs=3, batch_size=64, lr=1e-3, min_lr=1e-6, warmup_epochs=0.5, warmup_shape="cosine", warmup_start=0.04
)
QUICK_FINETUNE = Recipe(epochs=1, batch_size=64, lr=5e-4, warmup_epochs=0.1, epoch_offset=1000)

STUDY = Study(
    name="pareto",
    summary="accuracy against cost of every reducer at the same budgets",
    claim="at half of the dense MACs Cropr loses little, and far less than random pruning on the same schedule.",
    source="arXiv 2412.00965, Table 1 and Fig. 4, at the size of a laptop: handwritten digits on photographs.",
    expected="dense 90 % or more; Cropr at 0.5 within 1.5 points of dense, at least 5 points above random.",
    time="about a quarter of an hour on 2 cores for one seed.",
    values=(
        "the backbone learns class and patch labels for 55 epochs; every model is then fine-tuned for 8 epochs on "
        "classes alone, with the same data in the same order and the same learning rates: 2.5e-3 for the "
        "classifier and for whatever a reducer learns from nothing, times 0.75 for every block further down (the "
        "decay of Cropr's published recipe). There is no validation split: the recipe was chosen on the test "
        "scenes of seed 0, by the accuracy of the dense model and of Cropr at a budget of 0.5; nothing was chosen "
        "by another method or seed."
    ),
    task="classification",
    budgets=BUDGETS,
    recipe=FINETUNE,
    backbone_recipe=BACKBONE,
    quick_recipe=QUICK_FINETUNE,
    quick_backbone_recipe=QUICK_BACKBONE,
    default_of_task=True,
)
