"""A discriminator's side of a game: its optimizer, its step, its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnunetv2_mstkd.trainers.checkpoints import count_steps_on_cpu


class Adversary:
    """Trains a discriminator on what the networks showed in the step before.

    Args:
        discriminator: judges features.
        loss: what it minimises: ``loss(discriminator=..., **features)``, a scalar; it detaches the features.
        lr: constant; 1e-4 in MST-KDNet's script (released train.py), with betas (0.9, 0.99).
        betas, weight_decay: of its Adam.
        renew_optimizer: a new Adam for every step, as that script does; its moments then stay empty.
            By default the optimizer persists, and is in checkpoints.
        parallel: the discriminator in its DDP wrapper, where training is distributed.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: Callable[..., Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        renew_optimizer: bool = False,
        parallel: nn.Module | None = None,
    ) -> None:
        self.discriminator = discriminator
        self.loss = loss
        self.options: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        self.renew_optimizer = renew_optimizer
        self._forward = parallel if parallel is not None else discriminator
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.discriminator.parameters(), **self.options)

    def step(self, **features: Tensor) -> Tensor:
        """One update on detached features, in float32; returns the loss.

        A batch whose loss is not finite changes nothing: gradient scaling lets the main optimizer skip such
        a step, and it must not be the discriminator that stays poisoned.
        """
        if self.renew_optimizer:
            self.optimizer = self._new_optimizer()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(discriminator=self._forward, **features)
        if _finite_everywhere(loss):
            loss.backward()
            self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints that a training continues from."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        count_steps_on_cpu(self.optimizer)


def _finite_everywhere(loss: Tensor) -> bool:
    """Whether the loss is finite in every process: they have to agree on whether there is a backward."""
    finite = torch.isfinite(loss.detach()).float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite)
