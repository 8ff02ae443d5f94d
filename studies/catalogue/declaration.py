"""What a study says of itself: an experiment with its claim, and the question that its report answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from cropr.nearest import one_of
from studies.config import Recipe

__all__ = ["AGAINST", "EMBEDDED", "KINDS", "TRAINS", "Full", "Question", "Study", "Timing"]

EMBEDDED = "scenes"  # the data set at whose size the studies of the catalogue run on a laptop
AGAINST = ("dense", "random")  # roles
KINDS = ("within", "above")
TRAINS = ("none", "recipe")


@dataclass(frozen=True)
class Question:
    """What is asked of one method, stated before the study runs; its report answers yes, no or not decided.

    `within`: is the method at most `margin_points` below what it is held `against`? `above`: is it by more than
    `margin_points` above? `random` is random pruning at equal counts. Raises ValueError.
    """

    method: str  # as `--reducers` has it, options included; "all": each
    against: str  # of AGAINST
    margin_points: float  # of the metric, in percentage points
    kind: str = "within"  # of KINDS
    budget: float | None = None  # share of the dense MACs; None: every one of the study
    metric: str | None = None  # of the task, by its name in the records; None: the first

    def __post_init__(self) -> None:
        one_of("yardstick of a question", self.against, AGAINST)
        one_of("kind of question", self.kind, KINDS)
        if not self.method:
            raise ValueError("question: method is empty; give one as --reducers has it, such as cropr:heads=3")
        if not 0 <= self.margin_points < 100:
            raise ValueError(f"question: margin_points {self.margin_points} is outside [0, 100); it is in points")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ValueError(f"question: budget {self.budget} is outside (0, 1]; it is a share of the dense MACs")

    def record(self) -> dict[str, Any]:
        """As study.json has it."""
        return dataclasses.asdict(self) | {"margin_points": float(self.margin_points)}


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
class Full:
    """The same study on another data set than the embedded one: what it starts from, and the recipe that trains all of
    it there. What is "" is as in the small one."""

    backbone: str
    dataset: str = "imagenet"
    recipe: Recipe | None = None  # None: off the shelf
    reducers: str = ""
    budgets: str = ""
    backbones: tuple[str, ...] = ()


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
    question: Question | None = None
    reducers: str = "all"
    budgets: str = "0.8,0.65,0.5"
    seeds: int = 1  # on the embedded data
    dataset: str = EMBEDDED
    data: str | None = None  # its folder
    backbone: str = "scenes_vit"
    backbones: tuple[str, ...] = ()  # a part of the study for each, in a directory of its own
    train: str = "recipe"  # of TRAINS
    protocol: str = "own"  # how each method is trained, see `run --protocol`
    random_at_counts: bool = False
    recipe: Recipe | None = None
    backbone_recipe: Recipe | None = None
    quick_recipe: Recipe | None = None  # a smoke run: everything happens, nothing is learnt to the end
    quick_backbone_recipe: Recipe | None = None
    tuned: str = ""  # the study whose values, chosen by `tune`, it takes; "": its own
    timing: Timing | None = None  # trains nothing, random weights
    full: Full | None = None
    default_of_task: bool = False  # what `--task` alone means
    file: str = ""  # a user's own: where it stands

    @property
    def command(self) -> str:
        """What runs it, and where it has one what runs it at full size."""
        run = f"cropr-study run {self.file or self.name}"
        if self.full is None:
            return run
        return f"{run}; at full size {run} --dataset {self.full.dataset} --data DIR"

    def recipes(self, quick: bool) -> tuple[Recipe | None, Recipe | None]:
        """Of the runs, and of the backbone that they start from."""
        return (self.quick_recipe, self.quick_backbone_recipe) if quick else (self.recipe, self.backbone_recipe)

    def on(self, dataset: str) -> Study:
        """The study on a data set: at full size where that is not the embedded one."""
        if dataset == EMBEDDED or self.full is None:
            return dataclasses.replace(self, dataset=dataset)
        full = self.full
        return dataclasses.replace(
            self, dataset=dataset, backbone=full.backbone, backbones=full.backbones, recipe=full.recipe,
            train="none" if full.recipe is None else self.train, protocol="same",  # no value is chosen for it
            reducers=full.reducers or self.reducers, budgets=full.budgets or self.budgets,
        )  # fmt: skip
