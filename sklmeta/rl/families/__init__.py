"""Families of environments to draw tasks from."""

from sklmeta.rl.families.bandits import BanditEnv, BernoulliBandits
from sklmeta.rl.families.points import PointGoalEnv, PointGoals
from sklmeta.rl.families.tabular import TabularMDPEnv, TabularMDPs

__all__ = [
    "BanditEnv",
    "BernoulliBandits",
    "PointGoalEnv",
    "PointGoals",
    "TabularMDPEnv",
    "TabularMDPs",
]
