"""The command at a point of the page: what it asks for has the very ids of the runs that it is for."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

import cli
from results.records.files import write_json
from studies.commands.run import Options, configs_of
from studies.config import RunConfig, read_config
from studies.runs.command import command, command_of

RECORDS = Path(__file__).parents[3] / "docs" / "records"
RUNS = sorted(path for path in RECORDS.glob("*/runs/*") if "-s0-" in path.name)


def asked_by(text: str) -> list[RunConfig]:
    """The runs that the command line makes of `text`."""
    words = shlex.split(text)
    assert words[:2] == ["cropr-study", "run"]
    app: Any = typer.main.get_command(cli.app)
    context = app.commands["run"].make_context("run", words[2:])
    given = {key: value for key, value in context.params.items() if key in Options.__dataclass_fields__}
    given["settings"] = list(given.pop("settings") or [])
    return configs_of(Options(**given))


def ids(configs: list[RunConfig]) -> set[str]:
    return {config.id for config in configs}


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_committed_records_are_asked_for_again(folder: Path) -> None:
    config = read_config(folder / "config.json")
    if "trained_at" in config.reducer:  # it begins with another run of its seed, which is asked for too
        own, first = asked_by(command_of(folder, 1)), f"none-s{config.seed}-"
        assert folder.name in ids(own) and [one.id.startswith(first) for one in own].count(False) == 1 < len(own)
        return
    sisters = ids([replace(config, seed=seed) for seed in range(3)])
    assert folder.name in sisters and ids(asked_by(command_of(folder, 3))) == sisters


CHANGES = {
    "one recipe for all": ("cropr:rest=llf", ("--protocol", "same"), 0.65),
    "settings": ("tome", ("--set", "lr=0.001", "--set", "mixup=0.2", "--set", "betas=0.9/0.95"), 0.65),
    "off the shelf": ("tome", ("--train", "none"), 0.4),
    "smoke run": ("evit", ("--quick",), 0.4),
    "published recipe": ("tome", ("--recipe", "evit"), 0.65),
    "published recipe, changed": ("tome", ("--recipe", "cropr", "--set", "clip_grad=2.0"), 0.65),
    "windows": ("cropr", ("--window", "4"), 0.65),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_was_typed_comes_back(changed: str) -> None:
    reducer, options, budget = CHANGES[changed]
    (config,) = asked_by(
        f"cropr-study run pareto --reducers {reducer} --budgets {budget} --seeds 1 {shlex.join(options)}"
    )
    assert ids(asked_by(command(config, 1))) == {config.id}
    assert all(word in command(config, 1) for word in options)


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    (config,) = asked_by("cropr-study run pareto --reducers tome --budgets 0.65 --seeds 1")
    assert command_of(tmp_path, 1) == ""
    for change in ({"study": "elsewhere"}, {"split": "val"}):
        write_json(tmp_path / "config.json", replace(config, **change).to_dict())  # type: ignore[arg-type]
        assert command_of(tmp_path, 1) == ""
    own = command(replace(config, reducer="mine#0123abcd:width=2", dataset="imagenet", data_dir="/home/me/data"), 2)
    assert "--reducers ./mine.py:width=2 --budgets 0.65 --seeds 2 --dataset imagenet --data DIR" in own
    assert "/home" not in own
