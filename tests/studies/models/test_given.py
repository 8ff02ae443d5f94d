"""A user's own file is a method: loaded only where it is named, refused with file, line and rule."""

import json

import pytest
from command_line import ROOT, TINY, study

from studies.commands.new_method import new_method
from studies.models import given
from studies.models.methods import known, parse, parse_one

HEAD = "from dataclasses import dataclass\nfrom cropr.method import Method\n"
GOOD = (
    HEAD + '@dataclass(frozen=True, kw_only=True)\nclass A(Method):\n    """A."""\n    name = "aa"\n    label = "A"\n'
)
PLACE = "    def place(self, vit, num_patches):\n        return {}\n"


@pytest.fixture
def mine(tmp_path):
    return new_method(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_that_name\n", ["line 1", "does not import", "ModuleNotFoundError"]),
        ("x = (\n", ["line 1", "SyntaxError"]),
        ("x = 1\n\ny = x / 0\n", ["line 3", "ZeroDivisionError"]),
        ("raise SystemExit(3)\n", ["line 1", "SystemExit"]),
        ("x = 1\n", ["one declaration", "found: none"]),
        (GOOD + PLACE + GOOD.replace("class A", "class B") + PLACE, ["A (line", "B (line"]),
        (GOOD.replace("@dataclass(frozen=True, kw_only=True)\n", "") + PLACE, ["line 3", "no frozen dataclass"]),
        (GOOD.replace("frozen=True, ", "").replace("class A(Method)", "class A(Method)") + PLACE, ["frozen"]),
        (GOOD, ["line 3", "no place"]),
        (GOOD.replace('"aa"', '"evit"') + PLACE, ["'evit'", "the project's own"]),
        (GOOD.replace('"aa"', '"A b"') + PLACE, ["'A b'", "small letters"]),
        (GOOD + "    power: float = 2.0\n" + PLACE, ["field power is no option", "option"]),
        (
            HEAD + "from cropr.method import option\n" + GOOD + '    p: dict = option(2, "m")\n' + PLACE,
            ["p is annotated"],
        ),
    ],
)
def test_a_file_that_is_no_method_is_refused_with_file_line_and_rule(tmp_path, text, words):
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        parse(f"none,{file}")
    assert str(file) in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        parse_one(f"{tmp_path}/none.py")
    with pytest.raises(ValueError, match="no module that can be found"):
        parse_one("no_package.of_this_name")


def test_an_edited_file_is_another_variant_and_a_record_is_no_permission(mine):
    first = parse_one(f"{mine}:power=1")
    assert (
        str(first).startswith("mine#") and str(first).endswith(":power=1") and str(parse_one(str(first))) == str(first)
    )
    mine.write_text(mine.read_text() + "# another\n")
    second = parse_one(f"{mine}:power=1")
    assert str(second) != str(first) and {str(first)[:13], str(second)[:13]} <= known().keys()
    with pytest.raises(ValueError, match="a user's own file.*give the file again"):
        parse_one("mine#00000000")
    with pytest.raises(ValueError, match="give it again"):
        given.approved(["mine#00000000:power=1"])
    with pytest.raises(ValueError, match="has changed since it was given"):
        given.give(str(mine), "00000000")


def broken(mine, condition="True"):
    """Let the score of `mine` raise where `condition` holds; -> the line that does."""
    lines = mine.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if "return torch.linalg.vector_norm" in line)
    lines[number] = (
        f"        return tokens.patches.sum(-1) / (0 if {condition} else 1) * int('x' if {condition} else 1)"
    )
    mine.write_text("\n".join(lines) + "\n")
    return number + 1


def test_an_error_in_it_names_file_and_line_before_any_work(mine, tmp_path):
    number = broken(mine)
    done = study("run", "--reducers", f"none,{mine}", "--quick", "--out", tmp_path / "out")
    assert done.returncode == 2 and f"mine.py, line {number}: ValueError" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "out").glob("runs/*"))


