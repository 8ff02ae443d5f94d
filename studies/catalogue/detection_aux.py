"""What the queries of Cropr's modules are asked for in object detection: the auxiliary task, at one budget."""

from __future__ import annotations

from studies.catalogue import Study, detection

STUDY = Study(
    name="detection-aux",
    summary="what Cropr's queries are asked for in detection",
    claim="one query that is asked which classes are in the image chooses as well as a query for each patch.",
    source=(
        "arXiv 2412.00965: in detection one query a module with a sigmoid for each class (63.0 box AP at 1,273 of "
        "2,790 G MACs of linear layers), in segmentation a query for each patch; the paper does not compare them."
    ),
    expected=(
        "presence (Cropr as it is in detection: one query), grid (a query for each of 4 x 4 cells) and dense (one for "
        "each patch) within a point of each other and above random pruning; for small objects dense above presence."
    ),
    seen="not run to its end yet.",
    time="not measured yet.",
    values="recipes of the detection study; every auxiliary task has the same counts of patches.",
    task="detection",
    reducers="none,random,cropr,cropr:aux=grid,cropr:aux=dense",
    budgets="0.65",
    backbone=detection.BACKBONE_NAME,
    recipe=detection.FINETUNE,
    backbone_recipe=detection.BACKBONE,
    quick_recipe=detection.QUICK_FINETUNE,
    quick_backbone_recipe=detection.QUICK_BACKBONE,
)
