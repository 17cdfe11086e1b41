"""How much each term pulls: gradient shares, and a bound that keeps a term from taking over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# A bounded term may regain this factor per check, so that one odd batch does not silence it for good.
_RECOVERY = 1.1


@dataclass(frozen=True)
class Share:
    """A term's gradient against the reference term's.

    Attributes:
        share: ratio of the gradient norms.
        cosine: of the angle between the gradients; 0 where one of them is nil.
    """

    share: float
    cosine: float


def gradient_shares(
    weighted_terms: Mapping[str, Tensor], reference: str, parameters: Iterable[nn.Parameter]
) -> dict[str, Share]:
    """Compare every term's gradient with that of ``reference``.

    Costs one backward pass per term and keeps the graph; meant for now and then.

    Args:
        weighted_terms: scalars with their weights in.
        reference: name of one of them (``segmentation``).
        parameters: with respect to which (the student's).
    """
    parameters = list(parameters)
    base = _gradient(weighted_terms[reference], parameters)
    base_norm = _norm(base)
    shares = {}
    for name, term in weighted_terms.items():
        if name == reference or not term.requires_grad:
            continue
        gradient = _gradient(term, parameters)
        norm = _norm(gradient)
        dot = sum(
            float((g * b).sum())
            for g, b in zip(gradient, base, strict=True)
            if g is not None and b is not None
        )
        scale = norm * base_norm
        shares[name] = Share(norm / base_norm if base_norm else float("inf"), dot / scale if scale else 0.0)
    return shares


def _gradient(term: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    return list(torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True))


def _norm(gradient: list[Tensor | None]) -> float:
    norms = [g.float().norm() for g in gradient if g is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


class TermBounds:
    """Keeps each capped term's gradient share at its cap, by a factor of at most 1 on its weight.

    Args:
        caps: largest share per term; a term without one is never touched.
    """

    def __init__(self, caps: Mapping[str, float]) -> None:
        self.caps = dict(caps)
        self.scales: dict[str, float] = {}

    def update(self, shares: Mapping[str, Share]) -> list[str]:
        """Take in a measurement (made with the present factors in force); returns lines for the log."""
        lines = []
        for name, measured in shares.items():
            cap, scale = self.caps.get(name), self.scales.get(name, 1.0)
            if cap is None or not measured.share > 0:
                continue
            wanted = min(1.0, scale * _RECOVERY, scale * cap / measured.share)
            if wanted < scale:
                lines.append(
                    f"term '{name}' is scaled back from {scale:.3g} to {wanted:.3g} of its weight: its "
                    f"gradient is {measured.share:.3g} of the segmentation's, above its bound of {cap:.3g}"
                )
            self.scales[name] = wanted
        return lines

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"scales": dict(self.scales)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.scales = dict(state["scales"])
