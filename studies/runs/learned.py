"""A run whose counts are learned searches them before it trains, and keeps them in its folder: a run that is continued
does not search again."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cropr.method import Method
from results.records.schema import Search, read
from results.records.store import write_json
from studies.config import RunConfig
from studies.data import Data
from studies.models.checkpoints import head_classes, read_checkpoint
from studies.models.learned import BATCH, STEPS, Learned, batches_of, search
from studies.models.methods import parse_one
from studies.runs.holding import Held
from studies.tasks import TASKS, load_task
from studies.training.trainer import mapped

__all__ = ["check_searchable", "found_in", "learned"]

FILE = "search.json"


def check_searchable(config: RunConfig, method: Method, data: Data) -> None:
    """Raise ValueError where there is no loss to search by, or a classifier that is drawn at random."""
    if not TASKS[config.task].labelled:
        raise ValueError(f"{method}: a search needs labels, and {config.task} has none")
    if config.backbone_recipe is not None or config.recipe is None:
        return  # the project trains it, or it is scored as it comes, which needs a classifier of these classes
    if config.checkpoint is not None:
        classes = head_classes(read_checkpoint(config.checkpoint)[0])
    else:
        from studies.models.backbones import create_backbone

        classes = create_backbone(config.backbone, pretrained=False).num_classes
    if classes != data.num_classes:
        raise ValueError(
            f"{method}: the search is by the loss of the model that a run starts from, and the classifier of "
            f"{config.checkpoint or config.backbone} is of {classes or 'no'} classes, not of the {data.num_classes} of "
            f"{config.dataset}, so that it is drawn at random; fine-tune the dense model, and give that as --backbone "
            "NAME=FILE"
        )


def learned(config: RunConfig, method: Method, vit: nn.Module, data: Data, held: Held) -> Learned:
    """The counts of `method` for the backbone `vit` of a run, searched by the first process, or before. Raises
    Unreachable, ValueError."""
    done = False
    try:
        if held.world.first:
            if found_in(held.folder, method) is None:
                _search(config, method, vit, data, held)
            done = True
    finally:
        (done,) = held.world.any(done)
    found = found_in(held.folder, method) if done else None
    if found is None:
        raise RuntimeError("the first process could not search the counts")
    return found


def _search(config: RunConfig, method: Method, vit: nn.Module, data: Data, held: Held) -> None:
    there = partial(mapped, change=lambda column: column.to(config.device))
    epoch = config.recipe.epoch_offset if config.recipe else 0
    found = search(
        copy.deepcopy(vit).to(config.device), method, config.budget,
        map(there, batches_of(data, epoch, STEPS, BATCH)), load_task(config.task).criterion(), STEPS, config.seed,
    )  # fmt: skip
    held.check()
    write_json(held.folder / FILE, found.record)


def found_in(folder: Path, method: Method) -> Learned | None:
    """What was searched in the folder of a run; None where nothing was."""
    if not (folder / FILE).exists():
        return None
    record: dict[str, Any] = read(folder / FILE, Search)
    own = parse_one(record["found"], method.dense)
    return Learned(own if method.other is None else replace(method, other=own), record)
