"""Methods that are wrong on purpose, as files of a user's: the right rule says so."""

import json

import pytest
from command_line import study

from studies.commands.new_method import new_method
from studies.conformance.suite import RULES, run, run_rule
from studies.models.methods import parse_one

SLOW = ("compiling", "exporting")

PLAIN = '''
from dataclasses import dataclass, replace

import torch

from cropr.dropping import OnCroprSchedule
from cropr.reducer import Dropper


class Score(Dropper):
    def score_macs(self, num_live, num_prefix, embed_dim):
        return 0

    def score(self, tokens, attended):
        return tokens.patches.norm(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Mine(OnCroprSchedule):
    """A test."""

    name = "mine"
    label = "Mine"
    reducer = Score
'''

LEARNED = '''
from dataclasses import dataclass, replace

import torch
from torch import nn

from cropr.dropping import OnCroprSchedule
from cropr.method.objective import Objective, Term
from cropr.method import option
from cropr.reducer import Dropper


class Score(Dropper):
    def __init__(self, keep, embed_dim, rest="drop"):
        super().__init__(keep, rest)
        self.embed_dim = embed_dim
        self.head = nn.Linear(embed_dim, 1)

    def score_macs(self, num_live, num_prefix, embed_dim):
        return num_live * embed_dim

    def score(self, tokens, attended):
        return self.head(tokens.patches.detach()).squeeze(-1)

    def forward(self, tokens, attended=None):
        if self.training:
            tokens = replace(tokens, aux=(*tokens.aux, self.score(tokens, attended).mean(dim=1)))
        return super().forward(tokens, attended)


class AuxiliaryObjective(Objective):
    def __call__(self, model, batch):
        tokens = model.forward_features(batch.images)
        terms = {"main": Term(self.criterion(model.forward_head(tokens), batch.target), "label")}
        terms |= {f"aux_{i}": Term((aux - 1).square().sum(), "label") for i, aux in enumerate(tokens.aux)}
        return terms, self.counts(model, batch)


@dataclass(frozen=True, kw_only=True)
class Mine(OnCroprSchedule):
    """A test."""

    name = "mine"
    label = "Mine"
    reducer = Score
    learns = "heads, from the auxiliary loss alone"

    detach: bool = option(True, "the auxiliary loss does not reach the backbone")

    def make(self, vit, block, keep):
        return Score(keep, vit.embed_dim, self.at_reducer)

    def objective(self, training):
        return AuxiliaryObjective(training.criterion)
'''

MORE_TOKENS = """
    def forward(self, tokens, attended=None):
        keep = min(self.keep + 1, tokens.num_live)
        return tokens if self.keep >= tokens.num_live else tokens.prune(self.score(tokens, attended), keep)
"""
LOST_POSITIONS = """
    def forward(self, tokens, attended=None):
        out = super().forward(tokens, attended)
        return out if out is tokens else replace(out, index=torch.zeros_like(out.index))
"""
NEVER_IDLE = """
    def forward(self, tokens, attended=None):
        out = super().forward(tokens)
        return replace(out, x=torch.cat([out.x[:, : out.num_prefix], 1.01 * out.patches], dim=1))
"""
LOGARITHM = """
    def forward(self, tokens, attended=None):
        out = super().forward(tokens)
        return out if out is tokens else replace(out, x=out.x.log())
"""
MOVED_CLASS_TOKEN = """
    def forward(self, tokens, attended=None):
        out = super().forward(tokens)
        return replace(out, x=out.x.roll(1, dims=1))
"""

METHOD = "\n\n@dataclass"  # what comes in front of it belongs to the reducer


def added(text):
    return lambda source: source.replace(METHOD, text + METHOD, 1)


def put(old, new):
    return lambda source: source.replace(old, new, 1)


SCORE = "return tokens.patches.norm(dim=-1)"
WRONG = {
    "too many tokens": (PLAIN, added(MORE_TOKENS), "token counts", "block 1: expected 29 tokens"),
    "wrong MACs": (PLAIN, put("return 0", "return 5000"), "MACs", "declares 5,000 MACs"),
    "a small error of MACs": (LEARNED, put("num_live * embed", "(num_live - 1) * embed"), "MACs", "reducer at block 0"),
    "a leak": (LEARNED, put("patches.detach()", "patches"), "auxiliary loss", "reaches vit."),
    "says nothing of learning": (LEARNED, put("learns =", "learned ="), "gradients", "has a gradient"),
    "learns nothing": (PLAIN, put("reducer = Score", 'reducer, learns = Score, "a score"'), "gradients", "parameters"),
    "depends on the batch": (
        PLAIN, put(SCORE, "x = tokens.patches; return (x - x.mean(0)).norm(dim=-1)"), "batch", "alone and in a batch",
    ),
    "loses positions": (PLAIN, added(LOST_POSITIONS), "grid positions", "of image 0 is live or dropped"),
    "never idle": (PLAIN, added(NEVER_IDLE), "idle", "ratio=1 and of the plain model"),
    "draws at random": (PLAIN, put(SCORE, "return torch.rand(tokens.patches.shape[:2])"), "repeatable", "bit for bit"),
    "moves the class token": (PLAIN, added(MOVED_CLASS_TOKEN), "prefix tokens", "bit for bit"),
    "forgets an argument": (LEARNED, put("self.embed_dim = embed_dim", ""), "saving", "its argument embed_dim"),
    "has no logarithm": (PLAIN, added(LOGARITHM), "finite", "expected finite numbers"),
}  # fmt: skip


