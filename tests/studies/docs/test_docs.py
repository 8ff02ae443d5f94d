"""The docs say what the declarations say."""

import pytest
from command_line import ROOT

from studies.docs import PAGES
from studies.docs.export import EXPORTED
from studies.models.export import FORMATS
from studies.models.methods import builtin


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_those_of_the_declarations(name):
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "make docs writes it anew"


def test_the_page_of_methods_has_them_all():
    text = (ROOT / "docs" / "methods.md").read_text()
    for name, cls in builtin().items():
        assert f"### {name}\n" in text and cls.summary() in text
        assert all(f"| `{option}` |" in text for option in cls.options())


def test_the_page_of_exports_has_every_method_and_a_reason_for_each_no():
    text = (ROOT / "docs" / "export.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(builtin()) and all(f"| `{name}` |" in text for name in builtin())
    assert all(row.count("yes") + row.count("no (") == len(FORMATS) * len(EXPORTED) for row in rows)
    numbers = {word for row in rows for word in row.split() if word.startswith("(")}
    assert numbers == {f"({line.split('.')[0]})" for line in text.splitlines() if line[:1].isdigit()}
