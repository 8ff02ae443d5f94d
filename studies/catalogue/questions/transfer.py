"""Trained at one rate, tested at another: a matrix for each method, and what it is off the shelf."""

from __future__ import annotations

from studies.catalogue import pareto
from studies.catalogue.declaration import Full, Question, Study
from studies.catalogue.recipes import RECIPES

RATES = ("0.8", "0.65", "0.5")
LEARNING = ("cropr", "dynamicvit")
OTHERS = ("random", "evit", "tome")  # these can be put on the dense model as it is: trained_at=1


def reducers(rates: tuple[str, ...]) -> str:
    """Each method trained at each of `rates`, and what learns nothing on the dense model too."""
    rows = [(name, rate) for name in (*OTHERS, *LEARNING) for rate in rates]
    rows += [(name, "1") for name in OTHERS]
    return ",".join(["none", *(f"{name}:trained_at={rate}" for name, rate in rows)])


STUDY = Study(
    name="transfer",
    summary="train rate x test rate, trained against off the shelf",
    claim=(
        "a model is best at the rate that it was trained at, is within a point of that one step towards milder rates, "
        "and one that was trained for reduction is above the dense model reduced off the shelf at every rate."
    ),
    source=(
        "ToMe (arXiv 2210.09461) compares off the shelf with trained; EViT and Cropr train at each rate; none of them "
        "has the matrix of both."
    ),
    expected="the diagonal highest in its column; off the shelf falls fastest; at 0.8 all rows within two points.",
    seen=(
        "seed 0 (commit aaba26a), top-1, dense 89.5, scored at 0.8, 0.65, 0.5. Off the shelf: ToMe 89.3, 89.4, 88.7; "
        "EViT 89.1, 88.6, 87.0; random 79.1, 65.7, 46.7. Trained at each: ToMe 89.7, 89.6, 88.9; EViT 89.5, 89.3, "
        "89.5; DynamicViT 89.2, 89.4, 89.2; Cropr 89.0, 86.6, 85.1; random 81.4, 75.0, 63.6. Training at the rate "
        "matters for random pruning (+17 at 0.5) and a little for EViT (+2.5), not for ToMe (+0.2). Not as expected: "
        "Cropr trained at 0.8 is better at 0.65 (88.9) and 0.5 (87.4) than trained there, so that six epochs under "
        "strong pruning cost more than the other rate does. One seed: not yet an answer for others."
    ),
    time=(
        "8 minutes on 2 cores of an AMD EPYC, beside other work: 70 runs, of which 16 train, timing of 16 models; the "
        "backbone was there (2 minutes more)."
    ),
    values=(
        "recipes of the default study; at full size Cropr's published recipe for all, MAE ViT-L. A row is one "
        "training: its weights are scored at each budget, and at its own it is the same figure again. DynamicViT's "
        "masks and Cropr's heads take part in training only."
    ),
    question=Question("tome:trained_at=1", "dense", margin_points=1, budget=0.8, metric="top1"),
    reducers=reducers(RATES),
    budgets=",".join(RATES),
    seeds=1,
    task="classification",
    recipe=pareto.FINETUNE,
    backbone_recipe=pareto.BACKBONE,
    quick_recipe=pareto.QUICK_FINETUNE,
    quick_backbone_recipe=pareto.QUICK_BACKBONE,
    tuned=pareto.STUDY.name,
    full=Full(backbone="vit_large_patch16_224.mae", recipe=RECIPES["cropr"]),
)
