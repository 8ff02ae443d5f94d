"""Where the time of a pass goes, in docs/speed.md: tables of the records of tests/benchmarks/steps.py."""

from __future__ import annotations

from typing import Any

from results.figures.numbers import NOTHING
from studies.docs.rows import head, line
from studies.models.methods import reference

__all__ = ["STEPS", "steps_table"]

STEPS = (
    "Milliseconds of a pass, medians over rounds, of the parts of all blocks (tests/benchmarks/steps.py; each block "
    "is in the record). **linear layers**: with their rate in GMAC/s. **attention**: what attention takes beside its "
    "linear layers. **others**: norms, GELU, residuals, embedding and head. **reducers**: beside what they should "
    "cost, their MACs at the rate of the dense model's linear layers and their bytes (every token read, what stays "
    "read and written) at that of a copy. **at the dense rate**: the speedup there would be, if the linear layers ran"
    " at the rate of the dense model whatever their number of rows; what of the MAC ratio is missing between this and"
    " the speedup is the arithmetic's, not the reducer's."
)


def steps_table(record: dict[str, Any]) -> list[str]:
    """Lines of Markdown: a row for each variant."""
    names = ("variant", "a pass", "linear layers", "attention", "others", "reducers", "should", "speedup",
             "at the dense rate")  # fmt: skip
    dense = record["variants"][reference().name]
    dense_rate = _rate(dense["blocks"])
    lines = head(*names)
    for name, variant in record["variants"].items():
        blocks, took = variant["blocks"], variant["pass_ms"]
        linear, attention, reducers = (_sum(blocks, f"{kind}_ms") for kind in ("linear", "attention", "reducer"))
        should = 1e3 * _sum(blocks, "reducer_gmac") / dense_rate + _sum(blocks, "reducer_mb") / record["gb_per_s"]
        at_dense_rate = took - linear + 1e3 * _sum(blocks, "linear_gmac") / dense_rate
        cells = [
            f"`{name}`", f"{took:.1f}", f"{linear:.1f} ({_rate(blocks):.0f})", f"{attention:.1f}",
            f"{took - linear - attention - reducers:.1f}",
            *([f"{reducers:.2f}", f"{should:.2f}"] if reducers else [NOTHING, NOTHING]),
            f"{dense['pass_ms'] / took:.2f}", f"{dense['pass_ms'] / at_dense_rate:.2f}",
        ]  # fmt: skip
        lines.append(line(*cells))
    return lines


def _sum(blocks: list[dict[str, float]], key: str) -> float:
    return sum(block.get(key, 0.0) for block in blocks)


def _rate(blocks: list[dict[str, float]]) -> float:
    """GMAC/s of the linear layers."""
    return 1e3 * _sum(blocks, "linear_gmac") / _sum(blocks, "linear_ms")
