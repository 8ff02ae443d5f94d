"""The command line `cropr-study`: its commands. Their options stand in studies/commands/typed/, what they do in
studies/commands/.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from time import sleep
from typing import Annotated, Any

import typer

from studies.commands.typed.bench import AcrossOption, SelfCheckOption, TimedArgument, bench_options
from studies.commands.typed.groups import FAILED, INTERRUPTED, USAGE, usage_errors, with_options
from studies.commands.typed.options import (
    CorruptionsOption,
    DataOption,
    DatasetOption,
    DeviceOption,
    DirectoryArgument,
    DryRunOption,
    IgnoreOption,
    JobsOption,
    JsonOption,
    LauncherOption,
    MethodOption,
    PageOption,
    TensorboardOption,
    ThumbnailsOption,
    TimingOption,
    WorkersOption,
    slurm_options,
    study_options,
)

app = typer.Typer(
    name="cropr-study",
    help="Ablations and benchmarks of token reduction in Vision Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(invoke_without_command=True)
app.add_typer(bench_app, name="bench")

WATCH_S = 5.0


@app.command()
@with_options(study=study_options, slurm=slurm_options)
def run(
    study: dict[str, Any],
    slurm: tuple[str | None, dict[str, Any]],
    launcher: LauncherOption = "local",
    jobs: JobsOption = None,
    workers: WorkersOption = None,
    timing: TimingOption = True,
    dry_run: DryRunOption = False,
    corruptions: CorruptionsOption = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Finished runs again; OUT/aside keeps the old.")] = False,
    page: PageOption = True,
    thumbnails: ThumbnailsOption = True,
    tensorboard: TensorboardOption = False,
) -> None:
    """Train, evaluate and measure reducers; run the same command again to continue."""
    from studies.commands import bench as speed
    from studies.commands.run import Options, configs_of, errors_of, only_timed, parts, prepare, score_corrupted
    from studies.launch.here import follows

    own: dict[str, Any] = {"launcher": launcher, "jobs": jobs, "workers": workers, "timing": timing, "rerun": rerun}
    own |= {"corruptions": corruptions, "thumbnails": thumbnails, "tensorboard": tensorboard}
    options = Options(**study, **own, profile=slurm[0], slurm=slurm[1])
    with usage_errors():
        timed = only_timed(options)
        if timed is not None:
            if dry_run:
                typer.echo(f"only timed, at {timed.img_sizes} px")
                return
            speed.run(timed, progress=lambda text: typer.echo(text, err=True))
    if timed is not None:
        print_report([options.directory], page=page)
        return
    with usage_errors():
        planned = [(part, configs_of(part)) for part in parts(options)]
        for part, configs in planned:
            if dry_run:
                print_dry_run(configs, part)
            else:
                prepare(configs, part)
    if dry_run:
        return
    any_failed = False
    for part, configs in planned:
        failed = executed(configs, part)
        if failed and not follows():
            typer.echo("\n".join(errors_of(failed, part.directory)), err=True)
            where = part.directory / "runs" / "ID" / "failure.json"
            typer.echo(f"{len(failed)} of {len(configs)} runs failed, the others are kept; see {where}", err=True)
        any_failed |= bool(failed)
        with usage_errors(FAILED):
            score_corrupted(configs, part)
    if follows():
        return
    print_report([part.directory for part, _ in planned], page=page, code=FAILED)
    if any_failed:
        raise typer.Exit(FAILED)


def executed(configs: list, options: Any) -> list[str]:
    """The ids of the runs that failed; Ctrl-C is a message and its exit code."""
    from studies.commands.run import execute

    try:
        with usage_errors():
            return execute(configs, options)
    except KeyboardInterrupt:
        if options.launcher == "slurm":
            where = options.directory
            typer.echo(f"the jobs go on: cropr-study status {where}; cropr-study cancel {where} ends them", err=True)
        else:
            typer.echo("stopped; run the same command again to continue", err=True)
        raise typer.Exit(INTERRUPTED) from None


@app.command()
@with_options(study=study_options, slurm=slurm_options)
def tune(
    study: dict[str, Any],
    slurm: tuple[str | None, dict[str, Any]],
    launcher: LauncherOption = "local",
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Choose values of each method on validation items, as many trials for each; `run --protocol FILE` takes them."""
    from dataclasses import replace

    from results.records.files import read_json
    from studies.commands.run import Options, errors_of, prepare
    from studies.commands.tune import choose, directory, lines, trials

    asked = Options(**study, launcher=launcher, jobs=jobs, profile=slurm[0], slurm=slurm[1])
    with usage_errors():
        options = replace(asked, out=directory(asked))
        tried = trials(options)
        configs = [config for trial in tried for config in trial.runs]
        if dry_run:
            typer.echo("\n".join(config.id for config in configs))
            return
        prepare(configs, options)
    failed = executed(configs, options)
    if failed:
        typer.echo("\n".join(errors_of(failed, options.directory)), err=True)
        raise typer.Exit(FAILED)
    with usage_errors(FAILED):
        path = choose(tried, options, f"cropr-study tune {options.name}")
        typer.echo("\n".join([*lines(read_json(path)), str(path)]))


