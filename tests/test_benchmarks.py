"""Every benchmark runs from end to end, and RESULTS.md is what they report."""

import itertools
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from sklmeta import ClassPool, ProtoNetClassifier
from sklmeta.datasets import Sinusoids, load_digits_pool
from sklmeta.engine.episodes import EpisodeSpec
from sklmeta.gradient.maml import MAML
from sklmeta.model_selection import evaluate

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(module: ModuleType, folder: Path, *options: object) -> dict:
    """Run a benchmark into a folder; return the one record it wrote."""
    module.main([*map(str, options), "--threads", "1", "--output", str(folder)])
    (path,) = folder.glob("*.json")
    record = json.loads(path.read_text())
    assert record["benchmark"] == path.stem
    assert record["wall_time_s"] >= 0
    assert record["machine"]["threads"] == 1
    return record


def digits_as_characters() -> tuple[ClassPool, ClassPool]:
    """Return digits under names as Omniglot's classes have them, turned ones too."""
    pool = load_digits_pool()
    names = np.array([f"Digits/character{label}" for label in pool.y], dtype=object)
    turned = np.rot90(pool.X, axes=(1, 2))
    X = np.concatenate([pool.X, turned])
    train = ClassPool(X, np.concatenate([names, names + "/rot090"]))
    is_new = np.array(["7" in name or "8" in name for name in train.classes])
    upright = np.array(["/rot" not in name for name in train.classes])
    return train[~is_new], train[is_new & upright]


def test_results_are_what_the_records_say(script):
    rendered = script("report").render(BENCHMARKS / "results")
    assert rendered == (BENCHMARKS / "RESULTS.md").read_text(), (
        "run `python benchmarks/report.py`"
    )


def test_interval_is_students(script):
    values = np.random.default_rng(0).normal(3, 2, size=12)
    found = script("_report").mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))


def test_every_record_becomes_a_section(script, tmp_path, capsys):
    """The small benchmarks, and a report on what they write."""
    folder = tmp_path / "results"
    small = {
        "sinusoid": ["--updates", 3, "--test-tasks", 4, "--test-query", 6],
        "sinusoid_meta_sgd": [
            *("--updates", 2, "--train-shots", 5, "--test-tasks", 4),
        ],
        "sinusoid_cavia": [
            *("--updates", 2, "--test-tasks", 4, "--test-query", 6),
            *("--context", 2, "--maml-inputs", 0, 1),
        ],
        "speed_sinusoid": [
            *("--updates", 2, "--repeats", 1, "--only", "sinusoid"),
            *("--ways", "sklmeta"),
        ],
        "scaling": ["--largest", 2],
        "taskset": ["--tasks", 30, "--repeats", 1],
        "episode_drawing": ["--seconds", 0],
        "grid_search": ["--updates", 2, "--tasks", 9, "--n-seeds", 1],
        "evaluate_speed": [
            *("--updates", 1, "--episodes", 4, "--repeats", 1, "--data", "digits"),
        ],
        "search_overhead": ["--updates", 10, "--tasks", 9],
        "interval_coverage": ["--simulations", 2, "--tasks", 5],
        "predict_tasks_speed": ["--tasks", 6, "--repeats", 2],
    }
    scripts = {"speed_sinusoid": "speed"}
    for name, options in small.items():
        record = run(script(scripts.get(name, name)), tmp_path / name, *options)
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(record))
    script("report").main(["--results", str(folder)])
    text = (tmp_path / "RESULTS.md").read_text()
    for name in small:
        assert f"(`{scripts.get(name, name)}.py`)" in text
    assert "3 meta-updates instead of 70,000" in text


