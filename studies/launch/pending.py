"""What of a study is left to do, by its records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from results.records.schema import Epoch, read_log
from results.records.store import CorruptRecord, Unreadable, read_result, write_json
from studies.config import RunConfig, read_config
from studies.models.given import keep_copies

__all__ = ["Pending", "epochs_done", "failed", "is_finished", "pending", "write_configs"]


@dataclass(frozen=True)
class Pending:
    """Configs of what is not finished: of each backbone one run that starts from it, the runs, and one run of each
    variant that is to be timed, those of the study's other runs among them (none where the timing is there)."""

    backbones: list[RunConfig]
    runs: list[RunConfig]
    timing: list[RunConfig]


def pending(configs: list[RunConfig], out: Path, timed: bool = True) -> Pending:
    """What `configs` still need, the timing of their variants included where it is wanted (`timed`). A record that is
    broken is moved aside: its run is done again."""
    from studies.runs.pretraining import backbone_dir
    from studies.study import timed_together, timing_dir

    runs = [config for config in configs if not is_finished(out / "runs" / config.id)]
    owners = {backbone_dir(config, out): config for config in runs if config.backbone_recipe is not None}
    backbones = [config for folder, config in owners.items() if not (folder / "result.json").exists()]
    if not timed or configs[0].split == "val":  # validation: something is chosen by its accuracy
        return Pending(backbones, runs, [])
    variants, _ = timed_together(configs, out)
    return Pending(backbones, runs, [] if is_finished(timing_dir(variants, out)) else variants)


def failed(left: Pending, out: Path) -> list[str]:
    """Ids of the runs of `left` that have no result now ("speed": its timing). A run that another command has added
    meanwhile is not of `left`, nor is its timing."""
    from studies.study import timing_dir

    names = [config.id for config in left.runs if not is_finished(out / "runs" / config.id)]
    untimed = left.timing and not is_finished(timing_dir(left.timing, out))
    return [*names, "speed"] if untimed else names


def is_finished(folder: Path) -> bool:
    """Whether a run or a timing has its result."""
    try:
        read_result(folder / "result.json")
        return True
    except FileNotFoundError:
        return False
    except Unreadable:  # it may be whole: another time, or another user, will see
        raise
    except CorruptRecord:
        (folder / "result.json").replace(folder / "result.broken.json")
        return False


def write_configs(configs: list[RunConfig], out: Path) -> None:
    """config.json of each run, where its job reads it, and copies of the user's own methods. A run that is going on
    already has the same. Raises ValueError where such a method was not given."""
    keep_copies((config.reducer for config in configs), out)
    for config in configs:
        folder = out / "runs" / config.id
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if read_config(folder / "config.json") == config:
                continue
        except (FileNotFoundError, CorruptRecord):
            pass
        write_json(folder / "config.json", config.to_dict())


def epochs_done(folder: Path) -> int:
    """Epochs that a run or a backbone has behind it."""
    return max((line["epoch"] for line in read_log(folder / "log.jsonl", Epoch)), default=0)
