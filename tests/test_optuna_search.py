"""The example of a search by Optuna runs, gives trials up, and compares the winner."""

import runpy
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="pip install optuna")

EXAMPLE = Path(__file__).parents[1] / "examples/sklearn/optuna_search.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_the_winner_is_compared_with_the_default(example, capsys):
    study, comparison = example["main"](["--quick"])
    assert len(study.trials) == 6
    assert list(comparison.summary().index) == ["tuned", "default"]
    finished = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert len(finished) >= 4  # none of the first four is given up
    assert study.best_value == max(trial.value for trial in finished)
    assert f"{-study.best_value:.3f}" in capsys.readouterr().out


def test_a_trial_that_is_given_up_ends_meta_training(example):
    class Trial:
        n_reports = 0

        def report(self, value, step):
            self.n_reports += 1
            assert value < 0
            assert step == self.n_reports

        def should_prune(self):
            return self.n_reports == 2

    trial = Trial()
    options = example["parse"](["--quick"])
    meta = example["make_meta"](options, example["ReportToTrial"](trial))
    waves = example["make_sinusoids"](20, random_state=0)
    with pytest.raises(optuna.TrialPruned):
        meta.fit(waves[:10], validation_tasks=waves[10:])
    assert trial.n_reports == 2
    assert not hasattr(meta, "learner_")
