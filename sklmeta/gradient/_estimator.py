"""What the scikit-learn faces of the optimisation-based learners share."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, Unpack

from sklmeta._meta_tags import MetaTags
from sklmeta._parameters import check_choice, filled_in, with_common_parameters
from sklmeta.engine.learner import Learner
from sklmeta.episodic import CommonParameters, EpisodicMetaLearner
from sklmeta.gradient.heads import DEFAULT_HEAD, HEADS
from sklmeta.gradient.network import GradientLearner

__all__ = ["GradientMetaLearner", "GradientParameters", "with_gradient_parameters"]

CLASSIFIER_HEAD = """\
head : {"auto", "fixed", "shared", "prototype", "none"}, default="auto"
    What the linear layer on the features starts from in a new task, with local labels:
    "fixed" is a meta-learned vector per way, for as many ways as in meta-training at
    most; "shared" treats the ways alike, "prototype" starts from class means, both for
    any number of ways. "auto" is {default!r} with local labels. With shared labels the
    start is meta-learned in any case. "none" is for a `backbone` that ends in the
    outputs itself.
"""

REGRESSOR_HEAD = """\
head : {"auto", "none"}, default="auto"
    "none" for a `backbone` that ends in the outputs itself.
"""

TRANSDUCTIVE = """\

transductive : bool, default=False
    Normalise query rows by the query batch's statistics, as the papers' codes do; a
    prediction then depends on the other rows in the call. Acts only where `backbone`
    has batch normalisation.

checkpoint_steps : bool, default=False
    Meta-train without keeping the graph of the inner steps, which is made again in the
    backward pass: memory grows by one set of weights per inner step instead, for about
    one more pass through the inner loop. The same gradients.
"""

Class = TypeVar("Class", bound=type)


def with_gradient_parameters(cls: Class) -> Class:
    """Write the parameters that the family and all estimators share into a docstring.

    Like `with_common_parameters`, in place of the line ``<gradient parameters>``; or of
    ``<network parameters>``, where the docstring tells of the head itself.
    """
    classifies = getattr(cls, "_classifies", True)
    head = CLASSIFIER_HEAD if classifies else REGRESSOR_HEAD
    default = getattr(cls, "_default_head", DEFAULT_HEAD)
    text = head.replace("{default!r}", f'"{default}"') + TRANSDUCTIVE
    texts = {"<gradient parameters>": text, "<network parameters>": TRANSDUCTIVE}
    return with_common_parameters(filled_in(cls, texts))


class GradientParameters(CommonParameters, total=False):
    """What `GradientMetaLearner` takes, for subclasses that pass it on by name."""

    head: str
    transductive: bool
    checkpoint_steps: bool


class GradientMetaLearner(EpisodicMetaLearner):
    """Base of the estimators whose learner is a `GradientLearner`."""

    _heads: ClassVar[tuple[str, ...]] = HEADS
    _default_head: ClassVar[str] = DEFAULT_HEAD  # with local labels

    def __init__(
        self,
        backbone: Any = None,
        *,
        head: str = "auto",
        transductive: bool = False,
        checkpoint_steps: bool = False,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.head = head
        self.transductive = transductive
        self.checkpoint_steps = checkpoint_steps

    def __sklmeta_tags__(self) -> MetaTags:
        """Say that a head with a vector per way takes no more ways than it has."""
        tags = super().__sklmeta_tags__()
        tags.any_number_of_ways = self._local_head != "fixed"
        return tags

    @property
    def _local_head(self) -> str:
        """The head with local labels."""
        return self._default_head if self.head == "auto" else self.head

    def _configured_learner(self) -> Learner:
        view = super()._configured_learner()
        if isinstance(view, GradientLearner):
            view.checkpoint_steps = self.checkpoint_steps
        return view

    def _check_parameters(self) -> None:
        super()._check_parameters()
        heads = self._heads
        if not self._classifies:
            heads = tuple(one for one in heads if one in ("auto", "fixed", "none"))
        check_choice("head", self.head, heads)
        for name in ("transductive", "checkpoint_steps"):
            check_choice(name, getattr(self, name), (True, False))

    def _network_options(
        self, n_features: int, n_outputs: int | None, n_ways: int | None
    ) -> dict[str, Any]:
        """Return what `GradientLearner` is to be made with."""
        if self.head == "none" and n_features != n_outputs:
            needed = (
                f"{n_outputs}" if n_outputs else "one for each way, as many as come"
            )
            raise ValueError(
                "With head='none' the backbone's outputs are the predictions: it "
                f"gives {n_features}, and the tasks need {needed}. Use head='auto', "
                "or a backbone that ends in what the tasks need."
            )
        return {
            "task_type": "classification" if self._classifies else "regression",
            "head": self._local_head,
            "n_ways": n_ways,
            "transductive": self.transductive,
            "checkpoint_steps": self.checkpoint_steps,
        }
