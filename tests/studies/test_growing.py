"""A study that grows: all its variants are timed again in one record, those that may be."""

import json
from dataclasses import replace

import pytest
import torch
from command_line import study
from safetensors.torch import save_file

from results.records.frames import speed_frame
from results.records.store import load_records, write_json
from studies.commands.new_method import new_method
from studies.commands.run import Options, record_dirs
from studies.launch.pending import failed, pending, write_configs
from studies.launch.profile import Resources
from studies.launch.slurm import arrays
from studies.models.backbones import create_backbone
from studies.models.methods import parse
from studies.study import plan, timed_together, timing_batch, timing_dir


def planned(reducers, budgets=(0.6,), seeds=1):
    return plan(
        "pareto", parse(reducers), list(budgets), seeds, task="classification", dataset="scenes", data_dir=None,
        backbone="scenes_vit", checkpoint=__file__, device="cpu", quick=True, train="none", recipe=None,
    )  # fmt: skip


@pytest.fixture
def begun(tmp_path):
    """A directory that holds the planned runs of the dense model and of random pruning."""
    write_configs(planned("none,random"), tmp_path)
    return tmp_path


def names(configs):
    return {config.variant for config in configs}


def test_a_study_that_has_grown_is_timed_as_a_whole(tmp_path):
    out, weights, mine = tmp_path / "out", tmp_path / "vit.safetensors", new_method(tmp_path / "mine.py")
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), weights)
    common = ("--quick", "--train", "none", "--jobs", 1, "--backbone", f"scenes_vit={weights}", "--out", out)

    def timings(*args):
        done = study("run", *args, *common)
        assert done.returncode == 0, done.stderr
        records = [json.loads(path.read_text()) for path in out.glob("speed/*/result.json")]
        records.sort(key=lambda record: record["provenance"]["finished"])
        return [{row["variant"] for row in record["variants"]} for record in records]

    first = {"none", "random@0.6"}
    assert timings("--reducers", "none,random", "--budgets", 0.6) == [first]
    grown = timings("--reducers", f"tome,{mine}", "--budgets", 0.5)
    own = next(name for name in grown[1] if "#" in name)
    assert grown == [first, {*first, "tome@0.5", own}]
    assert timings("--reducers", "random", "--budgets", 0.5)[2] == {*first, "tome@0.5", "random@0.5"}
    frame = speed_frame([load_records(out)])
    shown = frame[frame["shown"]].set_index("variant")
    assert set(shown.index) == {*grown[1], "random@0.5"}
    assert list(shown.index[shown["ratio_only"]]) == [own] and shown["timing"].nunique() == 2
    said = [path.read_text() for path in out.rglob("local/**/*.err")]
    (line,) = (line for text in said for line in text.splitlines() if line.startswith("not timed: "))
    assert own.partition("#")[0] in line and "give the file again" in line
    assert f"lacks: {own};".replace("_", r"\_") in (out / "report" / "table.md").read_text()


def test_a_study_that_has_not_grown_keeps_its_name(begun, tmp_path):
    configs = planned("none,random", seeds=2)
    together, left_out = timed_together(configs, begun)
    assert names(together) == {"none", "random@0.6"} and left_out == []
    assert timing_dir(together, begun) == timing_dir(configs, begun)
    assert timing_dir(planned("random"), begun) == timing_dir(configs, begun)  # the dense model is always timed


