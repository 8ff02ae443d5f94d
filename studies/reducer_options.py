"""What each option of a reducer means, and its value where none is given, for `list reducers`. Plain values only."""

from __future__ import annotations

from typing import Any

__all__ = ["MEANINGS"]

SOLVED = "by budget"  # a budget solves for it

_LLF: dict[str, tuple[Any, str]] = {
    "llf": (False, "last-layer fusion: dropped patches come back for the last block; the same as fusion=llf"),
    "fusion": (
        "none; dense tasks: llf",
        "what dropped patches predict: llf, none, concat, mask, nearest or logits (see cropr/dense.py)",
    ),
}
_CURRICULUM = {"curriculum": ("dense tasks", "the pruning rates grow over the first half of the training")}
_SCHEDULE: dict[str, tuple[Any, str]] = {
    "rate": (SOLVED, "patches removed behind each block"),
    "ratio": (SOLVED, "share of the patches that each block passes on (geometric schedule)"),
    "first_extra": ("1 with a class token only", "further patches that the first module removes"),
}
_STAGES = "written 3/6/9"

# reducer -> option -> (default, meaning)
MEANINGS: dict[str, dict[str, tuple[Any, str]]] = {
    "none": {},
    "random": _SCHEDULE | _CURRICULUM | _LLF,
    "cropr": _SCHEDULE
    | {
        "queries": (1, "learned queries of each module; in dense tasks one for each patch"),
        "heads": (1, "heads of the cross-attention"),
        "q_proj": (False, "project the queries"),
        "k_proj": (False, "project the keys"),
        "v_proj": (False, "project the values"),
        "pre_norm": (False, "LayerNorm in front of the module"),
        "mlp": (True, "MLP behind the aggregator, in training"),
        "mlp_ratio": (4.0, "width of that MLP, in widths of the model"),
        "detach": (True, "the auxiliary loss does not reach the backbone"),
        "select": ("top", "top, lowest or sample"),
        "weight": (1.0, "of each auxiliary loss"),
    }
    | _CURRICULUM
    | _LLF,
    "tome": {
        "r": (SOLVED, "pairs merged in each block; or one number a block, written 8/0/8"),
        "inflect": (0.0, "r rises over the blocks from (1 - inflect) r to (1 + inflect) r; negative: it falls"),
        "proportional": (True, "attention counts a token by the patches merged into it"),
    },
    "evit": {
        "keep": (SOLVED, "share of the patches that each stage keeps"),
        "fuse": (True, "the others become one token, weighted by attention; in dense tasks false"),
        "blocks": ("depth/4, /2, 3/4", f"where the stages are, {_STAGES}"),
        "start": (0.0, "share of the training at which the keep rate begins to shrink from 1"),
        "span": (0.0, "share of the training over which it shrinks"),
    }
    | _LLF,
    "dynamicvit": {
        "ratio": (SOLVED, "share of the patches of the stage before that each stage keeps"),
        "blocks": ("depth/4, /2, 3/4", f"in front of which the stages are, {_STAGES}"),
        "ratio_weight": (2.0, "of the loss that holds the share of kept tokens"),
        "distill_weight": (0.5, "of both distillation losses"),
        "token": ("mse", "distance of kept tokens from the teacher's: mse or kl"),
        "batch_mean": (False, "hold the share over the batch instead of in each image"),
        "eval_mode": (
            "topk",
            "masked: the record also has the accuracy with tokens marked as in training, not removed",
        ),
        "policy": ("exact", "attention under the mask in training: exact, or sdpa (approximate, fused)"),
    }
    | _LLF,
}
