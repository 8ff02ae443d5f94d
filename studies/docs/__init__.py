"""The pages of docs/ that say what the code, or kept records, say: `make docs` writes them, and a test holds that they
are true."""

from studies.docs.export import export_page
from studies.docs.methods import methods_page
from studies.docs.speed import speed_page

__all__ = ["PAGES"]

PAGES = {"methods.md": methods_page, "export.md": export_page, "speed.md": speed_page}  # of docs/
