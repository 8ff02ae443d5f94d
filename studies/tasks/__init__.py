"""The tasks by name. Each has a module of the same shape: what a run needs to train and to score a model for it.

Nothing heavy is imported until `load_task` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cropr.method.objective import Criterion, Objective
    from cropr.vit import ReducedViT
    from studies.data import Batch
    from studies.training.distributed import World

__all__ = ["TASKS", "Evaluation", "Metric", "Task", "TaskInfo", "declared", "load_task"]


class Metric(NamedTuple):
    """One figure of a task, as records declare it. `statistic` says how test items make it, for paired statistics, see
    results/statistics/metrics/statistic.py; "": it is only shown. `of`: the metric whose detail it is."""

    name: str  # among the metrics of an evaluation
    label: str
    unit: str = "%"
    higher_is_better: bool = True
    statistic: str = ""
    of: str = ""


class TaskInfo(NamedTuple):
    """What is known of a task before anything heavy is imported."""

    summary: str
    dense: bool  # something for every pixel, so that every patch counts to the end
    metrics: tuple[Metric, ...]  # the headline first
    labelled: bool = True  # items have what is to be predicted; else models are scored as they come
    detector: bool = False  # pyramid and heads of a detector stand in the place of the classifier


_PLACES = ("near_centre", "between", "near_border")  # of an object in its image


def _average_precision(kind: str) -> tuple[Metric, ...]:
    """COCO's numbers for boxes or masks: AP, then its details."""
    name = f"{kind}_ap"
    plain = [Metric(f"{kind}_{key}", label, of=name) for key, label in (("ap50", "AP50"), ("ap75", "AP75"))]
    by_size = [f"ap_{size}" for size in ("small", "medium", "large")]
    sized = [Metric(f"{kind}_{key}", key.replace("ap_", "AP "), statistic=f"{kind}_{key}", of=name) for key in by_size]
    recall = Metric(f"{kind}_ar_100", "AR", of=name)
    return (Metric(name, f"{kind} AP", statistic=name), *plain, *sized, recall)


TASKS = {
    "classification": TaskInfo(
        "one class for each image",
        False,
        (
            Metric("top1", "top-1", statistic="mean"),
            Metric("ece", "ECE", higher_is_better=False, statistic="ece", of="top1"),
            *(
                Metric(f"top1_{place}", place.replace("_", " "), statistic=f"mean_{place}", of="top1")
                for place in _PLACES
            ),
        ),
    ),
    "segmentation": TaskInfo("one class for each pixel", True, (Metric("miou", "mIoU", statistic="mean_iou"),)),
    "detection": TaskInfo(
        "boxes and masks of objects",
        True,
        (
            *_average_precision("box"),
            *(
                Metric(
                    f"box_recall_{place}", f"found {place.replace('_', ' ')}", statistic=f"recall_{place}", of="box_ap"
                )
                for place in _PLACES
            ),
            *_average_precision("mask"),
        ),
        detector=True,
    ),
    "fidelity": TaskInfo(
        "nearness to the dense model's output, without labels",
        False,
        (
            Metric("agreement", "agreement with dense", statistic="mean"),
            Metric("minus_kl", "-KL to dense, of a nat", statistic="mean_minus_kl"),
            Metric("class_cosine", "cosine of class token", statistic="mean_class_cosine"),
            Metric("patch_cosine", "cosine of patches", statistic="mean_patch_cosine"),
        ),
        labelled=False,
    ),
}


def declared(task: str, metrics: Collection[str]) -> list[dict[str, Any]]:
    """What figures of a task there are among `metrics`, as records have it."""
    return [metric._asdict() for metric in TASKS[task].metrics if metric.name in metrics]


class Evaluation(NamedTuple):
    """Metrics of a split and, per item, what they were made of."""

    metrics: dict[str, float]
    predictions: dict[str, np.ndarray]  # item, cluster: [n] int64, and what the task adds
    facts: dict[str, Any] = {}  # what else the record says of it, see results/records/schema.py


class Task(Protocol):
    """What the module of a task has."""

    BackboneObjective: Callable[[int, int, float], Objective]
    """(embed_dim, num_classes, label_smoothing) -> what a backbone that the project trains is trained for"""

    def criterion(self, label_smoothing: float = 0.0) -> Criterion: ...

    def eval_batch(self, image_size: int) -> int: ...

    def evaluate(
        self,
        model: ReducedViT,
        batches: Iterable[Batch],
        device: str,
        amp: torch.dtype | None = None,
        world: World = ...,
    ) -> Evaluation:
        """Score `model` (put into eval mode) on every item of `batches`, and of those that other processes have."""


def load_task(name: str) -> Task:
    """The module of a task of TASKS."""
    return cast(Task, import_module(f"studies.tasks.{name}"))
