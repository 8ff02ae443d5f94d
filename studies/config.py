"""What one run is: frozen dataclasses whose content names the run. Standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cropr.nearest import nearest

__all__ = ["Recipe", "RunConfig", "from_dict", "replace_key"]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Rates are per optimiser step; an epoch is one pass over the training items."""

    epochs: int = 6
    batch_size: int = 64
    lr: float = 5e-4
    min_lr: float = 0.0
    schedule: str = "cosine"  # or poly (power .9)
    warmup_epochs: float = 0.6
    warmup_shape: str = "linear"  # or cosine
    warmup_start: float = 0.04  # share of lr at step 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip_grad: float | None = 1.0
    layer_decay: float = 1.0  # learning rate per block towards the input; reducers keep the full one
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    augment: str | None = None  # timm's, such as rand-m9-mstd0.5-inc1
    random_erasing: float = 0.0
    ema: float | None = None  # decay of the averaged weights that are evaluated
    amp: str | None = None  # bfloat16 or float16
    accumulate: int = 1  # micro-batches per optimiser step; batch_size counts all of them
    checkpointing: bool = False
    backbone_lr: float = 1.0  # factor
    reducer_lr: float = 1.0  # factor, of what a reducer learns from nothing
    freeze_backbone_epochs: float = 0.0
    evaluate_every: int = 1  # epochs between two evaluations; the last epoch has one
    epoch_offset: int = 0  # first epoch of the data, so that a fine-tune sees other compositions than its backbone


@dataclass(frozen=True)
class RunConfig:
    """One run: a backbone, a reducer at a budget, a recipe (None: off the shelf), a seed."""

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
    checkpoint: str | None = None
    num_threads: int = 1
    quick: bool = False
    device: str = "cpu"
    data_dir: str | None = None

    @property
    def variant(self) -> str:
        """What is compared: the reducer and its budget, over seeds."""
        return self.reducer if self.budget is None else f"{self.reducer}@{self.budget:g}"

    @property
    def id(self) -> str:
        """Readable prefix and the hash of everything that was asked for; where data lie and what computes is not."""
        content = dataclasses.asdict(self)
        for place in ("device", "data_dir"):
            content.pop(place)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        readable = self.variant.replace("=", "").replace("/", ".")
        for mark in "#:,@":
            readable = readable.replace(mark, "-")
        return f"{readable[:60]}-s{self.seed}-{digest[:8]}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def from_dict(content: dict[str, Any]) -> RunConfig:
    """The RunConfig that `to_dict` wrote."""
    content = dict(content)
    for key in ("recipe", "backbone_recipe"):
        if content[key] is not None:
            content[key] = Recipe(**{**content[key], "betas": tuple(content[key]["betas"])})
    return RunConfig(**content)


def replace_key(recipe: Recipe, key: str, text: str) -> Recipe:
    """`recipe` with one `--set key=value`. Raises ValueError for an unknown key or a value of another type."""
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    if key not in fields:
        raise ValueError(nearest("setting", key, fields))
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    default = getattr(recipe, key)
    value = tuple(value) if isinstance(value, list) else value
    if default is not None and value is not None and not isinstance(value, type(default)):
        if not (isinstance(default, float) and isinstance(value, int)):
            raise ValueError(f"setting {key} is a {type(default).__name__}, not {text!r}")
        value = float(value)
    return dataclasses.replace(recipe, **{key: value})
