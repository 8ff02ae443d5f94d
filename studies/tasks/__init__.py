"""The tasks by name. Each has a module of the same shape: what a run needs to train and to score a model for it.

Nothing heavy is imported until `load_task` is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cropr.objective import Criterion
    from studies.data import Batch
    from studies.training.distributed import World

__all__ = ["TASKS", "Evaluation", "Task", "load_task"]

TASKS = {"classification": "one class for each image", "segmentation": "one class for each pixel"}


class Evaluation(NamedTuple):
    """Metrics of a split and, per item, what they were made of."""

    metrics: dict[str, float]
    predictions: dict[str, np.ndarray]  # item, cluster: [n] int64, and what the task adds


class Task(Protocol):
    """What the module of a task has."""

    METRIC: str  # the headline: a share in 0..1 among the metrics
    DENSE: bool  # logits for every pixel
    BackboneObjective: (
        Any  # (embed_dim, num_classes, label_smoothing) -> objective of a backbone that the project trains
    )

    def criterion(self, label_smoothing: float = 0.0) -> Criterion: ...

    def eval_batch(self, image_size: int) -> int: ...

    def evaluate(
        self,
        model: Any,
        batches: Iterable[Batch],
        device: str,
        amp: torch.dtype | None = None,
        world: World = ...,
    ) -> Evaluation:
        """Score `model` (put into eval mode) on every item of `batches`, and of those that other processes have."""


def load_task(name: str) -> Task:
    """The module of a task of TASKS."""
    return cast(Task, import_module(f"studies.tasks.{name}"))
