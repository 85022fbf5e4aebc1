"""The policy that learns nothing: actions drawn evenly."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from torch import Tensor

from sklmeta.rl._online import Decision, Experience
from sklmeta.rl._spaces import space_code

__all__ = ["RandomPolicy"]


class RandomPolicy:
    """Draws every action evenly from the action space: an `OnlinePolicy`.

    Actions are drawn also where ``deterministic=True``, since none is likelier.

    Parameters
    ----------
    action_space : gymnasium Discrete or Box
        A Box must be bounded on all sides.

    Raises
    ------
    ValueError
        If it is another space, or a Box without bounds.

    Examples
    --------
    >>> import torch
    >>> from gymnasium.spaces import Discrete
    >>> from sklmeta.rl._random_policy import RandomPolicy
    >>> policy = RandomPolicy(Discrete(3))
    >>> state = policy.initial(4, torch.device("cpu"))
    >>> observation = torch.zeros(4, dtype=torch.long)
    >>> policy.act(state, observation, torch.Generator().manual_seed(0)).action.shape
    torch.Size([4])
    """

    def __init__(self, action_space: gymnasium.Space) -> None:
        self._code = space_code(action_space, "action")
        low, high = self._code.low, self._code.high
        if low is None or high is None:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            bounded = np.isfinite(high - low).all()
        if not bounded:
            raise ValueError(
                "Random actions are drawn evenly, which an unbounded Box does not "
                f"allow; got {action_space}. Bound it by a wrapper, such as "
                "gymnasium.wrappers.TransformAction(env, lambda action: action, "
                "Box(-1.0, 1.0, shape))."
            )
        self._low = torch.from_numpy(low)
        self._width = torch.from_numpy(high - low)

    def initial(self, n_trials: int, device: torch.device) -> Tensor:
        """Return the state of trials, which holds nothing: (B, 0)."""
        return torch.empty(n_trials, 0, device=device)

    def act(
        self,
        state: Tensor,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        """Draw an action for every trial."""
        n_trials, device = len(state), state.device
        if self._code.n_values is not None:
            ranks = torch.randint(
                self._code.n_values, (n_trials,), generator=generator, device=device
            )
            return Decision(ranks, state, {})
        shape = (n_trials, *self._code.shape)
        share = torch.rand(shape, generator=generator, device=device)
        action = self._low.to(device) + share * self._width.to(device)
        return Decision(action, state, {})

    def observe(self, state: Tensor, experience: Experience) -> Tensor:
        """Return the same state."""
        return state

    def begin_episode(
        self, state: Tensor, mask: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the same state."""
        return state
