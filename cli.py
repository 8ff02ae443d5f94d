"""The command line `cropr-study`. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="cropr-study",
    help="Ablations and benchmarks of token reduction in Vision Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def usage(message: object) -> typer.Exit:
    """One message on stderr and exit code 2."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(USAGE)


def parse_budgets(text: str) -> list[float]:
    """0.8,0.65,0.5 -> floats in (0, 1]. Raises ValueError."""
    budgets = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise ValueError(
                f"budget {part!r} is not a number; budgets are shares of the dense MACs, such as 0.5"
            ) from None
        if not 0 < value <= 1:
            raise ValueError(f"budget {part} is outside (0, 1]; budgets are shares of the dense MACs, such as 0.5")
        budgets.append(value)
    return list(dict.fromkeys(budgets))


def resolve_device(name: str) -> str:
    """auto, cpu or cuda -> a device that is there. Raises ValueError."""
    import torch

    from studies.reducers import nearest

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(nearest("device", name, ("auto", "cpu", "cuda")))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch finds no GPU here; valid: auto, cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def one_of(kind: str, name: str, valid: Any) -> None:
    """Raise ValueError unless `name` is one of `valid`."""
    from studies.reducers import nearest

    if name not in valid:
        raise ValueError(nearest(kind, name, valid))


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study of the catalogue.")] = "pareto",
    reducers: Annotated[
        str, typer.Option(help="`all`, or names with options: cropr:llf=true,evit:fuse=false.")
    ] = "all",
    budgets: Annotated[str, typer.Option(help="Shares of the dense MACs.")] = "0.8,0.65,0.5",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from 0.")] = 1,
    task: Annotated[str, typer.Option(help="classification")] = "classification",
    dataset: Annotated[str, typer.Option(help="scenes or imagenet (any folder of class folders).")] = "scenes",
    data: Annotated[str | None, typer.Option(help="Folder of the data set.")] = None,
    backbone: Annotated[
        str, typer.Option(help="An embedded or timm model, or a checkpoint of one: NAME=FILE.")
    ] = "scenes_vit",
    launcher: Annotated[str, typer.Option(help="local")] = "local",
    out: Annotated[Path | None, typer.Option(help="Record directory [default: out/STUDY].")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    train: Annotated[str, typer.Option(help="none (off the shelf) or recipe.")] = "recipe",
    recipe_name: Annotated[
        str | None, typer.Option("--recipe", help="A published recipe: cropr, evit, dynamicvit [default: the study's].")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes [default: one a core; on a GPU 1].")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the training recipe.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One budget, little training: a smoke run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and do nothing.")] = False,
) -> None:
    """Train, evaluate and measure reducers; run the same command again to continue."""
    from studies.catalogue import pareto
    from studies.catalogue.recipes import RECIPES
    from studies.config import replace_key
    from studies.datasets import DATASETS
    from studies.reducers import parse
    from studies.study import STUDIES, check_identity, plan, time_variants, writable

    try:
        one_of("study", study, STUDIES)
        one_of("task", task, ["classification"])
        one_of("data set", dataset, DATASETS)
        one_of("launcher", launcher, ["local"])
        one_of("training", train, ["none", "recipe"])
        specs, shares = parse(reducers), parse_budgets(budgets)
        if train == "none":
            unlearnt = [spec.name for spec in specs if spec.method.learns]
            if unlearnt and reducers.strip() != "all":
                raise ValueError(f"{unlearnt[0]} has weights to learn; --train none leaves them random")
            specs = [spec for spec in specs if not spec.method.learns]
        recipe = pareto.QUICK_FINETUNE if quick else pareto.FINETUNE
        if recipe_name is not None:
            one_of("recipe", recipe_name, RECIPES)
            recipe = RECIPES[recipe_name]
        for setting in settings or []:
            key, found, value = setting.partition("=")
            if not found:
                raise ValueError(f"--set {setting!r} is not key=value")
            recipe = replace_key(recipe, key, value)
        name, _, checkpoint = backbone.partition("=")
        configs = plan(
            study, specs, shares[-1:] if quick else shares, seeds, task=task, dataset=dataset, backbone=name,
            checkpoint=checkpoint or None, data_dir=data, device=resolve_device(device), quick=quick, train=train,
            recipe=recipe,
        )  # fmt: skip
        if dry_run:
            for config in configs:
                typer.echo(config.id)
            return
        fingerprint = preflight(configs)
        out = out or Path("out") / study
        writable(out)
        check_identity(configs, out, fingerprint)
    except (ValueError, OSError) as error:
        raise usage(error) from None
    workers = jobs or (1 if configs[0].device == "cuda" else os.cpu_count() or 1)
    failed = launch(configs, out, workers, partial(time_variants, configs, out, quick))
    write_report([out])
    if failed:
        typer.echo(
            f"{len(failed)} of {len(configs)} runs failed, the others are kept; see {out}/runs/ID/failure.json",
            err=True,
        )
        raise typer.Exit(FAILED)


