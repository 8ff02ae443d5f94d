"""The logs of runs as event files of TensorBoard, for those who watch runs there. Training knows nothing of it: the
process that waits for the runs reads their logs, and what a killed run has logged is in its next files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from results.records.schema import Epoch, read_log
from results.records.store import CorruptRecord, read_result

__all__ = ["Events", "check_installed"]

EVERY_S = 10.0
PATTERN = "events.out.tfevents.*"

Row = tuple[str, int, float]  # tag, epoch, value


def check_installed() -> None:
    """Raise ValueError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise ValueError(
            "--tensorboard needs the package tensorboard, and it is not here; pip install 'cropr-study[tensorboard]'"
        )


class Events:
    """Event files beside the records in `folders`: train/loss, train/images_per_s, val/METRIC by epoch, and test/METRIC
    of the end, with the values that log.jsonl and result.json have (shares in 0..1)."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders
        self.written: dict[Path, list[Row]] = {}
        self.due = 0.0

    def follow(self, now: bool = False) -> None:
        """Writes what is new, at most every EVERY_S unless it is to be `now`."""
        if not now and time.monotonic() < self.due:
            return
        for folder in self.folders:
            rows = list(_rows(folder))
            if (there := self.written.get(folder)) is None or rows[: len(there)] != there:
                for file in folder.glob(PATTERN):  # of an earlier command, or of epochs that a killed run has lost
                    file.unlink()
                there = []
            if len(rows) > len(there):
                _write(folder, rows[len(there) :])
            self.written[folder] = rows
        self.due = time.monotonic() + EVERY_S


def _rows(folder: Path) -> Iterator[Row]:
    """Of log and result, in their order; nothing of a file that is not there or cannot be read."""
    try:
        lines: list[Any] = read_log(folder / "log.jsonl", Epoch)
    except CorruptRecord:
        lines = []
    for line in lines:
        epoch = line["epoch"]
        for key, tag in (("train_loss", "train/loss"), ("images_per_s", "train/images_per_s")):
            if line.get(key) is not None:
                yield tag, epoch, line[key]
        for key, value in line.get("val", {}).items():
            yield f"val/{key}", epoch, value
    try:
        final = (read_result(folder / "result.json").get("metrics") or {}).get("final") or {}
    except (FileNotFoundError, CorruptRecord):
        return
    for key, value in final.items():
        if key != "epoch" and value is not None:
            yield f"test/{key}", int(final.get("epoch") or 0), value


def _write(folder: Path, rows: Sequence[Row]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for tag, epoch, value in rows:
            writer.add_scalar(tag, value, epoch)
