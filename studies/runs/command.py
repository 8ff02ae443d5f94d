"""The command that makes the runs of a variant again, from what one of them was asked for."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from results.records.store import CorruptRecord
from studies.catalogue import studies
from studies.catalogue.recipes import RECIPES
from studies.config import CHOICES, Recipe, RunConfig, read_config

__all__ = ["command", "command_of"]


def command_of(folder: Path, seeds: int) -> str:
    """Of the run in `folder` and of its sisters with other seeds, 0 to `seeds` - 1; empty where its config.json cannot
    be read, its study is none of the catalogue, or `tune` made it."""
    try:
        config = read_config(folder / "config.json")
    except (FileNotFoundError, CorruptRecord):
        return ""
    return command(config, seeds) if config.study in studies() and config.split == "test" else ""


def command(config: RunConfig, seeds: int) -> str:
    """`cropr-study run …` whose runs have the ids of `config` and its sisters. Where data lie is not said: DIR; nor is
    where a checkpoint or a method of one's own lies beside its name."""
    study = studies()[config.study]
    said: dict[str, Any] = {"reducers": _reducer(config.reducer)}
    if config.budget is not None:
        said["budgets"] = f"{config.budget:g}"
    said["seeds"] = seeds
    if config.dataset != "scenes":
        said |= {"dataset": config.dataset, "data": "DIR"}
    if config.checkpoint is not None:
        said["backbone"] = f"{config.backbone}={Path(config.checkpoint).name}"
    elif config.backbone != study.backbone:
        said["backbone"] = config.backbone
    said |= {key: value for key, value in config.chosen.items() if key != "masks"}
    words = ["cropr-study", "run", config.study]
    words += [word for key, value in said.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words += ["--no-masks"] if config.masks != CHOICES["masks"] else []
    words += ["--quick"] if config.quick else []
    return shlex.join([*words, *_training(config)])


def _reducer(spec: str) -> str:
    name, colon, options = spec.partition(":")
    own, mark, _ = name.partition("#")
    return f"./{own}.py{colon}{options}" if mark else spec


def _training(config: RunConfig) -> list[str]:
    """Options that lead to the recipe of `config`: the study's or a published one, and what is set beside it. Settings
    that a method has of its own come with the protocol."""
    if config.recipe is None:
        return ["--train", "none"]
    recipe, own = config.recipe, {key for key, _ in config.own}
    usual, _ = studies()[config.study].recipes(config.quick)
    trained = [] if usual else ["--train", "recipe"]
    words, changed = [], _changed(recipe, usual or Recipe(), own)
    if not own:
        for name, published in RECIPES.items():
            if len(other := _changed(recipe, published, own)) < len(changed):
                words, changed = ["--recipe", name], other
        words = words or ["--protocol", "same"]
    return trained + words + [word for key in changed for word in ("--set", f"{key}={_text(getattr(recipe, key))}")]


def _changed(recipe: Recipe, usual: Recipe, own: set[str]) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(Recipe)
        if field.name not in own and getattr(recipe, field.name) != getattr(usual, field.name)
    ]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
