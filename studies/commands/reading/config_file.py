"""`run --config FILE.toml`: the options of `run` by their names, and the settings of the recipe in a table [set].

reducers = ["none", "cropr:llf=true"]
budgets = [0.65, 0.5]
seeds = 3
[set]
epochs = 10
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cropr.nearest import nearest
from studies.config import Recipe

__all__ = ["read_config"]


def read_config(path: Path, options: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """(values by option, "key=value" of each setting). Lists become the commas of the command line.

    Raises ValueError: no TOML, an unknown key, a table that is not [set]; OSError.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    table = content.pop("set", {})
    if not isinstance(table, dict):
        raise ValueError(f"{path}: set is a table of settings, [set], not {table!r}")
    options, fields = list(options), list(Recipe.__dataclass_fields__)
    for key in table:
        if key not in fields:
            raise ValueError(f"{path}: {nearest('setting', key, fields)}")
    values = {}
    for key, value in content.items():
        if key.replace("_", "-") not in options:
            raise ValueError(f"{path}: {nearest('option', key, options)}")
        if isinstance(value, dict):
            raise ValueError(f"{path}: {key} is a value, not a table")
        if not isinstance(value, (str, bool, int, float, list)):
            raise ValueError(f"{path}: {key} is a {type(value).__name__}; write it as text, in quotes")
        values[key.replace("_", "-")] = ",".join(map(str, value)) if isinstance(value, list) else value
    return values, [f"{key}={json.dumps(value, default=str)}" for key, value in table.items()]
