"""Every control at the very counts of every method: what its choice of patches is worth."""

from __future__ import annotations

from studies.catalogue import pareto
from studies.catalogue.declaration import Full, Question, Study
from studies.catalogue.recipes import RECIPES

METHODS = ("cropr", "evit", "dynamicvit", "tome")
CONTROLS = ("random", "inverted", "grid", "centre", "norm", "keynorm", "classattn", "oracle")


def reducers() -> str:
    """The methods, and each control at the counts of each."""
    alike = [control if method == METHODS[0] else f"{control}:like={method}" for method in METHODS
             for control in CONTROLS]  # fmt: skip
    return ",".join(["none", *METHODS, *alike])


STUDY = Study(
    name="controls",
    summary="every control beside every method at equal counts",
    claim=(
        "at equal counts, places and rest every method chooses better than random pruning, a regular grid, the centre "
        "and the norm of tokens, and none better than the labels."
    ),
    source=(
        "none of the papers holds its method against controls at its own counts; what a method is worth beyond its "
        "schedule is the difference to them."
    ),
    expected="inverted < random, grid, centre < norm, keynorm < classattn, the methods <= oracle, at equal counts.",
    seen=(
        "over three seeds (commit aaba26a), top-1, dense 89.1. At the counts of Cropr: inverted 30.0, norm 43.0, "
        "random 71.8, grid 71.9, centre 84.4, Cropr 86.2, oracle 87.8; at their own for the same budget, as they sit "
        "inside blocks, keynorm 45.2, classattn 85.0. At the counts of DynamicViT: inverted 28.7, keynorm 40.8, norm "
        "50.9, grid 67.4, random 68.3, centre 82.8, classattn 86.7, oracle 87.2, itself 89.0; of EViT, with its "
        "fusion: inverted 55.8, norm 60.3, keynorm 72.0, random 76.4, grid 76.6, centre 85.8, classattn 86.6, itself "
        "87.5, oracle 88.0; of ToMe: inverted 34.7, norm 44.8, keynorm 48.9, grid 75.4, random 76.1, classattn 85.1, "
        "centre 85.8, oracle 88.4, itself 89.1. Each method is above random pruning by its interval (+14.4, +20.7, "
        "+11.1, +13.0). Not as expected: norms are far below random pruning, and the centre is 9 to 15 points above "
        "it, as the digits of the scenes lie nearer to the middle than to the border: what a method knows beyond that "
        "is 1.8, 6.2, 1.7 and 3.3 points. Merging and masked training are above the labels, which drop all else."
    ),
    time="30 minutes on 2 cores of an AMD EPYC, beside other work: 111 runs, timing of 37 variants; backbones 4 more.",
    values=(
        "recipes of the default study; at full size Cropr's published recipe for all, MAE ViT-L. ToMe merges, so that "
        "its counts are those of what is left, and controls drop the others. Beside Cropr controls have its budget, "
        "which gives those that follow a block its counts, and classattn and keynorm, inside one, others."
    ),
    question=Question("all", "random", margin_points=0, kind="above", budget=0.65, metric="top1"),
    reducers=reducers(),
    budgets="0.65",
    seeds=3,
    task="classification",
    recipe=pareto.FINETUNE,
    backbone_recipe=pareto.BACKBONE,
    quick_recipe=pareto.QUICK_FINETUNE,
    quick_backbone_recipe=pareto.QUICK_BACKBONE,
    tuned=pareto.STUDY.name,
    full=Full(backbone="vit_large_patch16_224.mae", recipe=RECIPES["cropr"], budgets="0.5"),
)