def preflight(configs: list) -> str:
    """Build every variant once, before any work: what cannot be is refused now. Returns the data's fingerprint."""
    from studies.backbones import create_backbone
    from studies.datasets import create_dataset
    from studies.reducers import Unreachable, build, parse

    first = configs[0]
    data = create_dataset(first)
    vit = create_backbone(first.backbone, num_classes=data.num_classes, pretrained=False, checkpoint=first.checkpoint)
    reachable, floors = False, []
    for config in {config.variant: config for config in configs}.values():
        try:
            build(vit, parse(config.reducer)[0], config.budget)
            reachable = True
        except Unreachable as error:
            floors.append(str(error))
    if not reachable:
        raise ValueError("; ".join(floors))
    return data.fingerprint


def launch(configs: list, out: Path, jobs: int, speed: Any) -> list[str]:
    """Run with a progress bar on a terminal, quietly elsewhere. Ctrl-C says how to continue."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from studies.launch import run_here

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(phase: str, done: int, total: int, doing: str) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, description=f"{phase}: {doing}")

        try:
            return run_here(configs, out, jobs=jobs, progress=progress, speed=speed)
        except KeyboardInterrupt:
            console.print("stopped; run the same command again to continue")
            raise typer.Exit(INTERRUPTED) from None


def write_report(dirs: list[Path], published: bool = False) -> None:
    """Write the report and print its table."""
    from rich.console import Console

    from results.report import build

    try:
        report = build(dirs, published=published)
    except ValueError as error:
        raise usage(error) from None
    Console(width=None if sys.stdout.isatty() else 160).print(report.terminal)
    for path in report.paths:
        typer.echo(str(path))


@app.command("bench")
def bench_command(
    backbone: Annotated[
        str, typer.Option(help="An embedded or timm model, with random weights.")
    ] = "vit_small_patch16_224",
    reducers: Annotated[str, typer.Option(help="`all`, or names with options.")] = "all",
    budgets: Annotated[str, typer.Option(help="Shares of the dense MACs.")] = "0.5",
    batch_size: Annotated[int, typer.Option(min=1, help="Images.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 10,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the whole model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Speed and cost only: random weights, any timm model, no training."""
    from studies.backbones import create_backbone
    from studies.measure.bench import bench, variants_of
    from studies.reducers import parse

    try:
        one_of("dtype", dtype, ["float32", "bfloat16", "float16"])
        variants = variants_of(parse(reducers), parse_budgets(budgets))
        where = resolve_device(device)
        vit = create_backbone(backbone, pretrained=False)
        found = bench(
            vit, variants, batch_size=batch_size, device=where, dtype=dtype, compile=compiled, rounds=rounds,
            progress=lambda text: typer.echo(text, err=True),
        )  # fmt: skip
    except ValueError as error:
        raise usage(error) from None
    if as_json:
        typer.echo(json.dumps(found))
        return
    threads = "" if where == "cuda" else f", {found['num_threads']} threads"
    typer.echo(
        f"{backbone}, {found['device_name']}{threads}, {dtype}, batch {batch_size}, {rounds} interleaved rounds; "
        "median [5th, 95th percentile]"
    )
    for row in found["variants"]:
        rate, ratio, macs = row["images_per_s"], row["ratio"], row["macs_g"]
        if rate["median"] is None:
            typer.echo(f"{row['variant']:<18} {', '.join(row['flags'])}")
            continue
        typer.echo(
            f"{row['variant']:<18} {macs['total']:7.3f} GMACs (x {macs['dense'] / macs['total']:.2f} fewer)  "
            f"{rate['median']:8.1f} [{rate['p5']:.1f}, {rate['p95']:.1f}] images/s  "
            f"x {ratio['median']:.2f} [{ratio['p5']:.2f}, {ratio['p95']:.2f}] of dense  {'; '.join(row['flags'])}"
        )
    for row in found["unreachable"]:
        typer.echo(f"{row['variant']:<18} unreachable, floor {row['floor']:.3f}")


