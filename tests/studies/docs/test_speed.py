"""docs/speed.md: its numbers are computed here again from the samples of the kept records."""

import json
import shutil
from statistics import median

import pytest

from results.records.files import read_json
from studies.docs.speed import RECORDS, speed_page

KEPT = sorted((RECORDS / "speed").glob("*/speed/*/result.json"))
PAGE = speed_page()


def sections(record):
    """The lines of the page below the settings of `record`."""
    title = f"## {record['backbone']}, {record['img_size']} px, {record['task']}\n"
    setting = f"**batch {record['batch_size']}, {record['dtype']}, {record['mode']}**"
    section = PAGE.partition(title)[2].partition("\n## ")[0]
    settings = [part for part in section.split("\n**") if f"**{part}".startswith(setting)]
    (own,) = [part for part in settings if f"commit {record['provenance']['commit'][:7]}," in part]
    return own.splitlines()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_speedups_are_medians_of_ratios_of_the_same_rounds(path):
    record = read_json(path)
    lines = sections(record)
    samples = {row["variant"]: row["samples_s"] for row in record["variants"]}
    for row in record["variants"]:
        (line,) = [line for line in lines if line.startswith(f"| `{row['variant']}` |")]
        speedup = median(dense / own for dense, own in zip(samples["none"], samples[row["variant"]], strict=True))
        share = speedup / (row["macs_g"]["dense"] / row["macs_g"]["total"])
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[4].startswith(f"{speedup:.2f} [") and cells[5] == f"{share:.2f}", line


def test_there_are_records_of_clean_commits():
    assert KEPT
    for path in [*KEPT, *(RECORDS / "speed").glob("*.json")]:
        origin = read_json(path)["provenance"]
        assert not origin["dirty"] and origin["commit"][:7] in PAGE and origin["device_name"] in PAGE


def test_ratios_to_plain_implementations_are_medians_too():
    files = list((RECORDS / "speed").glob("yardsticks*.json"))
    assert files
    for record in [record for path in files for record in read_json(path)["records"]]:
        samples = record["samples_s"]
        for name in record["yardsticks"]:
            pairs = zip(samples[name], samples[f"{name} (plain)"], strict=True)
            expected = median(plain / ours for ours, plain in pairs)
            assert any(f"{expected:.2f} [" in line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))


def test_a_changed_record_changes_the_page(tmp_path):
    shutil.copytree(RECORDS / "speed", tmp_path / "speed")
    path = tmp_path / KEPT[0].relative_to(RECORDS)
    record = read_json(path)
    record["variants"][1]["ratio"]["median"] += 1
    path.write_text(json.dumps(record))
    assert speed_page(tmp_path) != speed_page(RECORDS)


def test_no_gpu_is_said_and_a_gpu_is_a_table(tmp_path):
    assert "Not measured: none was there." in speed_page(tmp_path)
    origin = {"device": "cuda", "device_name": "A Card", "num_threads": 1, "commit": "0123456789", "dirty": False}
    setting = {"part": 1, "kind": "speed", "backbone": "vit", "img_size": 224, "batch_size": 4, "precision": "tf32"}
    spread = {"median": 2.0, "p5": 1.5, "p95": 2.5}
    row = {"variant": "a@0.5", "mac_ratio": 2.0, "images_per_s": spread, "ratio": spread}
    record = {"setting": setting, "rounds": 5, "variants": [row], "provenance": origin | {"packages": {"torch": "2"}}}
    folder = tmp_path / "gpu" / "a-card"
    folder.mkdir(parents=True)
    (folder / "one.json").write_text(json.dumps(record))
    page = speed_page(tmp_path)
    assert "### A Card" in page and "| `a@0.5` | 2.00 | 2.0 [1.5, 2.5] | 2.00 [1.50, 2.50] |" in page
    assert "float32 with TF32" in page and "Not measured" not in page