def test_mixed_model_is_held_against_others(script, tmp_path, data_home, capsys):
    pytest.importorskip("statsmodels")
    options = ["--compare", "50x20x2", "--alone", "9x10x2", "--repeats", 1]
    folder = tmp_path / "results"
    record = run(script("mixed_model"), folder, *options, "--data-home", str(data_home))
    found = record["results"]
    assert all(row["same"] for row in found["sleepstudy"])
    (twin,) = found["statsmodels"]
    ours, theirs = twin["ours_log_likelihood"], twin["statsmodels_log_likelihood"]
    assert float(ours) == pytest.approx(float(theirs), abs=1e-3)
    assert [row["covariance"] for row in found["alone"]] == ["diagonal", "full", "auto"]
    script("report").main(["--results", str(folder)])
    text = (tmp_path / "RESULTS.md").read_text()
    assert "(`mixed_model.py`)" in text
    assert "| slope | 10.4673 | 10.467 | yes |" in text


def test_growth_beyond_proportion_is_explained(script):
    scaling = script("scaling")

    def row(value, seconds, peak_bytes):
        own = {"sweep": "tasks", "value": value, "seconds": seconds}
        return {**own, "peak_bytes": peak_bytes}

    rows = [row(1, 1.0, 10), row(2, 2.0, 20), row(4, 6.0, 40), row(8, 12.1, 80)]
    for before, after in itertools.pairwise(rows):
        for name, what in (("exponent", "seconds"), ("memory_exponent", "peak_bytes")):
            after[name] = scaling.exponent(before, after, what)
    assert rows[2]["exponent"] == pytest.approx(np.log2(3))
    (reason,) = scaling.explanations(rows, {"L2": 30, "L3": 1000})
    assert "2 to 4: power 1.58, 1.50 times" in reason
    assert "no longer fit in the L2 cache" in reason


def many_classes(n_classes, row_shape, names):
    """Return 16 rows each of random classes."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.random((n_classes, *row_shape)), 16, axis=0)
    X += 0.1 * rng.random(X.shape)
    return ClassPool(X, np.repeat(np.array(names, dtype=object), 16))


def test_heads_are_compared_on_classes_of_their_own(
    script, tmp_path, monkeypatch, capsys
):
    heads = script("heads")
    characters = many_classes(16, (8, 8), [f"character{i:02}" for i in range(16)])
    leaves = many_classes(70, (6,), [f"species{i:02}" for i in range(70)])
    monkeypatch.setattr(heads, "fetch_omniglot", lambda data_home: (characters, None))
    monkeypatch.setattr(heads, "fetch_leaves100", lambda view, data_home: leaves)
    options = ["--updates", 1, "--ragged-updates", 1, "--width", 2, "--episodes", 4]
    options += ["--tasks", 8, "--n-seeds", 1, "--steps", 1, "--n-validation", 10]
    record = run(heads, tmp_path / "results", *options)
    by_head = {row["head"]: row for row in record["results"][:3]}
    assert by_head["fixed"]["more_ways"] == "refused"
    assert by_head["shared"]["more_ways"]["n"] == 8
    assert by_head["shared"]["difference"]["mean"] == 0
    script("report").main(["--results", str(tmp_path / "results")])
    assert "leaves, ragged" in (tmp_path / "RESULTS.md").read_text()


def test_ragged_tasks_are_as_asked(script):
    pool = many_classes(30, (6,), range(30))
    tasks = script("heads").ragged_tasks(pool, 200, seed=0)
    ways = [len(np.unique(task.y)) for task in tasks]
    sizes = [len(task) for task in tasks]
    assert (min(ways), max(ways)) == (2, 10)
    assert min(sizes) < 6
    assert max(sizes) == 60
    for task, k in zip(tasks, ways, strict=True):
        assert set(task.y) == set(range(k))
        # A label stands for one class: its rows are close.
        for label in range(k):
            rows = task.X[task.y == label]
            assert np.ptp(rows, axis=0).max() <= 0.1


def test_bare_forms_compute_what_evaluate_does(script):
    speed = script("evaluate_speed")
    train, test = speed.pools("digits", None)
    meta = ProtoNetClassifier(max_iter=2, random_state=0).fit(train)
    expected = evaluate(meta, test, n_shot=5, n_query=15, n_way=5, n_episodes=6)
    bare = speed.bare_form(meta, test, 6)
    with torch.no_grad():
        for found in (bare.in_batches(4), bare.rows_once(64)):
            np.testing.assert_allclose(found, expected.scores["score"])


def test_simulated_means_are_what_intervals_are_held_against(script):
    simulation = script("interval_coverage")
    for draw, mean, difference in simulation.SOURCES.values():
        own, other = draw(np.random.default_rng(0), 200_000)
        assert own.mean() == pytest.approx(mean, abs=2e-3)
        assert (other - own).mean() == pytest.approx(difference, abs=1e-3)


@pytest.mark.parametrize(
    "method",
    ["maml", "mamlmlp", "fomaml", "anil", "metasgd", "reptile", "protonet"],
)
def test_omniglot_keeps_its_budget(script, tmp_path, monkeypatch, capsys, method):
    """Omniglot's benchmark, on digits in place of characters."""
    omniglot = script("omniglot")
    monkeypatch.setattr(
        omniglot, "fetch_omniglot", lambda data_home: digits_as_characters()
    )
    options = ["--method", method, "--ways", 2, "--max-minutes", 0.01]
    options += ["--look-minutes", 0.003, "--n-validation", 3, "--train-ways", 2]
    options += ["--validation-episodes", 10, "--test-episodes", 20, "--width", 4]
    if method == "reptile":
        options += ["--test-steps", 2]
    record = run(omniglot, tmp_path / "results", *options)
    found = record["results"]
    assert found["accuracy"]["inductive"]["n"] == 20
    assert ("transductive" in found["accuracy"]) == (method != "protonet")
    assert 0.6 <= found["training_s"] < 10
    assert found["n_updates"] == found["validation_curve"][-1]["updates"] > 0
    script("report").main(["--results", str(tmp_path / "results")])
    assert "2-way 1-shot" in (tmp_path / "RESULTS.md").read_text()


