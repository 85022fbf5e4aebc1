"""Transfer: learn features where data are plenty, adapt where they are scarce."""

from sklmeta.transfer.finetune import FineTune, FineTuneClassifier, FineTuneRegressor
from sklmeta.transfer.meta_baseline import MetaBaselineClassifier
from sklmeta.transfer.meta_transfer import MetaTransfer, MetaTransferClassifier

__all__ = [
    "FineTune",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "MetaBaselineClassifier",
    "MetaTransfer",
    "MetaTransferClassifier",
]
