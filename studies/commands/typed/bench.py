"""The options of `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from studies.commands.typed.options import DataOption, DeviceOption, WindowOption, WorkersOption

__all__ = ["AcrossOption", "SelfCheckOption", "TimedArgument", "bench_options"]

SelfCheckOption = Annotated[
    bool, typer.Option("--self-check", help="Only: would a difference of 5 % be seen here? Exit code 1 if not.")
]
TimedArgument = Annotated[Path, typer.Argument(help="A folder of `bench --out`, or one of its records.")]
AcrossOption = Annotated[bool, typer.Option("--across-devices", help="Also where the devices differ.")]


def bench_options(
    backbone: Annotated[
        str, typer.Option(help="An embedded or timm model (random weights), or a checkpoint: NAME=FILE.")
    ] = "vit_small_patch16_224",
    reducers: Annotated[str, typer.Option(help="`all`, `every`, or names with options.")] = "all",
    budgets: Annotated[str, typer.Option(help="Shares of the dense MACs.")] = "0.5",
    batch_sizes: Annotated[
        str, typer.Option(help="Images at once, such as 1,16,best; best: doubled until it brings no 5 % more.")
    ] = "16",
    img_sizes: Annotated[
        str | None, typer.Option(help="Image sides in pixels, such as 224,384 (default: the model's own).")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Interleaved rounds (default: as many as --precision asks for).")
    ] = None,
    precision: Annotated[
        float, typer.Option(min=0.01, help="How narrow the interval of each speedup must be, in %.")
    ] = 2.0,
    max_seconds: Annotated[
        float, typer.Option(min=1.0, help="Rounds of one measurement end then, and what is not known is said.")
    ] = 120.0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, or several: float32,bfloat16.")] = "float32",
    mode: Annotated[
        str,
        typer.Option(
            help="eager, compiled (torch.compile of the whole), graphs (CUDA graphs), onnx (onnxruntime), or several."
        ),
    ] = "eager",
    threads: Annotated[
        str | None, typer.Option(help="Threads of the CPU, such as 1,2 (default: as many as torch takes).")
    ] = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Keep records here, for `report` (default: print only).")] = None,
    task: Annotated[
        str, typer.Option(help="classification; segmentation: with its decoder; detection: encoder, and whole.")
    ] = "classification",
    window: WindowOption = None,
    end_to_end: Annotated[
        bool,
        typer.Option("--end-to-end", help="Also behind the data loader of --dataset, and that alone."),
    ] = False,
    dataset: Annotated[str | None, typer.Option(help="What --end-to-end loads: a name of `list datasets`.")] = None,
    data: DataOption = None,
    workers: WorkersOption = None,
) -> dict[str, Any]:
    """What studies.commands.bench.Bench takes."""
    return dict(
        backbone=backbone, reducers=reducers, budgets=budgets, batch_sizes=batch_sizes, img_sizes=img_sizes,
        rounds=rounds, precision=precision, max_seconds=max_seconds, dtype=dtype, mode=mode, threads=threads,
        device=device, out=out, task=task, window=window, end_to_end=end_to_end, dataset=dataset, data=data,
        workers=workers,
    )  # fmt: skip
