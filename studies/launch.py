"""Where runs execute: here, in worker processes that take one run after the other.

Workers share nothing but the record directory: each walks the list and takes what nobody holds. So does a second
command on the same directory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results.store import CorruptRecord, read_lines, run_status
from studies.config import RunConfig

__all__ = ["Progress", "run_here"]

Progress = Callable[[str, int, int, str], None]  # phase, done, total, what goes on
POLL_S = 0.5


def run_here(
    configs: list[RunConfig], out: Path, *, jobs: int, progress: Progress, speed: Callable | None
) -> list[str]:
    """Backbones, then runs in `jobs` processes, then the timing by itself. Returns the ids of the runs that
    failed ("speed": the timing).

    Stops its workers and raises KeyboardInterrupt on Ctrl-C; what was going on continues with the next command.
    """
    threads = max(1, (os.cpu_count() or 1))
    owners = {backbone_key(config, out): config for config in configs if config.backbone_recipe is not None}
    missing = [config for key, config in owners.items() if not (key / "backbone.safetensors").exists()]
    if missing:
        steps = sum(config.backbone_recipe.epochs for config in missing if config.backbone_recipe)
        # One backbone is quickest with all threads; several at once, with their share of them.
        share = max(1, threads // min(jobs, len(missing)))
        work = [_start(_backbones, missing, out, share) for _ in range(min(jobs, len(missing)))]
        folders = [backbone_key(config, out) for config in missing]
        _wait(work, lambda: progress("backbone", sum(_epochs(folder) for folder in folders), steps, "epochs"))
    pending = [config for config in configs if not _finished(out / "runs" / config.id) and _has_backbone(config, out)]
    if pending:
        work = [_start(_runs, pending, out) for _ in range(min(jobs, len(pending)))]
        steps = sum(config.recipe.epochs if config.recipe else 1 for config in pending)
        folders = [out / "runs" / config.id for config in pending]

        def report() -> None:
            done = sum(_finished(folder) for folder in folders)
            progress("runs", sum(_epochs(folder) for folder in folders), steps, f"{done}/{len(pending)} runs")

        _wait(work, report)
    if speed is not None:
        progress("speed", 0, 1, "all variants, interleaved")
        timing = _start(speed)
        _wait([timing], lambda: None)
        progress("speed", 1, 1, "done")
    failed = [config.id for config in configs if not _finished(out / "runs" / config.id)]
    return failed if speed is None or timing.exitcode == 0 else [*failed, "speed"]


def backbone_key(config: RunConfig, out: Path) -> Path:
    from studies.run import backbone_dir

    return backbone_dir(config, out)


def _has_backbone(config: RunConfig, out: Path) -> bool:
    return config.backbone_recipe is None or (backbone_key(config, out) / "backbone.safetensors").exists()


def _finished(folder: Path) -> bool:
    """A broken record is not finished: it is moved aside and the run is done again."""
    try:
        from results.store import read_result

        read_result(folder / "result.json")
        return True
    except FileNotFoundError:
        return False
    except CorruptRecord:
        (folder / "result.json").replace(folder / "result.broken.json")
        return False


def _epochs(folder: Path) -> int:
    return max((line["epoch"] for line in read_lines(folder / "log.jsonl")), default=0)


def _start(target: Callable, *args: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=_quietly, args=(target, *args), daemon=False)
    process.start()
    return process


def _quietly(target: Callable, *args: Any) -> None:
    """A worker leaves without a traceback of its own when the terminal interrupts it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        target(*args)
    except KeyboardInterrupt:
        sys.exit(130)


def _wait(workers: list[Any], tick: Callable[[], None]) -> None:
    try:
        while any(worker.is_alive() for worker in workers):
            tick()
            time.sleep(POLL_S)
        tick()
    except BaseException:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        raise


def _backbones(configs: list[RunConfig], out: Path, num_threads: int) -> None:
    from results.store import ClaimedElsewhere
    from studies.run import train_backbone

    for config in configs:
        try:
            train_backbone(config, out, num_threads)
        except ClaimedElsewhere:
            continue
        except Exception as error:
            print(f"backbone {config.backbone}, seed {config.seed}: {error}", file=sys.stderr)


def _runs(configs: list[RunConfig], out: Path) -> None:
    from results.store import ClaimedElsewhere
    from studies.run import execute

    for config in configs:
        if run_status(out / "runs" / config.id).state in ("done", "unreachable"):
            continue
        try:
            execute(config, out)
        except ClaimedElsewhere:
            continue
        except Exception as error:  # recorded in failure.json: the other runs go on
            print(f"{config.id}: {type(error).__name__}: {error}", file=sys.stderr)
