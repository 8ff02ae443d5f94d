"""Studies of a user's own: read from a file, checked before they run, run and reported like those of the catalogue."""

import json
from dataclasses import replace

import pytest
import torch
from command_line import ROOT, TINY, study
from safetensors.torch import save_file

from studies.catalogue import studies
from studies.catalogue.own import StudyTable, find_study, read_study
from studies.commands.run import Options, configs_of
from studies.models.backbones import create_backbone

EXAMPLE = ROOT / "docs" / "my_study.toml"
CLAIM = 'claim = "it is as good as the dense model"\n'


def written(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_the_example_is_what_it_says():
    found, base = read_study(str(EXAMPLE)), studies()["pareto"]
    assert (found.name, found.task, found.seeds, found.budgets) == ("my_study", "classification", 3, "0.65")
    assert found.recipe == replace(base.recipe, evaluate_every=3) and found.backbone_recipe == base.backbone_recipe
    assert found.quick_recipe == replace(base.quick_recipe, evaluate_every=3)
    assert found.question.margin_points == 3 and not found.default_of_task and found.expected != base.expected
    runs = configs_of(Options(study=str(EXAMPLE)))
    assert {run.variant for run in runs} == {
        "none", "random@0.65", "cropr@0.65", "cropr:heads=3,k_proj=true@0.65",
    }  # fmt: skip
    assert len(runs) == 12 and {run.study for run in runs} == {"my_study"}
    dense, *_ = [run for run in runs if run.reducer == "none"]
    (shipped, *_) = configs_of(Options(reducers="none"))
    assert dense.own == shipped.own  # values that were chosen for the base are taken


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["claim is missing", 'claim = "..."']),
        ("claim = 3\n", ["claim: should be a valid string, not 3"]),
        ('claim = "good"\n', ["claim 'good' is no sentence"]),
        (CLAIM + "budgts = [0.5]\n", ["unknown key 'budgts'", "did you mean budgets"]),
        (CLAIM + 'budgets = "half"\n', ["budgets"]),
        (CLAIM + "budgets = [1.5]\n", ["budget 1.5 is outside"]),
        (CLAIM + 'base = "paretto"\n', ["'paretto'", "did you mean pareto"]),
        (CLAIM + 'base = "resolution"\n', ["only timed"]),
        (CLAIM + 'task = "segmentation"\nbase = "pareto"\n', ["not that of its base"]),
        (CLAIM + 'reducers = ["evti"]\n', ["'evti'", "did you mean evit"]),
        (CLAIM + 'dataset = "scene"\n', ["'scene'", "scenes"]),
        (CLAIM + 'train = "recip"\n', ["'recip'", "did you mean recipe"]),
        (CLAIM + "seeds = 0\n", ["seeds 0"]),
        (CLAIM + 'seeds = "3"\n', ["seeds: should be a valid integer"]),
        (CLAIM + 'name = "a/b"\n', ["name 'a/b'"]),
        (CLAIM + "[recipe]\nepoch = 3\n", ["[recipe]", "'epoch'", "did you mean epochs"]),
        (CLAIM + "[recipe]\nepochs = 0\n", ["setting epochs cannot be '0'"]),
        (CLAIM + 'recipe = "crop"\n', ["'crop'", "cropr"]),
        (CLAIM + "[question]\nmethod = 'cropr'\n", ["question.against is missing"]),
        (CLAIM + "[question]\nmethod='cropr'\nagainst='dense'\nmargin=3\n", ["key of [question] 'margin'"]),
        (CLAIM + "[question]\nmethod='cropr'\nagainst='dense'\nmargin_points=-1\n", ["margin_points -1"]),
        (CLAIM + "[question]\nmethod='tome:r=3'\nagainst='dense'\nmargin_points=1\n", ["'tome:r=3'", "tome"]),
        (CLAIM + "[question]\nmethod='tome'\nagainst='dense'\nmargin_points=1\nbudget=0.3\n", ["budget 0.3 is none"]),
        (CLAIM + "[question]\nmethod='tome'\nagainst='dense'\nmargin_points=1\nmetric='miou'\n", ["'miou'", "top1"]),
        (CLAIM + "reducers='none,tome'\n[question]\nmethod='tome'\nagainst='random'\nmargin_points=1\n",
         ["against random, which is none"]),
        ("claim = [", ["is no TOML"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name_before_any_work(text, said, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (what it says is asked for below)
        configs_of(Options(study=path))
    assert all(word in str(error.value) for word in said), error.value


def test_a_mistake_is_a_message_and_exit_code_2(tmp_path):
    path = written(tmp_path, CLAIM + "budgts = [0.5]\n")
    for command in (("run", path, "--out", tmp_path / "out"), ("submit", path, "--dry-run"), ("list", "studies", path)):
        done = study(*command)
        assert done.returncode == 2 and "did you mean budgets" in done.stderr, (command, done.stderr)
        assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    missing = study("run", "./nothing.toml")
    assert missing.returncode == 2 and "nothing.toml does not exist" in missing.stderr


def test_every_key_is_explained():
    page = (ROOT / "docs" / "your_own_study.md").read_text()
    assert not [key for key in StudyTable.__annotations__ if f"`{key}`" not in page and f"`[{key}]`" not in page]
    assert f"[{EXAMPLE.name}]({EXAMPLE.name})" in page


def test_a_python_file_has_the_same_vocabulary(tmp_path):
    text = (
        "from dataclasses import replace\nfrom studies.catalogue import Question, studies\n"
        "STUDY = replace(studies()['pareto'], name='mine', claim='it is as good as dense', reducers='none,tome',"
        "budgets='0.5', seeds=1, question=Question('tome', 'dense', 2.0))\n"
    )
    runs = configs_of(Options(study=written(tmp_path, text, "mine.py")))
    assert [run.variant for run in runs] == ["none", "tome@0.5"]
    for wrong, said in (("STUDY = 3\n", "ends in no study"), ("import nothing_there\n", "does not import: ModuleNotF"),
                        (text.replace("'tome', 'dense'", "'evit', 'dense'"), "'evit'")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            configs_of(Options(study=written(tmp_path, wrong, "other.py")))


def test_the_example_runs_and_its_question_cannot_be_moved_afterwards(tmp_path):
    out, weights, own = tmp_path / "out", tmp_path / "vit.safetensors", tmp_path / "my_study.toml"
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), weights)
    own.write_text(EXAMPLE.read_text())
    reducers = "none,cropr:heads=3+k_proj=true".replace("+", ",")
    common = ("--quick", "--backbone", f"scenes_vit={weights}", *TINY, "--reducers", reducers, "--out", out)
    done = study("run", own, *common)
    assert done.returncode == 0, done.stderr
    said = json.loads((out / "study.json").read_text())
    assert said["question"] == {
        "method": "cropr:heads=3,k_proj=true", "against": "dense", "margin_points": 3.0, "kind": "within",
        "budget": 0.65, "metric": "top1",
    }  # fmt: skip
    assert said["claim"] == find_study(str(own)).claim and said["study"] == "my_study"
    assert (out / "report" / "table.md").exists()
    runs = sorted(out.glob("runs/*/result.json"))
    assert [json.loads(path.read_text())["study"] for path in runs] == ["my_study", "my_study"]

    own.write_text(EXAMPLE.read_text().replace("margin_points = 3", "margin_points = 9"))
    moved = study("run", own, *common)
    assert moved.returncode == 2 and "another study: its question is" in moved.stderr, moved.stderr
    own.write_text(EXAMPLE.read_text().replace("within 3 points", "within 9 points"))
    moved = study("run", own, *common)
    assert moved.returncode == 2 and "another study: its claim is" in moved.stderr, moved.stderr
