"""Local checkpoints: safetensors, or torch files read without pickle; keys mapped by timm, told apart when foreign.

Letters: C classes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropr.nearest import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SUFFIXES", "digest", "head_classes", "is_checkpoint", "load_into", "read_checkpoint"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")  # timm's order: averaged weights first
HEADS = ("head.", "head_dist.")


def is_checkpoint(name: str) -> bool:
    """Whether a backbone's `name` is that of a file."""
    return name.endswith(SUFFIXES)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], str | None]:
    """(weights by their own keys, name of timm's model where the file or the config.json beside it says so).

    Raises ValueError: missing, truncated, holding pickled objects, or not a checkpoint.
    """
    path = _existing(path)
    if not is_checkpoint(path.name):
        raise ValueError(f"checkpoint {path} is of an unknown kind; valid: {', '.join(SUFFIXES)}")
    found, name = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    name = name or _name_beside(path)
    while isinstance(found, dict) and (key := next((w for w in WRAPPERS if isinstance(found.get(w), dict)), None)):
        found = found[key]
    return _tensors(path, found), name


def digest(path: str | Path) -> str:
    """SHA-256 of a checkpoint: what it is, wherever it lies. Raises ValueError where there is none."""
    path = _existing(path).resolve()
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*") if is_checkpoint(p.name)] if path.parent.is_dir() else []
        if path.is_dir():
            raise ValueError(f"checkpoint {path} is a folder, not a file")
        raise ValueError(f"checkpoint {path} does not exist{did_you_mean(path.name, names)}")
    return path


def head_classes(state: dict[str, Tensor]) -> int | None:
    """C of the classifier in a checkpoint, None where it has none."""
    return state["head.weight"].shape[0] if "head.weight" in state else None


def load_into(model: nn.Module, state: dict[str, Tensor], source: str) -> list[str]:
    """Copies `state` into a timm `model`; timm maps the keys and resamples position embeddings and patch kernels.

    Returns what was left out or replaced, in words. Raises ValueError for the weights of another model.
    """
    own = model.state_dict()
    try:
        state = dict(_filter_of(model)(dict(state), model))
    except (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise _foreign(model, own, state, source, f"timm cannot map its keys ({reason})") from error
    notes = _fit_head(own, state)
    pooling = [key for key in state if key.startswith("attn_pool.")]
    if pooling and getattr(model, "attn_pool", None) is None:  # SigLIP read with another pooling, as timm allows
        notes.append(f"its attention pooling is left out: the model pools by {model.global_pool!r}")
        state = {key: value for key, value in state.items() if key not in pooling}
    missing = [key for key in own if key not in state and not key.startswith(HEADS)]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = (("unexpected", unexpected), ("missing", missing), ("of another shape", shapes))
    if said := [f"{len(keys)} {kind}: {', '.join(keys[:3])}" for kind, keys in problems if keys]:
        raise _foreign(model, own, state, source, "; ".join(said))
    model.load_state_dict(state, strict=False)
    return notes


def _foreign(model: nn.Module, own: dict, state: dict, source: str, reason: str) -> ValueError:
    matched = sum(key in state and state[key].shape == value.shape for key, value in own.items())
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__)
    return ValueError(f"{source} is not of {name}: {matched} of {len(own)} weights match; {reason}")


def _fit_head(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Takes classifiers of another number of classes out of `state`."""
    notes = []
    for head in HEADS:
        weight, wanted = state.get(f"{head}weight"), own.get(f"{head}weight")
        if weight is not None and (wanted is None or weight.shape[0] != wanted.shape[0]):
            left = [key for key in state if key.startswith(head)]
            for key in left:
                del state[key]
            to = "none" if wanted is None else f"a new one of {wanted.shape[0]}"
            if wanted is None and head == "head_dist." and "head.weight" in own:
                to = "none (the model is not the distilled one)"
            notes.append(f"classifier {head[:-1]} of {weight.shape[0]} classes is replaced by {to}")
        elif weight is None and wanted is not None:
            notes.append(f"it has no classifier {head[:-1]}; the model's own of {wanted.shape[0]} classes is new")
    return notes


def _filter_of(model: nn.Module) -> Any:
    """timm's own mapping of keys for this model, as its entry point calls it."""
    from timm.models import eva, vision_transformer

    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or ""
    if type(model).__module__ == eva.__name__:
        return eva.checkpoint_filter_fn
    mapping = vision_transformer.checkpoint_filter_fn
    if "flexi" in name:
        return partial(mapping, interpolation="bilinear", antialias=False)
    if "radio" in name:
        aligned = any(part in name for part in getattr(vision_transformer, "_RADIO_ALIGN_CORNERS", ()))
        return partial(mapping, interpolation="bilinear", antialias=False, align_corners=aligned)
    # DeiT III's files have layer scale under other names.
    return partial(mapping, adapt_layer_scale=name.startswith("deit"))


def _read_safetensors(path: Path) -> tuple[Any, str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {key: file.get_tensor(key) for key in file.keys()}, metadata.get("architecture")  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} is truncated, or no safetensors file ({error})") from error


def _read_torch(path: Path) -> tuple[Any, str | None]:
    import argparse
    import pickle

    import torch

    with open(path, "rb") as file:
        start = file.read(4)
    if start[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise ValueError(f"checkpoint {path} is truncated: its archive has no end")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training script stores its arguments
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise ValueError(f"checkpoint {path} is truncated, or no torch file") from error
        what = torch.serialization.get_unsafe_globals_in_checkpoint(path) if start[:2] == b"PK" else []
        raise ValueError(
            f"checkpoint {path} holds pickled objects ({', '.join(what) or 'of unknown kind'}), which are not loaded: "
            "they can run any code; save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint {path} is truncated, or no torch file ({error})") from error
    name = found.get("arch") if isinstance(found, dict) else None
    return found, name if isinstance(name, str) else None


def _name_beside(path: Path) -> str | None:
    """`architecture` of the config.json that timm and the Hugging Face hub put beside the weights."""
    try:
        config = json.loads((path.parent / "config.json").read_text())
    except (OSError, ValueError):
        return None
    name = config.get("architecture") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def _tensors(path: Path, found: Any) -> dict[str, Tensor]:
    import torch
    from timm.models import clean_state_dict

    if not isinstance(found, dict) or not found:
        raise ValueError(f"checkpoint {path} holds {type(found).__name__}, not weights by name")
    if bad := [key for key, value in found.items() if not isinstance(key, str) or not isinstance(value, torch.Tensor)]:
        raise ValueError(f"checkpoint {path} holds values that are not weights: {', '.join(map(str, bad[:5]))}")
    return clean_state_dict(found)
