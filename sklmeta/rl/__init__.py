"""Meta-reinforcement learning: fit on environments, adapt to a new one, act in it."""

try:
    import gymnasium  # noqa: F401
except ImportError as error:
    raise ImportError(
        "sklmeta.rl needs gymnasium. Install it: pip install 'sklmeta[rl]'"
    ) from error

from sklmeta.rl._bandit_optimum import bayes_optimal_bandit_value
from sklmeta.rl.adapters import RL2TrialWrapper, StableBaselinesPolicy
from sklmeta.rl.base import BaseAgent
from sklmeta.rl.baselines import (
    BayesOptimalBanditAgent,
    PSRLAgent,
    RandomAgent,
    ThompsonSamplingAgent,
    UCB1Agent,
)
from sklmeta.rl.episodes import Episode, act_episode
from sklmeta.rl.families import (
    BanditEnv,
    BernoulliBandits,
    CheetahDirectionEnv,
    CheetahVelocityEnv,
    GridMazeEnv,
    GridMazes,
    HalfCheetahDirection,
    HalfCheetahVelocity,
    MetaWorldEnv,
    PointGoalEnv,
    PointGoals,
    TabularMDPEnv,
    TabularMDPs,
    metaworld_tasks,
)
from sklmeta.rl.maml import MAMLAgent
from sklmeta.rl.metaworld_protocol import MetaWorldAgent
from sklmeta.rl.policies import AdaptedPolicy
from sklmeta.rl.promp import ProMPAgent
from sklmeta.rl.recording import record_video
from sklmeta.rl.rl2 import RL2Agent
from sklmeta.rl.tasks import EnvTask, EnvTaskDistribution, as_env_tasks

__all__ = [
    "AdaptedPolicy",
    "BanditEnv",
    "BaseAgent",
    "BayesOptimalBanditAgent",
    "BernoulliBandits",
    "CheetahDirectionEnv",
    "CheetahVelocityEnv",
    "EnvTask",
    "EnvTaskDistribution",
    "Episode",
    "GridMazeEnv",
    "GridMazes",
    "HalfCheetahDirection",
    "HalfCheetahVelocity",
    "MAMLAgent",
    "MetaWorldAgent",
    "MetaWorldEnv",
    "PSRLAgent",
    "PointGoalEnv",
    "PointGoals",
    "ProMPAgent",
    "RL2Agent",
    "RL2TrialWrapper",
    "RandomAgent",
    "StableBaselinesPolicy",
    "TabularMDPEnv",
    "TabularMDPs",
    "ThompsonSamplingAgent",
    "UCB1Agent",
    "act_episode",
    "as_env_tasks",
    "bayes_optimal_bandit_value",
    "metaworld_tasks",
    "record_video",
]
