"""The options that several commands have: of a study, and of what its jobs ask Slurm for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from studies.commands.typed.groups import SETTINGS, from_file

__all__ = [
    "CorruptionsOption", "DataOption", "DatasetOption", "DeviceOption", "DirectoryArgument", "DryRunOption",
    "IgnoreOption", "JobsOption", "JsonOption", "LauncherOption", "MethodOption", "PageOption", "ThumbnailsOption",
    "TimingOption",
    "WindowOption", "WorkersOption", "slurm_options", "study_options",
]  # fmt: skip

DirectoryArgument = Annotated[Path, typer.Argument(help="Record directory.")]
DatasetOption = Annotated[str, typer.Option(help="A name of `list datasets`.")]
DataOption = Annotated[str | None, typer.Option(help="Folder of the data set.")]
IgnoreOption = Annotated[
    int | None, typer.Option(min=0, max=255, help="Pixel value of masks that counts nowhere (default: 255).")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
MethodOption = Annotated[
    list[str] | None, typer.Option(help="A method of your own that the records name: ./FILE.py. Its code is run.")
]
WindowOption = Annotated[
    str | None,
    typer.Option(help="Attention within windows of so many patches: 14, 14:global=2/5/8/11,windows=by-position."),
]
ThumbnailsOption = Annotated[
    bool, typer.Option(help="Keep small pictures of 128 test items, for the page, in items.npz, or leave that out.")
]
PageOption = Annotated[bool, typer.Option("--page/--no-page", help="Write report/index.html, a page to explore.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that decode images for each run; 0: it does itself (default: by CPUs)."),
]
CorruptionsOption = Annotated[
    str | None,
    typer.Option(
        help="Accuracy under corrupted test items too: all, or some of noise,blur,contrast,pixelate,occlusion."
    ),
]
TimingOption = Annotated[bool, typer.Option(help="Time all variants behind the runs, or leave that out.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
LauncherOption = Annotated[str, typer.Option(help="local or slurm.")]
JobsOption = Annotated[int | None, typer.Option(min=1, help="Worker processes (default: one a core; on a GPU 1).")]


def directory(text: str) -> Path:
    """The path that `text` names."""
    if not text:
        raise typer.BadParameter("it is empty; leave it out for out/STUDY")
    from results.records.files import path_of

    try:
        return path_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def study_options(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Argument(help="Of the catalogue (default: pareto, or the task's), or ./FILE.toml.")
    ] = None,
    reducers: Annotated[
        str | None,
        typer.Option(
            help="`all`, `every`, names with options (cropr:rest=llf,norm), your own ./mine.py (default: the study's)."
        ),
    ] = None,
    budgets: Annotated[str | None, typer.Option(help="Shares of the dense MACs (default: the study's).")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of seeds, from 0 (default: the study's).")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, segmentation, detection or fidelity (default: the study's).")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A name of `list datasets` (default: the study's, scenes).")
    ] = None,
    data: DataOption = None,
    backbone: Annotated[
        str | None, typer.Option(help="An embedded or timm model, or a checkpoint: NAME=FILE (default: the study's).")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="What the classifier sees: token, avg, avg+prefix (default: the backbone's own).")
    ] = None,
    ignore: IgnoreOption = None,
    img_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images of coco in pixels (default: 1024).")
    ] = None,
    window: WindowOption = None,
    masks: Annotated[bool, typer.Option(help="Detection with masks, or of boxes alone.")] = True,
    out: Annotated[
        Path | None, typer.Option(parser=directory, metavar="DIRECTORY", help="Record directory (default: out/STUDY).")
    ] = None,
    device: DeviceOption = "auto",
    train: Annotated[
        str | None, typer.Option(help="none (off the shelf) or recipe (default: the study's, recipe).")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A published recipe: cropr, evit, dynamicvit (default: the study's).")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the training recipe.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="own (each method as its paper trains it, values chosen by `tune`; the default), same (one recipe), "
            "or tune's FILE."
        ),
    ] = None,
    random_at_counts: Annotated[
        bool, typer.Option("--random-at-counts", help="Beside each method random pruning at its very counts.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One budget, little training, fewer test scenes: a smoke run.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=from_file, is_eager=True, help="TOML: these options, and a table `set`; what is typed wins."
        ),
    ] = None,
) -> dict[str, Any]:
    """What a study is."""
    values = {key: value for key, value in locals().items() if key not in ("context", "config")}
    return values | {"settings": [*context.meta.get(SETTINGS, []), *(settings or [])]}


def slurm_options(
    profile: Annotated[str | None, typer.Option(help="A cluster's TOML file, by name or path.")] = None,
    partition: Annotated[str | None, typer.Option(help="As sbatch has it.")] = None,
    account: Annotated[str | None, typer.Option(help="As sbatch has it.")] = None,
    qos: Annotated[str | None, typer.Option(help="As sbatch has it.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features of the node.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs a node, with a process each.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs a process.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory a node, such as 32G.")] = None,
    time: Annotated[int | None, typer.Option(min=1, help="Minutes a job; it is requeued then.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes a job.")] = None,
    throttle: Annotated[int | None, typer.Option(min=1, help="Jobs of an array at a time.")] = None,
    runs_per_job: Annotated[int | None, typer.Option(min=1, help="Runs that a job does in turn.")] = None,
    setup: Annotated[list[str] | None, typer.Option(help="A line of shell before Python starts.")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(help="Any other key=value of sbatch.")] = None,
) -> tuple[str | None, dict[str, Any]]:
    """What a job asks Slurm for: the profile, and what goes over it by submitit's names."""
    from studies.commands.cluster import slurm_options as named

    return profile, named(**{key: value for key, value in locals().items() if key not in ("profile", "named")})
