"""Meta-reinforcement learning: fit on environments, adapt to a new one, act in it."""

from sklmeta.rl.families import (
    BanditEnv,
    BernoulliBandits,
    PointGoalEnv,
    PointGoals,
    TabularMDPEnv,
    TabularMDPs,
)
from sklmeta.rl.maml import MAMLAgent
from sklmeta.rl.promp import ProMPAgent
from sklmeta.rl.rl2 import RL2Agent
from sklmeta.rl.tasks import EnvTask, EnvTaskDistribution, as_env_tasks

__all__ = [
    "BanditEnv",
    "BernoulliBandits",
    "EnvTask",
    "EnvTaskDistribution",
    "MAMLAgent",
    "PointGoalEnv",
    "PointGoals",
    "ProMPAgent",
    "RL2Agent",
    "TabularMDPEnv",
    "TabularMDPs",
    "as_env_tasks",
]