def test_omniglot_holds_whole_characters_out(script):
    train, _ = digits_as_characters()
    rest, held = script("omniglot").hold_out_characters(train, 3, seed=0)
    assert len(held) == 3
    assert not any("/rot" in name for name in held.classes)
    characters = {name.split("/rot")[0] for name in rest.classes}
    assert len(rest) == 10
    assert not characters & set(held.classes)


def test_omniglot_tests_the_best_weights(script):
    """A later, worse look at the validation characters changes nothing."""
    budget = script("omniglot").TimeBudget(None, {}, 60.0, 60.0, "constant")
    scores = iter([0.5, 0.9, 0.7])

    class Scripted:
        def accuracies(self, learner):
            return np.array([next(scores)])

    class Net:
        module_ = MAML(torch.nn.Flatten(), 2, 1, task_type="regression")

    budget.judge = Scripted()
    budget.on_train_begin(Net)
    for value in range(3):
        with torch.no_grad():
            Net.module_.head.bias.fill_(value)
        budget.look(Net)
    assert budget.best_weights["head.bias"] == 1


def test_omniglot_judges_as_adapt_and_predict_do(script):
    train, new = digits_as_characters()
    meta = ProtoNetClassifier(
        max_iter=3, n_way=3, n_shot=2, random_state=0, device="cpu"
    ).fit(train)
    spec = EpisodeSpec(n_shot=2, n_query=6, n_way=2, per_class=True)
    judge = script("omniglot").Judge(new, spec, 5, seed=0)
    X, y = new.X, new.y
    expected = [
        np.mean(meta.adapt(X[support], y[support]).predict(X[query]) == y[query])
        for support, query in zip(judge.index.support, judge.index.query, strict=True)
    ]
    found = judge.accuracies(meta.learner_, episodes_at_once=2)
    np.testing.assert_allclose(found, expected)


