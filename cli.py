"""The command line `cropr-study`: options, and errors as exit codes. What commands do stands in studies/commands/.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="cropr-study",
    help="Ablations and benchmarks of token reduction in Vision Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FAILED, USAGE, INTERRUPTED = 1, 2, 130
SETTINGS = "settings of the recipe"  # what the configuration file says of it, in the context of the command

DirectoryArgument = Annotated[Path, typer.Argument(help="Record directory.")]
DatasetOption = Annotated[str, typer.Option(help="scenes or imagenet (any folder of class folders).")]
DataOption = Annotated[str | None, typer.Option(help="Folder of the data set.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@contextmanager
def usage_errors(code: int = USAGE) -> Iterator[None]:
    """What the user got wrong is one message on stderr and exit code 2, or `code` behind work that was done."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(code) from None


def from_file(context: typer.Context, path: Path | None) -> Path | None:
    """The values in a TOML file become the defaults of the command, so that what is typed goes before them."""
    if path is not None:
        from studies.commands.config_file import read_config

        names = {option.opts[0].lstrip("-"): str(option.name) for option in context.command.params}
        with usage_errors():
            values, settings = read_config(path, names.keys() - {"config", "help", "set"})
        context.default_map = {names[key]: value for key, value in values.items()}
        context.meta[SETTINGS] = settings
    return path


