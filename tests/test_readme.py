"""The README's Python runs, in order and in one namespace, as a reader would run it."""

import ast
import re
from pathlib import Path

import pytest
from sklearn import get_config

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shown():
    """Values of the expressions that blocks end in: (source, value) in order."""
    namespace, values = {"__name__": "readme"}, []
    for block in BLOCK.finditer(TEXT):
        # Empty lines make the line numbers of errors those of the README.
        tree = ast.parse("\n" * TEXT.count("\n", 0, block.start(1)) + block.group(1))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(README), "exec"), namespace)
        if last is not None:
            code = compile(ast.Expression(last.value), str(README), "eval")
            values.append((ast.unparse(last), eval(code, namespace)))
            if ast.unparse(last) == "print(result)":
                values.append(("result", namespace["result"]))
    return values


@pytest.fixture(scope="module")
def shown_result(shown):
    """What the comparison in the README returned."""
    return values_of(shown, "result")[0]


def values_of(shown, source):
    return [value for code, value in shown if code == source]


def test_meta_learners_beat_what_knows_nothing(shown):
    shops, digits = values_of(shown, "meta.score(new)")
    assert shops > 0.5  # the mean of the predicted rows scores 0
    assert digits > 0.5  # one of four at random scores 0.25


def test_predictions_have_the_shapes_that_the_text_says(shown):
    assert values_of(shown, "model.predict(shop.X[5:])")[0].shape == (7,)
    assert values_of(shown, "model.predict_proba(new.X[:3])")[0].shape == (3, 4)


def test_the_search_tells_step_sizes_apart(shown):
    assert values_of(shown, "search.best_params_") == [
        {"mamlregressor__inner_lr": 0.05}
    ]


def test_routing_does_not_stay_switched_on(shown):
    assert not get_config()["enable_metadata_routing"]


def test_every_fence_says_its_language():
    fences = re.findall(r"^```(\w*)$", TEXT, re.MULTILINE)
    assert set(fences[::2]) == {"python", "console", "text"}
    assert set(fences[1::2]) == {""}


def test_the_comparison_that_is_shown_is_the_one_that_runs(shown_result):
    """Means as printed, within what other versions of the libraries change."""
    printed = re.search(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"^(\S.*?)  +(\d+\.\d+)  +\[", printed, re.MULTILINE)
    means = shown_result.summary()["mean"]
    assert [name for name, _ in rows] == list(means.index)
    for name, mean in rows:
        assert float(mean) == pytest.approx(means[name], rel=0.25)


def test_tables_of_results_are_those_of_the_benchmarks():
    results = (README.parent / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    rows = [line for line in TEXT.splitlines() if "±" in line and line[0] == "|"]
    assert len(rows) > 5
    assert [row for row in rows if row not in results.splitlines()] == []


def test_links_in_the_project_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    local = [target for target in targets if not target.startswith("https://")]
    assert local
    assert all((README.parent / target).exists() for target in local)