@app.command()
@with_options(study=study_options, slurm=slurm_options)
def submit(
    study: dict[str, Any],
    slurm: tuple[str | None, dict[str, Any]],
    workers: WorkersOption = None,
    timing: TimingOption = True,
    dry_run: DryRunOption = False,
    thumbnails: ThumbnailsOption = True,
) -> None:
    """Submit a study to Slurm and return at once; again: only what is neither finished, queued nor running."""
    from studies.commands.cluster import submitted_lines
    from studies.commands.run import Options, configs_of, only_timed, parts, prepare, wanted
    from studies.launch.slurm import submit as send

    own: dict[str, Any] = {"launcher": "slurm", "workers": workers, "timing": timing, "thumbnails": thumbnails}
    options = Options(**study, **own, profile=slurm[0], slurm=slurm[1])
    with usage_errors():
        if only_timed(options) is not None:
            raise ValueError(
                f"study {options.name} is only timed, there are no runs to submit; cropr-study run does it"
            )
        planned = [(part, configs_of(part)) for part in parts(options)]
        for part, configs in planned:
            if dry_run:
                print_dry_run(configs, part)
            else:
                prepare(configs, part)
        if dry_run:
            return
        for part, configs in planned:
            done = send(configs, part.directory, wanted(options), timing)
            typer.echo("\n".join(submitted_lines(done, part.directory)))


def print_dry_run(configs: list, options: Any) -> None:
    """The runs, and on Slurm the scripts and an estimate."""
    typer.echo("\n".join(config.id for config in configs))
    if options.launcher == "slurm":
        from studies.commands.cluster import dry_run
        from studies.commands.run import wanted

        typer.echo(dry_run(configs, options.directory, wanted(options), options.timing))


@bench_app.callback()
@with_options(options=bench_options)
def bench(
    context: typer.Context, options: dict[str, Any], self_check: SelfCheckOption = False, as_json: JsonOption = False
) -> None:
    """Speed and cost only: random weights, any timm model, no training; one measurement for each combination."""
    if context.invoked_subcommand is not None:
        return
    from studies.commands import bench as command
    from studies.measure import NotCompiled

    measured, lines = (command.self_checks, command.check_lines) if self_check else (command.run, command.lines)
    with usage_errors():
        try:
            found = measured(command.Bench(**options), lambda text: typer.echo(text, err=True))
        except NotCompiled as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FAILED) from None
    typer.echo(json.dumps(found) if as_json else "\n".join(lines(found)))
    if self_check and not all(check["quiet"] for check in found):
        raise typer.Exit(FAILED)


