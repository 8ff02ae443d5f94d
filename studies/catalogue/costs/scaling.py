"""Whether what a reducer costs in accuracy changes with the depth, the width and the images of the model."""

from __future__ import annotations

from studies.catalogue import pareto
from studies.catalogue.declaration import Full, Question, Study
from studies.catalogue.recipes import RECIPES

STUDY = Study(
    name="scaling",
    summary="depth, width and image size of the model",
    claim=(
        "at the same share of the MACs the loss of Cropr to its dense model gets smaller with depth and width, as more "
        "blocks and wider tokens leave more to choose by."
    ),
    source=(
        "arXiv 2412.00965 has large models only, at 224 px for classes, 512 for segmentation and 1,536 for detection; "
        "ToMe, EViT and DynamicViT have several sizes, each with a schedule and a recipe of its own."
    ),
    expected="the loss of Cropr falls from depth 3 to 12 and from width 48 to 192; that of random pruning stays.",
    seen="not run to its end yet.",
    time="not measured yet.",
    values=(
        "recipes of the default study, chosen at depth 6 and width 96, which may suit the others less. Each backbone "
        "has a directory of its own below that of the study, and all stand in one report. The embedded images have one "
        "size; that of images is scaled at full size (224 and 384 px, published recipe for all), and costs of it by "
        "`cropr-study run resolution`."
    ),
    question=Question("cropr", "dense", margin_points=3, budget=0.65, metric="top1"),
    reducers="none,random,cropr",
    budgets="0.65",
    seeds=1,
    backbones=("scenes_vit_shallow", "scenes_vit", "scenes_vit_deep", "scenes_vit_narrow", "scenes_vit_wide"),
    task="classification",
    recipe=pareto.FINETUNE,
    backbone_recipe=pareto.BACKBONE,
    quick_recipe=pareto.QUICK_FINETUNE,
    quick_backbone_recipe=pareto.QUICK_BACKBONE,
    tuned=pareto.STUDY.name,
    full=Full(
        backbone="deit_small_patch16_224",
        recipe=RECIPES["cropr"],
        backbones=(
            "deit_tiny_patch16_224",
            "deit_small_patch16_224",
            "deit_base_patch16_224",
            "deit_base_patch16_384",
            "vit_large_patch16_224.mae",
        ),
    ),
)