@pytest.mark.slow
def test_omniglot_on_its_own_data(script, tmp_path, data_home, capsys):
    options = ["--method", "protonet", "--max-minutes", 0.02, "--test-episodes", 5]
    options += ["--train-ways", 5, "--validation-episodes", 5]
    record = run(
        script("omniglot"), tmp_path, *options, "--width", 8, "--data-home", data_home
    )
    assert record["results"]["accuracy"]["inductive"]["n"] == 5


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_plain_loop_computes_mamls_gradient(script, inner_steps):
    """What `fit` is timed against is the same computation."""
    speed = script("_speed_sinusoid")
    backbone = speed.network((1,))
    learner = MAML(
        backbone,
        40,
        1,
        task_type="regression",
        inner_lr=speed.INNER_LR,
        inner_steps=inner_steps,
        generator=torch.Generator().manual_seed(0),
    )
    tasks = Sinusoids().sample(speed.N_TASKS, 0)
    (batch,) = speed.batches(tasks, n_updates=1, seed=0)
    drawn = speed.episodes(*map(torch.from_numpy, batch), "cpu")
    parts = [(own[:2], own[2:]) for own in drawn]
    weights = list(learner.parameters())
    losses = [speed.task_loss(weights, inner_steps, *part) for part in parts]
    expected = torch.autograd.grad(torch.stack(losses).mean(), weights)
    found = torch.autograd.grad(learner.meta_loss(episodes_of(parts)).mean(), weights)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def episodes_of(parts):
    """Return the library's episodes of (support, query) pairs."""
    from sklmeta.engine.batches import Episodes, Rows

    rows = []
    for side in (0, 1):
        x = torch.stack([part[side][0] for part in parts])
        y = torch.stack([part[side][1] for part in parts])
        rows.append(Rows(x, y, torch.ones(x.shape[:2], dtype=torch.bool)))
    return Episodes(*rows)


def alphabets(names, n_characters, rng):
    """Return characters of two strokes, drawn 20 times each, 105 x 105."""
    labels = [f"{name}/character{i:02}" for name in names for i in range(n_characters)]
    X = np.zeros((len(labels), 20, 105, 105), dtype=np.uint8)
    for own in X:
        for across, down in rng.integers(20, 70, size=(2, 2)):
            own[:, down, across : across + 20] = 255
            own[:, down : down + 20, across] = 255
    y = np.repeat(np.array(labels, dtype=object), 20)
    return ClassPool(X.reshape(-1, 105, 105), y)


@pytest.mark.parametrize("validate", [False, True])
def test_one_shot_challenge(script, tmp_path, monkeypatch, capsys, validate):
    one_shot = script("one_shot_challenge")
    rng = np.random.default_rng(0)
    background = alphabets([f"Alphabet{i}" for i in range(6)], 20, rng)
    new = alphabets(["New"], 20, rng)
    monkeypatch.setattr(one_shot, "fetch_omniglot", lambda **_: (background, new))
    runs = one_shot.runs_of(new, 2, seed=0)
    monkeypatch.setattr(one_shot, "fetch_omniglot_runs", lambda **_: runs)
    options = ["--max-updates", 2, "--width", 4, "--copies", 1, "--orientations", 2]
    options += ["--views", 1, "--n-query", 1, "--validation-runs", 2]
    options += ["--threads", 1, "--output", tmp_path / "results"]
    if validate:
        one_shot.main(list(map(str, [*options, "--validate"])))
        assert "errors over 2 runs" in capsys.readouterr().out
        assert not (tmp_path / "results").exists()
        return
    record = run(one_shot, tmp_path / "results", *options[:-4])
    found = record["results"]
    assert found["n_updates"] == 2
    # All drawings of a character are the same here, so the nearest is of its kind.
    assert found["by_run"]["modified Hausdorff"] == [0, 0]
    assert len(found["by_run"]["ProtoNet"]) == 2
    script("report").main(["--results", str(tmp_path / "results")])
    assert "one-shot challenge" in (tmp_path / "RESULTS.md").read_text()


def test_runs_of_validation_are_as_the_challenges(script):
    pool = alphabets(["Large", "Small"], 25, np.random.default_rng(0))[:30]
    for task in script("one_shot_challenge").runs_of(pool, 3, seed=0):
        assert task.support.tolist() == [True] * 20 + [False] * 20
        assert task.y[:20].tolist() == task.y[20:].tolist()
        assert len(set(task.y)) == 20
        assert all(label.startswith("Large/") for label in task.y)


