"""What is checked before anything is stored."""

from types import SimpleNamespace
from uuid import uuid4

import grpc
import pytest

from messaging.idempotency import Claim
from nodeapi import checks
from nodeapi.errors import ApiError

OWN, OTHER = "02" * 33, "03" * 33
CLAIM = Claim(caller="app", key="k", request_hash=b"\0" * 32)
CODE = grpc.StatusCode


def engine(**fields):
    """Of the engine's parts those that are asked."""
    services = {name: SimpleNamespace(state=state) for name, state in fields.get("services", {}).items()}
    return SimpleNamespace(
        own_pubkey=bytes.fromhex(OWN),
        registry=SimpleNamespace(by_type=services.get),
        limits=SimpleNamespace(max_bytes=1_000, max_amount_sat=fields.get("max_amount_sat")),
        lnd=SimpleNamespace(spendable_sat=fields.get("spendable_sat")),
    )


def refused(check, *arguments) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ApiError) as error:
        check(*arguments)
    return error.value.code, error.value.message


@pytest.mark.parametrize(
    ("services", "state"), [({"sign": "off"}, "off"), ({"sign": "unavailable"}, "unavailable"), ({}, "off")]
)
def test_service_that_does_not_run(services, state):
    assert refused(checks.require_running, engine(services=services), "sign") == (
        CODE.FAILED_PRECONDITION,
        f"the service sign is {state} on this node",
    )


def test_service_that_runs():
    checks.require_running(engine(services={"sign": "running"}), "sign")


@pytest.mark.parametrize(
    ("pubkey", "size_bytes", "amount_sat", "message"),
    [
        (OTHER, 1_001, 1, "msg: 1001 bytes are more than message.max_bytes (1000)"),
        (OWN, 1, 1, "pubkey: is this node's own key"),
        (OTHER, 1, 51, "amount: 51 sat are more than lightning.max_amount_sat (50)"),
    ],
)
def test_what_cannot_be_sent(pubkey, size_bytes, amount_sat, message):
    node = engine(max_amount_sat=50)
    assert refused(checks.require_sendable, node, pubkey, size_bytes, "msg", amount_sat) == (
        CODE.INVALID_ARGUMENT,
        message,
    )


def test_what_can_just_be_sent():
    checks.require_sendable(engine(max_amount_sat=50), OTHER, 1_000, "msg", 50)


@pytest.mark.parametrize(
    ("limit_sat", "amount_msat", "permitted"),
    [(50, 50_000, True), (50, 50_001, False), (0, 1, False), (0, 0, True), (None, 10**15, True)],
)
def test_most_that_one_call_may_spend(limit_sat, amount_msat, permitted):
    node = engine(max_amount_sat=limit_sat)
    if permitted:
        checks.require_permitted(node, "amount", amount_msat)
    else:
        code, message = refused(checks.require_permitted, node, "invoice", amount_msat)
        assert code is CODE.INVALID_ARGUMENT
        assert message.startswith("invoice: ")


@pytest.mark.parametrize(
    ("spendable_sat", "amount_msat", "enough"),
    [(50, 50_000, True), (50, 50_001, False), (0, 1_000, False), (None, 10**15, True)],
)
def test_what_the_channels_can_spend(spendable_sat, amount_msat, enough):
    node = engine(spendable_sat=spendable_sat)
    if enough:
        checks.require_spendable(node, "amount", amount_msat)
    else:
        code, message = refused(checks.require_spendable, node, "amount", amount_msat)
        assert code is CODE.FAILED_PRECONDITION
        assert message.endswith(f" is more than the {spendable_sat} sat that this node can spend")


def test_several_amounts_are_named_together():
    _, message = refused(checks.require_spendable, engine(spendable_sat=5), "amount", 6_000, "3 x 2 sat")
    assert message == "amount: 3 x 2 sat is more than the 5 sat that this node can spend"


@pytest.mark.parametrize(
    ("amount_msat", "shown"),
    [(0, "0 sat"), (1_000, "1 sat"), (1_001, "1.001 sat"), (50, "0.050 sat"), (12_500, "12.500 sat")],
)
def test_amounts_in_words(amount_msat, shown):
    assert checks.shown_sat(amount_msat) == shown


class Answering:
    """An outbox that has given this answer to claims before."""

    def __init__(self, answer):
        self._answer = answer
        self.asked: list[Claim] = []

    async def answer(self, claim):
        self.asked.append(claim)
        return self._answer


async def test_answer_that_was_given_before():
    accepted, node = uuid4(), engine()
    node.outbox = Answering(accepted)
    assert await checks.answered_before(node, CLAIM) == {"id": str(accepted)}
    node.outbox = Answering(None)
    assert await checks.answered_before(node, CLAIM) is None
    assert node.outbox.asked == [CLAIM]


async def test_without_a_claim_nothing_is_asked():
    node = engine()
    node.outbox = Answering(uuid4())
    assert await checks.answered_before(node, None) is None
    assert not node.outbox.asked