@app.command()
def report(
    dirs: Annotated[list[Path], typer.Argument(help="Record directories; several are compared.")],
    published: Annotated[bool, typer.Option("--published", help="Overlay published numbers.")] = False,
) -> None:
    """Tables and plots out of the records alone, also while runs are still going."""
    write_report(dirs, published)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A saved model: runs/ID/model of a study.")],
    dataset: Annotated[str, typer.Option(help="scenes or imagenet (any folder of class folders).")] = "scenes",
    data: Annotated[str | None, typer.Option(help="Folder of the data set.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Accuracy of a saved reduced model; prints one JSON document."""
    from studies.config import RunConfig
    from studies.datasets import DATASETS, create_dataset
    from studies.deploy import info, load
    from studies.tasks.classification import evaluate as score

    try:
        one_of("data set", dataset, DATASETS)
        backbone, where = info(model)["backbone"], resolve_device(device)
        config = RunConfig("", "classification", dataset, backbone, "none", 1, None, 0, None, data_dir=data)
        items, reduced = create_dataset(config), load(model)
    except (ValueError, OSError) as error:
        raise usage(error) from None
    scores = score(reduced.to(where), items.test_batches(250), where)
    typer.echo(json.dumps(scores.metrics | {"num_items": len(scores.predictions["item"])}))


@app.command()
def status(
    directory: Annotated[Path, typer.Argument(help="Record directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """What is done, running, failed or pending."""
    from results.store import run_status

    if not (directory / "runs").is_dir():
        raise usage(f"{directory} is no record directory: it has no runs/")
    rows = []
    for folder in sorted((directory / "runs").iterdir()):
        state = run_status(folder)
        rows.append({"id": folder.name, "state": state.state, "detail": state.detail})
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['state']:<12} {row['id']}  {row['detail']}")


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="reducers, studies, datasets or backbones.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """The names that options take."""
    from studies.datasets import DATASETS
    from studies.reducers import METHODS
    from studies.study import STUDIES

    try:
        one_of("list", what, ["reducers", "studies", "datasets", "backbones"])
    except ValueError as error:
        raise usage(error) from None
    if what == "reducers":
        names = {
            name: f"{method.summary}; options: {', '.join(method.options) or '-'}" for name, method in METHODS.items()
        }
    elif what == "backbones":
        from studies.backbones import EMBEDDED

        names = {name: "embedded, trained by the project on scenes" for name in EMBEDDED} | {
            "NAME": "any VisionTransformer or Eva of timm; NAME=FILE for a local checkpoint"
        }
    else:
        names = STUDIES if what == "studies" else DATASETS
    typer.echo(json.dumps(names) if as_json else "\n".join(f"{name:<12} {text}" for name, text in names.items()))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
