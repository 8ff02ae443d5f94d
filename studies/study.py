"""A study: its runs, its directory, its identity, its timing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cropr.method import Method
from results.records.schema import SCHEMA, read
from results.records.schema import Study as StudyFile
from results.records.store import Claim, write_json
from studies.catalogue import Study, studies
from studies.catalogue.declaration import EMBEDDED
from studies.config import CHOICES, Recipe, RunConfig, read_config
from studies.models.checkpoints import digest
from studies.models.methods import parse_one, reference
from studies.tasks import TASKS

if TYPE_CHECKING:
    from studies.data import Data
    from studies.measure.detector import Whole

__all__ = [
    "Trained", "Unwritable", "check_identity", "own_way", "plan", "time_variants", "timed_together", "timing_dir",
    "writable",
]  # fmt: skip


# What a batch of the timing holds at most.
BATCH = 64  # images
PIXELS = 64 * 224**2
DENSE_PIXELS = 2**20  # in dense tasks, where each has logits
CPU_MACS = 64e9  # of the dense model, on a CPU: a second or so


class Trained(NamedTuple):
    """A method and what trains it; `own`: the settings in which that differs from the recipe of all."""

    method: Method
    recipe: Recipe | None
    own: tuple[tuple[str, Any], ...] = ()


def own_way(
    method: Method, recipe: Recipe, factors: Mapping[str, Mapping[str, float]], kept: Collection[str] = ()
) -> Trained:
    """A method as its paper trains it, with the values that were chosen for it as `factors` of settings; of `recipe`
    the settings `kept` stay."""
    method, settings = method.own(recipe.epochs)
    for key, factor in factors.get(method.name, {}).items():
        settings[key] = settings.get(key, getattr(recipe, key)) * factor
    settings = {key: value for key, value in settings.items() if key not in kept and value != getattr(recipe, key)}
    return Trained(method, dataclasses.replace(recipe, **settings), tuple(sorted(settings.items())))


class Unwritable(ValueError):
    """Nothing can be kept in the output directory."""


def plan(
    study: Study | str,
    methods: list[Method],
    budgets: list[float],
    seeds: int,
    *,
    task: str,
    dataset: str,
    backbone: str,
    checkpoint: str | None,
    choices: Mapping[str, Any] = MappingProxyType({}),
    data_dir: str | None,
    device: str,
    quick: bool,
    train: str,
    recipe: Recipe | None,
    own_way: Callable[[Method, Recipe], Trained] | None = None,
) -> list[RunConfig]:
    """The runs of a study (of the catalogue: its name is enough): the dense model first, then every reducer at every
    budget; a reducer whose own parameter is given runs once. `choices`: of config.CHOICES. `own_way` says how a method
    is trained where that is not by `recipe` alone."""
    study = studies()[study] if isinstance(study, str) else study
    recipes = study.recipes(quick)
    embedded = dataset == EMBEDDED and backbone.startswith("scenes_") and checkpoint is None
    finetune = recipe or recipes[0]
    shared: dict[str, Any] = {
        "study": study.name, "task": task, "dataset": dataset, "backbone": backbone, "checkpoint": checkpoint,
        "checkpoint_digest": digest(checkpoint) if checkpoint else None, "data_dir": data_dir, "device": device,
        "quick": quick, "backbone_recipe": recipes[1] if embedded else None, **choices,
    }  # fmt: skip

    def run(method: Method, budget: float | None, seed: int) -> RunConfig:
        trained = Trained(method, finetune if train == "recipe" else None)
        if trained.recipe is not None and own_way is not None:
            trained = own_way(method, trained.recipe)
        return RunConfig(
            reducer=str(trained.method), method_version=method.version, budget=budget, seed=seed,
            recipe=trained.recipe, own=trained.own, **shared,
        )  # fmt: skip

    runs: dict[str, RunConfig] = {}
    for seed in range(seeds):
        scored = []
        for method in sorted(methods, key=lambda method: -method.training_cost(max(budgets))):
            for budget in sorted(budgets, reverse=True) if method.takes_budget else [None]:
                made = run(method, budget, seed)
                if method.trained_at is not None:
                    source = run(*_trained_as(method), seed)
                    runs[source.id] = source
                    scored.append(dataclasses.replace(made, recipe=source.recipe, own=source.own, source=source.id))
                else:
                    runs[made.id] = made
        runs |= {made.id: made for made in scored}  # behind those that train
    return list(runs.values())  # of each seed the longest first: two workers then finish together


def _trained_as(method: Method) -> tuple[Method, float | None]:
    """What trains the weights of a method that is scored at other budgets, and at which budget. Raises ValueError."""
    if not method.takes_budget:
        said = ", ".join(f"{key}=" for key in method.native) or "its method"
        raise ValueError(f"{method}: trained_at= is a budget, and {said} leaves nothing to budget")
    if method.trained_at == 1:
        if method.learns:
            raise ValueError(f"{method}: {method.name} learns {method.learns}; the dense model has none of it")
        return reference()(dense=method.dense), None
    return dataclasses.replace(method, trained_at=None), method.trained_at


def writable(out: Path) -> None:
    """Make `out` and write a byte into it. Raises Unwritable."""
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise Unwritable(f"cannot write to {out}: {error.strerror or error}") from None


def check_identity(
    configs: list[RunConfig],
    out: Path,
    fingerprint: str,
    recipe: Recipe | None,
    said: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Note what the study in `out` is, or compare; `recipe` is that of all, `said` what was stated before it ran (what
    an older directory does not say is passed over). Raises ValueError when it is another one."""
    first = configs[0]
    identity = {
        "schema": SCHEMA,
        "study": first.study,
        "task": first.task,
        "dataset": first.dataset,
        "data_fingerprint": fingerprint,
        "backbone": first.backbone,
        "checkpoint": first.checkpoint_digest,
        **{key: getattr(first, key) for key in CHOICES},
        "train": dataclasses.asdict(recipe) if recipe else None,
        "backbone_train": dataclasses.asdict(first.backbone_recipe) if first.backbone_recipe else None,
        **said,
    }
    identity = json.loads(json.dumps(identity))
    if not (out / "study.json").exists():
        write_json(out / "study.json", identity)
        return
    there = {**CHOICES, **said, **read(out / "study.json", StudyFile)}
    if differing := [key for key in identity if there.get(key) != identity[key]]:
        key = differing[0]
        raise ValueError(
            f"{out} holds another study: its {key} is {there.get(key)!r}, not {identity[key]!r}; give another --out"
        )


