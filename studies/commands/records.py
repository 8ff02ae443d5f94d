"""`report` and `evaluate`: what is read out of the records of a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from studies.commands.options import resolve_device

__all__ = ["evaluate", "write_agreement", "write_report"]


def write_report(dirs: list[Path], published: bool = False) -> tuple[Path, ...]:
    """Write the report, print its table, and return the paths of its files. Raises ValueError."""
    from rich.console import Console

    from results.pages.report import build

    report = build(dirs, published=published)
    Console(width=None if sys.stdout.isatty() else 160).print(report.terminal)
    return report.paths


def write_agreement(first: Path, second: Path) -> tuple[Path, ...]:
    """What two records of one study agree on, on the terminal and in files. Raises ValueError, OSError."""
    from rich.console import Console
    from rich.markdown import Markdown

    from results.pages.agreement import compare_studies

    page = compare_studies(first, second)
    if sys.stdout.isatty():
        Console().print(Markdown(page.text))
    else:
        print(page.text)
    return page.paths


def evaluate(model: Path, dataset: str, data: str | None, device: str) -> dict[str, Any]:
    """Metrics of a saved model on the test split. Raises ValueError, OSError."""
    from studies.config import RunConfig
    from studies.data.datasets import create_dataset
    from studies.models.deploy import info, load
    from studies.models.methods import reference
    from studies.tasks import load_task

    saved, where = info(model), resolve_device(device)
    name = "segmentation" if saved.get("fusion") else "classification"
    config = RunConfig("", name, dataset, saved["backbone"], reference().name, 1, None, 0, None, data_dir=data)
    items, reduced, task = create_dataset(config), load(model), load_task(name)
    scores = task.evaluate(reduced.to(where), items.test_batches(task.eval_batch(items.image_size)), where)
    return scores.metrics | {"num_items": len(scores.predictions["item"])}
