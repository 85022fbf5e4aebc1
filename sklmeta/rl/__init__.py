"""Meta-reinforcement learning: fit on environments, adapt to a new one, act in it."""

from sklmeta.rl.families import BanditEnv, BernoulliBandits
from sklmeta.rl.tasks import EnvTask, EnvTaskDistribution, as_env_tasks

__all__ = [
    "BanditEnv",
    "BernoulliBandits",
    "EnvTask",
    "EnvTaskDistribution",
    "as_env_tasks",
]
