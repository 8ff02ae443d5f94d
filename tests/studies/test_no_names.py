"""Nothing but a method's own file, and the studies of the catalogue, knows the name of a method."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from studies.models.methods import ORDER, builtin

ROOT = Path(__file__).parents[2]
FOLDERS = ("studies", "results", "cli.py")
EXEMPT = ("studies/catalogue/",)  # what a study compares is its business

# "none" and "random" are words too. Each use that is not the name of a method, and how often it may occur.
WORDS = {
    ("studies/models/methods.py", "random"): 1,  # a role, see ORDER
    ("studies/measure/bench.py", "random"): 1,  # a role, as in the next three
    ("studies/docs/methods.py", "random"): 1,
    ("studies/docs/measured.py", "random"): 1,
    ("studies/commands/reading/asked.py", "random"): 2,
    ("results/records/schema.py", "random"): 1,
    ("results/statistics/compare.py", "random"): 1,
    ("results/statistics/health.py", "random"): 1,
    ("results/statistics/question.py", "random"): 3,
    ("studies/runs/command.py", "none"): 1,  # --train none
    ("results/statistics/joint/fronts.py", "random"): 3,
    ("studies/models/reducers.py", "none"): 1,  # the fusion of DenseViT
    ("studies/models/given.py", "none"): 1,  # nothing to list, as in the next three
    ("studies/models/backbones.py", "none"): 1,
    ("studies/commands/cluster.py", "none"): 1,
    ("studies/launch/profile.py", "none"): 1,
    ("studies/models/checkpoints.py", "none"): 1,  # no head
    ("studies/measure/flops.py", "none"): 1,  # fvcore's option
    ("studies/commands/bench/kept.py", "none"): 1,  # no data, so no fingerprint, as in the next one
    ("studies/commands/bench/timed.py", "none"): 1,
    ("studies/config.py", "none"): 1,  # how None is typed
    ("results/figures/plots.py", "none"): 2,  # matplotlib's words, as in the next one
    ("results/figures/labels.py", "none"): 1,
}


def docstrings(tree):
    """The nodes of all docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds)]
    return {body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)}


def named(source, names):
    """(name, line) of every string of `source` that is the name of a method, or a spec or variant that begins so."""
    tree = ast.parse(source)
    left_out, found = docstrings(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            begins = node.value.partition(":")[0].partition("@")[0]
            if begins in names:
                found.append((begins, node.lineno))
    return found


def files():
    for folder in FOLDERS:
        path = ROOT / folder
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if not name.startswith(EXEMPT):
                yield name


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_string_is_the_name_of_a_method(folder):
    wrong = []
    for name in files():
        if name.split("/")[0] == folder:
            found = named((ROOT / name).read_text(), builtin().keys())
            allowed = {word: count for (file, word), count in WORDS.items() if file == name}
            counts = Counter(word for word, _ in found)
            wrong += [f"{name}:{line} {word!r}" for word, line in found if counts[word] > allowed.get(word, 0)]
    assert not wrong, "\n".join(wrong)


def test_words_are_no_loophole():
    """Only names that are words are allowed anywhere, and none where there is none left."""
    assert {word for _, word in WORDS} == {"none", "random"} and "random" in ORDER
    there = set(files())
    assert len(there) > 40 and "cli.py" in there
    for (name, word), count in WORDS.items():
        if (ROOT / name).exists():
            assert [w for w, _ in named((ROOT / name).read_text(), builtin().keys())].count(word) == count, name


def test_a_name_is_found_wherever_it_stands():
    source = """
'tome'
def f(x="evit"):
    "cropr"
    return {"tome": x == "cropr:rest=llf"}, f"random@{x}", "randomly", "a: none"
"""
    assert sorted(named(source, builtin().keys())) == [("cropr", 5), ("evit", 3), ("random", 5), ("tome", 5)]
