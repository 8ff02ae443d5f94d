"""`bench --end-to-end`: the model behind a data loader."""

import json

import numpy as np
import pytest
from command_line import study
from image_folders import write_root

from studies.commands.bench import Bench, lines, run, self_checks
from studies.commands.bench.loaded import loader_lines

SMALL = {
    "backbone": "scenes_vit", "reducers": "random", "budgets": "0.6", "batch_sizes": "2", "rounds": 6,
    "device": "cpu", "end_to_end": True, "dataset": "scenes",
}  # fmt: skip


def test_scenes_in_this_process(tmp_path):
    options = Bench(**SMALL | {"out": tmp_path})
    (record,) = run(options, [].append)
    loader, rows = record["end_to_end"], record["variants"]
    assert (loader["dataset"], loader["workers"], loader["num_items"]) == ("scenes", 0, 2022)
    assert record["loader"] == "scenes, 0 workers" and len(record["provenance"]["data_fingerprint"]) > 16
    dense = np.array(rows[0]["end_to_end"]["samples_s"])
    for row in rows:
        own = np.array(row["end_to_end"]["samples_s"])
        assert row["end_to_end"]["ratio"]["median"] == pytest.approx(np.median(dense / own))
        assert len(own) == len(loader["samples_s"]) == record["rounds"]
    text = "\n".join(lines([record]))
    assert "end to end: 2,022 test images of scenes by this process" in text and "no workers: " in text
    assert f"{rows[1]['end_to_end']['ratio']['median']:.3f} [" in text
    assert run(options, [].append) == [record]  # read again
    with pytest.raises(ValueError, match="holds records of loader scenes, 0 workers, not None"):
        run(Bench(**SMALL | {"out": tmp_path, "end_to_end": False, "dataset": None}), [].append)


def test_a_folder_that_workers_decode(tmp_path):
    args = ("bench", "--backbone", "test_vit", "--reducers", "none", "--rounds", 2, "--batch-sizes", 4)
    done = study(
        *args, "--end-to-end", "--dataset", "imagenet", "--data", write_root(tmp_path), "--workers", 1, "--json"
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["loader"] == "imagenet, 1 workers" and record["end_to_end"]["num_items"] == 9
    assert len(record["variants"][0]["end_to_end"]["samples_s"]) == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"end_to_end": False}, "--dataset scenes says what --end-to-end loads; give both or none"),
        ({"end_to_end": False, "dataset": None, "workers": 2}, "--workers 2 says what --end-to-end loads"),
        ({"dataset": None}, "--end-to-end needs --dataset; valid: scenes"),
        ({"dataset": "scene"}, "unknown data set 'scene'; did you mean scenes"),
        ({"workers": 2}, "data set scenes is embedded and made in the process that asks for it, not by --workers 2"),
        ({"img_sizes": "32,64"}, "images of scenes are of 32 px, and the model takes 64 px; give --img-sizes 32"),
        ({"dataset": "imagenet"}, "imagenet needs --data DIR"),
        ({"dataset": "ade20k", "data": "."}, "data set ade20k serves segmentation, not classification"),
        ({"task": "detection"}, "--end-to-end times no detector behind its loader; give --task classification or"),
        ({"data": "somewhere"}, "data set scenes is embedded and reads no --data"),
    ],
)
def test_what_does_not_belong_together_is_refused_before_anything_is(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(Bench(**SMALL | change | {"out": tmp_path}), [].append)
    assert not list(tmp_path.iterdir())


def test_the_self_check_loads_nothing():
    with pytest.raises(ValueError, match="leave out --end-to-end"):
        self_checks(Bench(**SMALL), [].append)


def row(name, limited_by):
    return {"variant": name, "end_to_end": limited_by and {"limited_by": limited_by}}


def test_what_limits_is_said_in_words():
    rows = [row("none", "model"), row("a", "loader"), row("b", "loader"), row("c", "not told apart"), row("d", None)]
    record = {"end_to_end": {"images_per_s": {"median": 130.0}, "workers": 2}, "variants": rows}
    assert list(loader_lines(record)) == [
        "loader-bound: the loader makes 130.0 images/s, every variant above that is no faster: a, b",
        "model-bound: the loader makes 130.0 images/s, and these alone are slower than that: none",
        "loader or model: the loader makes 130.0 images/s, and these alone are not told apart from it: c",
    ]
