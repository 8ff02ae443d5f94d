"""`run --rerun`: finished records are made again; the old ones lie in DIR/aside/ until all the new ones are complete.

An interrupted rerun goes on with the same command: what has an old record aside is not moved again. A record moves by
one rename, so that it is always whole, here or there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from results.records.claims import holder

__all__ = ["drop_aside", "set_aside"]


def set_aside(folders: Iterable[Path], out: Path) -> None:
    """Moves the finished ones of `folders`, which lie in `out`. Raises ValueError where one is held, OSError."""
    for folder in folders:
        kept = _aside(folder, out)
        if kept.exists() or not (folder / "result.json").exists():
            continue
        if (owner := holder(folder)) is not None:
            raise ValueError(f"{folder} is held by {owner}; --rerun waits for nobody, try again when it is done")
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(kept)


def drop_aside(folders: Iterable[Path], out: Path) -> None:
    """Removes what `set_aside` kept of `folders` that have a new result. Call it when all of them have."""
    for folder in folders:
        if (folder / "result.json").exists():
            shutil.rmtree(_aside(folder, out), ignore_errors=True)
    for empty in (out / "aside" / "runs", out / "aside" / "speed", out / "aside"):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def _aside(folder: Path, out: Path) -> Path:
    return out / "aside" / folder.relative_to(out)
