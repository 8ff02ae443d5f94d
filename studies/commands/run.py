"""`run`: from the options of a study to its runs, its timing and its report."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropr.nearest import one_of
from results.records.files import path_of
from results.records.store import last_error
from studies.catalogue.declaration import TRAINS
from studies.commands.bench import Bench
from studies.commands.reading.asked import (
    Options,
    device_of,
    parts,
    protocol_of,
    question_of,
    recipe_of,
    reducers_of,
    study_of,
)
from studies.commands.reading.options import backbone_of, parse_budgets
from studies.config import CHOICES, RunConfig
from studies.data import OWN_SETTINGS
from studies.launch.profile import Resources, resources
from studies.models.methods import parse_one
from studies.models.reducers import Unreachable
from studies.runs.rerun import drop_aside, set_aside
from studies.tasks import TASKS

if TYPE_CHECKING:
    from studies.commands.reading.asked import OwnWay
    from studies.data import Data

__all__ = [
    "Options",
    "configs_of",
    "errors_of",
    "execute",
    "only_timed",
    "parts",
    "prepare",
    "score_corrupted",
    "wanted",
]


def configs_of(options: Options, way: OwnWay | None = None) -> list[RunConfig]:
    """The runs that `options` ask for; `way` says how a method is trained, where the protocol does not. Raises
    ValueError."""
    study = study_of(options)
    reducers = reducers_of(options)
    from cropr.windows import Windows
    from studies.data.datasets import datasets  # takes seconds, so that a wrong name of a reducer is refused before
    from studies.models.backbones import POOLS
    from studies.study import plan

    one_of("data set", study.dataset, datasets())
    dataset = datasets()[study.dataset]
    one_of("launcher", options.launcher, ["local", "slurm"])
    if options.pool is not None:
        one_of("pool", options.pool, POOLS)
        if TASKS[study.task].dense:
            raise ValueError(f"--pool is of a classifier, and {study.task} has none")
    if options.img_size is not None and not dataset.sized:
        valid = ", ".join(name for name, found in datasets().items() if found.sized)
        raise ValueError(f"--img-size: {study.dataset} has a size of its own; data sets of any size: {valid}")
    if not (options.masks or TASKS[study.task].detector):
        raise ValueError(f"--no-masks is of detection, and {study.task} has no masks of objects")
    one_of("training", study.train, TRAINS)
    if not (TASKS[study.task].labelled or study.train != "recipe"):
        raise ValueError(f"--train {study.train}: {study.task} holds models as they come against the dense one")
    if study.train != "recipe" and (options.settings or options.recipe):
        raise ValueError(f"--train {study.train} trains nothing, so that --set and --recipe have no meaning with it")
    unread = set(OWN_SETTINGS) - set(dataset.settings)
    if unused := unread & {setting.partition("=")[0] for setting in options.settings}:
        raise ValueError(f"--set {min(unused)}: {study.dataset} has an augmentation of its own and does not read it")
    if options.corruptions is not None:
        from studies.robustness import score

        score.wanted(options.corruptions, study.task, options.launcher)
    budgets = parse_budgets(study.budgets)
    whole = study.train == "recipe" and not options.quick and not dataset.folder
    seeds = options.seeds or (study.seeds if whole else 1)
    name, checkpoint = backbone_of(study.backbone)
    choices = {key: getattr(options, key) for key in CHOICES}
    if options.window is not None:
        choices["window"] = str(Windows.parse(options.window))
    return plan(
        study, reducers, budgets[-1:] if options.quick else budgets, seeds,
        task=study.task, dataset=study.dataset, backbone=name, checkpoint=checkpoint, choices=choices,
        data_dir=study.data and str(path_of(study.data)), device=device_of(options), quick=options.quick,
        train=study.train, **(_training(options, way) if study.train == "recipe" else {"recipe": None}),
    )  # fmt: skip


def score_corrupted(configs: list[RunConfig], options: Options) -> None:
    """Score those of `configs` that are finished under the corruptions that were asked for, and were not done yet.
    Raises ValueError, OSError."""
    if options.corruptions is None:
        return
    import torch
    from joblib import cpu_count

    from studies.robustness.score import score_runs, wanted

    torch.set_num_threads(cpu_count())
    names = wanted(options.corruptions, configs[0].task, options.launcher)
    score_runs(configs, options.directory, names, options.workers or 0, lambda line: print(line, file=sys.stderr))


def _training(options: Options, way: OwnWay | None) -> dict[str, Any]:
    return {"recipe": recipe_of(options), "own_way": way or protocol_of(options)}


def only_timed(options: Options) -> Bench | None:
    """What to `bench`, where the study trains nothing. Raises ValueError."""
    from studies.launch.here import in_torchrun

    study = study_of(options)
    if study.timing is None:
        return None
    if options.corruptions is not None:
        raise ValueError(f"study {study.name} is only timed, so that there is nothing to score under --corruptions")
    if not options.timing:
        raise ValueError(f"study {study.name} is only timed, so that --no-timing leaves nothing of it")
    if in_torchrun():
        raise ValueError(f"study {study.name} trains nothing, so that torchrun's processes have nothing to share")
    timing, quick = study.timing, options.quick
    return Bench(
        backbone=study.backbone, reducers=study.reducers, budgets=study.budgets, batch_sizes=timing.batch_sizes,
        img_sizes=timing.quick_img_sizes if quick else timing.img_sizes,
        rounds=timing.quick_rounds if quick else timing.rounds, device=options.device, out=options.directory,
        task=study.task, num_classes=timing.num_classes, window=options.window,
    )  # fmt: skip


def wanted(options: Options) -> Resources:
    """What jobs ask Slurm for. Raises ValueError."""
    return resources(options.profile, options.slurm | {"workers": options.workers})


def prepare(configs: list[RunConfig], options: Options) -> None:
    """Refuse now what can be refused: data, backbone, reducers, directory. Raises ValueError, OSError."""
    from studies.events import check_installed
    from studies.launch.here import follows, in_torchrun
    from studies.study import check_identity, writable
    from studies.thumbnails import keep_thumbnails

    if options.tensorboard:
        check_installed()

    if in_torchrun() and options.corruptions:
        raise ValueError("under torchrun nothing is scored under --corruptions: give it in a command without torchrun")
    if in_torchrun() and (options.launcher != "local" or options.jobs not in (None, 1) or options.rerun):
        raise ValueError("under torchrun all processes share one run: no --launcher slurm, no --jobs, no --rerun")
    data = preflight(configs)
    writable(options.directory)
    study = study_of(options)
    recipe = recipe_of(options) if study.train == "recipe" else None
    said = {"question": question_of(options)} | ({"claim": study.claim} if study.file else {})
    check_identity(configs, options.directory, data.fingerprint, recipe, said)
    if options.thumbnails and not follows():
        keep_thumbnails(data, options.directory)
    if options.rerun:
        set_aside(record_dirs(configs, options), options.directory)


def record_dirs(configs: list[RunConfig], options: Options) -> list[Path]:
    """Where the records of the runs are, and that of the timing of all variants of the study, if they are timed."""
    from studies.study import timed_together, timing_dir

    runs = [options.directory / "runs" / config.id for config in configs]
    if configs[0].split == "val" or not options.timing:
        return runs
    return [*runs, timing_dir(timed_together(configs, options.directory)[0], options.directory)]


def preflight(configs: list[RunConfig]) -> Data:
    """Build every variant once, before any work: what cannot be is refused now. Returns the data set."""
    from studies.data.datasets import create_dataset
    from studies.launch.here import in_torchrun
    from studies.models.backbones import create_backbone, options_of
    from studies.models.given import try_out
    from studies.models.heads import as_it_comes
    from studies.models.learned import stand_in
    from studies.models.reducers import build
    from studies.runs.learned import check_searchable
    from studies.training.distributed import check_shared

    first = configs[0]
    data = create_dataset(first)
    dense, reachable, floors = TASKS[first.task].dense, False, []
    options = options_of(first, data.image_size)
    if first.recipe is None and first.backbone_recipe is None:
        known = data if TASKS[first.task].labelled else None
        vit = as_it_comes(first.backbone, known, pretrained=False, checkpoint=first.checkpoint, **options)
    else:
        vit = create_backbone(
            first.backbone, num_classes=data.num_classes, pretrained=False, checkpoint=first.checkpoint, **options
        )
    for recipe in filter(None, (first.recipe, first.backbone_recipe)):
        if recipe.batch_size > data.num_train:
            raise ValueError(
                f"batch_size={recipe.batch_size}, and {first.dataset} has {data.num_train} training images"
            )
    for config in {config.variant: config for config in configs}.values():
        try:
            method, budget = parse_one(config.reducer, dense), config.budget
            if method.unsearched:
                check_searchable(config, method, data)
                method, budget = stand_in(vit, method, budget), None
            built = build(vit, method, budget)
            with built.model.told(data.test_items([0]).truth if built.model.reads_truth else None):
                pass  # refused where there are no labels to read
            try_out(built)
            reachable = True
        except Unreachable as error:
            floors.append(str(error))
    if not reachable:
        raise ValueError("; ".join(floors))
    check_shared(data, first.recipe, int(os.environ.get("WORLD_SIZE", 1)) if in_torchrun() else 1)
    return data


def errors_of(failed: list[str], out: Path) -> list[str]:
    """A line for each of what `execute` returned: the last one of its error."""
    lines = []
    for name in failed:
        folders = (out / "speed").glob("*") if name == "speed" else [out / "runs" / name]
        found = [last_error(folder) for folder in folders if (folder / "failure.json").exists()]
        lines += [f"{name}: {error}" for error in found or [f"it left no record; the logs are in {out}/local or slurm"]]
    return lines


def execute(configs: list[RunConfig], options: Options) -> list[str]:
    """Do the runs here or on Slurm, with a progress bar on a terminal, lines elsewhere. Returns the ids of those that
    failed.

    Raises KeyboardInterrupt on Ctrl-C and on TERM: workers here are stopped, jobs of Slurm go on. Raises ValueError
    where Slurm refuses.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the workers would outlive this process
    from joblib import cpu_count  # those that affinity and cgroup allow
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from studies.events import Events
    from studies.launch.here import follows, in_torchrun, run_here
    from studies.launch.lines import Lines
    from studies.launch.slurm import run_there

    out, folders = options.directory, record_dirs(configs, options)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}
        watched = configs if options.tensorboard and not follows() else []
        events = Events([out / "runs" / config.id for config in watched])

        lines = Lines(
            [out / "runs" / config.id for config in configs], lambda text: print(text, file=sys.stderr, flush=True)
        )

        def progress(phase: str, done: int, total: int, doing: str) -> None:
            events.follow()
            if not console.is_terminal:
                if not follows():
                    lines(phase, done, total, doing)
                return
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, description=f"{phase}: {doing}")

        try:
            if options.launcher == "slurm":
                failed = run_there(configs, out, wanted(options), progress=progress, timed=options.timing)
            else:
                alone = configs[0].device == "cuda" or in_torchrun()
                jobs = options.jobs or (1 if alone else cpu_count())
                failed = run_here(
                    configs, out, jobs=jobs, progress=progress, timed=options.timing, workers=options.workers
                )
        finally:
            events.follow(now=True)
    if not failed:
        drop_aside(folders, out)
    return failed
