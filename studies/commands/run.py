"""`run`: from the options of a study to its runs, its timing and its report."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropr.method import Method
from cropr.nearest import one_of
from results.records.files import path_of
from results.records.store import last_error
from studies.catalogue import Study, studies
from studies.commands.bench import Bench
from studies.commands.options import backbone_of, parse_budgets, resolve_device
from studies.config import CHOICES, Recipe, RunConfig, replace_key
from studies.data import OWN_SETTINGS
from studies.launch.profile import resources
from studies.models.methods import GROUPS, builtin, parse, parse_one
from studies.models.reducers import Unreachable
from studies.runs.rerun import drop_aside, set_aside
from studies.tasks import TASKS

if TYPE_CHECKING:
    from studies.study import Trained

    OwnWay = Callable[[Method, Recipe], Trained]

__all__ = ["Options", "configs_of", "errors_of", "execute", "only_timed", "prepare"]


@dataclass
class Options:
    """What `run` takes, as it was typed; cli.py says what each is."""

    study: str | None = None  # None: the first one of the task
    reducers: str | None = None  # None: the study's, like the next one
    budgets: str | None = None
    seeds: int | None = None  # None: the study's on embedded data, else 1
    task: str | None = None  # None: the study's
    dataset: str = "scenes"
    data: str | None = None
    backbone: str | None = None
    pool: str | None = None  # None: the backbone's own
    ignore: int | None = None  # None: the data set's own
    img_size: int | None = None  # None: the data set's own
    window: str | None = None  # None: attention over the whole grid
    masks: bool = True
    launcher: str = "local"
    out: Path | None = None
    device: str = "auto"
    train: str = "recipe"
    recipe: str | None = None
    protocol: str = "own"
    jobs: int | None = None
    settings: list[str] = field(default_factory=list)
    random_at_counts: bool = False
    quick: bool = False
    rerun: bool = False
    profile: str | None = None
    slurm: dict[str, Any] = field(default_factory=dict)  # parameters of submitit, and our own: see profile.py

    @property
    def name(self) -> str:
        """Of the study."""
        task = self.task or "classification"
        return self.study or next(
            (name for name, study in studies().items() if study.task == task and study.default_of_task), task
        )

    @property
    def directory(self) -> Path:
        return self.out or Path("out") / self.name


def configs_of(options: Options, way: OwnWay | None = None) -> list[RunConfig]:
    """The runs that `options` ask for; `way` says how a method is trained, where the protocol does not. Raises
    ValueError."""
    for name in ("reducers", "budgets", "task", "dataset", "data", "backbone", "window", "recipe", "protocol"):
        if getattr(options, name) == "":
            raise ValueError(f"--{name} is empty; leave it out for its default")
    for name in ("data", "backbone", "out"):
        if any("\ud800" <= mark <= "\udfff" for mark in str(getattr(options, name))):
            raise ValueError(f"--{name} is no UTF-8, so that no record can hold it; give it another name or a link")
    study = study_of(options)
    reducers = reducers_of(options)
    from cropr.windows import Windows
    from studies.data.datasets import datasets  # takes seconds, so that a wrong name of a reducer is refused before
    from studies.models.backbones import POOLS
    from studies.study import plan

    one_of("data set", options.dataset, datasets())
    one_of("launcher", options.launcher, ["local", "slurm"])
    if options.pool is not None:
        one_of("pool", options.pool, POOLS)
        if TASKS[study.task].dense:
            raise ValueError(f"--pool is of a classifier, and {study.task} has none")
    if options.img_size is not None and not datasets()[options.dataset].sized:
        valid = ", ".join(name for name, found in datasets().items() if found.sized)
        raise ValueError(f"--img-size: {options.dataset} has a size of its own; data sets of any size: {valid}")
    if not (options.masks or TASKS[study.task].detector):
        raise ValueError(f"--no-masks is of detection, and {study.task} has no masks of objects")
    one_of("training", options.train, ["none", "recipe"])
    if options.train != "recipe" and (options.settings or options.recipe):
        raise ValueError(f"--train {options.train} trains nothing, so that --set and --recipe have no meaning with it")
    unread = set(OWN_SETTINGS) - set(datasets()[options.dataset].settings)
    if unused := unread & {setting.partition("=")[0] for setting in options.settings}:
        raise ValueError(f"--set {min(unused)}: {options.dataset} has an augmentation of its own and does not read it")
    budgets = parse_budgets(options.budgets or study.budgets)
    whole = options.train == "recipe" and not options.quick and not datasets()[options.dataset].folder
    seeds = options.seeds or (study.seeds if whole else 1)
    name, checkpoint = backbone_of(options.backbone or study.backbone)
    choices = {key: getattr(options, key) for key in CHOICES}
    if options.window is not None:
        choices["window"] = str(Windows.parse(options.window))
    return plan(
        options.name, reducers, budgets[-1:] if options.quick else budgets, seeds,
        task=study.task, dataset=options.dataset, backbone=name, checkpoint=checkpoint, choices=choices,
        data_dir=options.data and str(path_of(options.data)),
        device=device_of(options), quick=options.quick, train=options.train,
        recipe=recipe_of(options), own_way=way or protocol_of(options),
    )  # fmt: skip


def study_of(options: Options) -> Study:
    """What the study is by default. Raises ValueError for an unknown one, or one of another task."""
    if options.task is not None:
        one_of("task", options.task, TASKS)
    one_of("study", options.name, studies())
    study = studies()[options.name]
    if options.task not in (None, study.task):
        others = ", ".join(name for name, other in studies().items() if other.task == options.task)
        raise ValueError(f"study {options.name} is of task {study.task}; valid for {options.task}: {others}")
    return study


def only_timed(options: Options) -> Bench | None:
    """What to `bench`, where the study trains nothing. Raises ValueError."""
    from studies.launch.here import in_torchrun

    study = study_of(options)
    if study.timing is None:
        return None
    if in_torchrun():
        raise ValueError(f"study {options.name} trains nothing, so that torchrun's processes have nothing to share")
    timing, quick = study.timing, options.quick
    return Bench(
        options.backbone or study.backbone, options.reducers or study.reducers, options.budgets or study.budgets,
        timing.batch_sizes, timing.quick_img_sizes if quick else timing.img_sizes,
        timing.quick_rounds if quick else timing.rounds, "float32", options.device, False, options.directory,
        task=study.task, num_classes=timing.num_classes, window=options.window,
    )  # fmt: skip


def reducers_of(options: Options) -> list[Method]:
    """The reducers asked for; off the shelf, `all` and `every` leave out those whose weights are unlearnt."""
    text = options.reducers or studies()[options.name].reducers
    dense = TASKS[study_of(options).task].dense
    methods = parse(text, dense)
    if options.random_at_counts:
        methods += random_at_counts(methods)
    if options.train == "recipe":
        return methods
    unlearnt = [method.name for method in methods if method.learns]
    if unlearnt and text.strip() not in GROUPS:
        raise ValueError(f"{unlearnt[0]} has weights to learn; --train none leaves them random")
    return [method for method in methods if not method.learns]


def random_at_counts(methods: list[Method]) -> list[Method]:
    """Random pruning like each of `methods` that chooses, unless it is among them already."""
    plain = next(cls for cls in builtin().values() if cls.role == "random")
    twins = {
        str(twin): twin
        for method in methods
        if method.role not in ("dense", "random")
        for twin in [parse_one(f"{plain.name}:like={str(method).replace(',', '+')}", method.dense)]
    }
    for name in map(str, methods):
        twins.pop(name, None)
    return list(twins.values())


def recipe_of(options: Options) -> Recipe:
    """The recipe of the study, or a published one, with the settings of `--set`."""
    from studies.catalogue.recipes import RECIPES

    recipe, _ = studies()[options.name].recipes(options.quick)
    if options.recipe is not None:
        one_of("recipe", options.recipe, RECIPES)
        recipe = RECIPES[options.recipe]
    for setting in options.settings:
        key, found, value = setting.partition("=")
        if not found:
            raise ValueError(f"--set {setting!r} is not key=value")
        recipe = replace_key(recipe, key, value)
    if studies()[options.name].task != "classification" and (recipe.mixup or recipe.cutmix):
        raise ValueError(
            "mixup and cutmix mix classes of whole images; a dense task needs --set mixup=0 --set cutmix=0"
        )
    return recipe


def protocol_of(options: Options) -> OwnWay | None:
    """How each method is trained: all by one recipe (`same`, and where a published one is given), or each in its own
    way, with values chosen by `tune`: those of the catalogue (`own`), or of a file. Raises ValueError, OSError."""
    from studies.catalogue.chosen import factors_in, shipped
    from studies.study import own_way

    if options.recipe is not None or options.protocol == "same":
        return None
    path = shipped(options.name) if options.protocol == "own" else Path(options.protocol)
    if path is not None and path.suffix != ".json":
        one_of("protocol", options.protocol, ["own", "same", "FILE.json"])
    factors = {} if path is None else factors_in(path)
    typed = {setting.partition("=")[0] for setting in options.settings}
    return lambda method, recipe: own_way(method, recipe, factors, typed)


def device_of(options: Options) -> str:
    """Where the runs compute: on Slurm with a GPU where jobs ask for one, whatever this machine has."""
    if options.launcher == "local":
        if given := [key for key, value in options.slurm.items() if value] + ["profile"] * bool(options.profile):
            raise ValueError(f"{given[0]} is for --launcher slurm")
        return resolve_device(options.device)
    one_of("device", options.device, ("auto", "cpu", "cuda"))
    if options.device != "auto":
        return options.device
    return "cuda" if resources(options.profile, options.slurm).wants_gpu else "cpu"


def prepare(configs: list[RunConfig], options: Options) -> None:
    """Refuse now what can be refused: data, backbone, reducers, directory. Raises ValueError, OSError."""
    from studies.launch.here import in_torchrun
    from studies.study import check_identity, writable

    if in_torchrun() and (options.launcher != "local" or options.jobs not in (None, 1) or options.rerun):
        raise ValueError("under torchrun all processes share one run: no --launcher slurm, no --jobs, no --rerun")
    fingerprint = preflight(configs)
    writable(options.directory)
    trains = options.train == "recipe"
    check_identity(configs, options.directory, fingerprint, recipe_of(options) if trains else None)
    if options.rerun:
        set_aside(record_dirs(configs, options), options.directory)


def record_dirs(configs: list[RunConfig], options: Options) -> list[Path]:
    """Where the records of the runs are, and that of the timing of all variants of the study, if there is one."""
    from studies.study import timed_together, timing_dir

    runs = [options.directory / "runs" / config.id for config in configs]
    if configs[0].split == "val":
        return runs
    return [*runs, timing_dir(timed_together(configs, options.directory)[0], options.directory)]


def preflight(configs: list[RunConfig]) -> str:
    """Build every variant once, before any work: what cannot be is refused now. Returns the data's fingerprint."""
    from studies.data.datasets import create_dataset
    from studies.launch.here import in_torchrun
    from studies.models.backbones import create_backbone, options_of
    from studies.models.given import try_out
    from studies.models.heads import as_it_comes
    from studies.models.reducers import build
    from studies.training.distributed import check_shared

    first = configs[0]
    data = create_dataset(first)
    dense, reachable, floors = TASKS[first.task].dense, False, []
    options = options_of(first, data.image_size)
    if first.recipe is None and first.backbone_recipe is None:
        vit = as_it_comes(first.backbone, data, pretrained=False, checkpoint=first.checkpoint, **options)
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
            built = build(vit, parse_one(config.reducer, dense), config.budget)
            with built.model.told(data.test_items([0]).truth if built.model.reads_truth else None):
                pass  # refused where there are no labels to read
            try_out(built)
            reachable = True
        except Unreachable as error:
            floors.append(str(error))
    if not reachable:
        raise ValueError("; ".join(floors))
    check_shared(data, first.recipe, int(os.environ.get("WORLD_SIZE", 1)) if in_torchrun() else 1)
    return data.fingerprint


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

    from studies.launch.here import follows, in_torchrun, run_here
    from studies.launch.lines import Lines
    from studies.launch.slurm import run_there

    out, folders = options.directory, record_dirs(configs, options)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        lines = Lines(
            [out / "runs" / config.id for config in configs], lambda text: print(text, file=sys.stderr, flush=True)
        )

        def progress(phase: str, done: int, total: int, doing: str) -> None:
            if not console.is_terminal:
                if not follows():
                    lines(phase, done, total, doing)
                return
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, description=f"{phase}: {doing}")

        if options.launcher == "slurm":
            failed = run_there(configs, out, resources(options.profile, options.slurm), progress=progress)
        else:
            alone = configs[0].device == "cuda" or in_torchrun()
            jobs = options.jobs or (1 if alone else cpu_count())
            failed = run_here(configs, out, jobs=jobs, progress=progress)
    if not failed:
        drop_aside(folders, out)
    return failed
