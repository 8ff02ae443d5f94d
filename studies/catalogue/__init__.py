"""The named studies, one file each: it ends in its `Study`, which is all that is known of it elsewhere.

Knows recipes and tasks and nothing else: names of methods are text here.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from studies.config import Recipe
from studies.tasks import TASKS

__all__ = ["Study", "Timing", "studies"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a study that trains nothing measures, as `bench` takes it."""

    img_sizes: str
    batch_sizes: str
    rounds: int
    num_classes: int
    quick_img_sizes: str
    quick_rounds: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment: what it claims and why, what it runs where the command line does not say otherwise, and what came
    out. Texts are sentences for a reader; `recipe` trains the runs, `backbone_recipe` what they start from."""

    name: str
    summary: str
    claim: str
    source: str
    task: str
    time: str
    expected: str = ""
    seen: str = ""
    values: str = ""
    reducers: str = "all"
    budgets: str = "0.8,0.65,0.5"
    seeds: int = 1  # on the embedded data
    backbone: str = "scenes_vit"
    recipe: Recipe | None = None
    backbone_recipe: Recipe | None = None
    quick_recipe: Recipe | None = None  # a smoke run: everything happens, nothing is learnt to the end
    quick_backbone_recipe: Recipe | None = None
    timing: Timing | None = None  # trains nothing, random weights
    default_of_task: bool = False  # what `--task` alone means

    @property
    def command(self) -> str:
        return f"cropr-study run {self.name}"

    def recipes(self, quick: bool) -> tuple[Recipe, Recipe]:
        """Of the runs, and of the backbone that they start from."""
        own, backbone = (
            (self.quick_recipe, self.quick_backbone_recipe) if quick else (self.recipe, self.backbone_recipe)
        )
        assert own is not None and backbone is not None
        return own, backbone


@cache
def studies() -> dict[str, Study]:
    """By name, those that tasks mean first, in the order of tasks."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = [module.STUDY for module in modules if hasattr(module, "STUDY")]
    tasks = list(TASKS)

    def place(study: Study) -> tuple[bool, int, str]:
        return not study.default_of_task, tasks.index(study.task) if study.default_of_task else 0, study.name

    return {study.name: study for study in sorted(found, key=place)}
