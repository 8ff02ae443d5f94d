"""What `run`, `submit` and `tune` are asked for: the options as they were typed, and the study that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropr.method import Method
from cropr.nearest import one_of
from studies.catalogue import Study, studies
from studies.catalogue.own import find_study
from studies.commands.reading.options import parse_budgets, resolve_device
from studies.config import Recipe, replace_key
from studies.launch.profile import resources
from studies.models.methods import ALL, GROUPS, builtin, parse, parse_one
from studies.tasks import TASKS

if TYPE_CHECKING:
    from studies.study import Trained

    OwnWay = Callable[[Method, Recipe], Trained]

__all__ = ["Options", "device_of", "parts", "protocol_of", "question_of", "recipe_of", "reducers_of", "study_of"]


@dataclass
class Options:
    """What `run` takes, as it was typed; cli.py says what each is."""

    study: str | None = None  # None: the first one of the task
    reducers: str | None = None  # None: the study's, like the next one
    budgets: str | None = None
    seeds: int | None = None  # None: the study's on embedded data, else 1
    task: str | None = None  # None: the study's
    dataset: str | None = None  # None: the study's, like the next one
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
    train: str | None = None  # None: the study's
    recipe: str | None = None
    protocol: str | None = None  # None: the study's
    jobs: int | None = None
    workers: int | None = None  # None: by the CPUs of each run
    settings: list[str] = field(default_factory=list)
    random_at_counts: bool = False
    quick: bool = False
    timing: bool = True
    corruptions: str | None = None  # None: none
    rerun: bool = False
    thumbnails: bool = False
    tensorboard: bool = False
    profile: str | None = None
    slurm: dict[str, Any] = field(default_factory=dict)  # parameters of submitit, and our own: see profile.py

    @property
    def name(self) -> str:
        """Of the study. Raises ValueError where there is none."""
        return declared(self).name

    @property
    def directory(self) -> Path:
        return self.out or Path("out") / self.name


def declared(options: Options) -> Study:
    """The study as it stands in the catalogue or in its file. Raises ValueError, OSError."""
    if options.task is not None:
        one_of("task", options.task, TASKS)
    if options.study is not None:
        return find_study(options.study)
    task = options.task or next(iter(TASKS))
    return next(study for study in studies().values() if study.task == task and study.default_of_task)


def study_of(options: Options) -> Study:
    """The study with what was typed in place of its own. Raises ValueError for an unknown one, one of another task, or
    a question that its own runs cannot answer; OSError."""
    _check_typed(options)
    study = declared(options)
    if options.task not in (None, study.task):
        others = ", ".join(name for name, other in studies().items() if other.task == options.task)
        raise ValueError(f"study {study.name} is of task {study.task}; valid for {options.task}: {others}")
    if study.file:
        _check_question(study)
    study = study.on(options.dataset or study.dataset)
    typed = {key: getattr(options, key) for key in ("reducers", "budgets", "data", "backbone", "train", "protocol")}
    typed = {key: value for key, value in typed.items() if value is not None}
    return replace(study, random_at_counts=study.random_at_counts or options.random_at_counts, **typed)


def _check_typed(options: Options) -> None:
    """Raise ValueError for a text that is empty, or that no record can hold."""
    for name in ("reducers", "budgets", "task", "dataset", "data", "backbone", "window", "recipe", "protocol"):
        if getattr(options, name) == "":
            raise ValueError(f"--{name} is empty; leave it out for its default")
    for name in ("data", "backbone", "out"):
        if any("\ud800" <= mark <= "\udfff" for mark in str(getattr(options, name))):
            raise ValueError(f"--{name} is no UTF-8, so that no record can hold it; give it another name or a link")


def _check_question(study: Study) -> None:
    """Raise ValueError where the question of a user's own study is about what it does not run."""
    question, dense = study.question, TASKS[study.task].dense
    if question is None:
        return
    methods = parse(study.reducers, dense)
    if question.method != ALL:
        one_of("method of the question", str(parse_one(question.method, dense)), map(str, methods))
    budgets = parse_budgets(study.budgets)
    if question.budget is not None and question.budget not in budgets:
        raise ValueError(f"{study.file}: question: budget {question.budget} is none of its budgets, {study.budgets}")
    if question.against not in [other.role for other in methods] and not study.random_at_counts:
        raise ValueError(f"{study.file}: question: against {question.against}, which is none of its reducers")


