"""What `list` says: every option of every reducer, with the default that it really has."""

import json

import pytest
from command_line import study

from cropr.method import Method
from studies.models.methods import builtin

OPTIONS = [(name, option) for name, cls in builtin().items() for option in cls.options()]
named = pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name}-{option}" for name, option in OPTIONS])


@named
def test_values_outside_the_declared_range_are_refused(name, option):
    cls = builtin()[name]
    declared, tried = cls.options()[option], 0
    for text in declared.bad_texts():
        for dense in (False, True):
            with pytest.raises(ValueError) as error:
                cls.parse({option: text}, dense)
            assert all(part in str(error.value) for part in (name, option, repr(text), declared.valid)), text
        tried += 1
    assert tried >= 1 or declared.kinds == (str,)  # names of another method: see the next test


@named
def test_an_option_says_what_it_means_and_its_default_is_one(name, option):
    declared = builtin()[name].options()[option]
    assert len(declared.meaning) > 5 and declared.shown
    for dense in (False, True):
        default = declared.default_for(dense)
        assert declared.check(default) == default
        if default is not None:
            assert declared.parse(declared.write(default)) == default


def test_declarations_are_whole():
    for name, cls in builtin().items():
        assert cls.name == name and cls.label and cls.summary() and not cls.summary().startswith(cls.__name__ + "(")
        assert cls.place is not Method.place
        if cls.paper:
            assert cls.paper.startswith("arXiv ") and cls.licence
    roles = [cls.role for cls in builtin().values()]
    assert roles.count("dense") == roles.count("random") == 1


def test_lists_are_one_json_document_or_lines():
    reducers = json.loads(study("list", "reducers", "--json").stdout)
    assert reducers["evit"]["options"]["rest"]["default"] == "fuse" and reducers["none"]["options"] == {}
    assert reducers["evit"]["taps"] == ["q", "k"] and reducers["evit"]["needs"] == ["a class token"]
    text = study("list", "reducers").stdout
    assert all(name in text for name in builtin())
    page = study("list", "reducers", "cropr").stdout
    assert all(option.meaning[:30] in page for option in builtin()["cropr"].options().values())
    assert "arXiv 2412.00965" in page and "MIT" in page and "a whole number in [1, 65536]" in page
    assert json.loads(study("list", "backbones", "--json").stdout)["scenes_vit"]["depth"] == 6


def test_backbones_of_timm_by_pattern():
    found = json.loads(study("list", "backbones", "deit_tiny*", "--json").stdout)
    assert found["deit_tiny_distilled_patch16_224"]["num_prefix_tokens"] == 2
    nothing = study("list", "backbones", "resnet18*")
    assert nothing.returncode == 2 and "'resnet18*'" in nothing.stderr
    wrong = study("list", "reducers", "evti")
    assert wrong.returncode == 2 and "did you mean evit" in wrong.stderr
    wrong = study("list", "studies", "x*")
    assert wrong.returncode == 2 and "pattern" in wrong.stderr
