"""A reduced model as it is deployed: NAME.safetensors (weights, folded) and NAME.json (how to rebuild the model).

Letters: D width.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, NotRequired

import torch
from safetensors import SafetensorError
from timm.layers import DropPath
from torch import Tensor, nn
from typing_extensions import TypedDict

from cropr.dense import DenseViT
from cropr.nearest import did_you_mean, nearest
from cropr.reducer import Reducer
from cropr.vit import ReducedViT
from cropr.windows import windows_of
from results.records.files import read_json, write_bytes, write_json
from results.records.schema import check
from studies.models.backbones import create_backbone, is_checkpoint
from studies.models.methods import known

__all__ = ["info", "load", "save"]

FORMAT = "cropr-study model 2"
PACKAGES = ("torch", "timm", "safetensors")
PLAIN = (bool, int, float, str, type(None))  # values of a reducer's arguments
DAMAGES = (  # what models and reducers raise when they are made of what does not fit
    SafetensorError, RuntimeError, KeyError, TypeError, AttributeError, AssertionError, IndexError, ArithmeticError,
)  # fmt: skip
SWITCHES = ("training", "grad_checkpointing", "fused_attn")  # of modules, that make no other model


class Placed(TypedDict):
    """A reducer in it; what else it holds are its arguments."""

    block: int
    kind: str
    method: str


class Description(TypedDict):
    """NAME.json."""

    format: str
    backbone: str
    options: dict[str, Any]
    img_size: int | list[int] | None
    llf: bool
    dtype: str
    reducers: list[Placed]
    data_config: dict[str, Any] | None
    sha256: str
    fusion: NotRequired[str | None]


def save(model: ReducedViT, path: Path, *, backbone: str, data_config: dict[str, Any] | None) -> Path:
    """Writes `path`.safetensors and `path`.json and returns the path of the latter. `model` is left as it is.

    `backbone`: its name for `create_backbone`. `data_config`: of `timm.data.resolve_model_data_config`, or None.
    Raises ValueError where `backbone` with the options that are kept does not make this model again; OSError.
    """
    from safetensors.torch import save as to_bytes

    path = _stem(path)
    if is_checkpoint(backbone):
        backbone = model.vit.pretrained_cfg["architecture"]
    reducers = {int(i): reducer.fold() for i, reducer in model.reducers.items()}
    parts = {"vit": model.vit, **{f"reducers.{i}": reducer for i, reducer in reducers.items()}}
    state = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
    state |= {key: value for key, value in model.state_dict().items() if not key.startswith(("vit.", "reducers."))}
    # Copies: safetensors refuses weights that share memory.
    state = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}
    description = {
        "format": FORMAT,
        "backbone": backbone,
        "options": _options(model.vit, backbone),
        "img_size": model.img_size,
        "llf": model.llf,
        "fusion": model.fusion if isinstance(model, DenseViT) else None,
        "dtype": str(model.vit.patch_embed.proj.weight.dtype).removeprefix("torch."),
        "reducers": [{"block": i, **_describe(reducer)} for i, reducer in reducers.items()],
        "data_config": data_config,
        "versions": {name: version(name) for name in PACKAGES},
    }
    _verify(description, model.vit, state)
    weights = to_bytes(state, metadata={"architecture": backbone})
    description["sha256"] = hashlib.sha256(weights).hexdigest()
    # The description comes last: until it is there, or while it is that of older weights, the pair is not loaded.
    write_bytes(_beside(path, ".safetensors"), weights)
    write_json(_beside(path, ".json"), description)
    return _beside(path, ".json")


def load(path: Path) -> ReducedViT:
    """The model of `path` (with or without suffix), folded, in eval mode, on the CPU.

    Raises ValueError: missing, cut off, not of this kind, or two files that do not belong together.
    """
    from safetensors.torch import load as from_bytes

    description, weights = info(path), _beside(_stem(path), ".safetensors")
    if not weights.is_file():
        raise ValueError(f"{weights} does not exist; it belongs to {weights.stem}.json")
    data = weights.read_bytes()
    if hashlib.sha256(data).hexdigest() != description["sha256"]:
        raise ValueError(f"{weights} is cut off, or is not the file that {weights.stem}.json was written with")
    try:
        state = from_bytes(data)
        with torch.random.fork_rng(devices=[]):  # the weights drawn here and replaced must not move the caller's
            model = _rebuild(description)
        kinds = {str(value.dtype).removeprefix("torch.") for value in state.values() if value.is_floating_point()}
        if description["dtype"] not in kinds:
            raise TypeError(f"dtype {description['dtype']} said, {', '.join(sorted(kinds))} found")
        model.load_state_dict(state, assign=True)
    except DAMAGES as error:
        raise ValueError(f"{weights.stem}.json does not describe its weights ({error!r})") from error
    return model.requires_grad_(False).eval()


def info(path: Path) -> dict[str, Any]:
    """What `path`.json says: backbone, options, reducers, data_config (None where there is none), versions."""
    file = _beside(_stem(path), ".json")
    if not file.is_file():
        names = [p.stem for p in file.parent.glob("*.json")] if file.parent.is_dir() else []
        raise ValueError(f"saved model {file} does not exist{did_you_mean(file.stem, names)}")
    description = read_json(file)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        raise ValueError(f"{file} is not a saved model: format {found!r} found, {FORMAT!r} expected")
    check(file, description, Description)
    return description


def _stem(path: Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)  # not with_suffix: names have dots


def _options(vit: nn.Module, backbone: str) -> dict[str, Any]:
    """What of `vit` differs from the backbone's own values."""
    with torch.device("meta"):
        plain = _settings(_create(backbone, {}))
    return {key: value for key, value in _settings(vit).items() if value != plain[key]}