@app.command()
def run(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Argument(help="A study of the catalogue [default: pareto, or the task's].")
    ] = None,
    reducers: Annotated[
        str | None,
        typer.Option(help="`all`, or names with options: cropr:llf=true,evit:fuse=false [default: the study's]."),
    ] = None,
    budgets: Annotated[str | None, typer.Option(help="Shares of the dense MACs [default: the study's].")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from 0.")] = 1,
    task: Annotated[str | None, typer.Option(help="classification or segmentation [default: the study's].")] = None,
    dataset: DatasetOption = "scenes",
    data: DataOption = None,
    backbone: Annotated[
        str | None, typer.Option(help="An embedded or timm model, or a checkpoint: NAME=FILE [default: the study's].")
    ] = None,
    launcher: Annotated[str, typer.Option(help="local")] = "local",
    out: Annotated[Path | None, typer.Option(help="Record directory [default: out/STUDY].")] = None,
    device: DeviceOption = "auto",
    train: Annotated[str, typer.Option(help="none (off the shelf) or recipe.")] = "recipe",
    recipe: Annotated[
        str | None, typer.Option(help="A published recipe: cropr, evit, dynamicvit [default: the study's].")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes [default: one a core; on a GPU 1].")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the training recipe.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One budget, little training: a smoke run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and do nothing.")] = False,
    rerun: Annotated[bool, typer.Option("--rerun", help="Finished runs again; OUT/aside keeps the old.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=from_file, is_eager=True, help="TOML: these options, and a table [set]; what is typed wins."
        ),
    ] = None,
) -> None:
    """Train, evaluate and measure reducers; run the same command again to continue."""
    from studies.commands import bench as speed
    from studies.commands.run import Options, configs_of, execute, only_timed, prepare

    options = Options(
        study, reducers, budgets, seeds, task, dataset, data, backbone, launcher, out, device, train, recipe, jobs,
        [*context.meta.get(SETTINGS, []), *(settings or [])], quick, rerun,
    )  # fmt: skip
    with usage_errors():
        timing = only_timed(options)
        if timing is not None:
            if dry_run:
                typer.echo(f"only timed, at {timing.img_sizes} px")
                return
            speed.run(timing, progress=lambda text: typer.echo(text, err=True))
    if timing is not None:
        report([options.directory])
        return
    with usage_errors():
        configs = configs_of(options)
        if dry_run:
            typer.echo("\n".join(config.id for config in configs))
            return
        prepare(configs, options)
    try:
        failed = execute(configs, options)
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to continue", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if failed:
        where = options.directory / "runs" / "ID" / "failure.json"
        typer.echo(f"{len(failed)} of {len(configs)} runs failed, the others are kept; see {where}", err=True)
    print_report([options.directory], code=FAILED)
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def bench(
    backbone: Annotated[
        str, typer.Option(help="An embedded or timm model, with random weights.")
    ] = "vit_small_patch16_224",
    reducers: Annotated[str, typer.Option(help="`all`, or names with options.")] = "all",
    budgets: Annotated[str, typer.Option(help="Shares of the dense MACs.")] = "0.5",
    batch_sizes: Annotated[str, typer.Option(help="Images at once, such as 1,16.")] = "16",
    img_sizes: Annotated[
        str | None, typer.Option(help="Image sides in pixels, such as 224,384 [default: the model's own].")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 10,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: DeviceOption = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the whole model.")] = False,
    out: Annotated[Path | None, typer.Option(help="Keep records here, for `report` [default: print only].")] = None,
    task: Annotated[str, typer.Option(help="classification, or segmentation: with its decoder.")] = "classification",
    as_json: JsonOption = False,
) -> None:
    """Speed and cost only: random weights, any timm model, no training; one measurement for each combination."""
    from studies.commands import bench as command

    options = command.Bench(
        backbone, reducers, budgets, batch_sizes, img_sizes, rounds, dtype, device, compiled, out, task
    )
    with usage_errors():
        records = command.run(options, progress=lambda text: typer.echo(text, err=True))
    typer.echo(json.dumps(records) if as_json else "\n".join(command.lines(records)))


@app.command()
def report(
    dirs: Annotated[list[Path], typer.Argument(help="Record directories; several are compared.")],
    published: Annotated[bool, typer.Option("--published", help="Overlay published numbers.")] = False,
) -> None:
    """Tables and plots out of the records alone, also while runs are still going."""
    print_report(dirs, published)


def print_report(dirs: list[Path], published: bool = False, code: int = USAGE) -> None:
    from studies.commands.records import write_report

    with usage_errors(code):
        paths = write_report(dirs, published)
    typer.echo("\n".join(str(path) for path in paths))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A saved model: runs/ID/model of a study.")],
    dataset: DatasetOption = "scenes",
    data: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Accuracy of a saved reduced model; prints one JSON document."""
    from studies.commands.records import evaluate as score

    with usage_errors():
        metrics = score(model, dataset, data, device)
    typer.echo(json.dumps(metrics))


@app.command()
def status(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """What is done, running, failed or pending."""
    from studies.commands.records import status as states

    with usage_errors():
        rows = states(directory)
    lines = "\n".join(f"{row['state']:<12} {row['id']}  {row['detail']}" for row in rows)
    typer.echo(json.dumps(rows) if as_json else lines)


@app.command()
def show(
    directory: Annotated[Path | None, typer.Argument(help="Record directory: its saved models and data set.")] = None,
    items: Annotated[str, typer.Option(help="Numbers of test images of the study.")] = "0,1,2",
    runs: Annotated[
        str | None, typer.Option(help="Ids of finished runs [default: each reducer at its smallest budget].")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Without DIRECTORY: an image file.")] = None,
    backbone: Annotated[
        str, typer.Option(help="With --image: a timm model, or a checkpoint of one: NAME=FILE.")
    ] = "vit_small_patch16_224",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="With --image: timm's pretrained weights.")] = False,
    reducers: Annotated[str, typer.Option(help="With --image: `all`, or names with options.")] = "all",
    budgets: Annotated[str, typer.Option(help="With --image: shares of the dense MACs.")] = "0.65",
    out: Annotated[Path | None, typer.Option(help="Folder of the pictures [default: DIRECTORY/report, or .].")] = None,
) -> None:
    """Which patches an image loses, block by block, as a picture: of a study's models, or of one off the shelf."""
    from studies.commands.show import show_image, show_study

    with usage_errors():
        if (directory is None) == (image is None):
            raise ValueError("show takes either a record directory or --image FILE")
        if directory is not None:
            paths = show_study(directory, items, runs, out)
        else:
            assert image is not None
            paths = show_image(image, backbone, pretrained, reducers, budgets, out)
    typer.echo("\n".join(str(path) for path in paths))


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="Where records shall go.")] = Path("out"), as_json: JsonOption = False
) -> None:
    """What is installed, which device and attention kernels, can a study run here? Exit code 1 if not."""
    from studies.doctor import examine, healthy

    findings = examine(out)
    if as_json:
        typer.echo(json.dumps({"ok": healthy(findings), "findings": [vars(finding) for finding in findings]}))
    else:
        typer.echo("\n".join(f"{f.state:<7} {f.name:<18} {f.detail}" for f in findings))
    if not healthy(findings):
        raise typer.Exit(FAILED)


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="reducers, studies, datasets or backbones.")],
    pattern: Annotated[str | None, typer.Argument(help="Of timm's backbones, such as 'deit*'.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The names that options take, with the options of reducers and their defaults."""
    from studies.commands.names import names, show

    with usage_errors():
        found = names(what, pattern)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        show(what, found)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
