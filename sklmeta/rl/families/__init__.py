"""Families of environments to draw tasks from."""

from sklmeta.rl.families.bandits import BanditEnv, BernoulliBandits
from sklmeta.rl.families.cheetah import (
    CheetahDirectionEnv,
    CheetahVelocityEnv,
    HalfCheetahDirection,
    HalfCheetahVelocity,
)
from sklmeta.rl.families.mazes import GridMazeEnv, GridMazes
from sklmeta.rl.families.metaworld import MetaWorldEnv, metaworld_tasks
from sklmeta.rl.families.points import PointGoalEnv, PointGoals
from sklmeta.rl.families.tabular import TabularMDPEnv, TabularMDPs

__all__ = [
    "BanditEnv",
    "BernoulliBandits",
    "CheetahDirectionEnv",
    "CheetahVelocityEnv",
    "GridMazeEnv",
    "GridMazes",
    "HalfCheetahDirection",
    "HalfCheetahVelocity",
    "MetaWorldEnv",
    "PointGoalEnv",
    "PointGoals",
    "TabularMDPEnv",
    "TabularMDPs",
    "metaworld_tasks",
]
