"""Where Cropr's modules sit in an encoder of six blocks, in object detection, at one budget."""

from __future__ import annotations

from dataclasses import replace

from studies.catalogue import detection

STUDY = replace(
    detection.STUDY,
    question=None,
    name="detection-place",
    summary="where Cropr's modules sit in detection",
    claim="modules from a quarter of the depth on, as in the paper, lose no more than modules behind every block.",
    source=(
        "arXiv 2412.00965: behind blocks 5, 8, 11, 14 and 20 of 24, all of them global ones; what blocks with windows "
        "do behind the first of them it does not say: `run detection --window 4:global=1/3/5` (attention among all "
        "live tokens) beside `--window 4:global=1/3/5,windows=by-position` measures both."
    ),
    expected="the paper's places and even ones within a point of every block, late ones (fewer, deeper cuts) below.",
    seen=(
        "over three seeds (commit c9259bb): dense 80.3 box AP; every block -0.5 [-1.1, +0.0], the paper's places -0.3 "
        "[-1.5, +1.0], even ones -0.6 [-2.1, +1.2], late ones -0.4 [-1.2, +0.3], random pruning behind every block "
        "-1.2 [-2.0, -0.3]. The places lie within 0.3 points of each other and three seeds tell none from another. "
        "Mask AP 39.7; +0.2, 0.0, +0.2, 0.0, -0.5. With windows of 4 x 4 (three seeds, 0.8, commit 6b6a571) "
        "dense 80.6; Cropr with attention among all live tokens -2.3 [-3.9, -0.6], by window -0.9 [-2.6, +0.7], which "
        "is +1.3 [+0.9, +1.8]; random pruning -2.7 and -2.1. Mask AP 40.4; Cropr -0.9 and -0.8, the second +0.1 [-0.3, "
        "+0.5]."
    ),
    time="10 minutes on 2 cores for the runs of three seeds, beside other work; two backbones at a time 5.",
    values=(
        "recipes of the detection study. Every place has the same budget: .8, as late places cannot reach .65. The "
        "paper's five are four at this depth (behind blocks 1 to 4 of 0 to 5), even ones behind 1 and 3, late ones "
        "behind 2, 3 and 4."
    ),
    reducers="none,random,cropr,cropr:at=1/2/3/4,cropr:at=1/3,cropr:at=2/3/4",
    budgets="0.8",
    default_of_task=False,
)
