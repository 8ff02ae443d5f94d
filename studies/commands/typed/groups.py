"""What several commands share at the command line: groups of options, panels, a file of defaults, errors as exit codes.

Nothing heavy is imported here, as `--help` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

__all__ = ["FAILED", "INTERRUPTED", "SETTINGS", "USAGE", "from_file", "usage_errors", "with_options"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
SETTINGS = "settings of the recipe"  # what the configuration file says of it, in the context of the command
# Of the options that several commands share; what is in none stands under "Options".
PANELS = {
    "Study": "reducers budgets seeds task dataset data backbone pool window masks "
    "ignore img_size random_at_counts config",
    "Training": "train recipe protocol settings quick rerun",
    "Where it runs": "launcher out device jobs workers timing dry_run",
    "Slurm": "profile partition account qos constraint gpus cpus mem time nodes throttle runs_per_job setup sbatch",
}


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
        from studies.commands.reading.config_file import read_config

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
