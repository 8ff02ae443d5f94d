"""The summary of docs/speed.md: its shares are computed here again from samples and MACs, and it says what is below."""

from statistics import median

import pytest

from results.records.files import read_json
from studies.docs.arrives import AIMS, arrives
from studies.docs.speed import RECORDS

KEPT = [read_json(path) for path in sorted((RECORDS / "speed").glob("*/speed/*/result.json"))]
FIVE = ("random", "cropr", "dynamicvit", "evit", "tome")
MODEL = "b, 32 px, classification"


def cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_shares_of_kept_records_are_those_of_their_samples():
    lines = arrives(KEPT)
    head = next(cells(line) for line in lines if line.startswith("| model"))
    assert head[4:] == [f"`{name}`" for name in FIVE]
    rows, below, told = [cells(line) for line in lines if line.startswith("| ")][1:], 0, 0
    assert len(rows) >= 5 and len({tuple(row[:4]) for row in rows}) == len(rows)
    for row in rows:
        same = [r for r in KEPT if setting(r) == row[:4]]
        record = max(same, key=lambda r: r["provenance"]["finished"])
        own = {r["variant"]: r for r in record["variants"]}
        for name, cell in zip(FIVE, row[4:], strict=True):
            one = own[f"{name}@0.5"]
            pairs = zip(own["none"]["samples_s"], one["samples_s"], strict=True)
            share = median(a / b for a, b in pairs) * one["macs_g"]["total"] / one["macs_g"]["dense"]
            missed = share < (0.95 if record["mode"] == "compiled" else 0.9)
            assert cell == (f"**{share:.2f}**" if missed else f"{share:.2f}")
            below, told = below + missed, told + 1
    assert f"{below} of {told} are below." in lines


def setting(record):
    model = f"{record['backbone']}, {record['img_size']} px, {record['task']}"
    return [model, str(record["batch_size"]), record["dtype"], record["mode"]]


def made(batch_size, share=1.0, mode="eager", ends=(1.9, 2.1), finished="2026-01-02", dtype="float32"):
    """Of one reducer."""
    ratio = {"median": 2 * share, "p5": 1.0, "p95": 3.0, "low": ends[0], "high": ends[1]}
    rows = [{"variant": "none", "ratio": ratio, "speedup_per_mac_ratio": 1.0},
            {"variant": "tome@0.5", "ratio": ratio, "speedup_per_mac_ratio": share},
            {"variant": "tome@0.75", "ratio": ratio, "speedup_per_mac_ratio": 0.1}]  # fmt: skip
    return {
        "backbone": "b", "task": "classification", "img_size": 32, "dtype": dtype, "mode": mode, "num_threads": 2,
        "batch_size": batch_size, "device_name": "cpu", "dense": "none", "variants": rows,
        "provenance": {"finished": finished},
    }  # fmt: skip


@pytest.mark.parametrize(
    "mode, share, said",
    [
        ("eager", 0.91, "0.91"), ("eager", 0.89, "**0.89**"), ("compiled", 0.96, "0.96"),
        ("compiled", 0.91, "**0.91**"), ("graphs", 0.91, "**0.91**"), ("eager", 0.8999, "**0.90**"),
    ],
)  # fmt: skip
def test_what_is_below_is_bold(mode, share, said):
    lines = arrives([made(1, share, mode)])
    assert lines[4] == f"| {MODEL} | 1 | float32 | {mode} | – | – | – | – | {said} |"
    assert f"{int('*' in said)} of 1 are below." in lines and AIMS == {"eager": 0.9, "compiled": 0.95}


def test_the_newest_record_of_a_setting_counts_whatever_the_order():
    old, new = made(1, 0.5, finished="2026-01-01"), made(1, 1.0)
    for records in ([old, new], [new, old]):
        assert [line for line in arrives(records) if MODEL in line] == [
            f"| {MODEL} | 1 | float32 | eager | – | – | – | – | 1.00 |"
        ]


def test_rows_are_in_an_order_to_read():
    records = [made(16, dtype="bfloat16"), made(16), made(1, mode="compiled"), made(1)]
    found = [cells(line)[1:4] for line in arrives(records) if line.startswith(f"| {MODEL}")]
    assert found == [
        ["1", "float32", "eager"], ["16", "float32", "eager"], ["1", "float32", "compiled"],
        ["16", "bfloat16", "eager"],
    ]  # fmt: skip


SLOWER, ALIKE, FASTER = (0.8, 0.9), (0.9, 1.1), (1.2, 1.3)


@pytest.mark.parametrize(
    "one, other, said",
    [
        (FASTER, FASTER, "faster at each"), (SLOWER, FASTER, "break-even between 1 and 16"),
        (SLOWER, SLOWER, "slower up to 16 at least"), (ALIKE, FASTER, "faster from 16 on, below it not told apart"),
        (ALIKE, ALIKE, "not told apart"),
    ],
)  # fmt: skip
def test_break_even_is_said_where_two_sizes_were_measured(one, other, said):
    lines = arrives([made(1, ends=one), made(16, ends=other)])
    assert lines[-1] == f"* b, classification, float32, eager, 32 px, batch 1 and 16: {said}: `tome`"
    assert not any("Break-even" in line for line in arrives([made(1, ends=one)]))


def test_without_records_there_is_no_summary():
    other = made(1)
    other["variants"] = other["variants"][:1]
    assert arrives([]) == arrives([other]) == []
