"""Speed and cost of reducers on one backbone: what the studies time and what `cropr-study bench` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cropr.macs import count, dense_macs
from cropr.method import Method
from studies.measure.detector import Whole, detector_costs, time_whole
from studies.measure.flops import check_macs
from studies.measure.probes import best_batch, reducers_time
from studies.measure.speed_record import ratio_spread
from studies.measure.throughput import flag_speedup, measure
from studies.models.methods import facts, reference
from studies.models.reducers import Unreachable, build
from studies.tasks.detector import DetectionHead

__all__ = ["Candidates", "bench", "best_of", "candidates", "time_candidates", "variants_of"]

OF_WHOLE = ("device", "dtype", "rounds", "precision", "max_seconds", "progress", "min_seconds")  # options; run eagerly


@dataclass(frozen=True)
class Candidates:
    """The variants of one backbone at one image size, as deployed: what is timed, and what it costs."""

    models: dict[str, nn.Module]
    costs: dict[str, dict[str, Any]]  # by variant, what a record says of it besides its speed
    unreachable: list[dict[str, Any]]  # variant and floor
    img_size: int
    num_classes: int


Variants = Mapping[str, tuple[Method, float | None]]


def variants_of(methods: Sequence[Method], budgets: Sequence[float], dense: bool = False) -> Variants:
    """Variant name -> (method, budget); the dense model is always among them. `dense`: logits for every pixel."""
    plain = reference()(dense=dense)
    found: dict[str, tuple[Method, float | None]] = {str(plain): (plain, None)}
    for method in methods:
        for budget in budgets if method.takes_budget else [None]:
            found[str(method) if budget is None else f"{method}@{budget:g}"] = (method, budget)
    return found


def bench(vit: nn.Module, variants: Variants, whole: Whole | None = None, **options: Any) -> dict[str, Any]:
    """`time_candidates` of `vit` under each of `variants`. Weights do not matter to the speed of an encoder, so that
    variants that differ by how theirs were trained are timed as one, and each has its figures (`timed_as` names it).
    Those of `whole` detectors find more or less by their weights: each of them is timed."""
    same = {} if whole else _same_models(variants)
    record = time_candidates(candidates(vit, {name: variants[name] for name in variants if name not in same}), whole,
                             **options)  # fmt: skip
    for key in ("variants", "unreachable"):
        of = {row["variant"]: row for row in record[key]}
        record[key] += [
            of[once] | (facts(variants[name][0]) if key == "variants" else {}) | {"variant": name, "timed_as": once}
            for name, once in same.items()
            if once in of
        ]
    return record


def _same_models(variants: Variants) -> dict[str, str]:
    """Variants whose deployed model is that of an earlier one but for its weights -> that one."""
    first: dict[tuple[str, float | None], str] = {}
    found = {}
    for name, (method, budget) in variants.items():
        once = first.setdefault((str(replace(method, trained_at=None)), budget), name)
        if once != name:
            found[name] = once
    return found


def candidates(vit: nn.Module, variants: Variants) -> Candidates:
    """`vit` under each of `variants`. A budget that a reducer cannot reach is named with its floor. Raises ValueError
    where counts of MACs disagree."""
    decoder = any(method.dense for method, _ in variants.values())
    whole = dense_macs(vit, decoder=decoder)
    found = Candidates({}, {}, [], vit.patch_embed.img_size[0], vit.num_classes)
    behind: dict[str, Any] = {}  # the encoder: the same for all
    for name, (method, budget) in variants.items():
        try:
            model = build(vit, method, budget).model.fold().eval()
        except Unreachable as error:
            found.unreachable.append({"variant": name, "floor": error.floor})
            continue
        check_macs(model)
        if isinstance(vit.head, DetectionHead) and not behind:
            behind = {"detector": detector_costs(model)}
        macs, found.models[name] = count(model), model
        found.costs[name] = (
            facts(method)
            | {
                "budget_asked": budget,
                "budget_reached": macs.total / whole,
                "tokens_per_block": [entering for entering, _, _ in model.token_counts()],
                "macs_g": macs.record(whole),
                "mac_ratio": whole / macs.total,
            }
            | behind
        )
    return found


def time_candidates(found: Candidates, whole: Whole | None = None, **options: Any) -> dict[str, Any]:
    """The record of `measure`, with the cost of every variant, the speed of whole detectors where they are given, and
    of a model that runs eagerly what its reducers take (`reducers_time`); and two figures that follow from both:

    speedup_per_mac_ratio: median speedup over what the MACs alone would give.
    ratio_to_random: throughput over that of random pruning on the same schedule, from the same rounds; None where there
    is none. Its selection is free, so this is what choosing costs.
    """
    timing = measure(found.models, dense=reference().name, img_size=found.img_size, **options)
    rows = [row | found.costs[row["variant"]] for row in timing["variants"]]
    for row in rows:
        ratio = row["ratio"]["median"]
        row["flags"] = [*row["flags"], *flag_speedup(ratio, row["mac_ratio"])]
        row["speedup_per_mac_ratio"] = None if ratio is None else ratio / row["mac_ratio"]
        row["ratio_to_random"] = _ratio_to_random(row, rows)
        row["reducers"] = _reducers(found.models[row["variant"]], timing) if ratio is not None else None
    record = timing | {"num_classes": found.num_classes, "variants": rows, "unreachable": found.unreachable}
    if whole is None:
        return record
    options = {key: options[key] for key in OF_WHOLE if key in options}
    if say := options.get("progress"):
        options["progress"] = lambda text: say(f"whole, {text}")
    record["whole"], of_whole = time_whole(whole, dense=reference().name, **options)
    for row in rows:
        row["whole"] = of_whole.get(row["variant"])
    return record


def _reducers(model: nn.Module, timing: dict[str, Any]) -> dict[str, Any] | None:
    """In the setting of `timing`; None where the model was not run as it stands."""
    if timing["mode"] != "eager":
        return None
    weight, size = next(model.parameters()), timing["img_size"]
    return reducers_time(model, torch.randn(timing["batch_size"], 3, size, size).to(weight))


def best_of(found: Candidates, **options: Any) -> tuple[int, dict[str, Any]]:
    """The best batch size of the dense model, see `best_batch`: all variants are held against it at one batch."""
    return best_batch(reference().name, found.models[reference().name], found.img_size, **options)


def _ratio_to_random(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Of the same tokens in every block, round by round."""
    for other in rows:
        same = other["role"] == "random" != row["role"] and other["tokens_per_block"] == row["tokens_per_block"]
        if same and row["images_per_s"]["median"] is not None and other["images_per_s"]["median"] is not None:
            return ratio_spread(other["samples_s"], row["samples_s"])
    return None