def question_of(options: Options) -> dict[str, Any] | None:
    """The question as study.json has it: its method as the runs name it, trained as the protocol says."""
    study = study_of(options)
    if study.question is None or study.question.method == ALL:
        return None if study.question is None else study.question.record()
    method = parse_one(study.question.method, TASKS[study.task].dense)
    way = protocol_of(options) if study.train == "recipe" else None
    if way is not None:
        method = way(method, recipe_of(options)).method
    return study.question.record() | {"method": str(method)}


def parts(options: Options) -> Iterator[Options]:
    """Itself, or of a study of several backbones each of them, in a directory of its own. Raises ValueError."""
    study = study_of(options)
    if not study.backbones or options.backbone is not None:
        yield options
        return
    for name in study.backbones:
        yield replace(options, backbone=name, out=options.directory / name.partition("=")[0])


def reducers_of(options: Options) -> list[Method]:
    """The reducers asked for; off the shelf, `all` and `every` leave out those whose weights are unlearnt."""
    study = study_of(options)
    methods = parse(study.reducers, TASKS[study.task].dense)
    if study.random_at_counts:
        methods += random_at_counts(methods)
    if study.train == "recipe":
        return methods
    if scored := [str(method) for method in methods if method.trained_at is not None]:
        raise ValueError(f"{scored[0]}: trained_at= says how it was trained, and --train {study.train} trains nothing")
    unlearnt = [method.name for method in methods if method.learns]
    if unlearnt and study.reducers.strip() not in GROUPS:
        raise ValueError(f"{unlearnt[0]} has weights to learn; --train none leaves them random")
    return [method for method in methods if not method.learns]


def random_at_counts(methods: list[Method]) -> list[Method]:
    """Random pruning like each of `methods` that chooses, trained as it is or off the shelf, unless it is among them
    already."""
    plain = next(cls for cls in builtin().values() if cls.role == "random")
    twins = {
        str(twin): twin
        for method in methods
        if method.role not in ("dense", "random")
        for like in [str(replace(method, trained_at=None)).replace(",", "+")]
        for twin in [replace(parse_one(f"{plain.name}:like={like}", method.dense), trained_at=method.trained_at)]
    }
    for name in map(str, methods):
        twins.pop(name, None)
    return list(twins.values())


def recipe_of(options: Options) -> Recipe:
    """The recipe of the study, or a published one, with the settings of `--set`."""
    from studies.catalogue.recipes import RECIPES

    study = study_of(options)
    recipe, _ = study.recipes(options.quick)
    if options.recipe is not None:
        one_of("recipe", options.recipe, RECIPES)
        recipe = RECIPES[options.recipe]
    if recipe is None:
        raise ValueError(f"study {study.name} has no recipe on {study.dataset}; give --train none, or a --recipe")
    for setting in options.settings:
        key, found, value = setting.partition("=")
        if not found:
            raise ValueError(f"--set {setting!r} is not key=value")
        recipe = replace_key(recipe, key, value)
    if study.task != "classification" and (recipe.mixup or recipe.cutmix):
        raise ValueError(
            "mixup and cutmix mix classes of whole images; a dense task needs --set mixup=0 --set cutmix=0"
        )
    return recipe


def protocol_of(options: Options) -> OwnWay | None:
    """How each method is trained: all by one recipe (`same`, and where a published one is given), or each in its own
    way, with values chosen by `tune`: those of the catalogue (`own`), or of a file. Raises ValueError, OSError."""
    from studies.catalogue.chosen import factors_in, shipped
    from studies.study import own_way

    study = study_of(options)
    if options.recipe is not None or study.protocol == "same":
        return None
    path = shipped(study.tuned or study.name) if study.protocol == "own" else Path(study.protocol)
    if path is not None and path.suffix != ".json":
        one_of("protocol", study.protocol, ["own", "same", "FILE.json"])
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
