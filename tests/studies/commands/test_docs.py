"""The docs say what the declarations say."""

from command_line import ROOT

from studies.commands.docs import methods_page
from studies.models.methods import builtin


def test_the_page_of_methods_is_that_of_the_declarations():
    text = (ROOT / "docs" / "methods.md").read_text()
    assert text == methods_page(), "make docs writes it anew"
    for name, cls in builtin().items():
        assert f"### {name}\n" in text and cls.summary() in text
        assert all(f"| `{option}` |" in text for option in cls.options())