def _settings(vit: nn.Module) -> dict[str, Any]:
    return {
        "num_classes": vit.num_classes,
        "img_size": list(vit.patch_embed.img_size),
        "patch_size": list(vit.patch_embed.patch_size),
        "global_pool": vit.global_pool,
        "pool_include_prefix": getattr(vit, "pool_include_prefix", None),
        "dynamic_img_size": vit.dynamic_img_size,
        "detector": hasattr(vit.head, "detect"),
        "window": str(windows) if (windows := windows_of(vit)) else None,
        "masks": getattr(vit.head, "masks", True),
    }


def _create(backbone: str, options: dict[str, Any]) -> nn.Module:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return create_backbone(backbone, pretrained=False, **options)


def _rebuild(description: dict[str, Any]) -> ReducedViT:
    vit = _create(description["backbone"], description["options"])
    reducers = {entry["block"]: _build(entry) for entry in description["reducers"]}
    size = tuple(description["img_size"]) if isinstance(description["img_size"], list) else description["img_size"]
    model = (
        DenseViT(vit, reducers, fusion=fusion, img_size=size)
        if (fusion := description.get("fusion"))  # models for images have none
        else ReducedViT(vit, reducers, llf=description["llf"], img_size=size)
    )
    dtype = getattr(torch, description["dtype"])
    return model if dtype is torch.float32 else model.to(dtype)  # buffers that are not saved (RoPE) follow


def _verify(description: dict[str, Any], vit: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a model rebuilt from `description` has the weights of `state` and the values of `vit`."""
    with torch.device("meta"):
        rebuilt = _rebuild(description)
    ours, theirs = ({k: tuple(v.shape) for k, v in s.items()} for s in (state, rebuilt.state_dict()))
    # Weights alone do not tell: the number of heads, or the epsilon of a norm, leaves their shapes as they are.
    ours, theirs = ours | _traits(vit), theirs | _traits(rebuilt.vit)
    if differ := [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]:
        raise ValueError(
            f"backbone {description['backbone']!r} with {description['options']} is not the model to be saved; they "
            f"differ in {len(differ)} places: {', '.join(differ[:5])}"
        )


def _traits(vit: nn.Module) -> dict[str, Any]:
    """Class and plain values of every module that counts in evaluation."""
    found: dict[str, Any] = {}
    for name, module in vit.named_modules():
        if isinstance(module, (DropPath, nn.Dropout, nn.Identity)):
            continue
        found[name or "model"] = type(module).__name__
        for key, value in vars(module).items():
            if key[0] != "_" and key not in SWITCHES and isinstance(value, (bool, int, float, str, tuple)):
                found[f"{name}.{key}".lstrip(".")] = value
    return found


def _describe(reducer: Reducer) -> dict[str, Any]:
    """Class and arguments of a reducer, which are attributes of the same names (scikit-learn's convention). Raises
    ValueError for a class that no method has, or an argument that was not kept."""
    cls = type(reducer)
    owner = _owners().get((cls.__module__, cls.__name__))
    if owner is None:
        valid = ", ".join(sorted(name for _, name in _owners()))
        raise ValueError(f"cannot save {cls.__name__}, which is in no method's file; valid: {valid}")
    found: dict[str, Any] = {"kind": cls.__name__, "method": owner}
    for name in signature(cls).parameters:
        if not isinstance(value := getattr(reducer, name, signature), PLAIN):
            raise ValueError(
                f"cannot save {cls.__name__}: its argument {name} is no attribute of that name with a plain value"
            )
        found[name] = value
    return found


def _build(entry: dict[str, Any]) -> Reducer:
    """The reducer of `_describe`. Raises ValueError, also where it is of a user's own file that was not given."""
    entry = dict(entry)
    kind, method = entry.pop("kind"), entry.pop("method")
    del entry["block"]
    classes = {name: cls for (_, name), (owner, cls) in _classes().items() if owner == method}
    if method not in known():
        given = "#" in method
        reason = "a user's own file: give it, --method ./FILE.py" if given else nearest("method", method, known())
        raise ValueError(f"a saved model has a reducer of {method}: {reason}")
    if (cls := classes.get(kind)) is None:
        raise ValueError(f"unknown reducer {kind!r} in a saved model; valid: {', '.join(sorted(classes))}")
    return cls(**entry)


def _classes() -> dict[tuple[str, str], tuple[str, type[Reducer]]]:
    """(module, name) of every reducer in the file of a method that is known -> the method, the class."""
    found = {}
    for method, declared in known().items():
        for value in vars(sys.modules[declared.__module__]).values():
            if isinstance(value, type) and issubclass(value, Reducer) and value.__module__ == declared.__module__:
                found[value.__module__, value.__name__] = (method, value)
    return found


def _owners() -> dict[tuple[str, str], str]:
    return {key: method for key, (method, _) in _classes().items()}
