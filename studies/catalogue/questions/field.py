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


def reducers() -> str:
    """All of them trained at each budget, and what the rest make of the dense model as it is."""
    return ",".join(["none", *TRAINED, *FREE, *(f"{name}:trained_at=1" for name in FREE)])


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
    seen="not run to its end yet.",
    time="not measured yet.",
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
