"""Settings of recipes: each has its range where it is declared, and is refused by it."""

import dataclasses
import json

import pytest
from command_line import study

from results.records.store import write_json
from studies.catalogue import studies
from studies.catalogue.recipes import RECIPES
from studies.commands.reading.options import parse_budgets
from studies.commands.run import Options, configs_of
from studies.config import Recipe, RunConfig, read_config, replace_key, settings

ALL = [(key, text) for key, setting in settings().items() for text in setting.bad_texts()]


def test_every_setting_is_declared():
    assert set(settings()) == {field.name for field in dataclasses.fields(Recipe)}
    assert all(setting.meaning for setting in settings().values()) and len(ALL) > 60


@pytest.mark.parametrize(("key", "text"), ALL)
def test_what_is_outside_its_range_is_refused(key, text):
    with pytest.raises(ValueError, match=f"setting {key} cannot be .*valid: "):
        replace_key(Recipe(), key, text)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("epochs", "0"), ("epochs", "-1"), ("epochs", "null"), ("lr", "NaN"), ("lr", "-1"), ("lr", "1e400"),
        ("batch_size", "0"), ("accumulate", "0"), ("label_smoothing", "5"), ("amp", "foo"), ("schedule", "foo"),
        ("weight_decay", "-1"), ("evaluate_every", "0"), ("betas", "0.9"), ("betas", "[0.9, 1.0]"), ("ema", "1"),
        ("warmup_shape", "step"), ("checkpointing", "maybe"),
    ],
)  # fmt: skip
def test_settings_that_people_tried(key, text):
    with pytest.raises(ValueError, match=f"setting {key} cannot be"):
        replace_key(Recipe(), key, text)


def test_common_spellings():
    spelled = {"bf16": "bfloat16", "BF16": "bfloat16", "fp16": "float16", "half": "float16", "float16": "float16"}
    assert {text: replace_key(Recipe(), "amp", text).amp for text in spelled} == spelled
    assert replace_key(Recipe(amp="float16"), "amp", "none").amp is None
    assert replace_key(Recipe(), "clip_grad", "null").clip_grad is None
    assert replace_key(Recipe(), "betas", "0.9/0.95").betas == replace_key(Recipe(), "betas", "[0.9, 0.95]").betas
    assert replace_key(Recipe(), "augment", "rand-m9-mstd0.5-inc1").augment == "rand-m9-mstd0.5-inc1"


def test_values_of_code_and_records_are_checked_too(tmp_path):
    with pytest.raises(ValueError, match="setting lr cannot be 'nan'"):
        Recipe(lr=float("nan"))
    with pytest.raises(ValueError, match="setting epochs cannot be '3.5'"):
        dataclasses.replace(Recipe(), epochs=3.5)
    path = tmp_path / "config.json"
    whole = RunConfig("s", "classification", "scenes", "scenes_vit", "evit", 1, 0.5, 0, Recipe(), own=(("lr", 0.1),))
    write_json(path, whole.to_dict())
    assert read_config(path) == whole and read_config(path).id == whole.id
    for change, said in (
        ({"recipe": {**dataclasses.asdict(Recipe()), "epochs": -2}}, "recipe: setting epochs cannot be '-2'"),
        ({"recipe": [3]}, "recipe"), ({"seed": "x"}, "seed: should be a valid integer"), ({"split": "all"}, "split"),
        ({"later": 1}, "later: Unexpected"), ({"recipe": {**dataclasses.asdict(Recipe()), "later": 1}}, "recipe.later"),
        ({"seed": "3"}, "seed: should be a valid integer, not '3'"),
    ):  # fmt: skip
        write_json(path, whole.to_dict() | change)
        with pytest.raises(ValueError, match=f"{path}: {said}"):
            read_config(path)


@pytest.mark.parametrize("name", [name for name, one in studies().items() if one.timing is None])
def test_what_is_read_back_has_the_same_id(name, tmp_path):
    """A worker makes its run of what the command wrote: 6 that became 6.0 would be another run."""
    for config in configs_of(Options(study=name, reducers="all")):
        write_json(tmp_path / "config.json", config.to_dict())
        read = read_config(tmp_path / "config.json")
        assert (read, read.id) == (config, config.id)
        assert json.dumps(read.to_dict()) == json.dumps(config.to_dict())


def test_published_recipes_and_those_of_studies_are_within_their_ranges():
    made = [*RECIPES.values()]
    for one in studies().values():
        made += [one.recipe, one.backbone_recipe, one.quick_recipe, one.quick_backbone_recipe]
    for recipe in filter(None, made):
        for key, setting in settings().items():
            if (value := getattr(recipe, key)) is not None and key != "betas":
                assert getattr(replace_key(Recipe(), key, setting.write(value)), key) == value


@pytest.mark.parametrize("text", ["1e-320", "0", "-1", "nan", "inf", "1.5", "", "0.5,,0.3"])
def test_budgets_that_are_none(text):
    with pytest.raises(ValueError, match="budget"):
        parse_budgets(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budgets", ""], ["--budgets is empty"]),
        (["--reducers", ""], ["--reducers is empty"]),
        (["--backbone", ""], ["--backbone is empty"]),
        (["--data", ""], ["--data is empty"]),
        (["--out", ""], ["--out", "empty"]),
        (["--seeds", "100000000"], ["--seeds", "1000"]),
        (["--data", "somewhere"], ["data set scenes is embedded", "somewhere"]),
        (["--train", "none", "--set", "epochs=3"], ["--train none trains nothing"]),
        (["--set", "epochs=0"], ["setting epochs cannot be '0'; valid: a whole number in [1, inf)"]),
        (["--set", "batch_size=100000"], ["batch_size=100000", "898 training images"]),
    ],
)
def test_commands_that_cannot_work_are_refused_before_any_work(arguments, words, tmp_path):
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    done = study("run", "--quick", *arguments, *out)
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("out/runs/*"))
