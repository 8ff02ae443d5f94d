"""The state of a training on disk: one safetensors file, replaced in one move; plain values are JSON in its header."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from results.records.files import write_bytes

__all__ = ["below", "load_optimizer", "optimizer_tensors", "read_state", "there_is", "under", "write_state"]


_logger = logging.getLogger(__name__)


def there_is(path: Path) -> bool:
    """Whether there is a state to go on from. One that is damaged (cut off, no such file) is put aside, and said."""
    try:
        with safe_open(path, "pt") as file:
            json.loads((file.metadata() or {})["state"])
        return True
    except FileNotFoundError:
        return False
    except (SafetensorError, KeyError, ValueError) as error:
        aside = path.with_suffix(".broken")
        path.replace(aside)
        _logger.warning("%s cannot be read (%s): it is %s now, and training begins anew", path, error, aside.name)
        return False


def write_state(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Replaces `path`, or leaves it as it was and raises OSError (full disk)."""
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # no shared memory
    write_bytes(path, to_bytes(whole, {"state": json.dumps(values)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain values of `write_state`."""
    with safe_open(path, "pt") as file:
        values = json.loads(file.metadata()["state"])
        return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118 (no mapping)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, with `prefix.` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers: "index of the parameter.name" -> tensor."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, state in states.items() for name, tensor in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".")
        states.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
