"""Every study is a file that ends in its declaration."""

import json
from pathlib import Path

import pytest
from command_line import ROOT, study

from studies.catalogue import Question, studies
from studies.commands.reading.names import names
from studies.commands.reading.options import parse_budgets
from studies.models.methods import parse
from studies.tasks import TASKS


def test_every_file_is_a_study_with_a_claim():
    others = {"__init__", "chosen", "declaration", "own", "recipes"}
    files = {file.stem for file in Path(ROOT / "studies" / "catalogue").rglob("*.py")} - others
    assert {name.replace("-", "_") for name in studies()} == files
    for name, found in studies().items():
        assert found.name == name and found.task in TASKS
        assert all(len(text) > 10 for text in (found.summary, found.claim, found.source, found.time))
        methods = parse(found.reducers, TASKS[found.task].dense)
        assert (found.timing is None) == (found.backbone_recipe is not None)
        if found.timing is None:
            assert all(recipes[1] for recipes in map(found.recipes, (False, True)))
        assert (found.recipe is None) == (found.timing is not None or found.train == "none")
        if found.question is not None:
            names = [str(method) for method in methods if method.role == "method"]
            assert found.question.method in (*names, "all") and found.question.record()["margin_points"] >= 0
            assert found.question.budget is None or found.question.budget in parse_budgets(found.budgets)
            assert found.question.metric in [metric.name for metric in TASKS[found.task].metrics if metric.statistic]


def test_the_margins_are_those_of_the_claims():
    stated = {name: found.question for name, found in studies().items() if found.question is not None}
    for name in ("pareto", "segmentation", "detection"):
        assert f"within {stated[name].margin_points:g} " in studies()[name].claim.replace("stays within", "within")
        assert f"{stated[name].budget:g}" in studies()[name].claim and stated[name].against == "dense"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"against": "dens"}, "'dens'; did you mean dense"),
        ({"kind": "below"}, "unknown kind of question 'below'. Valid: above, within"),
        ({"margin_points": -1}, r"-1 is outside \[0, 100\)"),
        ({"margin_points": float("nan")}, "nan is outside"),
        ({"budget": 65}, r"65 is outside \(0, 1\]"),
        ({"method": ""}, "method is empty"),
    ],
)
def test_a_question_that_is_none_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Question(**{"method": "cropr", "against": "dense", "margin_points": 1.0} | change)


def test_each_task_has_one_default_and_it_comes_first():
    defaults = [found.task for found in studies().values() if found.default_of_task]
    assert sorted(defaults) == sorted(TASKS)
    assert list(studies())[: len(defaults)] == ["pareto", "segmentation", "detection", "fidelity"]


def test_a_study_has_a_page():
    page = study("list", "studies", "fusion").stdout
    assert studies()["fusion"].claim in page and "cropr-study run fusion" in page
    assert json.loads(study("list", "studies", "--json").stdout)["pareto"]["claim"] == studies()["pareto"].claim
    assert names("studies").keys() == studies().keys()
    wrong = study("list", "studies", "fussion")
    assert wrong.returncode == 2 and "did you mean fusion" in wrong.stderr
