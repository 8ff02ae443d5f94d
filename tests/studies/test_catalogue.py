"""Every study is a file that ends in its declaration."""

import json
from pathlib import Path

from command_line import ROOT, study

from studies.catalogue import studies
from studies.commands.names import names
from studies.models.methods import parse
from studies.tasks import TASKS


def test_every_file_is_a_study_with_a_claim():
    files = {file.stem for file in Path(ROOT / "studies" / "catalogue").glob("*.py")} - {
        "__init__",
        "chosen",
        "recipes",
    }
    assert {name.replace("-", "_") for name in studies()} == files
    for name, found in studies().items():
        assert found.name == name and found.task in TASKS
        assert all(len(text) > 10 for text in (found.summary, found.claim, found.source, found.time))
        assert parse(found.reducers, TASKS[found.task].dense)
        assert (found.timing is None) == (found.recipe is not None)
        if found.timing is None:
            assert all(found.recipes(quick) for quick in (False, True))


def test_each_task_has_one_default_and_it_comes_first():
    defaults = [found.task for found in studies().values() if found.default_of_task]
    assert sorted(defaults) == sorted(TASKS)
    assert list(studies())[: len(defaults)] == ["pareto", "segmentation", "detection"]


def test_a_study_has_a_page():
    page = study("list", "studies", "fusion").stdout
    assert studies()["fusion"].claim in page and "cropr-study run fusion" in page
    assert json.loads(study("list", "studies", "--json").stdout)["pareto"]["claim"] == studies()["pareto"].claim
    assert names("studies").keys() == studies().keys()
    wrong = study("list", "studies", "fussion")
    assert wrong.returncode == 2 and "did you mean fusion" in wrong.stderr
