"""Features of absent modalities, borrowed from present ones, in what a network's first convolution adds up.

A first convolution is a sum over modalities, in which an absent one is missing. Something constant in its
place would be taken out by the norm behind; what is borrowed varies over the image. With S the modalities
that a sample has, the first convolution's output z becomes, before its norm ::

    h_km = nonlin(norm(V_km * x_k))                    what k lends to m: c channels, V_km a convolution
    b_m  = Σ_k∈S softmax over S (r_m)_k · h_km         for each absent m; r learns, and begins by rank
    z   += Σ_m∉S U_m b_m                               U_m a 1x1 convolution

U is zero to begin with, so the network starts as it was; and where nothing is absent the sum is empty, so
that complete input is never changed. Lending is as soft in prediction as in training. (After DeMoSeg, BIBM
2024, which takes one lender and a block of the first stage instead; there is no stem to lend from here.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from nnunetv2_mstkd.architectures.presence import presence
from nnunetv2_mstkd.architectures.shapes import input_convolutions
from nnunetv2_mstkd.architectures.without_gradients import no_gradients
from nnunetv2_mstkd.errors import MSTKDError

FEATURES = 8
BORROWING_WEIGHTS = "borrowing."  # names of its tensors in a network begin so
# Logits of a softmax, by rank of a lender: the first has 86 % beside the two others.
_PREFERENCES = (4.0, 2.0)
_SLOPE, _EPS = 0.01, 1e-5


class Borrowing(nn.Module):
    """What modalities lend to each other, for a convolution that sees all of them.

    A pair is a borrower and a lender; P = M·(M − 1) of them, borrower by borrower.

    Args:
        convolution: the network's first.
        lenders: for each modality, in channel order, those that lend to it, the best first; of
            :func:`lenders_by_name`. Whoever is in no list is taken as the last.

    Attributes:
        weight: V of all pairs, (P, c, 1, *kernel).
        gain, bias: of the norms behind, (P, c).
        preference: r, (M, M), a row for each borrower.
        mixing: U, (C, M·c, 1, ...), zero to begin with.
        target: fixed random convolutions (M, c, 1, *kernel): what a modality shows of itself. The expression
            loss compares with it and nothing else reads it, so nothing would teach it.
    """

    target: Tensor

    def __init__(self, convolution: _ConvNd, lenders: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        names = list(lenders)
        self.modalities = len(names)
        self.pairs = [(m, k) for m in range(len(names)) for k in range(len(names)) if m != k]
        self.stride, self.padding = convolution.stride, convolution.padding
        self.dilation = convolution.dilation
        kernel = tuple(convolution.weight.shape[2:])
        self.weight = nn.Parameter(torch.empty(len(self.pairs), FEATURES, 1, *kernel))
        self.gain = nn.Parameter(torch.ones(len(self.pairs), FEATURES))
        self.bias = nn.Parameter(torch.zeros(len(self.pairs), FEATURES))
        self.preference = nn.Parameter(_preferences(lenders))
        out = convolution.out_channels
        self.mixing = nn.Parameter(torch.zeros(out, len(names) * FEATURES, *[1] * len(kernel)))
        self.register_buffer("target", torch.empty(len(names), FEATURES, 1, *kernel))
        # Scale does not matter in front of a norm.
        nn.init.normal_(self.weight)
        nn.init.normal_(self.target)

    def borrowed(self, x: Tensor) -> Tensor | None:
        """Σ U_m b_m, (B, C, ...), for an input (B, M or more, ...); ``None`` where nothing is absent."""
        x = x[:, : self.modalities]
        there = presence(x)
        wanted = list(range(len(self.pairs)))
        if no_gradients() and not x.is_meta:
            lends, borrows = there.any(0).tolist(), (~there).any(0).tolist()
            wanted = [i for i, (m, k) in enumerate(self.pairs) if borrows[m] and lends[k]]
        if not wanted:
            return None
        if torch.is_grad_enabled():
            # Many channels at full resolution, and little to compute: not kept for the backward pass.
            return checkpoint(self._mixed, x, there, wanted, use_reentrant=False, preserve_rng_state=False)
        return self._mixed(x, there, wanted)

    def _mixed(self, x: Tensor, there: Tensor, wanted: Sequence[int]) -> Tensor:
        shares = self.shares(there)
        lent = self._lent(x, wanted)
        borrowers = sorted({self.pairs[i][0] for i in wanted})
        sums, columns = [], []
        for m in borrowers:
            of_m = [place for place, i in enumerate(wanted) if self.pairs[i][0] == m]
            lenders = [self.pairs[wanted[place]][1] for place in of_m]
            maps = lent[:, of_m[0] : of_m[-1] + 1].flatten(2)
            of_each = torch.stack([shares[:, m, k] for k in lenders], 1)
            sums.append((of_each[:, None].to(maps.dtype) @ maps).view(len(x), *lent.shape[2:]))
            columns.append(self.mixing[:, m * FEATURES : (m + 1) * FEATURES])
        return self._convolution()(torch.cat(sums, 1), torch.cat(columns, 1))

    def shares(self, there: Tensor) -> Tensor:
        """How much of what each absent modality borrows comes from whom, (B, M borrowers, M); float32.

        Args:
            there: (B, M) bool. Rows of what is there are zero; the others add up to one.
        """
        logits = self.preference.float().expand(len(there), -1, -1)
        # Not minus infinity: the row of the only modality that is there would be nan.
        softmax = logits.masked_fill(~there[:, None], torch.finfo(torch.float32).min).softmax(2)
        return softmax * ~there[..., None]

    def _lent(self, x: Tensor, wanted: Sequence[int]) -> Tensor:
        """h of some pairs, (B, P, c, ...)."""
        everything = len(wanted) == len(self.pairs)
        which = slice(None) if everything else list(wanted)
        lenders = torch.cat([x[:, k : k + 1] for k in (self.pairs[i][1] for i in wanted)], 1)
        gain, bias = self.gain[which].flatten(), self.bias[which].flatten()
        return self._normed(lenders, self.weight[which], gain, bias)

    def _normed(self, x: Tensor, weight: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        """nonlin(norm(conv)) of every channel (B, N, ...) with its own filters (N, c, 1, ...)."""
        z = self._convolution()(
            x,
            weight.flatten(0, 1),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=len(weight),
        )
        normed = F.instance_norm(z, weight=gain, bias=bias, eps=_EPS)
        return F.leaky_relu(normed, _SLOPE, inplace=True).unflatten(1, (len(weight), FEATURES))

    def _convolution(self) -> Any:
        return F.conv3d if self.mixing.ndim == 5 else F.conv2d

    def expressions(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For every pair, in order: what the borrower shows of itself, and what is lent to it.

        A generator, so that whoever takes gradients on the way keeps the maps of one pair.

        Args:
            x: (B, M or more, ...), with all that the cases have.

        Yields:
            (B, c, ...) without gradient, and (B, c, ...).
        """
        x = x[:, : self.modalities]
        with torch.no_grad():
            own = self._normed(x, self.target, None, None)
        for pair, (m, _) in enumerate(self.pairs):
            yield own[:, m], self._lent(x, [pair])[:, 0]