@bench_app.command("compare")
def bench_compare(
    a: TimedArgument, b: TimedArgument, across: AcrossOption = False, as_json: JsonOption = False
) -> None:
    """Is A faster than B? By variant and setting, and only where the 95 % interval of the ratio excludes 1."""
    from studies.commands import bench as command

    with usage_errors():
        found = command.compare(a, b, across)
    typer.echo(json.dumps(found) if as_json else "\n".join(command.compared_lines(found)))


@app.command()
def report(
    dirs: Annotated[list[Path], typer.Argument(help="Record directories; several are compared.")],
    published: Annotated[bool, typer.Option("--published", help="Overlay published numbers.")] = False,
    agree: Annotated[bool, typer.Option("--agree", help="Two records of one study: do they say the same?")] = False,
    page: PageOption = True,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the page on 127.0.0.1 and follow the runs, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve (0: any that is free).")] = 8765,
    figures: Annotated[
        str, typer.Option(help="Their width: one-column (3.25 in) or two-column (6.75 in) of a paper.")
    ] = "one-column",
) -> None:
    """Tables, plots and a page out of the records alone, also while runs are still going."""
    if serve and (agree or not page):
        raise typer.BadParameter("--serve shows the page, and goes with neither --agree nor --no-page")
    if serve:
        from studies.commands.records import serve as show

        with usage_errors():
            show(dirs, published, port, lambda url: typer.echo(f"{url} (Ctrl-C ends it)"), figures)
        return
    if not agree:
        print_report(dirs, published, page, figures=figures)
        return
    from studies.commands.records import write_agreement

    with usage_errors():
        if len(dirs) != 2:
            raise ValueError(f"--agree compares two directories, not {len(dirs)}")
        typer.echo("\n".join(map(str, write_agreement(*dirs))))


def print_report(
    dirs: list[Path], published: bool = False, page: bool = True, code: int = USAGE, figures: str = "one-column"
) -> None:
    from studies.commands.records import write_report

    with usage_errors(code):
        paths = write_report(dirs, published, page, figures)
    typer.echo("\n".join(str(path) for path in paths))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A saved model: runs/ID/model of a study.")],
    dataset: DatasetOption = "scenes",
    data: DataOption = None,
    ignore: IgnoreOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Of `scenes` one of each digit, as smoke runs.")] = False,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    corruptions: CorruptionsOption = None,
    method: MethodOption = None,
) -> None:
    """Accuracy of a saved reduced model; prints one JSON document."""
    from studies.commands.reading.options import give_methods
    from studies.commands.records import evaluate as score

    with usage_errors():
        give_methods(method)
        metrics = score(model, dataset, data, device, ignore, quick, workers, corruptions)
    typer.echo(json.dumps(metrics))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A run of a study, runs/ID, or a saved model: runs/ID/model.")],
    out: Annotated[Path, typer.Option(help="The file to write; one that exists is refused.")],
    format: Annotated[
        str | None, typer.Option("--format", help="onnx or pt2, torch.export (default: by the suffix of --out).")
    ] = None,
    method: MethodOption = None,
) -> None:
    """Write a saved model as ONNX or as a program of torch.export, for batches of any size; it is run and compared."""
    from studies.commands.export import export as write
    from studies.commands.reading.options import give_methods
    from studies.models.export import NotExported

    with usage_errors():
        give_methods(method)
        try:
            path, deviation = write(model, out, format)
        except NotExported as error:
            typer.echo(f"error: {error}; nothing was written", err=True)
            raise typer.Exit(FAILED) from None
    typer.echo(f"{path}; logits within {deviation:.1g} of the model's, on random images")


