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
        "over three seeds (commit c9259bb): dense model 80.3 box AP; presence -1.1 [-2.0, -0.2], grid -0.9 [-1.5, "
        "-0.3], random -1.6 [-2.3, -0.8], dense -2.2 [-3.4, -0.8]. Over random: grid +0.7 [+0.3, +1.0], presence +0.5 "
        "[-0.3, +1.4], dense -0.6 [-1.3, +0.2]; by size alike, small objects too. Mask AP 39.7; 0.0, +0.2, -0.5, "
        "-0.4. So one query chooses as well as sixteen, and better in the mean than one for each patch, whose sum "
        "keeps background: on seed 0 (commit 41ab8e1) 4 to 10 % of the objects had a live token behind its last "
        "reduction, 100 % with presence and grid, 84 to 89 % with random."
    ),
    time="12 minutes on 2 cores for the runs of three seeds, beside other work; two backbones at a time 5.",
    values="recipes of the detection study; every auxiliary task has the same counts of patches.",
    reducers="none,random,cropr,cropr:aux=grid,cropr:aux=dense",
    budgets="0.65",
    default_of_task=False,
)