def borrow_features(
    network: nn.Module, lenders: Mapping[str, Sequence[str]], input_shape: Sequence[int]
) -> nn.Module:
    """Let a network borrow features of absent modalities; its weights keep their names, ``borrowing`` is new.

    The network is changed in place: its first convolution's class becomes a subclass, and it computes what is
    borrowed from its input before every pass.

    Args:
        network: whose first layer is one convolution that sees the whole input, as those of nnU-Net and
            MSTKDNet.
        lenders: of :func:`lenders_by_name`, for the input's first channels; those of a cascade's previous
            stage follow.
        input_shape: (B, C, ...) that it can take.

    Returns:
        The same object.

    Raises:
        MSTKDError: its first layer is no such convolution, or there is nobody to borrow from.
    """
    if len(lenders) < 2:
        raise MSTKDError(
            f"there is nobody to borrow from: the only modality is {', '.join(lenders)}; leave the setting"
            " 'borrowing' out"
        )
    modules = dict(network.named_modules())
    seeing = {id(modules[name]): modules[name] for name in input_convolutions(network, input_shape)}
    convolutions = [module for module in seeing.values() if isinstance(module, _ConvNd)]
    if len(convolutions) != 1 or convolutions[0].in_channels != input_shape[1]:
        raise MSTKDError(
            f"{type(network).__name__} has no first convolution that sees all modalities; leave the setting"
            " 'borrowing' out"
        )
    first: nn.Module = convolutions[0]
    network.borrowing = Borrowing(convolutions[0], lenders)
    first.__class__ = _borrowing(type(first))  # type: ignore[arg-type]  # hashable they are
    network.register_forward_pre_hook(_lend)
    return network


def _preferences(lenders: Mapping[str, Sequence[str]]) -> Tensor:
    names = list(lenders)
    preferences = torch.zeros(len(names), len(names))
    for m, name in enumerate(names):
        for logit, lender in zip(_PREFERENCES, lenders[name], strict=False):
            preferences[m, names.index(lender)] = logit
    return preferences


def _lend(network: Any, inputs: tuple[Tensor, ...]) -> None:
    # Not as a module's call: whoever looks for the layers that see the input finds the network's own.
    borrowed = network.borrowing.borrowed(inputs[0])
    for module in network.modules():
        if isinstance(module, BorrowingConvolution):
            module.borrowed = borrowed


if TYPE_CHECKING:
    _Convolution = nn.Module
else:
    _Convolution = object


class BorrowingConvolution(_Convolution):
    """A convolution that adds what the network has laid down for it, once."""

    borrowed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = super().forward(x)
        # Let go: a map at full resolution.
        borrowed, self.borrowed = self.borrowed, None
        return z if borrowed is None else z + borrowed


@cache
def _borrowing(convolution: type[nn.Module]) -> type[nn.Module]:
    return type(f"Borrowing{convolution.__name__}", (BorrowingConvolution, convolution), {})