def test_an_error_while_it_trains_stops_its_runs_only(mine, tmp_path):
    number, out = broken(mine, "self.training"), tmp_path / "out"
    done = study("run", "--reducers", f"{mine},random", "--quick", *TINY, "--out", out, timeout=600)
    assert done.returncode == 1, done.stderr
    states = {folder.name.split("-")[0]: sorted(p.name for p in folder.iterdir()) for folder in out.glob("runs/*")}
    assert "result.json" in states["random"] and "result.json" not in states["mine"]
    (failure,) = out.glob("runs/mine-*/failure.json")
    (copy,) = (out / "methods").iterdir()  # that was loaded by the workers
    assert json.loads(failure.read_text())["where"] == f"{copy.name}, line {number}"
    assert f"{copy.name}, line {number}" in done.stdout + done.stderr


def test_bench_takes_it(mine, tmp_path):
    done = study("bench", "--backbone", "scenes_vit", "--reducers", f"random,{mine}:power=1", "--budgets", "0.5",
                 "--batch-sizes", "1", "--rounds", "2", "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0 and "power=1" in done.stdout, done.stdout + done.stderr


def test_an_installed_package_offers_methods_by_entry_points(mine, tmp_path):
    site = tmp_path / "site"
    info = site / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cropr_study.methods]\nnormed = other_method:Mine\n")
    (site / "other_method.py").write_text(mine.read_text())
    path = f"{ROOT}:{site}"
    page = study("list", "reducers", "normed", PYTHONPATH=path)
    assert page.returncode == 0 and "power (a number" in page.stdout, page.stdout + page.stderr
    assert study("list", "reducers", "normed").returncode == 2
    planned = study("run", "--reducers", "normed:power=1", "--dry-run", "--out", tmp_path / "out", PYTHONPATH=path)
    assert planned.returncode == 0 and "power1" in planned.stdout, planned.stdout + planned.stderr
    wrong = study("run", "--reducers", "normedd", "--dry-run", "--out", tmp_path / "out", PYTHONPATH=path)
    assert wrong.returncode == 2 and "did you mean normed" in wrong.stderr


def test_a_block_that_is_not_there(mine, tmp_path):
    done = study("run", "--reducers", f"none,{mine}:at=99", "--quick", "--out", tmp_path / "out")
    assert done.returncode == 2 and "not 99" in done.stderr and "blocks 0 to 5" in done.stderr


def test_it_goes_through_run_report_show_and_evaluate(mine, tmp_path):
    out = tmp_path / "out"
    done = study("run", "--reducers", f"none,random,{mine}", "--quick", *TINY, "--out", out, timeout=600)
    assert done.returncode == 0, done.stderr
    (run,) = [folder for folder in (out / "runs").iterdir() if folder.name.startswith("mine-")]
    record = json.loads((run / "result.json").read_text())
    name = record["reducer"]
    assert record["role"] == "method" and name.startswith("mine#")
    assert (out / "methods" / f"{name.replace('#', '-')}.py").read_bytes() == mine.read_bytes()
    table = (out / "report" / "table.md").read_text()
    assert f"Mine #{name[5:]}" in table and "to random at the same counts" in table
    refused = study("evaluate", run / "model")
    assert refused.returncode == 2 and "--method" in refused.stderr
    scored = study("evaluate", run / "model", "--quick", "--method", mine)
    assert json.loads(scored.stdout)["top1"] == record["metrics"]["final"]["top1"]
    shown = study("show", out, "--items", "0", "--method", mine, "--out", tmp_path)
    assert shown.returncode == 0 and (tmp_path / "tokens_0.png").stat().st_size > 1000
    again = study("run", "--reducers", f"none,random,{mine}", "--quick", *TINY, "--out", out)
    assert again.returncode == 0 and len(list((out / "runs").iterdir())) == 3
