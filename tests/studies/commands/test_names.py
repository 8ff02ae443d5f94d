"""What `list` says: every option of every reducer, with the default that it really has."""

import inspect
import json

import pytest
from command_line import study
from studies.reducer_options import MEANINGS
from studies.reducer_specs import METHODS

from baselines import dynamicvit, evit, tome
from cropr.cropr import CroprModule, CroprObjective
from cropr.vit import ReducedViT


def test_every_option_has_a_meaning():
    assert {name: set(options) for name, options in MEANINGS.items()} == {
        name: set(method.options) for name, method in METHODS.items()
    }


@pytest.mark.parametrize(
    "name, functions, min_found",
    [
        ("cropr", [CroprModule.__init__, CroprObjective.__init__, ReducedViT.__init__], 12),
        ("tome", [tome.place], 1),
        ("evit", [evit.place, evit.EViTObjective.__init__, ReducedViT.__init__], 4),
        ("dynamicvit", [dynamicvit.DynamicViTObjective.__init__, ReducedViT.__init__], 5),
        ("random", [ReducedViT.__init__], 1),
    ],
)
def test_defaults_are_those_of_the_code(name, functions, min_found):
    found = 0
    for function in functions:
        for option, parameter in inspect.signature(function).parameters.items():
            if option in MEANINGS[name] and parameter.default not in (inspect.Parameter.empty, None):
                assert MEANINGS[name][option][0] == parameter.default, option
                found += 1
    assert found >= min_found


def test_lists_are_one_json_document_or_lines():
    reducers = json.loads(study("list", "reducers", "--json").stdout)
    assert reducers["evit"]["options"]["fuse"]["default"] is True and reducers["none"]["options"] == {}
    text = study("list", "reducers").stdout
    assert all(name in text for name in METHODS) and MEANINGS["cropr"]["queries"][1] in text
    assert json.loads(study("list", "backbones", "--json").stdout)["scenes_vit"]["depth"] == 6


def test_backbones_of_timm_by_pattern():
    found = json.loads(study("list", "backbones", "deit_tiny*", "--json").stdout)
    assert found["deit_tiny_distilled_patch16_224"]["num_prefix_tokens"] == 2
    nothing = study("list", "backbones", "resnet18*")
    assert nothing.returncode == 2 and "'resnet18*'" in nothing.stderr
    wrong = study("list", "reducers", "evit")
    assert wrong.returncode == 2 and "pattern" in wrong.stderr
