"""The state machine, and the clock that things end by."""

import itertools

import pytest

from federation.states import ENDED, WAYS, NoSuchWay, State, require_way
from messaging.clock import JUMP_SECONDS, SETTLE_SECONDS, Clock


def test_every_state_is_reached_and_left():
    assert set(WAYS) == set(State)
    for state in State:
        assert any(state in befores for after, befores in WAYS.items() if after != state)


@pytest.mark.parametrize("before, after", list(itertools.product(ENDED, (State.LEFT, State.EXPIRED))))
def test_what_has_ended_does_not_end_again(before, after):
    with pytest.raises(NoSuchWay):
        require_way(before, after)


@pytest.mark.parametrize("after", [State.LEFT, State.EXPIRED])
def test_nothing_begins_with_an_end(after):
    with pytest.raises(NoSuchWay):
        require_way(None, after)


class Times:
    """Two clocks: `pass_seconds` moves both, `set_wall` only one."""

    def __init__(self):
        self.wall_seconds, self.steady_seconds = 1_800_000_000.0, 50.0
        self.clock = Clock(wall=lambda: self.wall_seconds, steady=lambda: self.steady_seconds)

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
    assert "the clock jumped by" in caplog.text and "holds from now on" in caplog.text


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
