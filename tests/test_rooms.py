"""The arrows between folders run one way: read off the imports, inside functions and for type checkers too."""

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {  # package -> packages of the project that it may import
    "cropr": set(),
    "baselines": {"cropr"},
    "results": set(),
    "studies": {"cropr", "baselines", "results"},
}


def imports(file):
    """Modules that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package):
    return [(file.relative_to(ROOT), file) for file in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below_them(package):
    wrong = [
        f"{name} imports {module}"
        for name, file in files(package)
        for module in imports(file)
        if module.split(".")[0] in {*ALLOWED, "cli"} - ALLOWED[package] - {package}
    ]
    assert not wrong and len(files(package)) > 3, wrong


def rooms(package):
    """Room -> rooms that it imports; a module beside the rooms is one of its own."""
    graph = {}
    for name, file in files(package):
        room = name.parts[1].removesuffix(".py")
        if room == "__init__":
            continue
        for module in imports(file):
            parts = module.split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] != room and is_room(package, parts[1]):
                graph.setdefault(room, set()).add(parts[1])
    return graph


def is_room(package, name):
    return (ROOT / package / name).is_dir() or (ROOT / package / f"{name}.py").exists()


@pytest.mark.parametrize("package", ["cropr", "results", "studies"])
def test_no_room_imports_one_above_it(package):
    graph = rooms(package)
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the rooms
    assert len(order) >= 4 and set(order) >= graph.keys()
    if package == "results":
        assert order == ["records", "statistics", "figures", "html", "pages"]


@pytest.mark.parametrize("package", ALLOWED)
def test_a_room_holds_at_most_ten_files(package):
    folders = {file.parent for _, file in files(package)}
    crowded = {
        str(folder.relative_to(ROOT)): found
        for folder in folders
        if len(found := [file.name for file in folder.iterdir() if file.is_file() and file.name != "__init__.py"]) > 10
    }
    assert not crowded


def test_a_circle_would_be_seen():
    with pytest.raises(ValueError, match="cycle"):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_every_folder_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {file.parent.relative_to(ROOT) for package in ALLOWED for file in (ROOT / package).rglob("__init__.py")}
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in found)
