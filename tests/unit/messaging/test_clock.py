"""A clock that jumps."""

import pytest

from messaging.clock import JUMP_SECONDS, SETTLE_SECONDS, Clock


class Times:
    """Two clocks: `pass_seconds` moves both, `set_wall` only one."""

    def __init__(self):
        self.wall_seconds, self.steady_seconds = 1_800_000_000.0, 50.0
        self.clock = Clock(wall=lambda: self.wall_seconds, steady=lambda: self.steady_seconds)

    def restart(self, kept_seconds: float) -> None:
        """Another process, to which this offset was left."""
        self.clock = Clock(wall=lambda: self.wall_seconds, steady=lambda: self.steady_seconds)
        self.clock.resume(kept_seconds)

    def pass_seconds(self, seconds: float) -> None:
        self.wall_seconds += seconds
        self.steady_seconds += seconds


@pytest.mark.parametrize("jump", [3_600.0, -3_600.0, 10 * 365 * 86_400.0])
def test_a_jump_is_waited_for(jump, caplog):
    times = Times()
    before = times.clock.now_seconds()
    times.wall_seconds += jump
    times.pass_seconds(5)
    assert times.clock.now_seconds() == pytest.approx(before + 5)
    times.pass_seconds(SETTLE_SECONDS - 1)
    assert times.clock.now_seconds() == pytest.approx(before + 4 + SETTLE_SECONDS)
    times.pass_seconds(2)
    assert times.clock.now_seconds() == pytest.approx(times.wall_seconds)
    assert "the clock jumped by" in caplog.text
    assert "holds from now on" in caplog.text


def test_a_jump_that_is_taken_back_changes_nothing(caplog):
    times = Times()
    times.wall_seconds += 86_400
    times.clock.now_seconds()
    times.pass_seconds(60)
    times.wall_seconds -= 86_400
    assert times.clock.now_seconds() == pytest.approx(times.wall_seconds)
    assert "back from its jump" in caplog.text


def test_small_corrections_are_followed(caplog):
    times = Times()
    for _ in range(10):
        times.pass_seconds(1)
        times.wall_seconds += JUMP_SECONDS * 0.9
        assert times.clock.now_seconds() == pytest.approx(times.wall_seconds)
    assert not caplog.text


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
@pytest.mark.parametrize("meanwhile", [True, False])
def test_a_restart_does_not_make_a_jump_believed(jump, meanwhile, caplog):
    """Whether the clock jumped while the earlier process ran or between the two."""
    times = Times()
    before = times.clock.now_seconds()
    if meanwhile:
        times.wall_seconds += jump
        times.clock.now_seconds()
    kept_seconds = times.clock.offset_seconds
    times.wall_seconds += 0 if meanwhile else jump
    times.pass_seconds(60)
    times.restart(kept_seconds)
    assert times.clock.now_seconds() == pytest.approx(before + 60)
    times.pass_seconds(SETTLE_SECONDS + 1)
    assert times.clock.now_seconds() == pytest.approx(times.wall_seconds)
    assert "the clock jumped by" in caplog.text
    assert "holds from now on" in caplog.text


def test_a_restart_follows_small_corrections(caplog):
    times = Times()
    kept_seconds = times.clock.offset_seconds
    times.wall_seconds += JUMP_SECONDS * 0.9
    times.restart(kept_seconds)
    assert times.clock.now_seconds() == pytest.approx(times.wall_seconds)
    assert not caplog.text
