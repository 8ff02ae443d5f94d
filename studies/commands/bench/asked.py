"""What `bench` is asked, and the settings that come of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cropr.nearest import one_of
from studies.commands.bench.loaded import data_of
from studies.commands.reading.options import backbone_of, parse_budgets, parse_sizes, resolve_device
from studies.models.methods import parse
from studies.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn

    from studies.data import Data
    from studies.measure.bench import Variants

__all__ = ["BEST", "Bench", "Plan", "Setting", "plan"]

DTYPES = ("float32", "bfloat16", "float16")
CLASSES = {"segmentation": 150, "detection": 80}  # as ADE20K and COCO have: a map of 1,000 takes longer than the model
BEST = "best"  # the batch size that is found


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What `bench` takes, as it was typed; studies/commands/typed/bench.py says what each is."""

    backbone: str
    reducers: str = "all"
    budgets: str = "0.5"
    batch_sizes: str = "16"
    img_sizes: str | None = None  # None: the model's own
    rounds: int | None = None  # None: as many as precision asks for
    precision: float = 2.0  # percent
    max_seconds: float = 120.0
    dtype: str = "float32"
    mode: str = "eager"
    threads: str | None = None  # None: as many as torch takes
    device: str = "auto"
    out: Path | None = None
    task: str = "classification"
    num_classes: int | None = None  # None: the model's own, or CLASSES
    window: str | None = None  # None: attention over the whole grid
    end_to_end: bool = False  # behind the loader of `dataset` too
    dataset: str | None = None
    data: str | None = None
    workers: int | None = None  # None: one for each CPU that does not compute


class Setting(NamedTuple):
    """One measurement, beside the image size."""

    dtype: str
    mode: str
    threads: int | None
    batch_size: int | None  # None: the best

    def __str__(self) -> str:
        batch = f"batch {self.batch_size}" if self.batch_size else "best batch"
        more = [self.mode] * (self.mode != "eager") + [f"{self.threads} threads"] * (self.threads is not None)
        return ", ".join([batch, self.dtype, *more])


class Plan(NamedTuple):
    """What is measured."""

    options: Bench  # with the name of its windows in full
    device: str
    vits: list[nn.Module]  # one for each image size
    variants: Variants
    settings: list[Setting]
    data: Data | None = None  # what is loaded, end to end


def plan(options: Bench) -> Plan:
    """Everything that can be refused is refused here, by ValueError or OSError."""
    from cropr.windows import Windows
    from studies.measure.bench import variants_of
    from studies.measure.modes import check_modes

    if options.window is not None:
        options = replace(options, window=str(Windows.parse(options.window)))
    device, dtypes, modes = resolve_device(options.device), names(options.dtype), names(options.mode)
    for name in dtypes:
        one_of("dtype", name, DTYPES)
    check_modes(modes, device, dtypes)
    threads = [None] if options.threads is None else parse_sizes("number of threads", options.threads)
    batches = parse_batches(options.batch_sizes)
    one_of("task", options.task, TASKS)
    dense = TASKS[options.task].dense
    variants = variants_of(parse(options.reducers, dense), parse_budgets(options.budgets), dense)
    settings = [Setting(*one) for one in product(dtypes, modes, threads, batches)]
    vits = backbones(options)
    data, options = data_of(options, vits, device, threads)
    return Plan(options, device, vits, variants, settings, data)


def backbones(options: Bench) -> list[nn.Module]:
    """The model at each image size, with random weights or those of its checkpoint. Raises ValueError, OSError."""
    from studies.models.backbones import create_backbone, describe

    task = TASKS[options.task]
    sizes = [None] if options.img_sizes is None else parse_sizes("image size", options.img_sizes)
    name, checkpoint = backbone_of(options.backbone)
    patch = describe(name)["patch_size"]
    if not task.dense and (bad := [size for size in sizes if size is not None and size % patch]):
        raise ValueError(f"patches of {patch} px do not divide images of {bad[0]} px")
    classes = options.num_classes or CLASSES.get(options.task)
    return [
        create_backbone(
            name, img_size=size, num_classes=classes, pretrained=False, checkpoint=checkpoint, detector=task.detector,
            window=options.window,
        )
        for size in sizes
    ]  # fmt: skip


def names(text: str) -> list[str]:
    """float32,bfloat16 -> names, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def parse_batches(text: str) -> list[int | None]:
    """1,16,best -> numbers of images, each once, and None for the best. Raises ValueError."""
    parts = names(text)
    if BEST not in parts:
        return [*parse_sizes("batch size", text)]
    at, numbers = parts.index(BEST), [part for part in parts if part != BEST]
    found: list[int | None] = [*parse_sizes("batch size", ",".join(numbers))] if numbers else []
    return [*found[:at], None, *found[at:]]
