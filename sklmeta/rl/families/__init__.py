"""Families of environments to draw tasks from."""

from sklmeta.rl.families.bandits import BanditEnv, BernoulliBandits

__all__ = ["BanditEnv", "BernoulliBandits"]
