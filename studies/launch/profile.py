"""What a job asks Slurm for: options of the command line over a profile, one TOML file a cluster.

The keys are submitit's names of sbatch's parameters (`partition`, `time` in minutes, `gpus_per_node`, `setup`, …; what
it has no name for stands in the table `additional_parameters`), and four of our own: `runs_per_job`, `python`,
`max_timeouts`, `workers`.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cropr.nearest import did_you_mean, nearest
from results.records.files import path_of

__all__ = ["Resources", "read_profile", "resources"]

FOLDERS = (Path("profiles"), Path("~/.config/cropr-study"))
OWN = ("runs_per_job", "python", "max_timeouts", "workers")
# The first two are set here, `num_gpus` is the old name of gpus_per_node, without srun no signal reaches the run.
REFUSED = ("dependency", "stderr_to_stdout", "num_gpus", "use_srun")
NUMBERS = (
    "time", "nodes", "ntasks_per_node", "cpus_per_task", "cpus_per_gpu", "gpus_per_node", "gpus_per_task",
    "signal_delay_s", "array_parallelism", "runs_per_job", "max_timeouts", "workers",
)  # fmt: skip
DEFAULT_TIME = 240  # minutes


@dataclass(frozen=True)
class Resources:
    """`parameters` are submitit's, by its own names."""

    parameters: dict[str, Any] = field(default_factory=dict)
    runs_per_job: int = 1
    python: str | None = None  # command that starts Python on the node; None: this one
    workers: int | None = None  # processes that decode images for each process of a run; None: by its CPUs
    max_timeouts: int = 100  # a job that was stopped at its time limit is requeued so often; preemptions do not count

    @property
    def gpus(self) -> int:
        """GPUs of one job, as far as the usual keys tell."""
        per_node = self.parameters.get("gpus_per_node") or 0
        per_task = (self.parameters.get("gpus_per_task") or 0) * (self.parameters.get("ntasks_per_node") or 1)
        return (self.parameters.get("nodes") or 1) * max(per_node, per_task)

    @property
    def wants_gpu(self) -> bool:
        extra = self.parameters.get("additional_parameters") or {}
        asked = (self.parameters.get("gres") or "", *(extra.get(key, "") for key in ("gres", "gpus", "gpus-per-node")))
        return self.gpus > 0 or any(asked)

    def to_dict(self) -> dict[str, Any]:
        """What `resources` takes as options."""
        own = asdict(self)
        return own.pop("parameters") | {key: value for key, value in own.items() if value is not None}


def resources(profile: str | None, options: dict[str, Any]) -> Resources:
    """The profile (a name or a path; None: none) with `options` over it; options that are None were not given. Lists
    and tables are added to the profile's. Raises ValueError for unknown keys and values of another kind."""
    values = read_profile(profile) if profile else {}
    for key, value in options.items():
        if isinstance(value, list):
            value = values.get(key, []) + value
        elif isinstance(value, dict):
            value = values.get(key, {}) | value
        if value is not None and value != [] and value != {}:
            values[key] = value
    _check(values, f"profile {profile}" if profile else "options")
    own = {key: values.pop(key) for key in OWN if key in values}
    values = {"time": DEFAULT_TIME} | values
    if (values.get("gpus_per_node") or 0) > 1:  # one process a GPU
        values = {"ntasks_per_node": values["gpus_per_node"]} | values
    return Resources(values, **own)


def read_profile(name: str) -> dict[str, Any]:
    """./profiles/NAME.toml, ~/.config/cropr-study/NAME.toml, or a path. Raises ValueError."""
    folders = [Path(os.path.expanduser(folder)) for folder in FOLDERS]  # as it is where nobody has a home
    for path in (*(folder / f"{name}.toml" for folder in folders), path_of(name)):
        if path.is_file():
            try:
                values = tomllib.loads(path.read_text())
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"profile {path} is no TOML: {error}") from None
            _check(values, f"profile {path}")
            return values
    there = sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.toml")})
    where = " and ".join(str(folder) for folder in FOLDERS)
    raise ValueError(
        f"no profile {name!r}{did_you_mean(name, there)} There are: {', '.join(there) or 'none'} (looked in {where}, "
        "and for a file of that path)"
    )


def _check(values: dict[str, Any], where: str) -> None:
    from submitit.slurm.slurm import SlurmExecutor

    valid = sorted({*SlurmExecutor._valid_parameters(), *OWN} - set(REFUSED))
    for key, value in values.items():
        if key not in valid:
            raise ValueError(f"{where}: {nearest('key', key, valid)}")
        if key in NUMBERS and (not isinstance(value, int) or value < (key == "time" or key == "runs_per_job")):
            raise ValueError(f"{where}: {key} is a whole number{' of minutes' if key == 'time' else ''}, not {value!r}")
        if key in ("setup", "teardown", "srun_args") and not isinstance(value, list):
            raise ValueError(f"{where}: {key} is a list of lines, not {value!r}")
        if key == "additional_parameters" and not isinstance(value, dict):
            raise ValueError(f"{where}: {key} is a table of sbatch parameters, not {value!r}")
