"""Progress where there is no terminal: a line for each run that ends, and one a minute of what takes longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from results.records.store import read_result

__all__ = ["Lines"]

EVERY_S = 60.0


class Lines:
    """Called as a bar is moved (see here.Progress). `folders`: of the runs; those that are finished already are not
    told again."""

    def __init__(
        self, folders: Iterable[Path], say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ):
        self.open = [folder for folder in folders if not (folder / "result.json").exists()]
        self.total = len(self.open)
        self.say, self.clock = say, clock
        self.phase, self.begun, self.said, self.first = "", 0.0, 0.0, 0

    def __call__(self, phase: str, done: int, total: int, doing: str) -> None:
        now = self.clock()
        if phase != self.phase:
            self.phase, self.begun, self.said, self.first = phase, now, now, done
            self.say(f"{phase}: {doing}" if phase == "speed" else f"{phase}: {total - done} epochs to go")
        for folder in [folder for folder in self.open if (folder / "result.json").exists()]:
            self.open.remove(folder)
            self.say(f"{phase}: {self.total - len(self.open)} of {self.total}: {_outcome(folder)}")
            self.said = now
        if now - self.said >= EVERY_S:
            self.said = now
            self.say(f"{phase}: epoch {done} of {total}, {_left(now - self.begun, done - self.first, total - done)}")


def _left(seconds: float, done: int, open_: int) -> str:
    return f"about {seconds / done * open_ / 60:.0f} min left" if done else f"{seconds / 60:.0f} min so far"


def _outcome(folder: Path) -> str:
    record = read_result(folder / "result.json")
    name = f"{record.get('variant', folder.name)}, seed {record.get('seed')}"
    if record.get("status") != "done":
        return f"{name}: {record.get('status')}"
    metric = record["metrics_declared"][0]
    value = record["metrics"]["final"][metric["name"]]
    return f"{name}: {metric['label']} {100 * value:.1f} %, trained for {record['train_seconds']:.0f} s"
