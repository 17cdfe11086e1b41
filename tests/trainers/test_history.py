import math

from nnunetv2_mstkd.trainers.history import PLOT_NAME, TermHistory


def history() -> TermHistory:
    log = TermHistory()
    log.log(0, {"terms/kl": 1.0, "pseudo Dice/all modalities": math.nan})
    log.log(1, {"terms/kl": 0.5, "terms/gram": 0.1, "pseudo Dice/all modalities": 0.3})
    log.log(1, {"terms/kl": 0.25})
    return log


def test_series_skip_what_was_not_logged_or_not_finite():
    log = history()
    assert log.series("terms/kl") == ([0, 1], [1.0, 0.25])
    assert log.series("terms/gram") == ([1], [0.1])
    assert log.series("pseudo Dice/all modalities") == ([1], [0.3])


def test_state_round_trip():
    log = TermHistory()
    log.load_state_dict(history().state_dict())
    assert log.epochs[1] == history().epochs[1]
    assert log.names() == ["terms/kl", "pseudo Dice/all modalities", "terms/gram"]


def test_plot_is_a_png_and_nothing_half_written(tmp_path):
    TermHistory().plot(tmp_path)
    assert list(tmp_path.iterdir()) == []
    history().plot(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [PLOT_NAME]
    assert (tmp_path / PLOT_NAME).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
