"""`bench`: speed and cost of reducers on one backbone, printed as lines or as one JSON document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from studies.commands.options import one_of, parse_budgets, resolve_device
from studies.reducers import parse

__all__ = ["lines", "run"]


def run(
    backbone: str,
    reducers: str,
    budgets: str,
    *,
    batch_size: int,
    rounds: int,
    dtype: str,
    device: str,
    compiled: bool,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The speed record of `backbone` with random weights under each variant. Raises ValueError."""
    from studies.backbones import create_backbone
    from studies.measure.bench import bench, variants_of

    one_of("dtype", dtype, ["float32", "bfloat16", "float16"])
    variants = variants_of(parse(reducers), parse_budgets(budgets))
    where = resolve_device(device)
    vit = create_backbone(backbone, pretrained=False)
    return bench(
        vit, variants, batch_size=batch_size, device=where, dtype=dtype, compile=compiled, rounds=rounds,
        progress=progress,
    )  # fmt: skip


def lines(backbone: str, record: dict[str, Any]) -> Iterator[str]:
    """What a person reads: the setting, then a line for each variant."""
    threads = "" if record["device"] == "cuda" else f", {record['num_threads']} threads"
    yield (
        f"{backbone}, {record['device_name']}{threads}, {record['dtype']}, batch {record['batch_size']}, "
        f"{record['rounds']} interleaved rounds; median [5th, 95th percentile]"
    )
    for row in record["variants"]:
        rate, ratio, macs = row["images_per_s"], row["ratio"], row["macs_g"]
        if rate["median"] is None:
            yield f"{row['variant']:<18} {', '.join(row['flags'])}"
            continue
        yield (
            f"{row['variant']:<18} {macs['total']:7.3f} GMACs (x {macs['dense'] / macs['total']:.2f} fewer)  "
            f"{rate['median']:8.1f} [{rate['p5']:.1f}, {rate['p95']:.1f}] images/s  "
            f"x {ratio['median']:.2f} [{ratio['p5']:.2f}, {ratio['p95']:.2f}] of dense  {'; '.join(row['flags'])}"
        )
    for row in record["unreachable"]:
        yield f"{row['variant']:<18} unreachable, floor {row['floor']:.3f}"