def test_distorted_drawings_are_nearly_the_same(script):
    drawings = script("_drawings")
    pool = alphabets(["One"], 3, np.random.default_rng(0))
    images, rng = pool.X[::20], np.random.default_rng(0)
    np.testing.assert_array_equal(drawings.distorted(images, 0.0, rng), images)
    moved = drawings.distorted(images, 1.0, rng)
    assert (moved != images).any(axis=(1, 2)).all()
    ink, before = moved.sum(axis=(1, 2)) / 255, images.sum(axis=(1, 2)) / 255
    np.testing.assert_allclose(ink, before, rtol=0.5)
    np.testing.assert_array_equal(
        drawings.turned(images, "mirrored/rot090"),
        np.rot90(images[:, :, ::-1], axes=(1, 2)),
    )
    assert drawings.resized(images, 28).shape == (3, 28, 28)


@pytest.mark.parametrize("method", ["mann", "lstm"])
def test_presentation_keeps_its_budget(script, tmp_path, monkeypatch, capsys, method):
    """The benchmark of presentations, on digits in place of characters."""
    presentation = script("presentation")
    monkeypatch.setattr(
        presentation, "fetch_omniglot", lambda **_: digits_as_characters()
    )
    options = ["--method", method, "--ways", 2, "--minutes", 0.04]
    options += ["--look-minutes", 0.016, "--n-validation", 3, "--presentations", 3]
    options += ["--validation-episodes", 5, "--test-episodes", 7, "--batch-size", 2]
    record = run(presentation, tmp_path / "results", *options)
    found = record["results"]
    assert list(found["accuracy"]) == ["1", "2", "3"]
    assert found["accuracy"]["2"]["n"] == 7
    # A slow update can outlast the time of a phase, but not turn their order.
    shots = [point["shots"] for point in found["validation_curve"]]
    assert shots in ([1, 3, 9], [1, 3], [1, 9])
    assert 2.4 <= found["training_s"] < 20
    assert found["n_updates"] == found["validation_curve"][-1]["updates"] > 0
    script("report").main(["--results", str(tmp_path / "results")])
    text = (tmp_path / "RESULTS.md").read_text()
    assert "(`presentation.py`)" in text
    assert "presentation 2 |" in text


def test_draws_for_open_supports_are_judged(script, tmp_path, capsys):
    folder = tmp_path / "results"
    options = ["--updates", 2, "--held-out", 2, "--draws", 4]
    results = run(script("ambiguous"), folder, *options)["results"]
    for found in results.values():
        assert found["MAML"]["both"]["mean"] == 0  # one network is of one kind
        assert found["exact posterior"]["difference"]["best"]["mean"] < 0
    off_both = results["waves or lines"]["exact posterior"]["off_both"]["mean"]
    assert off_both == pytest.approx(0, abs=1e-6)
    script("report").main(["--results", str(folder)])
    text = (tmp_path / "RESULTS.md").read_text()
    assert "(`ambiguous.py`)" in text
    assert text.count("| latent neural process |") == 4


def test_exact_posterior_is_bayes_rule(script):
    """Of 200,000 tasks those with about the same support rows, and what they are."""
    ambiguous = script("ambiguous")
    (task,) = ambiguous.open_supports(1, seed=0)
    line = ambiguous.ExactPosterior().line(task)
    assert 0.25 < line < 0.75
    x = task.X[task.support][:, 0].astype(float)
    rng = np.random.default_rng(0)
    n_tasks = 200_000
    low, high = np.array([(0.1, 5), (0, np.pi), (-3, 3), (-3, 3)]).T
    amplitude, phase, slope, intercept = rng.uniform(low, high, (n_tasks, 4)).T
    waves = amplitude[:, None] * np.sin(x - phase[:, None])
    both = waves, slope[:, None] * x + intercept[:, None]
    wave_evidence, line_evidence = (
        stats.norm(functions, 0.3).pdf(task.y[task.support]).prod(1).mean()
        for functions in both
    )
    want = line_evidence / (line_evidence + wave_evidence)
    assert line == pytest.approx(want, rel=0.05)
