"""Tools for those who write meta-learners, and threads."""

from sklmeta._meta_tags import MetaTags
from sklmeta.utils.threads import torch_threads

__all__ = ["MetaTags", "torch_threads"]
