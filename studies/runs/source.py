"""Runs that train nothing: they score, at another budget, the weights that another run of the study has trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cropr.vit import ReducedViT
from results.records.store import ClaimedElsewhere, last_error, read_result
from studies.config import RunConfig, read_config
from studies.models.deploy import load
from studies.runs.holding import Host

__all__ = ["SourceFailed", "carry_over", "ensure_source"]

POLL_S = 2.0  # between two looks at a run that another process trains


class SourceFailed(RuntimeError):
    """The run that trains the weights could not be finished."""


def ensure_source(
    config: RunConfig, out: Path, host: Host, execute: Callable[[RunConfig, Path, Host], None]
) -> dict[str, Any]:
    """The record of the run that trains the weights of `config`: finished before, by another process meanwhile, or here
    by `execute`. Raises SourceFailed, which says why."""
    assert config.source is not None
    folder = out / "runs" / config.source
    while not (folder / "result.json").exists():
        if (folder / "failure.json").exists():
            raise SourceFailed(f"{config.source}, which trains its weights, failed: {last_error(folder)}")
        try:
            execute(read_config(folder / "config.json"), out, host)
        except ClaimedElsewhere:
            time.sleep(POLL_S)
    return read_result(folder / "result.json")


def carry_over(model: ReducedViT, folder: Path) -> None:
    """Give a folded `model` the weights of the trained one in the run `folder`. Raises ValueError where that one has
    other parts: its reducers learn, and sit at other blocks."""
    state = load(folder / "model").state_dict()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ")
        raise ValueError(f"the weights of {folder.name} do not fit the model at this budget: {reason}") from None
