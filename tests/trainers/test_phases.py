import numpy as np
import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from places import DATA

from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler, Phases


def learning_rates(scheduler, epochs):
    rates = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
    return rates


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-2)


@pytest.mark.parametrize(
    ("epochs", "fraction", "full"), [(10, 0.5, 5), (10, 0.0, 0), (10, 0.01, 1), (10, 0.99, 9), (1, 0.5, 0)]
)
def test_phases_from_a_fraction(epochs, fraction, full):
    assert Phases.from_fraction(epochs, fraction).full_epochs == full


def test_phase_positions():
    phases = Phases(10, 4)
    assert [phases.is_full(e) for e in (0, 3, 4, 9)] == [True, True, False, False]
    assert phases.position(3) == (3, 4)
    assert phases.position(4) == (0, 6)


@pytest.mark.parametrize(("full", "given"), [(0, {}), (0, {"restart": 0.2}), (0, {"restart": 1.0}), (8, {})])
def test_without_a_full_phase_or_without_a_restart_the_schedule_is_nnunets_own(full, given):
    ours = learning_rates(PhasedPolyLRScheduler(sgd(), 1e-2, Phases(20, full), **given), 20)
    theirs = learning_rates(PolyLRScheduler(sgd(), 1e-2, 20), 20)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_masking_starts_at_a_share_of_the_first_learning_rate(share):
    rates = learning_rates(PhasedPolyLRScheduler(sgd(), 1e-2, Phases(10, 4), restart=share), 10)
    np.testing.assert_allclose(rates[:4], [1e-2 * (1 - e / 4) ** 0.9 for e in range(4)])
    np.testing.assert_allclose(rates[4:], [share * 1e-2 * (1 - e / 6) ** 0.9 for e in range(6)])


def test_the_released_schedule():
    golden = np.load(DATA / "mstkd_losses_setA.npz")["polylr_out_epochs_0_99"]
    rates = learning_rates(PhasedPolyLRScheduler(sgd(), 1e-4, Phases(100, 0), lead=1), 100)
    np.testing.assert_allclose(np.array(rates) * 1e4, golden, rtol=1e-5, atol=1e-12)


def test_official_lead_ends_at_zero():
    rates = learning_rates(PhasedPolyLRScheduler(sgd(), 1e-4, Phases(100, 0), lead=1), 100)
    assert rates[0] == pytest.approx(1e-4 * 0.99**0.9)
    assert rates[-1] == 0


def test_the_learning_rate_warms_up_as_released_with_m2ftrans():
    golden = np.load(DATA / "m2ftrans" / "losses_A.npz")
    # The released code spreads the decay over one epoch more than it trains.
    scheduler = PhasedPolyLRScheduler(sgd(), 2e-4, Phases(1001, 0), warm_up=50)
    rates = np.array(learning_rates(scheduler, 1000)).round(8)
    np.testing.assert_allclose(rates[golden["lr_epochs"]], golden["lr_warmuppoly_base2e-4_n1000"], rtol=1e-6)


@pytest.mark.parametrize(("full", "restart"), [(0, 0.0), (0, 0.5), (6, 0.0)])
def test_the_decay_follows_the_warm_up(full, restart):
    scheduler = PhasedPolyLRScheduler(sgd(), 1e-2, Phases(10, full), restart=restart, warm_up=2)
    rates = learning_rates(scheduler, 10)
    np.testing.assert_allclose(rates, [5e-3, 1e-2, *(1e-2 * (1 - e / 8) ** 0.9 for e in range(8))])


def test_masking_restarts_without_a_warm_up():
    scheduler = PhasedPolyLRScheduler(sgd(), 1e-2, Phases(10, 4), restart=0.5, warm_up=2)
    rates = learning_rates(scheduler, 10)
    np.testing.assert_allclose(rates[:4], [5e-3, 1e-2, 1e-2, 1e-2 * 0.5**0.9])
    np.testing.assert_allclose(rates[4:], [5e-3 * (1 - e / 6) ** 0.9 for e in range(6)])


def test_a_warm_up_may_be_longer_than_the_training():
    rates = learning_rates(PhasedPolyLRScheduler(sgd(), 1e-2, Phases(2, 0), warm_up=4), 2)
    np.testing.assert_allclose(rates, [2.5e-3, 5e-3])
