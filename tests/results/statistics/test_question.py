"""A declared question: its answer is what the paired interval says, and what it names as missing would decide it."""

import io
import json

import numpy as np
import pytest
import scipy.stats
import synthetic_records
from rich.console import Console

from results.pages.report import build
from results.records.frames import run_frame
from results.records.store import load_records
from results.statistics.analysis import analyse
from results.statistics.question import answer

ITEMS = 1_000
OTHERS = ["cropr2@0.5", "cropr:heads=3@0.5", "evit:span=0.33@0.5"]  # in their order in the frame


def hits(share, seed, items=ITEMS):
    """Most items share their fate over seeds."""
    common = np.random.default_rng(99).random(items)
    return common + 0.1 * np.random.default_rng(seed).normal(size=items) < share


def write(folder, seeds=6, items=ITEMS, **question):
    rows = [
        ("none", None, 0.85),
        ("random", 0.5, 0.78),
        ("cropr", 0.5, 0.815),
        ("cropr", 0.7, 0.85),
        ("cropr2", 0.5, 0.6),
        ("cropr:heads=3", 0.5, 0.7),
        ("evit:span=0.33", 0.5, 0.7),
    ]
    (folder / "runs").mkdir(parents=True)
    for reducer, budget, share in rows:
        for seed in range(seeds):
            synthetic_records.write_run(folder, reducer, budget, seed, hits(share, seed + int(1e4 * share), items))
    (folder / "study.json").write_text(json.dumps({"schema": 1, "question": question} if question else {"schema": 1}))
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return analyse(run_frame([load_records(write(tmp_path_factory.mktemp("question") / "a"))]))


def ask(found, **question):
    usual = {"method": "cropr", "budget": 0.5, "against": "dense", "kind": "within", "margin_points": 1.0}
    return answer(usual | question, found.variants["study"].iat[0], [found])


@pytest.mark.parametrize(("against", "column"), [("dense", "difference"), ("random", "over_random")])
@pytest.mark.parametrize("kind", ["within", "above"])
def test_the_verdict_is_where_the_interval_lies(found, against, column, kind):
    row = found.variants.set_index("variant").loc["cropr@0.5"]
    points, low, high = (row[f"{column}{end}_points"] for end in ("", "_low", "_high"))
    assert low < points < high
    for bound, verdict in (
        (low - 0.01, "yes"),
        (low + 0.01, "not decided"),
        (high - 0.01, "not decided"),
        (high + 0.01, "no"),
    ):
        margin = -bound if kind == "within" else bound
        if margin < 0:
            continue
        (one,) = ask(found, against=against, kind=kind, margin_points=margin).answers
        assert (one.verdict, one.points, one.low, one.high) == (verdict, points, low, high)
        assert one.sentence.startswith({"yes": "Yes: ", "no": "No: "}.get(verdict, "Not decided whether "))
        assert f"[{low:+.1f}, {high:+.1f}]".replace("-", "−") in one.sentence and "6 seeds, 1,000 items" in one.sentence
        assert ("would decide it" in one.sentence or "cannot" in one.sentence) == (verdict == "not decided")


def test_every_bound_was_asked(found):
    """Of the bounds above each kind has a margin that is no less than zero."""
    row = found.variants.set_index("variant").loc["cropr@0.5"]
    assert row["difference_high_points"] < 0.01 - 0.02 and row["over_random_low_points"] > 0.01


@pytest.mark.parametrize(
    ("asked", "variants"),
    [
        ({"method": "cropr"}, ["cropr@0.5"]),  # not with other options
        ({"method": "cropr:heads=3"}, ["cropr:heads=3@0.5"]),
        ({"method": "evit"}, ["evit:span=0.33@0.5"]),  # as its protocol trains it
        ({"method": "cropr", "budget": None}, ["cropr@0.7", "cropr@0.5"]),
        ({"method": "cropr@0.7", "budget": None}, ["cropr@0.7"]),
        ({"method": "all", "budget": None}, ["cropr@0.7", "cropr@0.5", *OTHERS]),
        ({"method": "all", "budget": 0.7}, ["cropr@0.7"]),
        ({"method": "random", "budget": None}, ["random@0.5"]),
    ],
)
def test_who_is_asked(found, asked, variants):
    assert [one.variant for one in ask(found, **asked).answers] == variants


def test_it_holds_for_all_only_where_none_is_an_exception(found):
    assert ask(found, budget=None, margin_points=9.0).verdict == "yes"
    assert ask(found, method="all", budget=None, margin_points=9.0).counts == {"yes": 2, "no": 3}
    assert ask(found, method="all", budget=None, margin_points=9.0).verdict == "no"
    row = found.variants.set_index("variant").loc["cropr@0.5"]
    mixed = ask(found, budget=None, margin_points=-row["difference_points"])
    assert mixed.counts == {"yes": 1, "not decided": 1} and mixed.verdict == "not decided"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "tome"}, "no finished variant fits it; finished are: "),
        ({"metric": "miou"}, "declares the metric 'miou'; they have top1"),
    ],
)
def test_what_cannot_be_answered_is_said(found, asked, said):
    one = ask(found, **asked)
    assert one.verdict == "not decided" and said in one.answers[0].sentence


