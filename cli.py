"""The command line `cropr-study`: options, and errors as exit codes. What commands do stands in studies/commands/.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from time import sleep
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

app = typer.Typer(
    name="cropr-study",
    help="Ablations and benchmarks of token reduction in Vision Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FAILED, USAGE, INTERRUPTED = 1, 2, 130
SETTINGS = "settings of the recipe"  # what the configuration file says of it, in the context of the command
WATCH_S = 5.0
# Of the options that several commands share; what is in none stands under "Options".
PANELS = {
    "Study": "reducers budgets seeds task dataset data backbone pool window masks "
    "ignore img_size random_at_counts config",
    "Training": "train recipe protocol settings quick rerun",
    "Where it runs": "launcher out device jobs dry_run",
    "Slurm": "profile partition account qos constraint gpus cpus mem time nodes throttle runs_per_job setup sbatch",
}

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


def with_options(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of each group, a function that makes one value of them; it takes that value."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        keys = {name: list(signature(group).parameters) for name, group in groups.items()}
        parameters = [p for group in groups.values() for p in signature(group, eval_str=True).parameters.values()]
        parameters += [p for n, p in signature(command, eval_str=True).parameters.items() if n not in groups]

        @wraps(command)
        def called(**values: Any) -> None:
            with usage_errors():
                made = {name: groups[name](**{key: values.pop(key) for key in own}) for name, own in keys.items()}
            command(**values, **made)

        parameters = [in_panel(p.replace(kind=Parameter.KEYWORD_ONLY)) for p in parameters]
        called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate


def in_panel(parameter: Parameter) -> Parameter:
    """The same option, under the title of its panel."""
    panel = next((title for title, names in PANELS.items() if parameter.name in names.split()), None)
    kind: Any = getattr(parameter.annotation, "__origin__", None)
    if panel is None or kind is None:
        return parameter
    said = [copy(info) for info in parameter.annotation.__metadata__]  # the original is that of other commands too
    for info in said:
        if isinstance(info, OptionInfo):
            info.rich_help_panel = panel
    return parameter.replace(annotation=Annotated[(kind, *said)])


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
        str | None, typer.Argument(help="A study of the catalogue (default: pareto, or the task's).")
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
        str | None, typer.Option(help="classification, segmentation or detection (default: the study's).")
    ] = None,
    dataset: DatasetOption = "scenes",
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
    train: Annotated[str, typer.Option(help="none (off the shelf) or recipe.")] = "recipe",
    recipe: Annotated[
        str | None, typer.Option(help="A published recipe: cropr, evit, dynamicvit (default: the study's).")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the training recipe.")] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="own (each method as its paper trains it, values chosen by `tune`), same (one recipe), or tune's FILE."
        ),
    ] = "own",
    random_at_counts: Annotated[
        bool, typer.Option("--random-at-counts", help="Beside each method random pruning at its very counts.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="One budget, little training: a smoke run.")] = False,
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


DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


@app.command()
@with_options(study=study_options, slurm=slurm_options)
def run(
    study: dict[str, Any],
    slurm: tuple[str | None, dict[str, Any]],
    launcher: Annotated[str, typer.Option(help="local or slurm.")] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes (default: one a core; on a GPU 1).")] = None,
    dry_run: DryRunOption = False,
    rerun: Annotated[bool, typer.Option("--rerun", help="Finished runs again; OUT/aside keeps the old.")] = False,
) -> None:
    """Train, evaluate and measure reducers; run the same command again to continue."""
    from studies.commands import bench as speed
    from studies.commands.run import Options, configs_of, errors_of, only_timed, prepare
    from studies.launch.here import follows

    options = Options(**study, launcher=launcher, jobs=jobs, rerun=rerun, profile=slurm[0], slurm=slurm[1])
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
            print_dry_run(configs, options)
            return
        prepare(configs, options)
    failed = executed(configs, options)
    if follows():
        return
    if failed:
        typer.echo("\n".join(errors_of(failed, options.directory)), err=True)
        where = options.directory / "runs" / "ID" / "failure.json"
        typer.echo(f"{len(failed)} of {len(configs)} runs failed, the others are kept; see {where}", err=True)
    print_report([options.directory], code=FAILED)
    if failed:
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
    launcher: Annotated[str, typer.Option(help="local or slurm.")] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes (default: one a core; on a GPU 1).")] = None,
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
def submit(study: dict[str, Any], slurm: tuple[str | None, dict[str, Any]], dry_run: DryRunOption = False) -> None:
    """Submit a study to Slurm and return at once; again: only what is neither finished, queued nor running."""
    from studies.commands.cluster import submitted_lines
    from studies.commands.run import Options, configs_of, only_timed, prepare
    from studies.launch.profile import resources
    from studies.launch.slurm import submit as send

    options = Options(**study, launcher="slurm", profile=slurm[0], slurm=slurm[1])
    with usage_errors():
        if only_timed(options) is not None:
            raise ValueError(
                f"study {options.name} is only timed, there are no runs to submit; cropr-study run does it"
            )
        configs = configs_of(options)
        if dry_run:
            print_dry_run(configs, options)
            return
        prepare(configs, options)
        done = send(configs, options.directory, resources(*slurm))
    typer.echo("\n".join(submitted_lines(done, options.directory)))


def print_dry_run(configs: list, options: Any) -> None:
    """The runs, and on Slurm the scripts and an estimate."""
    typer.echo("\n".join(config.id for config in configs))
    if options.launcher == "slurm":
        from studies.commands.cluster import dry_run
        from studies.launch.profile import resources

        typer.echo(dry_run(configs, options.directory, resources(options.profile, options.slurm)))


@app.command()
def bench(
    backbone: Annotated[
        str, typer.Option(help="An embedded or timm model (random weights), or a checkpoint: NAME=FILE.")
    ] = "vit_small_patch16_224",
    reducers: Annotated[str, typer.Option(help="`all`, `every`, or names with options.")] = "all",
    budgets: Annotated[str, typer.Option(help="Shares of the dense MACs.")] = "0.5",
    batch_sizes: Annotated[str, typer.Option(help="Images at once, such as 1,16.")] = "16",
    img_sizes: Annotated[
        str | None, typer.Option(help="Image sides in pixels, such as 224,384 (default: the model's own).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 10,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: DeviceOption = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the whole model.")] = False,
    out: Annotated[Path | None, typer.Option(help="Keep records here, for `report` (default: print only).")] = None,
    task: Annotated[
        str, typer.Option(help="classification; segmentation: with its decoder; detection: encoder, and whole.")
    ] = "classification",
    window: WindowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Speed and cost only: random weights, any timm model, no training; one measurement for each combination."""
    from studies.commands import bench as command

    options = command.Bench(
        backbone, reducers, budgets, batch_sizes, img_sizes, rounds, dtype, device, compiled, out, task, window=window
    )
    from studies.measure import NotCompiled

    with usage_errors():
        try:
            records = command.run(options, progress=lambda text: typer.echo(text, err=True))
        except NotCompiled as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FAILED) from None
    typer.echo(json.dumps(records) if as_json else "\n".join(command.lines(records)))


@app.command()
def report(
    dirs: Annotated[list[Path], typer.Argument(help="Record directories; several are compared.")],
    published: Annotated[bool, typer.Option("--published", help="Overlay published numbers.")] = False,
    agree: Annotated[bool, typer.Option("--agree", help="Two records of one study: do they say the same?")] = False,
) -> None:
    """Tables and plots out of the records alone, also while runs are still going."""
    if not agree:
        print_report(dirs, published)
        return
    from studies.commands.records import write_agreement

    with usage_errors():
        if len(dirs) != 2:
            raise ValueError(f"--agree compares two directories, not {len(dirs)}")
        typer.echo("\n".join(map(str, write_agreement(*dirs))))


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
    ignore: IgnoreOption = None,
    device: DeviceOption = "auto",
    method: MethodOption = None,
) -> None:
    """Accuracy of a saved reduced model; prints one JSON document."""
    from studies.commands.options import give_methods
    from studies.commands.records import evaluate as score

    with usage_errors():
        give_methods(method)
        metrics = score(model, dataset, data, device, ignore)
    typer.echo(json.dumps(metrics))


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
    from studies.commands.options import give_methods

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
    from studies.commands.options import give_methods
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
    from studies.commands.names import names, show

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
