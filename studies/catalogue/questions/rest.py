"""What chooses patches, and what becomes of those that leave: each with each, on one schedule."""

from __future__ import annotations

from studies.catalogue import pareto
from studies.catalogue.declaration import Full, Study
from studies.catalogue.recipes import RECIPES

SCORERS = ("random", "norm", "classattn", "cropr")
RESTS = ("drop", "fuse", "squeeze", "llf")


def reducers(blocks: int, rate: int) -> str:
    """Every scorer with every rest, behind the first `blocks`, each of which loses `rate` patches."""
    schedule = f"at={'/'.join(map(str, range(blocks)))},rate={rate}"
    return ",".join(["none", *(f"{scorer}:rest={rest},{schedule}" for scorer in SCORERS for rest in RESTS)])


STUDY = Study(
    name="rest",
    summary="what chooses patches x what becomes of the rest, on one schedule",
    claim=(
        "on one schedule the choice of patches is worth more than what becomes of the rest, and the worse the choice, "
        "the more it helps to keep something of the rest."
    ),
    source=(
        "EViT (arXiv 2202.07800) fuses, TPS (2304.10716) squeezes, Cropr (2412.00965) brings all back for the last "
        "block; each paper has its own scorer and its own schedule, so that none of them separates the two."
    ),
    expected=(
        "drop <= fuse <= squeeze <= llf with every scorer, by more points with random scores than with Cropr's; "
        "random < norm <= classattn <= cropr with every rest."
    ),
    seen=(
        "over three seeds (commit aaba26a), top-1, dense 89.1; dropped, fused, squeezed, last-layer fusion: random "
        "65.1, 64.9, 72.0, 72.7; norm 40.7, 44.8, 49.5, 56.1; attention of the class token 83.8, 83.8, 84.2, 84.3; "
        "Cropr 84.2, 83.0, 82.3, 85.3. So the choice is worth 19 points over random pruning and 13 where all come "
        "back, and what is kept of the rest up to 15 with the worst choice and about one with a good one, as claimed. "
        "Not as expected: the norm is far below random pruning (the digit has not the largest one), and squeezing "
        "into Cropr's patches loses. Seeds differ by up to 12 points, so that of the differences to random pruning "
        "only two of the norm's (dropped, fused) are below p .05 after correction; Cropr's is .054."
    ),
    time="16 minutes on 2 cores of an AMD EPYC, beside other work: three backbones 4, 51 runs, timing of 17 variants.",
    values=(
        "recipes of the default study; at full size Cropr's published recipe for all, MAE ViT-L. Counts of patches "
        "are equal, so costs are not: a fused token is one more, and last-layer fusion runs the last block on all. "
        "classattn:rest=fuse is EViT's score and fusion on Cropr's schedule."
    ),
    reducers=reducers(blocks=4, rate=12),
    budgets="0.65",
    seeds=3,
    task="classification",
    recipe=pareto.FINETUNE,
    backbone_recipe=pareto.BACKBONE,
    quick_recipe=pareto.QUICK_FINETUNE,
    quick_backbone_recipe=pareto.QUICK_BACKBONE,
    tuned=pareto.STUDY.name,
    full=Full(
        backbone="vit_large_patch16_224.mae",
        recipe=RECIPES["cropr"],
        reducers=reducers(blocks=22, rate=8),
        budgets="0.5",
    ),
)
