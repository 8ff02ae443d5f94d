"""Finished runs under corruptions of their test items: the saved model is scored once under each, and what it said of
every item is kept beside its predictions, in corrupted.npz:

    item, cluster, target [n]   as predictions.npz has them
    under_NAME [n]              the class that was predicted under the corruption NAME
    said_NAME []                what that corruption was, severity included: of another one the score is made again
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from results.records.store import CorruptRecord, read_predictions, read_result, write_bytes
from studies.config import RunConfig
from studies.data import Data
from studies.data.datasets import create_dataset
from studies.models.deploy import load
from studies.robustness.corruptions import CORRUPTIONS, corrupted, parse_corruptions
from studies.tasks import TASKS, load_task

__all__ = ["FILE", "predictions_under", "score_runs", "wanted"]

FILE = "corrupted.npz"


def wanted(text: str, task: str, launcher: str) -> tuple[str, ...]:
    """The corruptions that `text` names. Raises ValueError for an unknown one, and where they cannot be had."""
    if TASKS[task].dense or not TASKS[task].labelled:
        valid = ", ".join(name for name, own in TASKS.items() if own.labelled and not own.dense)
        raise ValueError(f"--corruptions is not of {task}; valid for: {valid}")
    if launcher != "local":
        raise ValueError(
            f"--corruptions are scored here, not by --launcher {launcher}: once the runs are finished, give the same "
            "command with --launcher local"
        )
    return parse_corruptions(text)


def score_runs(
    configs: Sequence[RunConfig], out: Path, names: Sequence[str], workers: int = 0, tell: Callable[[str], None] = print
) -> None:
    """Scores the finished runs of `configs` under the corruptions `names` that corrupted.npz does not have yet.
    `workers`: processes that decode. Raises ValueError where a run has no saved model, OSError."""
    for config in configs:
        folder = out / "runs" / config.id
        try:
            if read_result(folder / "result.json")["status"] != "done":
                continue
        except (FileNotFoundError, CorruptRecord):  # it failed, and that was said
            continue
        held = _held(folder)
        missing = [name for name in names if str(held.get(f"said_{name}")) != CORRUPTIONS[name].said]
        if not missing:
            continue
        if not (folder / "model.json").exists():
            raise ValueError(f"{config.id} has no saved model to score under corruptions; --rerun makes it again")
        model, data = load(folder / "model"), create_dataset(config, workers)
        amp = getattr(torch, config.recipe.amp) if config.recipe and config.recipe.amp else None
        for name in missing:
            tell(f"{config.id} under {name}")
            held |= predictions_under(name, config.task, model, data, config.device, amp)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **held)
        write_bytes(folder / FILE, buffer.getvalue())


def predictions_under(
    name: str, task: str, model: Any, data: Data, device: str, amp: torch.dtype | None = None
) -> dict[str, np.ndarray]:
    """What corrupted.npz holds of one corruption."""
    module = load_task(task)
    size = max(1, min(module.eval_batch(data.image_size), data.num_test))
    batches = corrupted(data.test_batches(size), name, data.mean, data.std)
    found = module.evaluate(model.to(device), batches, device, amp).predictions
    small = np.min_scalar_type(-data.num_classes)  # signed
    return {
        **{key: found[key] for key in ("item", "cluster")},
        "target": found["target"].astype(small),
        f"under_{name}": found["prediction"].astype(small),
        f"said_{name}": np.array(CORRUPTIONS[name].said),
    }


def _held(folder: Path) -> dict[str, np.ndarray]:
    """Of an earlier command; nothing where it cannot be read, as it is made again."""
    try:
        return read_predictions(folder, FILE)
    except (FileNotFoundError, CorruptRecord):
        return {}
