"""Tools for those who write meta-learners."""
