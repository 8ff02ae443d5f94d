"""What the queries of Cropr's modules are asked for in object detection: the auxiliary task, at one budget."""

from __future__ import annotations

from dataclasses import replace

from studies.catalogue import detection

STUDY = replace(
    detection.STUDY,
    question=None,
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
    seen=(
        "on seed 0 (commit 41ab8e1, where dense was what Cropr did unasked) dense model 80.4 box AP; presence -0.7, "
        "grid -0.5, random -1.4, dense -1.8, below random (-0.3 [-0.6, -0.1]). Behind the last reduction 100 % of the "
        "objects have a live token with presence and grid, 84 to 89 % by size with random, 4 to 10 % with dense, "
        "whose sum over 64 queries keeps background. Mask AP 40.9; -0.2, -0.1, -0.8, -0.9. One seed: not yet an "
        "answer for others."
    ),
    time="about 25 minutes on 2 cores for one seed with its backbone (one run, beside other work).",
    values="recipes of the detection study; every auxiliary task has the same counts of patches.",
    reducers="none,random,cropr,cropr:aux=grid,cropr:aux=dense",
    budgets="0.65",
    default_of_task=False,
)