def test_only_what_may_be_run_here_is_timed_together(begun, tmp_path):
    (random,) = planned("random")
    loads = tmp_path / "loads.py"
    loads.write_text(f"open({str(tmp_path / 'was_loaded')!r}, 'w')\n")
    others = {
        "gpu": replace(random, budget=0.1, device="cuda"), "full": replace(random, budget=0.2, quick=False),
        "eva": replace(random, budget=0.3, backbone="scenes_eva"),
        "given": replace(random, reducer="mine#abcd1234"), "file": replace(random, reducer=str(loads)),
        "twin": replace(random, reducer=f"random:like={loads}", budget=None),
    }  # fmt: skip
    for config in others.values():
        (begun / "runs" / config.id).mkdir()
        write_json(begun / "runs" / config.id / "config.json", config.to_dict())
    old = begun / "runs" / "random-of-old"
    old.mkdir()
    write_json(old / "config.json", replace(random, budget=0.4).to_dict())
    cut = begun / "runs" / "cut"
    cut.mkdir()
    (cut / "config.json").write_text('{"study": "par')
    together, left_out = timed_together(planned("tome"), begun)
    assert names(together) == {"tome@0.6", "none", "random@0.6"}
    expected = {others[key].id for key in ("given", "file", "twin")} | {old.name, cut.name}
    assert {line.partition(": ")[0] for line in left_out} == expected
    assert not (tmp_path / "was_loaded").exists()


def test_the_speed_job_is_named_by_all_that_it_times(begun):
    left = pending(planned("tome"), begun)
    assert names(left.runs) == {"tome@0.6"} and names(left.timing) == {"none", "random@0.6", "tome@0.6"}
    (array,) = (array for array in arrays(left, begun, Resources({})) if array.kind == "speed")
    assert names(array.jobs[0]) == names(left.timing)
    assert array.items == [[f"speed/{timing_dir(planned('none,random,tome'), begun).name}"]]
    write_configs([*left.runs, *left.timing], begun)
    assert [config.variant for config in pending(planned("none"), begun).timing][0] == "none"
    write_configs(planned("evit"), begun)  # another command: the job that was named is the same
    assert array.items == [[f"speed/{timing_dir(array.jobs[0], begun).name}"]]


def test_what_another_command_adds_meanwhile_is_not_missed(begun):
    configs = planned("none,random")
    left = pending(configs, begun)
    assert failed(left, begun) == [*(config.id for config in configs), "speed"]
    run = dict.fromkeys(("status", "task", "dataset", "backbone", "reducer", "variant", "label"), "unreachable")
    run |= {"schema": 1, "seed": 0, "provenance": {}}
    for config in configs:
        write_json(begun / "runs" / config.id / "result.json", run)
    assert failed(left, begun) == ["speed"]
    folder = timing_dir(left.timing, begun)
    folder.mkdir(parents=True)
    write_json(folder / "result.json", {"schema": 1, "variants": []})
    assert failed(left, begun) == [] and pending(planned("random"), begun).timing == []  # not timed twice
    write_configs(planned("evit"), begun)
    assert failed(left, begun) == [] and names(pending(configs, begun).timing) == {"none", "random@0.6", "evit@0.6"}


def test_the_timing_can_be_left_out(begun):
    configs = planned("none,random")
    left = pending(configs, begun, timed=False)
    assert names(left.runs) == {"none", "random@0.6"} and left.timing == []
    assert [array.kind for array in arrays(left, begun, Resources({}))] == ["runs"]
    assert failed(left, begun) == [config.id for config in configs]
    where = {timing: record_dirs(configs, Options(out=begun, timing=timing)) for timing in (True, False)}
    assert where[True] == [*where[False], timing_dir(configs, begun)]  # --rerun: a timing that is not made anew stays


@pytest.mark.parametrize(
    ("macs", "side", "dense", "device", "batch"),
    [
        (0.1e9, 32, False, "cpu", 64),  # the embedded models
        (4.6e9, 224, False, "cpu", 13),  # ViT-S/16
        (4.6e9, 224, False, "cuda", 64),
        (46e9, 518, False, "cpu", 1),  # with patches of 14
        (46e9, 518, False, "cuda", 11),
        (31.8e9, 512, True, "cpu", 2),
        (31.8e9, 512, True, "cuda", 4),
        (1e12, 2048, True, "cuda", 1),
    ],
)
def test_the_batch_that_is_timed_fits_images_model_and_device(macs, side, dense, device, batch):
    assert timing_batch(macs, side, dense=dense, device=device) == batch
