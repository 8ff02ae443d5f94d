"""Which patches of an image a reduced model keeps, drops and merges, block by block: the data behind the pictures of
`cropr-study show`.

Letters: B images, N live patches, L patches of the full grid, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cropr.method import Method
from cropr.nearest import nearest
from cropr.reducer import observed
from cropr.tokens import Tokens
from cropr.vit import ReducedViT
from results.figures.pictures import Map, Row
from results.records.store import load_records
from studies.config import read_config
from studies.data import IGNORE_INDEX, Batch, Data
from studies.data.datasets import create_dataset
from studies.data.loading import BadFile, decode, rgb
from studies.data.transforms import eval_transform
from studies.measure.bench import variants_of
from studies.models.backbones import create_backbone
from studies.models.deploy import load
from studies.models.methods import ORDER
from studies.models.reducers import build
from studies.shown_objects import judged, object_maps
from studies.tasks import TASKS

__all__ = ["Trace", "default_runs", "holders", "pixel_maps", "rows_of_image", "rows_of_study", "trace"]

GREY, RED = 0.6, np.array([0.8, 0.1, 0.1])


@dataclass(frozen=True)
class Trace:
    """What a model made of a batch."""

    logits: Tensor  # [B, C], or [B, C, h, w] of a dense model
    held: Tensor  # [B, depth, L] see `holders`


@torch.inference_mode()
def trace(model: ReducedViT, images: Tensor, truth: Tensor | None = None) -> Trace:
    """Run `model`, in eval mode, on images [B, 3, h, w] and remember what every reducer returned. `truth` as in
    `ReducedViT.told`."""
    states: dict[int, Tokens] = {}

    def remember(block: str, args: tuple, tokens: Tokens) -> None:
        states[int(block)] = tokens

    with observed(dict(model.reducers.items()), remember), model.told(truth):
        tokens = model.eval().forward_features(images, track=True)
    depth = len(model.vit.blocks)
    if model.llf or not states:
        states[depth - 1] = tokens  # last-layer fusion brings patches back without a reducer
    return Trace(model.forward_head(tokens), holders(states, depth))


def holders(states: Mapping[int, Tokens], depth: int) -> Tensor:
    """The tokens behind some blocks -> [B, depth, L] their `Tokens.holders` behind every block."""
    first = next(iter(states.values()))
    held = torch.arange(first.grid, device=first.x.device).expand(first.x.shape[0], -1)
    rows = []
    for i in range(depth):
        held = states[i].holders() if i in states else held
        rows.append(held)
    return torch.stack(rows, dim=1)


def default_runs(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ids of one run for each reducer with its options: the first seed of the smallest budget."""

    def preference(run: str) -> tuple[Any, ...]:
        record = records[run]
        budget = record["budget_asked"]
        return (
            ORDER.index(record.get("role", "method")),
            record["label"],
            1.0 if budget is None else budget,
            record["seed"],
        )

    chosen: dict[str, str] = {}
    for run in sorted(records, key=preference):
        chosen.setdefault(records[run]["label"], run)
    return list(chosen.values())


def rows_of_study(directory: Path, items: Sequence[int], runs: Sequence[str] | None = None) -> dict[int, list[Row]]:
    """For every test item what the saved models of `runs` (ids; None: `default_runs`) make of it.

    Raises ValueError: no study, an unknown run or item, a run without a saved model.
    """
    records = {run: record for run, record in load_records(directory).runs.items() if record["status"] == "done"}
    if not records:
        raise ValueError(f"{directory} has no finished run to show")
    for run in runs or ():
        if run not in records:
            raise ValueError(nearest("finished run", run, records))
    chosen = list(runs or default_runs(records))
    config = read_config(directory / "runs" / chosen[0] / "config.json")
    data = create_dataset(config)
    for item in items:
        if not 0 <= item < data.num_test:
            raise ValueError(f"item {item} is outside the test split, 0 to {data.num_test - 1}")
    batch = data.test_items(items)
    pixels = _pixels(batch.images, data.mean, data.std)
    rows: dict[int, list[Row]] = {item: [] for item in items}
    for run in chosen:
        model, record = load(directory / "runs" / run / "model"), records[run]
        budget = record["budget_asked"]
        name = record["label"] + ("" if budget is None else f" at {budget:g}") + f"\nseed {record['seed']}"
        found = trace(model, batch.images, batch.truth)
        judge = _of_objects if TASKS[config.task].detector else _of_pixels if model.dense else _of_classes
        said = judge(model, data, batch, found, pixels)
        for item, picture, held, (verdict, right, maps) in zip(items, pixels, found.held.numpy(), said, strict=True):
            rows[item].append(Row(name, verdict, right, picture, held, model.grid_size, maps))
    return rows