def test_without_a_reference_nothing_is_decided(tmp_path):
    for name, gone, against, said in (
        ("dense", "none", "dense", "no dense model"), ("random", "random", "random", "--random-at-counts"),
    ):  # fmt: skip
        folder = write(tmp_path / name)
        for run in (folder / "runs").glob(f"{gone}-*"):
            (run / "result.json").unlink()
        found = analyse(run_frame([load_records(folder)]))
        one = answer({"method": "cropr", "against": against, "kind": "above", "margin_points": 0}, name, [found])
        assert one.verdict == "not decided" and all(said in each.sentence for each in one.answers)


def test_what_would_decide_it_comes_from_the_spread(tmp_path):
    """By the sums of squares of a two-way analysis of variance, over the hits themselves."""
    found = analyse(run_frame([load_records(write(tmp_path / "a", seeds=4))]))
    shares = {"cropr": 0.815, "random": 0.78}
    of_seed = [
        hits(shares["cropr"], seed + int(1e4 * shares["cropr"])) * 1.0 - hits(shares["random"], seed + 7800)
        for seed in range(4)
    ]
    gaps = np.array([gap.reshape(-1, 5).mean(axis=1) for gap in of_seed])  # [seeds, clusters]
    num_seeds, num_clusters = gaps.shape
    rest = gaps - gaps.mean(axis=0) - gaps.mean(axis=1)[:, None] + gaps.mean()
    of_both = (rest**2).sum() / (num_seeds - 1) / (num_clusters - 1)
    both = of_both / num_clusters
    items = max(0, (gaps.mean(axis=0).var(ddof=1) - of_both / num_seeds) / num_clusters)
    total = gaps.mean(axis=1).var(ddof=1)  # of seeds, what items add to each included
    (one,) = ask(found, against="random", kind="above", margin_points=100 * gaps.mean() - 1.0).answers
    assert one.verdict == "not decided"
    widths = [  # squared, of n seeds: Student's t of what seeds differ by, and 1.96 of what items do
        scipy.stats.t.ppf(0.975, n - 1) ** 2 * total / n + 1.96**2 * (items + both / n) for n in range(2, 100)
    ]
    seeds_needed = 2 + int(np.argmax(np.array(widths) <= 0.01**2))
    heavy = scipy.stats.t.ppf(0.975, 3) ** 2
    by_items = heavy * both / 4 + 1.96**2 * (items + both / 4)
    items_needed = 1000 * by_items / (0.01**2 - heavy * max(0, total - both) / 4)
    assert one.seeds_needed == pytest.approx(seeds_needed, abs=1.1) and one.seeds_needed > 5
    assert one.items_needed == pytest.approx(items_needed, rel=0.15) and one.items_needed > 1_100
    assert f"About {one.seeds_needed} seeds on these items or " in one.sentence


def test_what_seeds_or_items_alone_cannot_decide_is_said(tmp_path):
    found = analyse(run_frame([load_records(write(tmp_path / "a", seeds=3))]))
    points = found.variants.set_index("variant").loc["cropr@0.5", "over_random_points"]
    (one,) = ask(found, against="random", kind="above", margin_points=points - 0.01).answers
    assert one.seeds_needed is None and "Seeds alone cannot: with 100 of them ±" in one.sentence
    one_seed = analyse(run_frame([load_records(write(tmp_path / "b", seeds=1))]))
    points = one_seed.variants.set_index("variant").loc["cropr@0.5", "over_random_points"]
    (one,) = ask(one_seed, against="random", kind="above", margin_points=points - 1).answers
    assert one.seeds_needed is None and "What other seeds would give cannot be told from one." in one.sentence
    assert one.items_needed > 1_000 and "with 1 seed would decide it" in one.sentence


def test_the_report_opens_with_it(tmp_path):
    question = {"method": "cropr", "against": "random", "kind": "above", "margin_points": 1.0, "budget": 0.5}
    report = build([write(tmp_path / "a", **question), write(tmp_path / "b")])
    (one,) = json.loads((tmp_path / "a" / "report" / "answer.json").read_text())
    assert one["question"] == question and one["verdict"] == report.answers[0].verdict == "yes"
    assert one["answers"][0]["points"] == pytest.approx(report.answers[0].answers[0].points)
    assert one["asked"] == "Is cropr at 0.5 at least 1 point above random pruning at the same counts, in top-1?"
    sentence = one["answers"][0]["sentence"]
    text = (tmp_path / "a" / "report" / "table.md").read_text()
    assert text.index(sentence) < text.index("Health") < text.index("| method")
    console = Console(width=400, file=io.StringIO())
    console.print(report.terminal)
    assert console.file.getvalue().index(sentence) < console.file.getvalue().index("health")
    assert not any(path.name == "answer.json" for path in build([tmp_path / "b"]).paths)


@pytest.mark.parametrize(
    "wrong", [{"kind": "below"}, {"margin_points": -1}, {"against": "tome"}, {"margin_points": "1"}]
)
def test_a_question_that_is_none_is_named_with_its_field(tmp_path, wrong):
    question = {"method": "all", "against": "dense", "kind": "within", "margin_points": 1, **wrong}
    report = build([write(tmp_path / "a", seeds=1, items=50, **question)])
    (field,) = wrong
    assert any("study.json" in note and f"question.{field}" in note for note in report.notes) and not report.answers
