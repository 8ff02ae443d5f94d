"""What one run is: frozen dataclasses whose content names the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from cropr.method.options import Option, option, options_of
from cropr.nearest import nearest
from results.records.schema import read

__all__ = ["CHOICES", "Recipe", "RunConfig", "read_config", "replace_key", "settings"]


# What a user may choose of data and models, and what it is otherwise: then it is no part of a run's id.
CHOICES: dict[str, Any] = {"pool": None, "ignore": None, "img_size": None, "window": None, "masks": True}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Rates are per optimiser step; an epoch is one pass over the training items. Raises
    ValueError for a setting outside its range."""

    __pydantic_config__ = {"extra": "forbid"}  # what another version wrote is named

    epochs: int = option(6, "over the training items", low=1)
    batch_size: int = option(64, "images per optimiser step, of all micro-batches and processes", low=1)
    lr: float = option(5e-4, "learning rate", above=0)
    min_lr: float = option(0.0, "at the end of the schedule", low=0)
    schedule: str = option("cosine", "of the learning rate; poly has the power .9", choices=("cosine", "poly"))
    warmup_epochs: float = option(0.6, "until the full learning rate", low=0)
    warmup_shape: str = option("linear", "of the warm-up", choices=("linear", "cosine"))
    warmup_start: float = option(0.04, "share of lr at step 0", low=0, high=1)
    betas: tuple[float, float] = option((0.9, 0.98), "of AdamW", low=0, below=1)
    weight_decay: float = option(0.05, "of AdamW, on matrices", low=0)
    clip_grad: float | None = option(1.0, "largest norm of the gradient", above=0)
    layer_decay: float = option(
        1.0, "factor of the learning rate per block towards the input; reducers keep the full one", above=0, high=1
    )
    drop_path: float = option(0.0, "rate of stochastic depth in the last block", low=0, below=1)
    label_smoothing: float = option(0.0, "share of a label that goes to all classes", low=0, below=1)
    mixup: float = option(0.0, "alpha of timm's", low=0)
    cutmix: float = option(0.0, "alpha of timm's", low=0)
    augment: str | None = option(None, "timm's auto-augmentation, such as rand-m9-mstd0.5-inc1")
    random_erasing: float = option(0.0, "probability", low=0, high=1)
    ema: float | None = option(None, "decay of the averaged weights that are evaluated", above=0, below=1)
    amp: str | None = option(
        None, "mixed precision", choices=("bfloat16", "float16"),
        spelled={"bf16": "bfloat16", "fp16": "float16", "half": "float16"},
    )  # fmt: skip
    accumulate: int = option(1, "micro-batches per optimiser step", low=1)
    checkpointing: bool = option(False, "compute activations again in the backward pass")
    backbone_lr: float = option(1.0, "factor of the learning rate", low=0)
    reducer_lr: float = option(1.0, "factor of the learning rate of what a reducer learns from nothing", low=0)
    freeze_backbone_epochs: float = option(0.0, "during which the backbone does not learn", low=0)
    evaluate_every: int = option(1, "epochs between two evaluations; the last epoch has one", low=1)
    epoch_offset: int = option(0, "first epoch of the data: a fine-tune sees other scenes than its backbone", low=0)

    def __post_init__(self) -> None:
        for key, setting in settings().items():
            setting.check(getattr(self, key))
        if len(self.betas) != 2:
            raise ValueError(f"setting betas cannot be {self.betas}; valid: two numbers, written 0.9/0.98")


@dataclass(frozen=True)
class RunConfig:
    """One run: a backbone, a reducer at a budget, a recipe (None: off the shelf), a seed."""

    __pydantic_config__ = {"extra": "forbid"}  # what another version wrote is named

    study: str
    task: str
    dataset: str
    backbone: str
    reducer: str  # canonical spec, such as "cropr:llf=true"
    method_version: int
    budget: float | None  # share of the dense MACs; None: the reducer's own parameter, or dense
    seed: int
    recipe: Recipe | None
    backbone_recipe: Recipe | None = None  # trains the backbone where the project does; None: pretrained or checkpoint
    checkpoint: str | None = None  # where it lies; `checkpoint_digest`: what it is
    num_threads: int = 1
    quick: bool = False
    split: Literal["test", "val"] = "test"  # what is scored: "val" where something is chosen by it
    checkpoint_digest: str | None = None
    pool: str | None = None  # what the classifier sees, of studies.models.backbones.POOLS; None: the model's own
    ignore: int | None = None  # pixel value of masks that counts nowhere; None: the data set's own
    img_size: int | None = None  # px of images, where the data set asks; None: its own
    window: str | None = None  # attention within windows, as cropr/windows.py writes them; None: the whole grid
    masks: bool = True  # of objects; False: a detector of boxes alone
    source: str | None = None  # the run whose trained weights it scores; None: it trains its own
    own: tuple[tuple[str, Any], ...] = ()  # settings of `recipe` that are this method's, not the study's
    device: str = "cpu"
    data_dir: str | None = None

    @property
    def variant(self) -> str:
        """What is compared: the reducer and its budget, over seeds."""
        return self.reducer if self.budget is None else f"{self.reducer}@{self.budget:g}"

    @property
    def chosen(self) -> dict[str, Any]:
        """Of `CHOICES`, what is not as it is otherwise."""
        return {key: getattr(self, key) for key, default in CHOICES.items() if getattr(self, key) != default}

    @property
    def id(self) -> str:
        """Readable prefix and the hash of everything that was asked for; where data lie, what computes and who wanted a
        setting is not."""
        content = dataclasses.asdict(self)
        for said in ("device", "data_dir", "own"):
            content.pop(said)
        content["checkpoint"] = content.pop("checkpoint_digest")
        for key, default in {"split": "test", "source": None, **CHOICES}.items():
            if content[key] == default:
                content.pop(key)  # as in records from before there was a choice
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        readable = self.variant.replace("=", "").replace("/", ".")
        for mark in "#:,@":
            readable = readable.replace(mark, "-")
        return f"{readable[:60]}-s{self.seed}-{digest[:8]}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_config(path: Path) -> RunConfig:
    """The RunConfig that `to_dict` wrote as JSON, of the same id. Raises FileNotFoundError, CorruptRecord."""
    content = read(path, RunConfig)
    for key in ("recipe", "backbone_recipe"):
        if content[key] is not None:
            content[key] = Recipe(**{**content[key], "betas": tuple(content[key]["betas"])})
    return RunConfig(**content | {"own": tuple((key, value) for key, value in content.get("own", ()))})


@cache
def settings() -> dict[str, Option]:
    """What a recipe is made of, by name."""
    return {key: dataclasses.replace(found, what="setting") for key, found in options_of(Recipe).items()}


def replace_key(recipe: Recipe, key: str, text: str) -> Recipe:
    """`recipe` with one `--set key=value`. Raises ValueError for an unknown key, or a value that is none."""
    if key not in settings():
        raise ValueError(nearest("setting", key, settings()))
    setting = settings()[key]
    if tuple in setting.kinds:
        text = text.strip("[]()").replace(",", "/")  # [0.9, 0.98] as well
    value: Any = None if setting.optional and text.lower() in ("none", "null") else setting.parse(text)
    return dataclasses.replace(recipe, **{key: value})
