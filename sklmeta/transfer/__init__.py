"""Transfer: learn features where data are plenty, adapt where they are scarce."""

from sklmeta.transfer.finetune import FineTune, FineTuneClassifier, FineTuneRegressor

__all__ = ["FineTune", "FineTuneClassifier", "FineTuneRegressor"]
