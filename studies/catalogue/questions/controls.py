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
    expected="inverted < random, grid, centre < norm, keynorm < classattn, the methods <= oracle, at its counts.",
    seen="not run to its end yet.",
    time="not measured yet; added up from the runs of the default study about 10 minutes on 2 cores for one seed.",
    values=(
        "recipes of the default study; at full size Cropr's published recipe for all, MAE ViT-L. ToMe merges, so "
        "that its counts are those of what is left, and controls drop the others."
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
