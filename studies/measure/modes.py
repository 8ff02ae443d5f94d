"""The ways to run a model while it is timed: as it is, compiled, as CUDA graphs, or exported and run by onnxruntime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cropr.nearest import one_of
from studies.measure import NotCompiled

__all__ = ["COMPILED", "MODES", "NotRun", "as_run", "check_modes", "num_threads", "of_memory", "running"]

MODES = ("eager", "compiled", "graphs", "onnx")
COMPILED = ("compiled", "graphs")
MAX_COMPILED = 1024  # variants x batch sizes of one measurement


class NotRun(Exception):
    """One model has no such form; others may."""


def check_modes(modes: Sequence[str], device: str, dtypes: Sequence[str]) -> None:
    """Raises ValueError where a mode is unknown, or cannot run on `device` or in one of `dtypes` or without a package
    that is not there."""
    from studies.models.export import missing_packages

    for mode in modes:
        one_of("mode", mode, MODES)
    if "graphs" in modes and device != "cuda":
        valid = ", ".join(mode for mode in MODES if mode != "graphs")
        raise ValueError(f"mode graphs records CUDA graphs and needs a GPU, not the device {device}; valid: {valid}")
    if "onnx" not in modes:
        return
    if missing := missing_packages("onnx"):
        raise ValueError(f"mode onnx needs {', '.join(missing)}: pip install 'cropr-study[export]'")
    if other := [dtype for dtype in dtypes if dtype != "float32"]:
        raise ValueError(f"mode onnx computes in float32 only, not {other[0]}; leave one of them out")
    if device != "cpu":
        raise ValueError(f"mode onnx runs on the CPU only, not on {device}; give --device cpu or leave it out")


def as_run(model: nn.Module, mode: str) -> nn.Module:
    """`model` in the form that `mode` runs. torch.compile compiles at the first pass only. Raises NotRun."""
    if mode == "onnx":
        return Exported(model)
    if mode in COMPILED:
        return torch.compile(model, dynamic=False, mode="reduce-overhead" if mode == "graphs" else None)
    return model


class Exported(nn.Module):
    """A model as an ONNX file that onnxruntime runs, on as many threads as torch has, and whose logits were compared
    with the model's. Raises NotRun with the reason where there is none."""

    def __init__(self, model: Any):
        from studies.models.export import NotExported, export, runner

        super().__init__()
        try:
            with torch.inference_mode(False):
                data = export(model, "onnx", {}).data
        except (ValueError, NotExported) as error:
            raise NotRun(str(error)) from error
        self.call = runner("onnx", data, torch.get_num_threads())

    def forward(self, images: Tensor) -> Tensor:
        return self.call(images)[0]


@contextmanager
def running(mode: str) -> Iterator[None]:
    """What `mode` needs around it. Every variant is compiled for two batch sizes, and dynamo counts them all as
    recompilations of one forward function. Past its limit of 8 it would run the rest uncompiled and say so in a log:
    raise the limit, and make reaching it an error. What was compiled is dropped at the end."""
    if mode not in COMPILED:
        yield
        return
    import torch._dynamo as dynamo

    try:
        with dynamo.config.patch(
            fail_on_recompile_limit_hit=True, recompile_limit=MAX_COMPILED, accumulated_recompile_limit=MAX_COMPILED
        ):
            yield
    finally:
        dynamo.reset()


@contextmanager
def compile_errors(name: str, mode: str) -> Iterator[None]:
    """Raises NotCompiled in place of what dynamo, inductor or the compiler behind them say of `name` on many lines."""
    if mode not in COMPILED:
        yield
        return
    try:
        yield
    except RuntimeError as error:
        if of_memory(error):
            raise
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        compiler = os.environ.get("CXX", "g++")
        hint = "" if shutil.which(compiler) else f"; no C++ compiler is installed ({compiler}), which CPUs need"
        raise NotCompiled(f"{name} cannot be compiled: {said}{hint}; leave out --mode {mode}") from error


def of_memory(error: Exception) -> bool:
    """Raised by an allocator; the CPU's raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def num_threads(wanted: int | None) -> Iterator[None]:
    """Within it torch computes on so many threads; None: as it does anyway."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
