"""How much of the gradient each term makes up, and bounds on that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A term that was scaled back grows by at most this factor per check: caps act at once, recovery is slow.
RECOVERY = 1.1
# Step of the first measurement in a run: early enough to bound a term before it has done much.
FIRST_CHECK = 20


@dataclass(frozen=True)
class Share:
    """A term's gradient against the reference's.

    Attributes:
        share: ratio of their norms; nan if the reference has no gradient.
        cosine: of the angle between them; 0 if either vanishes.
    """

    share: float
    cosine: float


def gradient_shares(
    weighted_terms: Mapping[str, Tensor], reference: str, parameters: Iterable[nn.Parameter]
) -> dict[str, Share]:
    """Share and cosine of every other term's gradient; the graph stays for the step's own backward.

    Terms that reach none of the parameters (the teacher's own loss) are left out. In distributed training
    the gradients are averaged over the processes, as those of the step are, so that all reach the numbers of
    the whole batch; every process has to call this at the same step.

    Args:
        weighted_terms: scalars as they enter the total (a common factor such as a loss scale cancels).
        reference: name of the term to compare with.
        parameters: of the student.

    Raises:
        KeyError: there is no term ``reference``.
    """
    parameters = [p for p in parameters if p.requires_grad]
    names = []
    with torch.autocast(parameters[0].device.type, enabled=False):  # as in the step's own backward
        base = _gradient(weighted_terms[reference], parameters)
        products = [_dot(base, base)]
        for name, value in weighted_terms.items():
            gradient = [] if name == reference else _gradient(value, parameters)
            if any(g is not None for g in gradient):
                names.append(name)
                products += [_dot(gradient, gradient), _dot(gradient, base)]
    stacked = torch.stack([torch.as_tensor(p, device=parameters[0].device) for p in products])
    values = iter(stacked.tolist())
    base_square = next(values)
    return {name: _share(base_square, next(values), next(values)) for name in names}


class TermBounds:
    """A factor of at most 1 per term, which keeps its gradient below a share of the segmentation gradient.

    A share above its cap lowers the factor to what would have met the cap; one below lets it recover, by at
    most :data:`RECOVERY` per check. Shares that are not finite change nothing.

    Args:
        caps: largest share per term; terms without one are never scaled.
    """

    def __init__(self, caps: Mapping[str, float]) -> None:
        self.caps = dict(caps)
        self._scales = dict.fromkeys(self.caps, 1.0)

    @property
    def scales(self) -> dict[str, float]:
        """Factor per term."""
        return dict(self._scales)

    def update(self, shares: Mapping[str, Share]) -> list[str]:
        """Adapt the factors to shares measured with them in force.

        Returns:
            Lines for the log: one per term that was lowered or that is free again.
        """
        lines = []
        for name, cap in self.caps.items():
            share = shares[name].share if name in shares else nan
            if not isfinite(share):
                continue
            before = self._scales[name]
            room = cap / share if share > 0 else RECOVERY
            after = self._scales[name] = min(1.0, before * min(room, RECOVERY))
            if after < before:
                lines.append(
                    f"term '{name}' reached {share:.3g} of the segmentation gradient (bound {cap:g}): "
                    f"its weight is now multiplied by {after:.3g}"
                )
            elif before < after == 1.0:
                lines.append(f"term '{name}' is below its bound {cap:g} again: its weight is back in full")
        return lines

    def state_dict(self) -> dict[str, float]:
        """Factors, for a checkpoint."""
        return self.scales

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore factors; terms that have no cap any more are left out."""
        self._scales.update({name: float(state[name]) for name in self.caps if name in state})


class GradientWatch:
    """Measures gradient shares now and then, and bounds the terms by them.

    Args:
        caps: see :class:`TermBounds`.
        every: steps between two measurements by which terms are bounded; 0 is never.
        log_every: steps between measurements that are only logged; asking for a log must not change the
            training.
    """

    def __init__(self, caps: Mapping[str, float], every: int, log_every: int = 0) -> None:
        self.bounds = TermBounds(caps)
        self.every, self.log_every = every, log_every
        self.steps = 0

    def on_trial(self) -> GradientWatch:
        """A new one that measures at its first step, if this one ever does."""
        return GradientWatch(self.bounds.caps, min(self.every, 1), self.log_every)

    @property
    def due(self) -> bool:
        """Whether the next step measures."""
        return _is_due(self.steps, self.every) or _is_due(self.steps, self.log_every)

    def step(
        self, weighted_terms: Mapping[str, Tensor], reference: str, parameters: Iterable[nn.Parameter]
    ) -> tuple[dict[str, Share], list[str]]:
        """Count a step; where it is due, measure (see :func:`gradient_shares`) and adapt the bounds.

        Returns:
            The shares, empty where none were due, and lines for the log.
        """
        bounding, due = _is_due(self.steps, self.every), self.due
        self.steps += 1
        if not due:
            return {}, []
        shares = gradient_shares(weighted_terms, reference, parameters)
        return shares, self.bounds.update(shares) if bounding else []

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self.steps, "bounds": self.bounds.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.steps = state["steps"]
        self.bounds.load_state_dict(state["bounds"])


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == min(FIRST_CHECK, every - 1)


def _gradient(value: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    if not value.requires_grad:
        return [None] * len(parameters)
    gradient = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [None if g is None else _mean_over_processes(g) for g in gradient]


def _dot(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Tensor | float:
    products = [
        torch.dot(a.flatten().float(), b.flatten().float())
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    return torch.stack(products).sum() if products else 0.0


def _mean_over_processes(gradient: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return gradient
    # A copy, as autograd may hand out one tensor for several parameters; in one layout on every process, as
    # NCCL takes no other and adds up memory, not elements.
    total = gradient.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _share(base_square: float, square: float, product: float) -> Share:
    if not 0 < base_square < inf:
        return Share(nan, 0.0)
    norms = sqrt(square * base_square)
    return Share(sqrt(square / base_square), product / norms if norms else 0.0)
