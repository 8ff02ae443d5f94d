"""Every method of the project, trained and off the shelf, at the same three budgets."""

from __future__ import annotations

from dataclasses import replace

from studies.catalogue import pareto
from studies.catalogue.declaration import Full, Question
from studies.catalogue.recipes import RECIPES

TRAINED = ("cropr", "dynamicvit", "dtem")  # without their training there is nothing to choose by
FREE = (
    "random", "evit", "tome", "tofu", "pitome", "dpcknn", "kmedoids", "mctf", "algm", "ats", "diffrate", "repshift",
    "zerotprune",
)  # fmt: skip


AS_RANDOM = ("random", "cropr", "repshift")  # random pruning is on their schedule, and leaves as many tokens


def reducers() -> str:
    """All of them trained at each budget, what the rest make of the dense model as it is, and random pruning at the
    counts of each, trained or not likewise."""
    trained = [f"random:like={name}" for name in (*TRAINED, *FREE) if name not in AS_RANDOM]
    shelf = [f"{name}:trained_at=1" for name in FREE]
    twins = [f"random:like={name},trained_at=1" for name in FREE if name not in AS_RANDOM]
    return ",".join(["none", *TRAINED, *FREE, *shelf, *trained, *twins])


STUDY = replace(
    pareto.STUDY,
    name="field",
    summary="every method, trained and off the shelf, at three budgets",
    claim="trained at its budget, Cropr is above random pruning at its own counts, down to the smallest budget.",
    source=(
        "no paper compares these methods in one environment; the closest study (arXiv 2308.04657) has fixed rates and "
        "other methods. Which is ahead differs from paper to paper with backbone, recipe and rate."
    ),
    expected=(
        "off the shelf merging is ahead of pruning at 0.8 and falls below it at 0.5; trained, all but random pruning "
        "within five points of each other at 0.8."
    ),
    seen=(
        "seed 0 (commit 6b6a571), top-1 of 2,022 test items, dense 89.3: trained at 0.8 all but random pruning (81.8) "
        "and representation shift (45.2) within 1.6 points of each other. At 0.5 DynamicViT 90.3, EViT 89.7, DPC-KNN "
        "89.1, ToMe 89.0, ATS 88.9, ToFu 88.8, DTEM 88.5, PiToMe 88.2, K-medoids 87.9, Zero-TPrune 87.6, MCTF 87.3, "
        "DiffRate 87.0, Cropr 84.5, ALGM 82.5, random pruning 64.4; Cropr is 20.1 [17.6, 22.6] points above random "
        "pruning. Off the shelf at 0.5 ATS 89.2, DPC-KNN and ToFu 89.0, PiToMe 88.9, ToMe 88.5, EViT 88.2: here "
        "merging does not collapse, ALGM alone loses much (76.3). Representation shift is below random pruning at "
        "its counts everywhere: what the MLPs of this model change most is not the digit. One seed: not yet an answer "
        "for others."
    ),
    time=(
        "33 minutes on 2 cores of an AMD EPYC, beside other work, for one seed: 160 runs, of which 76 train, and the "
        "timing of 88 variants."
    ),
    values=(
        "recipes of the default study, with the learning rates that `tune` chose there for the standard five; the "
        "others have the recipe as it is, and what their papers leave open as their pages say (`list reducers NAME`). "
        "Off the shelf: the dense model of the study, fine-tuned, then reduced (trained_at=1)."
    ),
    question=Question("cropr", "random", margin_points=0, kind="above", budget=0.5, metric="top1"),
    reducers=reducers(),
    budgets="0.8,0.65,0.5",
    seeds=1,
    tuned=pareto.STUDY.name,
    default_of_task=False,
    full=Full(backbone="vit_large_patch16_224.mae", recipe=RECIPES["cropr"]),
)
