"""Tools for those who write meta-learners."""

from sklmeta._meta_tags import MetaTags

__all__ = ["MetaTags"]
