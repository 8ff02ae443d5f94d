"""The default study: accuracy against cost of every reducer, at the same budgets."""

from __future__ import annotations

from studies.catalogue.declaration import Question, Study
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
    claim=(
        "at 0.65 of the dense MACs Cropr is within 3 points of the dense model, and at each budget far above random "
        "pruning on the same schedule."
    ),
    source="arXiv 2412.00965, Table 1 and Fig. 4, at the size of a laptop: handwritten digits on photographs.",
    expected="dense 90 % or more; every method above random pruning, whose curve lies at least 30 points below at 0.4.",
    time="about 4 minutes on 2 cores for each seed.",
    values=(
        "each seed trains its own backbone, on class and patch labels for 36 epochs; every model is then "
        "fine-tuned for 6 epochs on classes alone, with the same data in the same order. 5e-3 is the rate of what "
        "reducers learn from nothing; the backbone has 0.03 of it, times 0.75 for every block further down, so "
        "that fine-tuning does not first destroy it. All was chosen on validation scenes of seed 0: the contrast "
        "by the dense model; budgets, epochs, batch size and these rates by hand, with figures of Cropr, ToMe, "
        "EViT and DynamicViT in sight beside dense and random; then the factors of the rates of each method by "
        "`cropr-study tune pareto` (pareto.json beside this file). No test scene was looked at before."
    ),
    question=Question("cropr", "dense", margin_points=3, budget=0.65, metric="top1"),
    task="classification",
    budgets=BUDGETS,
    seeds=3,
    recipe=FINETUNE,
    backbone_recipe=BACKBONE,
    quick_recipe=QUICK_FINETUNE,
    quick_backbone_recipe=QUICK_BACKBONE,
    default_of_task=True,
)
