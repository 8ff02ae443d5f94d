"""What `list` says: every option of every reducer, with the default that it really has."""

import inspect
import json
import subprocess
import sys

import pytest
from command_line import ROOT, study

from baselines.dynamicvit import DynamicViTObjective
from baselines.evit import EViT, EViTObjective
from baselines.tome import ToMe
from cropr.cropr import CroprModule, CroprObjective
from studies.commands.reading.names import described, names
from studies.models.methods import builtin


def test_every_method_and_option_is_explained():
    known = [name for name in names("reducers") if "#" not in name]  # other tests of this process may have loaded files
    assert known == list(builtin())
    for name, cls in builtin().items():
        assert cls.summary() and cls.label and cls.version >= 1, name
        for key, option in cls.options().items():
            assert len(option.meaning) > 10 and option.shown and option.valid, (name, key)
            assert option.name == key and option.kinds, (name, key)


@pytest.mark.parametrize(
    ("name", "functions", "expected"),
    [
        ("cropr", [CroprModule.__init__, CroprObjective.__init__], 12),
        ("tome", [ToMe.__init__], 1),
        ("evit", [EViT.__init__, EViTObjective.__init__], 3),
        ("dynamicvit", [DynamicViTObjective.__init__], 4),
    ],
)
def test_defaults_are_those_of_the_code(name, functions, expected):
    """A class that is used by itself does what its method does."""
    found = 0
    for function in functions:
        for key, parameter in inspect.signature(function).parameters.items():
            option = builtin()[name].options().get(key)
            if option is not None and parameter.default is not inspect.Parameter.empty:
                if option.default is not None:
                    assert option.default == parameter.default, key
                else:
                    assert option.shown.startswith(str(parameter.default)), key
                found += 1
    assert found >= expected


@pytest.mark.parametrize("name", builtin())
def test_what_is_listed_is_what_is_declared(name):
    """The document has the default of each task; an option that a method gains is listed by itself."""
    cls = builtin()[name]
    entry = described(cls)
    assert json.loads(json.dumps(entry)) == entry and entry["options"].keys() == cls.options().keys()
    for key, listed in entry["options"].items():
        option = cls.options()[key]
        assert (listed["meaning"], listed["type"], listed["choices"]) == (
            option.meaning, option.valid, list(option.choices),
        )  # fmt: skip
        for dense, shown in ((False, listed["default"]), (True, listed["dense_default"])):
            default = getattr(cls(dense=dense), key)
            assert shown == default, (key, dense)
        assert listed["shown"] == option.shown
        assert listed["sets_cost"] == option.sets_cost
    assert entry["needs"] == (["a class token"] if cls.reducer is not None and cls.reducer.class_token else [])
    assert entry["learns"] == cls.learns


def test_what_needs_a_class_token_and_what_learns():
    known = {name: cls for name, cls in builtin().items() if cls.standard or cls.role == "control"}
    assert [name for name, cls in known.items() if cls.needs()] == ["evit", "classattn"]
    assert [name for name, cls in known.items() if cls.learns] == ["cropr", "dynamicvit", "inverted"]


def test_lists_are_one_json_document_or_lines():
    reducers = json.loads(study("list", "reducers", "--json").stdout)
    assert reducers["evit"]["options"]["rest"]["default"] == "fuse" and reducers["none"]["options"] == {}
    assert reducers["evit"]["options"]["rest"]["dense_default"] == "llf"
    text = study("list", "reducers").stdout
    assert all(name in text for name in builtin())
    page = study("list", "reducers", "cropr").stdout
    assert all(option.meaning in page and option.valid in page for option in builtin()["cropr"].options().values())
    assert "arXiv 2412.00965" in page and "MIT" in page
    assert json.loads(study("list", "backbones", "--json").stdout)["scenes_vit"]["depth"] == 6


def test_names_are_known_before_anything_heavy_is():
    code = (
        "import sys; from studies.models.methods import parse; parse('all,cropr:rest=llf'); "
        "print('timm' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "False"


def test_backbones_of_timm_by_pattern():
    found = json.loads(study("list", "backbones", "deit_tiny*", "--json").stdout)
    assert found["deit_tiny_distilled_patch16_224"]["num_prefix_tokens"] == 2
    nothing = study("list", "backbones", "resnet18*")
    assert nothing.returncode == 2 and "'resnet18*'" in nothing.stderr
    wrong = study("list", "reducers", "evti")
    assert wrong.returncode == 2 and "did you mean evit" in wrong.stderr
    wrong = study("list", "datasets", "x*")
    assert wrong.returncode == 2 and "pattern" in wrong.stderr