@app.command()
def status(
    directory: DirectoryArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until nothing goes on.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What is done, running (epoch, time left, images per second), queued, failed (why, and its log) or pending."""
    from dataclasses import asdict

    from studies.commands.cluster import status_lines
    from studies.launch.progress import going_on, survey

    while True:
        with usage_errors():
            rows = survey(directory)
        lines = "\n".join(status_lines(rows, directory))
        typer.echo(json.dumps([asdict(row) for row in rows]) if as_json else lines)
        if not (watch and going_on(rows)):
            return
        sleep(WATCH_S)


@app.command()
def cancel(directory: DirectoryArgument) -> None:
    """End the Slurm jobs of a study; what is finished is kept."""
    from studies.commands.cluster import cancel as end

    with usage_errors():
        typer.echo(end(directory))


@app.command()
def logs(directory: DirectoryArgument, run: Annotated[str, typer.Argument(help="A run, or how it begins.")]) -> None:
    """The error of a run and the logs of its job."""
    from studies.commands.cluster import log_text

    with usage_errors():
        typer.echo(log_text(directory, run))


@app.command()
@with_options(slurm=slurm_options)
def retry(directory: DirectoryArgument, slurm: tuple[str | None, dict[str, Any]], method: MethodOption = None) -> None:
    """Submit the failed runs of a study to Slurm again, asking for the same as before but for the options given."""
    from studies.commands.cluster import retry as again
    from studies.commands.cluster import submitted_lines
    from studies.commands.reading.options import give_methods

    with usage_errors():
        give_methods(method)
        done = again(directory, slurm[1], slurm[0])
    typer.echo("\n".join(submitted_lines(done, directory)))


@app.command()
def show(
    directory: Annotated[Path | None, typer.Argument(help="Record directory: its saved models and data set.")] = None,
    items: Annotated[str, typer.Option(help="Numbers of test images of the study.")] = "0,1,2",
    runs: Annotated[
        str | None, typer.Option(help="Ids of finished runs (default: each reducer at its smallest budget).")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Without DIRECTORY: an image file.")] = None,
    backbone: Annotated[
        str, typer.Option(help="With --image: a timm model, or a checkpoint of one: NAME=FILE.")
    ] = "vit_small_patch16_224",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="With --image: timm's pretrained weights.")] = False,
    reducers: Annotated[str, typer.Option(help="With --image: `all`, `every`, or names with options.")] = "all",
    budgets: Annotated[str, typer.Option(help="With --image: shares of the dense MACs.")] = "0.65",
    out: Annotated[Path | None, typer.Option(help="Folder of the pictures (default: DIRECTORY/report, or .).")] = None,
    method: MethodOption = None,
) -> None:
    """Which patches an image loses, block by block, as a picture: of a study's models, or of one off the shelf."""
    from studies.commands.reading.options import give_methods
    from studies.commands.show import show_image, show_study

    with usage_errors():
        give_methods(method)
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


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="A method: a file (./mine.py) or a name, with options.")],
    as_json: JsonOption = False,
) -> None:
    """Does a method keep the rules that every method must? Exit code 1 if not."""
    from studies.commands.check import check as examine
    from studies.commands.check import show

    with usage_errors():
        results = examine(method)
    if as_json:
        typer.echo(json.dumps([result._asdict() for result in results]))
    else:
        show(results)
    if any(result.state == "failed" for result in results):
        raise typer.Exit(FAILED)


@app.command("new-method")
def new_method(file: Annotated[Path, typer.Argument(help="Where to: NAME.py, the method is called NAME.")]) -> None:
    """Write a file to begin a method of your own with; it runs as it stands."""
    from studies.commands.new_method import new_method as write

    with usage_errors():
        path = write(file)
    typer.echo(f"{path}; now: cropr-study check {path if path.is_absolute() else f'./{path}'}")


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="reducers, studies, datasets or backbones.")],
    pattern: Annotated[
        str | None, typer.Argument(help="A reducer, ./FILE.py or a study: its page; backbones: a pattern.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The names that options take, with the options of reducers and their defaults."""
    from studies.commands.reading.names import names, show

    with usage_errors():
        found = names(what, pattern)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        show(what, found)


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: file names may be no UTF-8
    app()


if __name__ == "__main__":
    main()
