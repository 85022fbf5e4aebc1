"""The package as a whole: its names, its metadata, and what it may import."""

import ast
import importlib
import importlib.metadata
import importlib.resources
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sklmeta

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "sklmeta").rglob("*.py"))
MODULES = [
    "sklmeta",
    *sorted(m.name for m in pkgutil.walk_packages(sklmeta.__path__, "sklmeta.")),
]


def source_name(path):
    return str(path.relative_to(ROOT))


def private_sklearn_names(tree):
    """Yield every name under sklearn with a leading underscore that the tree uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        for name in names:
            if re.match(r"sklearn\.(\w+\.)*_(?!_)", name):
                yield name


def pins(path):
    """Return {name: version} of a constraints file."""
    lines = path.read_text().splitlines()
    return dict(line.split("==") for line in lines if line and line[0] != "#")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_is_that_of_the_metadata():
    assert sklmeta.__version__ == importlib.metadata.version("sklmeta")
    assert sklmeta.__version__ == project()["version"]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name):
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert [one for one in public if not hasattr(module, one)] == []
    assert len(set(public)) == len(public)


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_module_has_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "the module says nothing"


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_nothing_private_of_sklearn(path):
    assert list(private_sklearn_names(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("import sklearn.utils._tags", True),
        ("from sklearn.utils._param_validation import Interval", True),
        ("from sklearn.base import _fit_context", True),
        ("sklearn.utils.metadata_routing._raise_for_params()", True),
        ("import sklearn\nsklearn.__version__", False),
        ("from sklearn.model_selection import KFold", False),
        ("from sklearn.utils import get_tags as _get_tags", False),
    ],
)
def test_private_names_are_recognised(code, private):
    assert bool(list(private_sklearn_names(ast.parse(code)))) is private


# Which rooms may be looked into from a room; algorithms stand above all of these.
TASKS = r"tasks|_task\w*|_domains|_pooling|_indexing|_class_pool"
ROOMS = {
    rf"({TASKS})\.py": TASKS,
    r"backbones/": "backbones",
    r"engine/": "engine|backbones|exceptions",
    r"_probabilistic\.py": r"engine|tasks|base|episodic|_\w+",
    r"(base|fewshot|_[a-z]\w*)\.py": r"engine|backbones|exceptions|tasks|fewshot|_\w+",
    r"episodic\.py": r"engine|backbones|exceptions|tasks|base|_\w+",
}


def rooms_imported(tree):
    """Yield the part of the package that each import of the tree looks into."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "sklmeta":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("sklmeta."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (name[-1] for name in names if name[0] == "sklmeta")


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_rooms_look_down_only(path):
    own = path.relative_to(ROOT / "sklmeta").as_posix()
    allowed = next(
        (rooms for room, rooms in ROOMS.items() if re.match(room, own)), ".*"
    )
    imported = rooms_imported(ast.parse(path.read_text()))
    assert [room for room in imported if not re.fullmatch(allowed, room)] == []


def test_types_are_announced():
    assert importlib.resources.files("sklmeta").joinpath("py.typed").is_file()


def test_import_leaves_optional_dependencies_and_random_state_alone():
    code = """
import random, sys
import numpy, skorch, torch  # what skorch imports along is not ours to answer for
before = (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state())
import sklmeta
optional = {"matplotlib", "PIL", "gpytorch", "gymnasium", "metaworld", "safetensors"}
optional |= {"dask", "distributed", "ray", "optuna"}
assert not optional & set(sys.modules), optional & set(sys.modules)
assert before[0] == random.getstate()
assert before[1] == str(numpy.random.get_state())
assert torch.equal(before[2], torch.get_rng_state())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_lowest_versions_are_the_floors_of_the_package():
    extras = project()["optional-dependencies"]
    requirements = project()["dependencies"] + extras["plot"] + extras["images"]
    floors = dict(requirement.split(">=") for requirement in requirements)
    # requirements/lowest.txt says why torch is another matter.
    del floors["torch"]
    lowest = pins(ROOT / "requirements" / "lowest.txt")
    assert {name: lowest.get(name) for name in floors} == floors


def test_development_pins_agree():
    dev = project()["optional-dependencies"]["dev"]
    exact = dict(one.split("==") for one in dev if "==" in one)
    constraints = pins(ROOT / "requirements" / "dev.txt")
    assert {"ruff", "mypy"} <= set(exact)
    assert {name: constraints.get(name) for name in exact} == exact
