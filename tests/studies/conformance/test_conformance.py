"""Every method of the project, at its defaults, keeps every rule."""

import pytest

from studies.conformance.suite import RULES, run_rule
from studies.models.methods import builtin, parse_one

# Options under which a method is another one in the eyes of a rule.
FURTHER = [("dynamicvit:rest=squeeze", "masked training"), ("dynamicvit:rest=llf", "masked training")]
FURTHER += [("dynamicvit:attention=sdpa", "masked training"), ("cropr:queries=3,heads=4,k_proj=true", "folding")]
FURTHER += [("cropr:select=sample", "repeatable"), ("cropr:rest=squeeze", "grid positions"), ("evit:rest=llf", "idle")]
FURTHER += [("random:rest=squeeze", "MACs"), ("random:rest=fuse", "MACs"), ("cropr:rest=fuse", "saving")]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", builtin())
def test_rule(name, rule):
    result = run_rule(RULES[rule], builtin()[name]())
    assert result.state != "failed", result.detail


@pytest.mark.parametrize(("spec", "rule"), FURTHER)
def test_rule_applies_with_options(spec, rule):
    result = run_rule(RULES[rule], parse_one(spec))
    assert result.state == "passed", result.detail


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("none", "budget", "no option of it sets the cost"),
        ("tome", "masked training", "no policy"),
        ("tome", "folding", "nothing to fold"),
        ("evit", "auxiliary loss", "option detach"),
    ],
)
def test_what_a_rule_does_not_ask(name, rule, words):
    result = run_rule(RULES[rule], builtin()[name]())
    assert result.state == "not applicable" and words in result.detail
