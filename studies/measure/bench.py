"""Speed and cost of reducers on one backbone: what the studies time and what `cropr-study bench` prints."""

from __future__ import annotations

from typing import Any

from torch import nn

from cropr.macs import count, dense_macs
from studies.measure.flops import check_macs
from studies.measure.throughput import flag_speedup, measure
from studies.reducers import Spec, Unreachable, build

__all__ = ["bench", "variants_of"]


def variants_of(specs: list[Spec], budgets: list[float]) -> dict[str, tuple[Spec, float | None]]:
    """Variant name -> (reducer, budget); the dense model is always among them."""
    found: dict[str, tuple[Spec, float | None]] = {"none": (Spec("none"), None)}
    for spec in specs:
        for budget in [None] if spec.name == "none" or spec.is_native else budgets:
            found[str(spec) if budget is None else f"{spec}@{budget:g}"] = (spec, budget)
    return found


def bench(vit: nn.Module, variants: dict[str, tuple[Spec, float | None]], **options: Any) -> dict[str, Any]:
    """`measure` of `vit` under each of `variants`, as deployed, with MACs beside every row. Weights do not matter to
    speed. A budget that a reducer cannot reach is a row with its floor."""
    models, rows, unreachable = {}, {}, []
    dense = dense_macs(vit)
    for name, (spec, budget) in variants.items():
        try:
            model = build(vit, spec, budget).model.fold().eval()
        except Unreachable as error:
            unreachable.append({"variant": name, "floor": error.floor})
            continue
        check_macs(model)
        macs, models[name] = count(model), model
        rows[name] = {
            "reducer": spec.name,
            "label": spec.label,
            "budget_asked": budget,
            "budget_reached": macs.total / dense,
            "tokens_per_block": [entering for entering, _, _ in model.token_counts()],
            "macs_g": macs.record(dense),
        }
    timing = measure(models, img_size=vit.patch_embed.img_size[0], **options)
    for row in timing["variants"]:
        row |= rows[row["variant"]]
        row["flags"] = [*row["flags"], *flag_speedup(row["ratio"]["median"], dense / 1e9 / row["macs_g"]["total"])]
    return timing | {"unreachable": unreachable}