def checked(tmp_path, source, rules=RULES):
    file = tmp_path / "mine.py"
    file.write_text(source)
    method = parse_one(str(file))
    return {rule: run_rule(RULES[rule], method) for rule in rules}


def failed(results):
    return {rule: result.detail for rule, result in results.items() if result.state == "failed"}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_method_is_named_by_the_right_rule(what, tmp_path):
    source, spoil, rule, words = WRONG[what]
    assert spoil(source) != source
    found = failed(checked(tmp_path, spoil(source), [name for name in RULES if name not in SLOW]))
    assert words in found[rule]


@pytest.mark.parametrize("source", [PLAIN, LEARNED])
def test_a_correct_one_passes_all(source, tmp_path):
    assert failed(checked(tmp_path, source)) == {}


def test_the_template_passes_all(tmp_path):
    for name in ("mine", "my_dropper", "dropper"):
        file = new_method(tmp_path / f"{name}.py")
        method = parse_one(f"{file}:power=3")
        assert (method.name, method.given) == (name, {"power": "3"})
    steps = []
    results = run(method, steps.append)
    assert [result.rule for result in results] == steps == list(RULES)
    assert [result for result in results if result.state == "failed"] == []
    with pytest.raises(ValueError, match="is not overwritten"):
        new_method(file)


@pytest.mark.parametrize("name", ["evit.py", "all.py", "class.py", "3x.py", "Mine.py", "my-own.py", "mine.txt"])
def test_a_name_that_no_method_can_have_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        new_method(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "rule", "words"),
    [
        ("return tokens.patched", "batch", "AttributeError: 'Tokens' object has no attribute 'patched'"),
        (f"{SCORE} if tokens.x.sum() > 0 else tokens.patches.mean(dim=-1)", "compiling", "branching"),
        (f"{SCORE} if tokens.x.sum() > 0 else tokens.patches.mean(dim=-1)", "exporting", "data-dependent"),
    ],
)
def test_an_exception_names_file_and_line(tmp_path, line, rule, words):
    source = PLAIN.replace(SCORE, line) + f"\n# {rule}: a file of the same text is the one that is loaded already\n"
    number = source[: source.index(line)].count("\n") + 1
    result = checked(tmp_path, source, [rule])[rule]
    assert result.state == "failed"
    assert result.detail.startswith(f"mine.py, line {number}: ") and words in result.detail


def test_refusing_what_it_does_not_take_is_no_failure(tmp_path):
    refusal = 'raise ValueError("mine is for models without registers")'
    make = f"\n    def make(self, vit, block, keep):\n        if vit.num_prefix_tokens > 2:\n            {refusal}\n"
    source = PLAIN.rstrip() + "\n" + make + "        return super().make(vit, block, keep)\n"
    assert failed(checked(tmp_path, source, ["refusals", "idle", "batch"])) == {}
    spoilt = source.replace("mine is for models", "only models")
    assert "a ValueError that names mine" in failed(checked(tmp_path, spoilt, ["refusals"]))["refusals"]


def test_the_command_line(tmp_path):
    file = tmp_path / "mine.py"
    written = study("new-method", file)
    assert written.returncode == 0 and str(file) in written.stdout
    file.write_text(file.read_text().replace("return 0", "return 5000"))
    done = study("check", file, "--json")
    assert done.returncode == 1
    found = {result["rule"]: result for result in json.loads(done.stdout)}
    assert list(found) == list(RULES)
    assert [name for name, result in found.items() if result["state"] == "failed"] == ["MACs"]
    for bad, word in [
        ("evti", "evit"),
        ("all", "one method"),
        ("every", "one method"),
        (tmp_path / "no.py", "no such file"),
    ]:
        refused = study("check", bad)
        assert refused.returncode == 2 and refused.stderr.startswith("error: ") and word in refused.stderr