def timed_together(configs: list[RunConfig], out: Path) -> tuple[list[RunConfig], list[str]]:
    """One run of each variant that is timed with `configs`, and what is left out, with the reason.

    Beside their own these are the variants of all other runs in `out` of the same backbone on the same device: a study
    that has grown is timed anew as a whole, since speeds of two records cannot be compared. A user's own method that
    is not given again is left out, as a record's word is not enough to run it.
    """
    found, left_out, first = {config.variant: config for config in configs}, [], configs[0]
    own = {config.id for config in configs}
    for path in sorted((out / "runs").glob("*/config.json")):
        if path.parent.name in own:
            continue
        try:
            config = read_config(path)
            if any(getattr(config, key) != getattr(first, key) for key in ("backbone", "device", "quick")):
                continue
            if config.id != path.parent.name:
                raise ValueError("made by another version")
            parse_one(config.reducer, TASKS[config.task].dense, load=False)
            found.setdefault(config.variant, config)
        except (ValueError, OSError) as error:
            left_out.append(f"{path.parent.name}: {error}")
    return list(found.values()), left_out


def timing_dir(configs: list[RunConfig], out: Path) -> Path:
    """Where the timing of these variants on this device is kept."""
    import torch

    first = configs[0]
    names = sorted({reference().name, *(config.variant for config in configs)})
    content = [names, first.backbone, first.device, first.quick, torch.__version__]
    content += first.chosen.values()
    identity = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
    return out / "speed" / f"{first.device}-{identity}"


def whole_models(configs: list[RunConfig], out: Path, data: Data, num_images: int) -> Whole | None:
    """The trained detector of each variant that has one, and test images; None without a dense one to compare with."""
    from studies.measure.detector import Whole
    from studies.models.deploy import load

    paths = {config.variant: out / "runs" / config.id / "model" for config in configs}
    models: Any = {name: load(path) for name, path in paths.items() if path.with_suffix(".json").exists()}
    if reference().name not in models:
        return None
    return Whole(models, data.test_items(range(min(num_images, data.num_test))).images, fixed=False)


def timing_batch(macs: int, image_size: int, *, dense: bool, device: str) -> int:
    """Images of a batch of the timing, for a dense model of `macs` an image: as many as end in a while."""
    pixels = DENSE_PIXELS if dense else PIXELS
    macs_allowed = CPU_MACS if device == "cpu" else math.inf
    return int(max(1, min(BATCH, pixels // image_size**2, macs_allowed // macs)))


def time_variants(configs: list[RunConfig], out: Path, claim: Callable[[Path], Claim] = Claim) -> None:
    """Time every variant of `configs` beside the dense model, all in this process, and record it. For all variants of
    the study give it what `timed_together` finds.

    Raises results.records.store.ClaimedElsewhere where another process is at it.
    """
    import torch
    from joblib import cpu_count  # those that affinity and cgroup allow

    from cropr.macs import dense_macs
    from studies.data.datasets import create_dataset
    from studies.measure.bench import bench, variants_of
    from studies.models.backbones import create_backbone, options_of
    from studies.runs.learned import found_in
    from studies.runs.provenance import now, provenance

    first, started, folder = configs[0], now(), timing_dir(configs, out)
    dense = TASKS[first.task].dense
    variants = dict(variants_of([], [], dense))
    for config in configs:
        method = parse_one(config.reducer, dense)
        if method.unsearched:
            if (found := found_in(out / "runs" / config.id, method)) is None:
                continue  # its run has failed, or its budget cannot be reached
            method = found.method
        variants[config.variant] = (method, config.budget)
    folder.mkdir(parents=True, exist_ok=True)
    with claim(folder):
        if (folder / "result.json").exists():
            return
        (folder / "failure.json").unlink(missing_ok=True)
        torch.set_num_threads(cpu_count())
        data = create_dataset(first)
        options = options_of(first, data.image_size)
        vit = create_backbone(first.backbone, num_classes=data.num_classes, pretrained=False, **options)
        batch = timing_batch(dense_macs(vit, decoder=dense), data.image_size, dense=dense, device=first.device)
        rounds = 5 if first.quick else 30
        whole = whole_models(configs, out, data, rounds) if TASKS[first.task].detector else None
        timing = bench(vit, variants, whole, batch_size=batch, device=first.device, rounds=rounds)
        common = {
            "schema": SCHEMA,
            "id": folder.name,
            "status": "done",
            "quick": first.quick,
            "task": first.task,
            "dataset": first.dataset,
            "backbone": first.backbone,
            "study": first.study,
        }
        fingerprint = data.fingerprint
        origin = provenance(first.device, dtype="float32", seeds={}, fingerprint=fingerprint, started=started)
        write_json(folder / "result.json", common | timing | {"provenance": origin})
