"""The studies of the catalogue can be run: small and at full size, every variant of them."""

import pytest

from results.records.schema import Study as StudyFile
from results.records.schema import read
from studies.catalogue import studies
from studies.commands.reading.asked import parts, question_of
from studies.commands.run import Options, configs_of, only_timed, preflight
from studies.config import RunConfig
from studies.models.backbones import EMBEDDED
from studies.study import check_identity

TRAINED = [name for name, one in studies().items() if one.timing is None]
FULL = [name for name, one in studies().items() if one.full is not None]
NEW = ("cropr-ablations", "rest", "controls", "transfer", "scaling", "seeds", "multiples", "fidelity")


def test_the_studies_that_were_asked_for_are_there():
    assert set(NEW) <= studies().keys() and {"scaling", "fidelity"} <= set(FULL) and "multiples" not in FULL
    unrun = {name for name in NEW if "not run to its end yet" in studies()[name].seen}
    assert unrun == {"scaling", "seeds"}


@pytest.mark.parametrize("name", [name for name in NEW if name != "multiples"])
def test_every_variant_can_be_built_on_the_embedded_model(name):
    for part in parts(Options(study=name, quick=True)):
        configs = configs_of(part)
        assert preflight(configs) and len({config.id for config in configs}) == len(configs) > 2


@pytest.mark.parametrize("name", FULL)
def test_the_same_name_at_full_size(name):
    full = studies()[name].full
    small, large = (
        [config for part in parts(Options(study=name, **options)) for config in configs_of(part)]
        for options in ({}, {"dataset": full.dataset, "data": "/nowhere"})
    )
    assert {config.study for config in (*small, *large)} == {name}
    assert {config.backbone for config in large} == set(full.backbones or [full.backbone])
    assert {config.recipe for config in large} == {full.recipe} and not any(config.own for config in large)
    assert not {config.backbone for config in large} & set(EMBEDDED) and {config.seed for config in large} == {0}
    assert {config.backbone for config in small} <= set(EMBEDDED)
    assert all(config.backbone_recipe is None for config in large) and all(config.backbone_recipe for config in small)


def test_parts_have_a_directory_each():
    found = list(parts(Options(study="scaling")))
    assert [str(part.directory) for part in found] == [f"out/scaling/{name}" for name in studies()["scaling"].backbones]
    assert len(list(parts(Options(study="scaling", backbone="scenes_vit")))) == len(list(parts(Options()))) == 1


def test_counts_beside_multiples_of_eight_differ_by_one_token():
    timing = only_timed(Options(study="multiples"))
    kept = [spec.partition("keeps=")[2] for spec in timing.reducers.split(",random")]
    tokens = [[int(keep) + 1 for keep in text.split("/")] for text in kept]
    assert [{count % 8 for count in counts} for counts in tokens] == [{0}, {7}, {1}]


@pytest.mark.parametrize("name", [name for name in TRAINED if studies()[name].question])
def test_the_question_is_written_as_the_report_reads_it(name, tmp_path):
    options = Options(study=name)
    said = question_of(options)
    configs = configs_of(options)
    assert said["method"] in {config.reducer for config in configs} | {"all"}
    check_identity(configs, tmp_path, "data", None, {"question": said})
    assert read(tmp_path / "study.json", StudyFile)["question"] == said
    check_identity(configs, tmp_path, "data", None, {"question": said})
    with pytest.raises(ValueError, match="another study: its question is"):
        check_identity(configs, tmp_path, "data", None, {"question": said | {"margin_points": 7.5}})


def test_a_directory_from_before_there_were_questions_goes_on(tmp_path):
    configs = configs_of(Options())
    check_identity(configs, tmp_path, "data", None)
    assert "question" not in read(tmp_path / "study.json", StudyFile)
    check_identity(configs, tmp_path, "data", None, {"question": question_of(Options())})


def test_ids_of_runs_are_those_from_before():
    """What a run does not ask for is no part of its name: records of earlier commits are found again."""
    config = RunConfig("pareto", "classification", "scenes", "scenes_vit", "cropr", 2, 0.65, 0, None)
    assert config.id == "cropr-0.65-s0-3a326f29"