Said = tuple[str, bool | None, tuple[Map, ...]]  # verdict, whether all of it is right (None: by degrees), pictures


def _of_classes(model: ReducedViT, data: Data, batch: Batch, found: Trace, pixels: np.ndarray) -> list[Said]:
    names = [[data.classes[n] for n in numbers.tolist()] for numbers in (batch.target, found.logits.argmax(1))]
    return [(f"true {true}, predicted {said}", said == true, ()) for true, said in zip(*names, strict=True)]


def _of_pixels(model: ReducedViT, data: Data, batch: Batch, found: Trace, pixels: np.ndarray) -> list[Said]:
    shown = [pixel_maps(*pair) for pair in zip(batch.target.numpy(), found.logits.argmax(1).numpy(), strict=True)]
    return [(f"{right:.1%} of pixels", None, maps) for maps, right in shown]


def _of_objects(model: ReducedViT, data: Data, batch: Batch, found: Trace, pixels: np.ndarray) -> list[Said]:
    last = max(map(int, model.reducers), default=0)  # behind it nothing leaves, and some may come back
    patch, live = model.vit.patch_embed.patch_size, found.held[:, last] >= 0
    said: list[Said] = []
    detected = model.vit.head.detect(found.logits, batch.target.sizes.tolist())  # in the pixels that are shown
    for target, detections, left, picture in zip(batch.target.targets(), detected, live, pixels, strict=True):
        became = judged(target, detections, left, patch)
        maps = object_maps(picture, target, detections, became, data.classes)
        said.append((became.verdict(), bool(became.found.all()), maps))
    return said


def pixel_maps(true: np.ndarray, said: np.ndarray) -> tuple[tuple[Map, ...], float]:
    """Pictures [h, w, 3] of labels, predictions and errors (red) of masks [h, w], and the share of labelled pixels that
    are right. A class has one colour, class 0 is black; grey: no label."""
    turn = np.arange(IGNORE_INDEX + 1)[:, None] * 0.381966 + np.array([0, 1 / 3, 2 / 3])  # golden angle
    colours = 0.5 + 0.5 * np.cos(2 * np.pi * turn)
    colours[0], colours[IGNORE_INDEX] = 0, GREY
    labelled, wrong = true != IGNORE_INDEX, true != said
    errors = np.where((labelled & wrong)[..., None], RED, np.where(labelled[..., None], 1.0, GREY))
    maps = (Map("labels", colours[true]), Map("predicted", colours[said]), Map("errors", errors))
    return maps, float(1 - wrong[labelled].mean())


def rows_of_image(
    file: Path, backbone: str, checkpoint: str | None, pretrained: bool, methods: list[Method], budgets: list[float]
) -> list[Row]:
    """What reducers make of one image on a model off the shelf: random weights, timm's, or those of a checkpoint.

    Raises ValueError: no image, no such backbone, a reducer whose own weights have to be learnt first.
    """
    import timm

    if unlearnt := [method.name for method in methods if method.learns]:
        raise ValueError(f"{unlearnt[0]} has weights to learn; show it from a study that trained it")
    try:
        image = decode(file.parent, file.name, rgb)
    except BadFile as error:
        raise ValueError(f"{file} is no image that can be read ({error.reason})") from None
    torch.manual_seed(0)
    vit = create_backbone(backbone, pretrained=pretrained, checkpoint=checkpoint)
    config = timm.data.resolve_model_data_config(vit)
    images = eval_transform(config)(image).unsqueeze(0)
    (pixels,) = _pixels(images, config["mean"], config["std"])
    trained = pretrained or checkpoint is not None
    rows = []
    for method, budget in variants_of(methods, budgets).values():
        model = build(vit, method, budget).model
        found = trace(model, images)
        verdict = f"predicted {_class_name(vit, int(found.logits.argmax()))}" if trained else "untrained"
        label = method.title + ("" if budget is None else f" at {budget:g}")
        rows.append(Row(label, verdict, None, pixels, found.held[0].numpy(), model.grid_size))
    return rows


def _pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised images [B, 3, h, w] -> [B, h, w, 3] in 0..1."""
    scaled = images * images.new_tensor(std).view(-1, 1, 1) + images.new_tensor(mean).view(-1, 1, 1)
    return scaled.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _class_name(vit: nn.Module, number: int) -> str:
    """ImageNet's classes by name, as far as the number of classes tells."""
    from timm.data import ImageNetInfo

    if vit.num_classes != 1000:
        return str(number)
    return str(ImageNetInfo().index_to_description(number)).partition(",")[0]
