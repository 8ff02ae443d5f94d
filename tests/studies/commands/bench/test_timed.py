"""`bench`: every combination is measured, kept and reported; what its figures follow from."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from command_line import study
from safetensors.torch import save_file

from cropr.macs import dense_macs
from results.pages.tables import number
from results.records.frames import run_frame, speed_frame
from results.records.store import load_records
from studies.commands.bench import Bench, check_lines, lines, run
from studies.commands.bench.headlines import headlines
from studies.commands.records import write_report
from studies.measure import bench as bench_module
from studies.measure import probes
from studies.measure.bench import bench, variants_of
from studies.measure.speed_record import ranks
from studies.models.backbones import create_backbone
from studies.models.methods import parse

ARGS = ("bench", "--backbone", "scenes_vit", "--reducers", "random,cropr", "--rounds", 2, "--img-sizes", "32,48")
SMALL = {
    "backbone": "scenes_vit",
    "reducers": "tome",
    "budgets": "0.6",
    "batch_sizes": "1",
    "rounds": 2,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def record():
    vit = create_backbone("scenes_vit", pretrained=False)
    variants = variants_of(parse("random,cropr,random:llf=true,tome,evit"), [0.6, 0.01])
    return bench(vit, variants, batch_size=2, device="cpu", rounds=5, min_seconds=0.0)


def test_figures_follow_from_samples_and_macs(record):
    samples = {row["variant"]: np.array(row["samples_s"]) for row in record["variants"]}
    for row in record["variants"]:
        own = samples[row["variant"]]
        assert row["mac_ratio"] == pytest.approx(row["macs_g"]["dense"] / row["macs_g"]["total"])
        assert row["speedup_per_mac_ratio"] == pytest.approx(np.median(samples["none"] / own) / row["mac_ratio"])
        assert row["macs_g"]["linear"] < row["macs_g"]["backbone"]
        if row["variant"] != "cropr@0.6":  # the only one on the schedule of random pruning
            assert row["ratio_to_random"] is None
        else:
            expected = np.percentile(samples["random@0.6"] / own, [50, 5, 95])
            assert [row["ratio_to_random"][key] for key in ("median", "p5", "p95")] == pytest.approx(expected)
    named = ("random", "cropr", "random:rest=llf", "tome", "evit")
    assert [row["variant"] for row in record["unreachable"]] == [f"{name}@0.01" for name in named]


def test_models_that_differ_by_their_weights_alone_are_timed_once(monkeypatch):
    vit = create_backbone("scenes_vit", pretrained=False)
    built, build = [], bench_module.build
    monkeypatch.setattr(bench_module, "build", lambda *given: built.append(str(given[1])) or build(*given))
    variants = variants_of(parse("tome,tome:trained_at=1,random:like=tome,evit:trained_at=0.5"), [0.6, 0.01])
    record = bench(vit, variants, batch_size=2, device="cpu", rounds=2, min_seconds=0.0)
    rows = {row["variant"]: row for row in record["variants"]}
    assert rows.keys() == {name for name in variants if not name.endswith("@0.01")}
    assert {row["variant"] for row in record["unreachable"]} == {name for name in variants if name.endswith("@0.01")}
    assert sorted(set(built)) == ["evit:trained_at=0.5", "none", "random:like=tome", "tome"]
    assert [name for name, row in rows.items() if "timed_as" in row] == ["tome:trained_at=1@0.6"]
    one, other = rows["tome@0.6"], rows["tome:trained_at=1@0.6"]
    assert other["timed_as"] == "tome@0.6" and other["options"] == one["options"] | {"trained_at": "1"}
    told = {"variant", "timed_as", "options", "label"}
    assert {key: one[key] for key in one if key not in told} == {key: other[key] for key in one if key not in told}


def test_lines_say_what_a_reader_needs(record):
    text = list(lines([{"backbone": "scenes_vit", **record}]))
    assert all(
        word in text[0] for word in ("scenes_vit", "32 px", "batch 2 (offline)", "float32", "5 interleaved rounds")
    )
    rows = {line.split()[0]: line for line in text[2:] if line}
    cropr = next(row for row in record["variants"] if row["variant"] == "cropr@0.6")
    figures = (cropr["ratio"]["median"], cropr["ratio_to_random"]["median"], cropr["speedup_per_mac_ratio"])
    macs = [number(1000 * cropr["macs_g"][key], 4) for key in ("total", "linear")]
    assert "MMACs" in text[1]
    for text_of_figure in (f"{cropr['mac_ratio']:.2f}", *macs, *(f"{figure:.3f}" for figure in figures)):
        assert text_of_figure in rows["cropr@0.6"]
    assert any("unreachable, floor" in line for line in text)


def test_every_combination_is_kept_and_reported(tmp_path):
    args = (*ARGS, "--batch-sizes", "1,2", "--out", tmp_path, "--json")
    first = study(*args)
    assert first.returncode == 0, first.stderr
    records = json.loads(first.stdout)
    assert [(r["img_size"], r["batch_size"]) for r in records] == [(32, 1), (32, 2), (48, 1), (48, 2)]
    assert [[row["variant"] for row in r["variants"]] for r in records] == [["none", "random@0.5", "cropr@0.5"]] * 4
    assert len({row["macs_g"]["total"] for r in records for row in r["variants"][:1]}) == 2
    assert {path.parent.name for path in tmp_path.glob("speed/*/result.json")} == {r["id"] for r in records}

    again = study(*args)
    assert json.loads(again.stdout) == records and "read from" in again.stderr  # finished ones are not repeated
    more = json.loads(study(*ARGS, "--batch-sizes", "4", "--img-sizes", "32", "--out", tmp_path, "--json").stdout)
    assert [r["batch_size"] for r in more] == [4] and len(list(tmp_path.glob("speed/*"))) == 5

    found = load_records(tmp_path)
    assert len(run_frame([found])) == len(speed_frame([found])) == 15
    assert speed_frame([found])["shown"].all()
    report = study("report", tmp_path)
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "report" / "throughput_gmacs.png").exists()
    table = (tmp_path / "report" / "table.md").read_text()
    assert all(f"{size} px, batch {batch}" in table for size in (32, 48) for batch in (1, 2))

    other = study("bench", "--backbone", "scenes_eva", "--out", tmp_path)
    assert other.returncode == 2 and "scenes_vit" in other.stderr


def test_models_of_other_classes_are_another_measurement(tmp_path):
    for num_classes in (20, 30, 20):
        run(Bench(**SMALL, num_classes=num_classes, out=tmp_path), lambda text: None)
    found = [json.loads(path.read_text()) for path in tmp_path.glob("speed/*/result.json")]
    assert sorted(record["num_classes"] for record in found) == [20, 30]
    run(Bench(**SMALL | {"task": "segmentation", "budgets": "0.8"}, out=tmp_path / "dense"), lambda text: None)
    (path,) = tmp_path.glob("dense/speed/*/result.json")
    assert json.loads(path.read_text())["num_classes"] == 150


def test_windows_are_timed_and_named(tmp_path):
    args = ("bench", "--backbone", "scenes_vit", "--reducers", "random", "--budgets", "0.8", "--rounds", 1)
    done = study(*args, "--window", "4:windows=global", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    vit = create_backbone("scenes_vit", pretrained=False, window="4")
    assert record["window"] == "4" and record["variants"][0]["macs_g"]["total"] == dense_macs(vit) / 1e9
    assert dense_macs(vit) < dense_macs(create_backbone("scenes_vit", pretrained=False))
    other = study(*args, "--out", tmp_path)
    assert other.returncode == 2 and "holds records of window 4, not None" in other.stderr


@pytest.mark.parametrize("option, value, words", [("--batch-sizes", "1,x", "'x'"), ("--img-sizes", "0", "'0'")])
def test_bad_sizes(option, value, words):
    done = study("bench", "--backbone", "scenes_vit", option, value)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr


def test_the_resolution_study_times_dense_models_of_several_sizes(tmp_path):
    args = ("run", "resolution", "--quick", "--backbone", "test_vit", "--reducers", "random,cropr", "--out", tmp_path)
    done = study(*args)
    assert done.returncode == 0, done.stderr
    records = load_records(tmp_path).speeds.values()
    assert sorted(record["img_size"] for record in records) == [64, 96] and not list(tmp_path.glob("runs/*"))
    for record in records:
        patches = (record["img_size"] // 16) ** 2
        assert record["task"] == "segmentation"
        assert all(row["macs_g"]["decoder"] == patches * 64 * 150 / 1e9 for row in record["variants"])
    table = (tmp_path / "report" / "table.md").read_text()
    assert "64 px" in table and "96 px" in table and "decoder, MMACs" in table


def test_detectors_are_timed_whole_and_reported(tmp_path):
    options = Bench(**SMALL | {"reducers": "cropr", "out": tmp_path, "task": "detection"})
    (record,) = run(options, [].append)
    assert run(options, [].append) == [record]  # read again
    dense, cropr = record["variants"]
    assert dense["detector"] == cropr["detector"] and cropr["detector"]["num_proposals"] == 64
    assert cropr["whole"]["num_proposals"] == 64 and cropr["whole"]["num_detections"] == 10
    text = "\n".join(lines([record]))
    whole, heads = cropr["whole"], cropr["detector"]["heads_macs_g"]
    figures = (f"{whole['images_per_s']['median']:.2f}", f"{whole['ratio']['median']:.3f}", number(1000 * heads, 4))
    assert all(figure in text for figure in (*figures, "64 proposals and 10 detections of an image, fixed")), text
    paths = write_report([tmp_path], False)
    table = (tmp_path / "report" / "table.md").read_text()
    columns = ("linear layers, MMACs", "pyramid / heads, MMACs (proposals)", "whole model, images/s",
               "whole model, × dense")  # fmt: skip
    assert paths and all(column in table for column in columns)
    pyramid, heads = (number(1000 * cropr["detector"][f"{part}_macs_g"]) for part in ("pyramid", "heads"))
    assert f"{pyramid} / {heads} (64)" in table and number(cropr["whole"]["ratio"]["median"]) in table
    assert "fixed regions, as weights are random: 64 proposals and 10 detections of an image" in table


def test_several_dtypes_are_a_record_each(tmp_path):
    said = []
    options = Bench(**SMALL | {"dtype": "float32,bfloat16,float32", "out": tmp_path})
    records = run(options, said.append)
    assert [(record["dtype"], len(record["variants"])) for record in records] == [("float32", 2), ("bfloat16", 2)]
    assert len({record["id"] for record in records}) == 2 and "batch 1, bfloat16" in said[-1]
    assert [line.split(", ")[3] for line in lines(records) if line.startswith("scenes_vit")] == ["float32", "bfloat16"]
    with pytest.raises(ValueError, match="unknown dtype 'bfloat'; did you mean bfloat16"):
        run(replace(options, dtype="float32,bfloat"), said.append)


def test_modes_and_threads_are_a_record_each(tmp_path):
    """ONNX as far as there is one: what draws at random has none, and the others go on."""
    said, before = [], torch.get_num_threads()
    options = Bench(**SMALL | {"reducers": "random,tome", "mode": "eager,onnx", "threads": "1,2", "out": tmp_path})
    records = run(options, said.append)
    found = [(record["mode"], record["num_threads"], record["compiled"]) for record in records]
    assert found == [("eager", 1, False), ("eager", 2, False), ("onnx", 1, False), ("onnx", 2, False)]
    assert torch.get_num_threads() == before and len({record["id"] for record in records}) == 4
    for record in records[2:]:
        dense, chance, tome = record["variants"]
        assert dense["ratio"]["median"] == 1 and tome["ratio"]["median"] > 0 and tome["peak_memory_mib"] is None
        assert chance["flags"] == [
            "cannot be exported as onnx: a reducer draws at random from the bits of the image, which the exporter's "
            "operators do not read"
        ]
        assert chance["images_per_s"]["median"] is None and record["sdpa_backend"] is None
    text = "\n".join(lines(records))
    assert not any(row["reducers"] for record in records[2:] for row in record["variants"])
    assert records[0]["variants"][1]["reducers"]["ms"]["median"] > 0 and records[0]["variants"][0]["reducers"] is None
    assert "batch 1 (single stream), float32, onnx, " in text and "1 thread, " in text and "2 threads, " in text
    assert run(options, said.append) == records and "32 px, batch 1, float32, onnx, 2 threads: read from" in said[-1]
    names = {row["study"] for _, row in speed_frame([load_records(tmp_path)]).iterrows()}
    folder = tmp_path.name
    assert names == {f"{folder}, {mode}, {n} threads" for mode in ("eager", "onnx") for n in (1, 2)}


@pytest.mark.parametrize("quiet", [True, False])
def test_variants_are_ranked_where_the_machine_is_quiet(quiet, monkeypatch, tmp_path):
    check = {"quiet": quiet, "why": "it was so", "band": 0.05, "dtype": "float32", "num_threads": 1}
    monkeypatch.setattr(probes, "known_pair", lambda vit, **options: check)
    (record,) = run(Bench(**SMALL | {"rounds": 6, "out": tmp_path}), [].append)
    assert record["self_check"] == check
    expected = ranks(record["variants"])
    assert [row["rank"] for row in record["variants"]] == ([*expected.values()] if quiet else [None, None])
    text = list(lines([record]))
    said = "quiet enough to see 5%" if quiet else "too noisy to rank"
    assert text[1] == f"self-check, float32, 1 threads: {said}: it was so"
    assert text[2].endswith("rank") is quiet and (text[3][-1] in "12") is quiet
    found = json.loads((tmp_path / "headlines.json").read_text())
    assert found["headlines"] == headlines([record])


def test_the_self_check_by_itself(tmp_path):
    """Whatever this machine is like now: exit code, record and what is printed agree."""
    args = ("bench", "--self-check", "--backbone", "scenes_vit", "--threads", "1,2", "--out", tmp_path)
    done = study(*args, "--json")
    found = json.loads(done.stdout)
    assert [check["num_threads"] for check in found] == [1, 2] and found[0]["num_tokens"] == 65
    assert done.returncode == (0 if all(check["quiet"] for check in found) else 1)
    assert json.loads((tmp_path / "self_check.json").read_text())["checks"] == found
    assert not (tmp_path / "speed").exists()
    for check in found:
        low, high = check["ratio"]["low"], check["ratio"]["high"]
        assert check["quiet"] is (low is not None and low >= 1.9 and high <= 2.1)
        assert any(check["why"] in line for line in check_lines([check]))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mode": "eager,graph"}, "unknown mode 'graph'; did you mean graphs"),
        ({"mode": "graphs"}, "mode graphs records CUDA graphs and needs a GPU, not the device cpu; valid: eager"),
        ({"mode": "onnx", "dtype": "float32,bfloat16"}, "mode onnx computes in float32 only, not bfloat16"),
        ({"threads": "1,0"}, "number of threads '0' is no whole number from 1 on"),
        ({"batch_sizes": "1,bset"}, "batch size 'bset' is no whole number"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(Bench(**SMALL | change | {"out": tmp_path}), [].append)
    assert not list(tmp_path.iterdir())


def test_the_best_batch_is_looked_for_once_and_kept(tmp_path):
    options, said = Bench(**SMALL | {"batch_sizes": "best,3", "out": tmp_path}), []
    best, three = run(options, said.append)
    rates = {int(batch): rate for batch, rate in best["batch_search"]["images_per_s"].items()}
    sizes = list(rates)
    assert sizes == [2**i for i in range(len(sizes))] and best["batch_size"] in sizes and three["batch_size"] == 3
    grown = [rates[after] >= 1.05 * rates[before] for before, after in pairwise(sizes)]
    assert all(grown[:-1]) and not grown[-1] and best["batch_size"] == sizes[-2]
    assert "of none: images/s" in "\n".join(lines([best])) and "-bbest-" in best["id"]
    said.clear()
    assert run(options, said.append) == [best, three] and not any("looking for" in line for line in said)


def test_a_checkpoint_is_timed(tmp_path):
    save_file(create_backbone("scenes_vit", num_classes=7, pretrained=False).state_dict(), tmp_path / "w.safetensors")
    done = study("bench", "--backbone", f"scenes_vit={tmp_path / 'w.safetensors'}", "--reducers", "none", "--rounds", 1)
    assert done.returncode == 0 and "none" in done.stdout, done.stderr
    done = study("bench", "--backbone", f"scenes_vit={tmp_path / 'x.safetensors'}", "--reducers", "none")
    assert done.returncode == 2 and "x.safetensors does not exist" in done.stderr


def test_an_image_that_patches_do_not_divide_is_refused():
    done = study("bench", "--backbone", "scenes_vit", "--img-sizes", "32,34", "--reducers", "none")
    assert done.returncode == 2 and "patches of 4 px do not divide images of 34 px" in done.stderr, done.stderr


def test_a_missing_compiler_is_named_and_ends_the_command(tmp_path):
    """What was compiled before lies in a cache, and would need no compiler."""
    done = study(
        "bench", "--backbone", "scenes_vit", "--reducers", "none", "--mode", "compiled", "--rounds", 1,
        CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1 and "out of memory" not in done.stdout + done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: none cannot be compiled: ") and "no C++ compiler is installed (no-such" in said
