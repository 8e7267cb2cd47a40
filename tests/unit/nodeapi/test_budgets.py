"""A key's budget beside the node's: both have to have room, and a refusal takes nothing from either."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import grpc
import pytest

from messaging import notes
from messaging.budget import Budget, OverBudget, expenses_of_messages, spent_on_messages
from messaging.database import Database
from messaging.models import Direction, Message, State
from messaging.notes import noter
from nodeapi.budgets import Budgets
from nodeapi.calling import Call
from nodeapi.errors import ApiError
from tests.support.doors import PUBKEY, SEND_MESSAGE, caller


def fee_limit_msat(amount_msat: int) -> int:
    return amount_msat // 10


@pytest.fixture
def budgets(database) -> Budgets:
    return make_budgets(database)


def make_budgets(database: Database, limit_sat: int | None = 100) -> Budgets:
    node = Budget(
        database=database,
        limit_sat=limit_sat,
        sources=[spent_on_messages],
        expenses=[expenses_of_messages],
    )
    return Budgets(node=node, database=database, fee_limit_msat=fee_limit_msat)


@contextmanager
def called_by(name: str, budget_sat: int | None = None) -> Iterator[Call]:
    """As the dispatcher: what is done within it is on account of this key."""
    call = Call(caller=caller(name, budget_sat=budget_sat), operation=SEND_MESSAGE, address="")
    setting = noter.set(call)
    try:
        yield call
    finally:
        noter.reset(setting)


async def spend(budgets: Budgets, database: Database, msat: int) -> None:
    """As the outbox: a message, and its row of the audit log, stored within what was reserved."""
    message = Message(
        message_id=uuid4(),
        direction=Direction.OUT,
        pubkey=PUBKEY,
        service="message",
        body=b"",
        amount_msat=msat,
        cost_msat=msat,
        state=State.QUEUED,
    )
    made = notes.notes_of([message])

    def store() -> None:
        message.save(force_insert=True)
        notes.store(made)

    async with budgets.reserved(msat):
        await database.write(store)


async def refused(budgets: Budgets, database: Database, msat: int) -> str:
    with pytest.raises(OverBudget) as error:
        await spend(budgets, database, msat)
    return str(error.value)


async def test_what_no_call_asks_for_is_the_nodes_alone(budgets, database):
    await spend(budgets, database, 60_000)
    assert (await refused(budgets, database, 41_000)).startswith("lightning.daily_budget_sat: ")
    await spend(budgets, database, 40_000)


async def test_caller_without_a_key_has_the_budget_of_the_node(budgets, database):
    with called_by(""):
        await spend(budgets, database, 100_000)
        assert (await refused(budgets, database, 1)).startswith("lightning.daily_budget_sat: ")


async def test_budget_of_a_key_is_its_own(budgets, database):
    with called_by("first", 30):
        await spend(budgets, database, 20_000)
        text = await refused(budgets, database, 11_000)
        assert text.startswith("the budget of the API key 'first': this may cost up to 11 sat, and 10 of 30 ")
        await spend(budgets, database, 10_000)
    with called_by("second", 30):
        await spend(budgets, database, 30_000)
    await spend(budgets, database, 40_000)


async def test_budget_of_the_node_holds_for_keys_too(budgets, database):
    with called_by("rich", 1_000):
        await spend(budgets, database, 90_000)
        assert (await refused(budgets, database, 11_000)).startswith("lightning.daily_budget_sat: ")
        # What the node has refused is not on the key's account.
        await spend(budgets, database, 10_000)
    with called_by("without a limit"):
        assert (await refused(budgets, database, 1)).startswith("lightning.daily_budget_sat: ")


async def test_what_the_key_is_refused_is_not_on_the_nodes_account(budgets, database):
    with called_by("poor", 1):
        await refused(budgets, database, 100_000)
    await spend(budgets, database, 100_000)


async def test_budget_of_nothing(budgets, database):
    with called_by("poor", 0):
        assert (await refused(budgets, database, 1)).endswith("it is more than the whole")


async def test_key_has_a_budget_where_the_node_has_none(database):
    budgets = make_budgets(database, limit_sat=None)
    with called_by("app", 5):
        await spend(budgets, database, 5_000)
        assert (await refused(budgets, database, 1)).startswith("the budget of the API key 'app': ")
    await spend(budgets, database, 5_000_000)


async def test_budget_that_is_changed_holds_for_the_next_call(budgets, database):
    with called_by("app"):
        await spend(budgets, database, 20_000)
    with called_by("app", 25):
        await refused(budgets, database, 6_000)
    with called_by("app", 26):
        await spend(budgets, database, 6_000)


async def test_what_was_spent_before_the_start_counts(budgets, database):
    with called_by("app", 30):
        await spend(budgets, database, 20_000)
        again = make_budgets(database)
        assert "10 of 30 sat are left" in await refused(again, database, 11_000)
        await spend(again, database, 10_000)


async def test_what_is_under_way_counts_until_it_fails(budgets, database):
    with called_by("app", 30):
        with pytest.raises(RuntimeError):
            async with budgets.reserved(20_000):
                await refused(budgets, database, 11_000)
                raise RuntimeError("not stored")
        await spend(budgets, database, 30_000)


async def test_what_a_call_leads_to_is_reserved_with_it(budgets, database):
    """The price of a VPN lease and the fee limit of its payment, which the worker pays later."""
    with called_by("app", 111) as call:
        budgets.reserve_further(100_000)
        assert call.further_msat == 110_000
        await refused(budgets, database, 1_001)
        await spend(budgets, database, 1_000)
    # It is asked of the key alone: the node's budget is asked when the invoice is paid.
    assert budgets.node.known_msat == 1_000


async def test_without_a_call_nothing_further_is_reserved(budgets, database):
    budgets.reserve_further(100_000)
    await spend(budgets, database, 100_000)


# what one call may cost


async def too_costly(budgets: Budgets, database: Database, msat: int) -> ApiError:
    with pytest.raises(ApiError) as error:
        await spend(budgets, database, msat)
    return error.value


async def test_call_may_not_cost_more_than_the_node_permits(database):
    budgets = make_budgets(database)
    budgets._max_call_sat = 5
    with called_by("app"):
        await spend(budgets, database, 5_000)
        error = await too_costly(budgets, database, 5_001)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "up to 5.001 sat" in error.message
    assert "lightning.max_amount_sat (5)" in error.message
    # What the node does of itself has limits of its own.
    await spend(budgets, database, 6_000)


async def test_call_may_not_cost_more_than_it_says(budgets, database):
    for name in ("", "app"):
        with called_by(name) as call:
            call.max_cost_sat = 5
            await spend(budgets, database, 5_000)
            error = await too_costly(budgets, database, 6_000)
            assert error.code is grpc.StatusCode.FAILED_PRECONDITION
            assert error.message.startswith("max_cost_sat: is 5, but this may cost up to 6 sat")


async def test_what_a_call_leads_to_counts_for_its_cost(budgets, database):
    with called_by("app") as call:
        call.max_cost_sat = 12
        budgets.reserve_further(10_000)
        await spend(budgets, database, 1_000)
        await too_costly(budgets, database, 1_001)
