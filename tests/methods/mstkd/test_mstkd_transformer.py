"""The token transformer by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.methods.mstkd.transformer import SelfAttention, TokenSettings, TokenTransformer


def transformer(grid, dropout=0.0):
    settings = TokenSettings(
        (2, 2), features=8, layers=2, heads=2, mlp_features=16, taps=(1, 2), dropout=dropout
    )
    layers = Layers(nn.Conv2d, nn.InstanceNorm2d)
    return TokenTransformer(layers, 3, grid, settings).eval()


def test_attention_equals_torchs_own():
    ours, theirs = SelfAttention(8, heads=2, dropout=0.0), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([m.weight for m in (ours.query, ours.key, ours.value)]))
        theirs.in_proj_bias.copy_(torch.cat([m.bias for m in (ours.query, ours.key, ours.value)]))
    theirs.out_proj = ours.out
    x = torch.randn(2, 5, 8)
    expected, weights = theirs(x, x, x, average_attn_weights=False)
    for return_attention in (False, True):
        output, attention = ours(x, return_attention)
        torch.testing.assert_close(output, expected)
    torch.testing.assert_close(attention, weights)


def test_attention_is_tapped_before_dropout():
    layer = SelfAttention(8, heads=2, dropout=0.5).train()
    _, attention = layer(torch.randn(2, 5, 8), True)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 5))


def test_positions_are_interpolated_linearly_for_another_grid():
    built = transformer((2, 2))
    columns = torch.tensor([0.0, 1.0])
    built.position_table.data = columns.repeat(2).view(1, 4, 1).expand(1, 4, 8).clone()
    # Twice as many columns, sampled at cell centres: half a cell outside the two known ones is clamped.
    expected = torch.tensor([0.0, 0.25, 0.75, 1.0]).repeat(2).view(1, 8, 1).expand(1, 8, 8)
    wider = transformer((2, 4))
    wider.load_state_dict(built.state_dict() | {"position_table": expected.clone()})
    x = torch.randn(1, 3, 4, 8)
    for ours, theirs in zip(built(x, False)[0], wider(x, False)[0], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_hidden_states_keep_the_order_of_the_axes():
    """A token that alone is changed changes most at its own place on the grid."""
    network = transformer((3, 4))
    x = torch.randn(1, 3, 6, 8)
    changed = x.clone()
    changed[..., 2:4, 6:8] += 3
    difference = (network(x, False)[0][0] - network(changed, False)[0][0]).abs().sum(1)[0]
    assert divmod(int(difference.argmax()), 4) == (1, 3)


def test_settings_accept_what_plans_hold():
    assert TokenSettings([1, 4], 8, 2, 2, 16, [2]).taps == [2]
    with pytest.raises(AttributeError):
        TokenSettings([1, 4], 8, 2, 2, 16, [2]).layers = 3
