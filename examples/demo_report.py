"""What the parts of the demo share: showing that something goes on."""

from __future__ import annotations

from time import perf_counter

from skorch.callbacks import Callback

DOTS = 20


class Progress(Callback):
    """Draw a dot for every epoch of meta-training: fit with `eval_every=epochs()`."""

    def __init__(self, label):
        self.label = label

    def on_train_begin(self, net, **kwargs):
        self.start = perf_counter()
        print(f"  {self.label:<44}", end="", flush=True)

    def on_epoch_end(self, net, **kwargs):
        print(".", end="", flush=True)

    def on_train_end(self, net, **kwargs):
        print(f" {perf_counter() - self.start:.0f} s", flush=True)


def with_progress(meta, label):
    """Let a meta-learner say that it trains, in about `DOTS` dots."""
    epoch = -(-meta.max_iter // DOTS)
    return meta.set_params(eval_every=epoch, callbacks=[Progress(label)])
