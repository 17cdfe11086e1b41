import math
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nnunetv2_mstkd.trainers.gradient_shares import Share, TermBounds, gradient_shares


@pytest.fixture
def weights():
    return nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))


def test_share_and_cosine_by_hand(weights):
    a, b = weights
    terms = {
        "segmentation": 3 * a[0] + 4 * b[0],  # gradient (3, 0, 4), norm 5
        "same way": 0.6 * a[0] + 0.8 * b[0],
        "against": -6 * a[0] - 8 * b[0],
        "across": 10 * a[1],
        "a only": 2 * a[0],
        "constant": torch.tensor(1.0),
        "of another network": nn.Parameter(torch.ones(2)).sum(),
    }
    shares = gradient_shares(terms, "segmentation", [a, b])
    expected = {
        "same way": (0.2, 1),
        "against": (2, -1),
        "across": (2, 0),
        "a only": (0.4, 0.6),
    }
    assert list(shares) == list(expected)
    for name, (share, cosine) in expected.items():
        assert shares[name].share == pytest.approx(share), name
        assert shares[name].cosine == pytest.approx(cosine), name


def test_the_graph_stays_and_no_gradient_is_left(weights):
    a, b = weights
    terms = {"segmentation": (a.sum() * b).sum(), "kl": a.square().sum()}
    gradient_shares(terms, "segmentation", [a, b])
    assert a.grad is None
    sum(terms.values()).backward()
    assert torch.equal(a.grad, torch.tensor([3.0 + 2, 3.0 + 4]))


def test_processes_add_up_gradients_of_one_layout(weights, monkeypatch):
    """NCCL refuses other tensors, and autograd hands out such."""
    summed, b = [], weights[1]
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: summed.append(tensor.is_contiguous()))
    table = nn.Parameter(torch.rand(3, 4))
    term = (table.t().contiguous() * torch.rand(4, 3) * b).sum()
    (gradient,) = torch.autograd.grad(term, table, retain_graph=True)
    assert not gradient.is_contiguous()
    gradient_shares({"segmentation": term}, "segmentation", [table, b])
    assert summed == [True, True]


def test_a_common_factor_cancels(weights):
    a, b = weights
    terms = {"segmentation": (a.sum() * b).sum(), "kl": a.square().sum()}
    scaled = {name: value * 65536 for name, value in terms.items()}
    one, other = (gradient_shares(t, "segmentation", [a, b])["kl"] for t in (terms, scaled))
    assert (one.share, one.cosine) == pytest.approx((other.share, other.cosine))


class Watched(torch.autograd.Function):
    """The identity; its gradient is computed in whatever autocast state there is."""

    states: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        Watched.states.append(torch.is_autocast_enabled("cpu"))
        return gradient


def test_gradients_are_taken_in_the_precision_of_the_steps_own(weights):
    """Under autocast their products would be rounded to 16 bits."""
    a, b = weights
    Watched.states.clear()
    with torch.autocast("cpu", torch.bfloat16):
        terms = {"segmentation": (Watched.apply(a).sum() * b).sum(), "kl": a.square().sum()}
        gradient_shares(terms, "segmentation", [a, b])
        assert torch.is_autocast_enabled("cpu")
    assert Watched.states == [False]


def test_parameters_without_gradient_are_left_out(weights):
    a, b = weights
    b.requires_grad_(False)
    shares = gradient_shares({"segmentation": a.sum(), "kl": (a * b).sum()}, "segmentation", [a, b])
    assert shares["kl"].share == pytest.approx(3)


def test_no_segmentation_gradient_gives_no_number(weights):
    a, _ = weights
    shares = gradient_shares({"segmentation": (0 * a).sum(), "kl": a.sum()}, "segmentation", [a])
    assert math.isnan(shares["kl"].share)
    bounds = TermBounds({"kl": 0.1})
    assert bounds.update(shares) == []
    assert bounds.scales == {"kl": 1}


def test_a_term_above_its_cap_is_scaled_back_to_it():
    bounds = TermBounds({"attention": 0.05, "kl": 0.3})
    (line,) = bounds.update({"attention": Share(0.5, 0), "kl": Share(0.29, 0), "free": Share(9, 0)})
    assert bounds.scales == pytest.approx({"attention": 0.1, "kl": 1})
    assert "'attention' reached 0.5" in line
    assert "multiplied by 0.1" in line
    bounds.update({"attention": Share(0.1, 0)})  # measured with the factor in force
    assert bounds.scales["attention"] == pytest.approx(0.05)


def test_recovery_is_slow_and_never_above_the_cap_or_one():
    bounds = TermBounds({"kl": 0.3})
    bounds.update({"kl": Share(0.6, 0)})
    assert bounds.update({"kl": Share(0.1, 0)}) == []
    assert bounds.scales["kl"] == pytest.approx(0.55)
    bounds.update({"kl": Share(0.29, 0)})  # only a little room
    assert bounds.scales["kl"] == pytest.approx(0.55 * 0.3 / 0.29)
    lines = [line for _ in range(10) for line in bounds.update({"kl": Share(0.0, 0)})]
    assert bounds.scales["kl"] == 1
    assert lines == ["term 'kl' is below its bound 0.3 again: its weight is back in full"]


@pytest.mark.parametrize("share", [math.nan, math.inf])
def test_an_overflown_measurement_changes_nothing(share):
    bounds = TermBounds({"kl": 0.3})
    assert bounds.update({"kl": Share(share, 0)}) == []
    assert bounds.scales == {"kl": 1}


def test_state_goes_through_a_checkpoint():
    bounds = TermBounds({"kl": 0.3, "gram": 0.05})
    bounds.update({"kl": Share(0.6, 0)})
    again = TermBounds({"kl": 0.3, "content": 0.05})  # caps may have changed since
    again.load_state_dict(bounds.state_dict())
    assert again.scales == pytest.approx({"kl": 0.5, "content": 1})


def test_processes_of_a_distributed_training_measure_the_gradient_of_the_whole_batch(monkeypatch, weights):
    """Two processes with gradients (3, 0) and (4, 0) of the segmentation, (3, 4) and (0, 0) of the term."""
    a, _ = weights
    of_the_other = iter(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.add_(next(of_the_other)))
    terms = {"segmentation": 3 * a[0], "kl": 3 * a[0] + 4 * a[1]}
    share = gradient_shares(terms, "segmentation", [a])["kl"]
    assert share.share == pytest.approx(2.5 / 3.5)
    assert share.cosine == pytest.approx(1.5 / 2.5)
