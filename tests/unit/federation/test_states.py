"""The state machine, and the clock that things end by."""

import itertools

import pytest

from federation.states import ENDED, WAYS, State
from messaging.transitions import NoSuchWay, require_way


def test_every_state_is_reached_and_left():
    assert set(WAYS) == set(State)
    for state in State:
        assert any(state in befores for after, befores in WAYS.items() if after != state)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(ENDED, (State.LEFT, State.EXPIRED))))
def test_what_has_ended_does_not_end_again(before, after):
    with pytest.raises(NoSuchWay):
        require_way(WAYS, before, after)


@pytest.mark.parametrize("after", [State.LEFT, State.EXPIRED])
def test_nothing_begins_with_an_end(after):
    with pytest.raises(NoSuchWay):
        require_way(WAYS, None, after)
