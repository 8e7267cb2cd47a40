"""The ways between states: from each of them to an end, and never from taken to given back or the other way round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.transitions import NoSuchWay, require_way
from vpn.counting import more
from vpn.states import LEASE_WAYS, TERM_WAYS, LeaseState, TermState


def reachable(ways: dict, start) -> set:
    found, before = {start}, set()
    while found != before:
        before = set(found)
        found |= {after for after, froms in ways.items() if found & set(froms)}
    return found


@pytest.mark.parametrize("state", TermState)
def test_every_payment_can_end(state):
    assert reachable(TERM_WAYS, state) & {TermState.SETTLED, TermState.CANCELED}


@pytest.mark.parametrize("state", LeaseState)
def test_every_lease_can_end(state):
    assert reachable(LEASE_WAYS, state) & {LeaseState.FREED, LeaseState.CANCELED}


def test_a_payment_that_was_taken_is_not_given_back_nor_the_other_way_round():
    assert reachable(TERM_WAYS, TermState.SETTLED) == {TermState.SETTLED}
    assert TermState.SETTLED not in reachable(TERM_WAYS, TermState.CANCELING)
    assert TermState.CANCELING not in reachable(TERM_WAYS, TermState.SETTLING)


def test_a_lease_that_was_paid_is_never_canceled():
    assert LeaseState.CANCELED not in reachable(LEASE_WAYS, LeaseState.ACTIVE)


@given(st.sampled_from(LeaseState), st.sampled_from(LeaseState))
def test_other_ways_are_refused(before, after):
    if before in LEASE_WAYS[after]:
        require_way(LEASE_WAYS, before, after)
    else:
        with pytest.raises(NoSuchWay):
            require_way(LEASE_WAYS, before, after)


@given(st.lists(st.lists(st.integers(0, 1000), max_size=5), max_size=5))
def test_counters_that_begin_anew_make_the_same_sum(lives):
    """Each life of the interface counts from 0."""
    total = seen = 0
    for grown in lives:
        counter = 0
        for step in grown:
            # One that came back and has counted beyond what was seen cannot be told from one that stayed.
            counter += step
            total, seen = total + more(counter, seen), counter
        seen = 0
    assert total == sum(map(sum, lives))
