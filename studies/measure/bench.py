"""Speed and cost of reducers on one backbone: what the studies time and what `cropr-study bench` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from cropr.macs import count, dense_macs
from studies.measure.flops import check_macs
from studies.measure.speed_record import spread
from studies.measure.throughput import flag_speedup, measure
from studies.models.reducers import Unreachable, build
from studies.reducer_specs import Spec

__all__ = ["Candidates", "bench", "candidates", "time_candidates", "variants_of"]


@dataclass(frozen=True)
class Candidates:
    """The variants of one backbone at one image size, as deployed: what is timed, and what it costs."""

    models: dict[str, nn.Module]
    costs: dict[str, dict[str, Any]]  # by variant, what a record says of it besides its speed
    unreachable: list[dict[str, Any]]  # variant and floor
    img_size: int


def variants_of(specs: list[Spec], budgets: list[float]) -> dict[str, tuple[Spec, float | None]]:
    """Variant name -> (reducer, budget); the dense model is always among them."""
    found: dict[str, tuple[Spec, float | None]] = {"none": (Spec("none"), None)}
    for spec in specs:
        for budget in [None] if spec.name == "none" or spec.is_native else budgets:
            found[str(spec) if budget is None else f"{spec}@{budget:g}"] = (spec, budget)
    return found


def bench(
    vit: nn.Module, variants: dict[str, tuple[Spec, float | None]], dense_output: bool = False, **options: Any
) -> dict[str, Any]:
    """`time_candidates` of `vit` under each of `variants`. Weights do not matter to speed."""
    return time_candidates(candidates(vit, variants, dense_output), **options)


def candidates(
    vit: nn.Module, variants: dict[str, tuple[Spec, float | None]], dense_output: bool = False
) -> Candidates:
    """`vit` under each of `variants`; `dense_output`: with logits for every pixel. A budget that a reducer cannot reach
    is named with its floor. Raises ValueError where counts of MACs disagree."""
    dense = dense_macs(vit, decoder=dense_output)
    found = Candidates({}, {}, [], vit.patch_embed.img_size[0])
    for name, (spec, budget) in variants.items():
        try:
            model = build(vit, spec, budget, dense=dense_output).model.fold().eval()
        except Unreachable as error:
            found.unreachable.append({"variant": name, "floor": error.floor})
            continue
        check_macs(model)
        macs, found.models[name] = count(model), model
        found.costs[name] = {
            "reducer": spec.name,
            "label": spec.label,
            "budget_asked": budget,
            "budget_reached": macs.total / dense,
            "tokens_per_block": [entering for entering, _, _ in model.token_counts()],
            "macs_g": macs.record(dense),
            "mac_ratio": dense / macs.total,
        }
    return found


def time_candidates(found: Candidates, **options: Any) -> dict[str, Any]:
    """The record of `measure`, with the cost of every variant, and two figures that follow from both:

    speedup_per_mac_ratio: median speedup over what the MACs alone would give.
    ratio_to_random: throughput over that of random pruning on the same schedule, from the same rounds; None where there
    is none. Its selection is free, so this is what choosing costs.
    """
    timing = measure(found.models, img_size=found.img_size, **options)
    rows = [row | found.costs[row["variant"]] for row in timing["variants"]]
    for row in rows:
        ratio = row["ratio"]["median"]
        row["flags"] = [*row["flags"], *flag_speedup(ratio, row["mac_ratio"])]
        row["speedup_per_mac_ratio"] = None if ratio is None else ratio / row["mac_ratio"]
        row["ratio_to_random"] = _ratio_to_random(row, rows)
    return timing | {"variants": rows, "unreachable": found.unreachable}


def _ratio_to_random(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Of the same tokens in every block, round by round."""
    for other in rows:
        same = other["reducer"] == "random" != row["reducer"] and other["tokens_per_block"] == row["tokens_per_block"]
        if same and row["images_per_s"]["median"] is not None and other["images_per_s"]["median"] is not None:
            return spread([theirs / own for theirs, own in zip(other["samples_s"], row["samples_s"], strict=True)])
    return None
