"""Docstrings of the public names: numpydoc's own validation, against the signatures.

Classes, functions and the methods of estimators need every section that applies. Other
methods (of modules, splitters, containers) may say it in a line, but the sections that
they do have must be true.
"""

import importlib
import inspect
import pkgutil
import re

import pytest
from sklearn.base import BaseEstimator

import sklmeta

pytest.importorskip("numpydoc", reason="numpydoc comes with the dev extra")
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

# Codes of numpydoc.validate.
FALSE = {
    "GL06": "unknown section",
    "GL07": "sections in the wrong order",
    "GL08": "no docstring",
    "PR02": "documented parameter that the signature lacks",
    "PR03": "parameters in another order than the signature's",
    "PR04": "parameter without a type",
    "PR07": "parameter without a description",
    "PR10": "no space before a parameter's colon",
    "RT03": "return value without a description",
    "SS01": "no summary",
    "SS03": "summary without a full stop",
    "SS06": "summary of more than one line",
}
MISSING = {
    "PR01": "parameter that is not documented",
    "RT01": "no Returns section",
}


def public_objects():
    """Return the classes and functions that sklmeta and its subpackages export."""
    found = pkgutil.walk_packages(sklmeta.__path__, "sklmeta.")
    names = [one.name for one in found if one.ispkg and "._" not in one.name]
    objects = {}
    for package in map(importlib.import_module, ["sklmeta", *names]):
        for name in getattr(package, "__all__", []):
            one = getattr(package, name)
            if inspect.isclass(one) or inspect.isfunction(one):
                objects[f"{one.__module__}.{one.__qualname__}"] = one
    return objects


def public_methods(objects):
    """Return {full name: must be complete} of what public classes define or inherit."""
    methods = {}
    for owner in filter(inspect.isclass, objects.values()):
        for name, method in inspect.getmembers(owner, inspect.isroutine):
            module = getattr(method, "__module__", None) or ""
            if not name.startswith("_") and module.startswith("sklmeta"):
                full_name = f"{module}.{method.__qualname__}"
                complete = issubclass(owner, BaseEstimator)
                methods[full_name] = complete or methods.get(full_name, False)
    return methods


OBJECTS = public_objects()
METHODS = public_methods(OBJECTS)


def missing_parameters(message, one):
    """Return the undocumented parameters of a PR01 message that should be there.

    A dataclass may document its fields as Attributes. The (*args, **kwargs) of classes
    that have no constructor of their own say nothing.
    """
    names = set(re.findall(r"'([^']+)'", message))
    if not inspect.isclass(one):
        return names
    attributes = NumpyDocString(inspect.getdoc(one) or "")["Attributes"]
    documented = {name for entry in attributes for name in entry.name.split(", ")}
    return {name for name in names - documented if not name.startswith("*")}


def problems(full_name, codes, one=None):
    """Return what numpydoc holds against a docstring, of the given codes."""
    return [
        f"{code} {message}"
        for code, message in validate(full_name)["errors"]
        if code in codes and (code != "PR01" or missing_parameters(message, one))
    ]


def test_there_is_something_to_check():
    assert OBJECTS
    assert METHODS


@pytest.mark.parametrize("full_name", OBJECTS)
def test_class_or_function(full_name):
    assert problems(full_name, FALSE | MISSING, OBJECTS[full_name]) == []


@pytest.mark.parametrize("full_name", METHODS)
def test_method(full_name):
    codes = FALSE | MISSING if METHODS[full_name] else FALSE
    assert problems(full_name, codes) == []
