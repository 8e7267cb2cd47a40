"""Invoices made here: from lnd, and their payment told exactly once, whether the stream tells of it or a look at lnd."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import grpc
from django.db import Error as DatabaseError

from invoices import services
from invoices.models import Invoice
from lightning.client import LndClient, LndError
from lightning.hints import invoice_needs_hints
from messaging import events
from messaging.database import Database
from messaging.idempotency import Claim, Claims
from protos.lnrpc import lightning_pb2

logger = logging.getLogger("invoices.issuing")

# lnd's own default.
DEFAULT_EXPIRES_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class Issued:
    id: UUID
    payment_request: str
    payment_hash: bytes
    expires_at: datetime


class Issuer:
    """`own_pubkey` is that of the lnd (hexadecimal). Raises what the client raises."""

    def __init__(
        self,
        *,
        database: Database,
        client: LndClient,
        own_pubkey: str,
        published: events.Published,
        claims: Claims,
    ):
        self._database = database
        self._client = client
        self._own_pubkey = own_pubkey
        self._published = published
        self._claims = claims

    async def issued(self, claim: Claim | None) -> Issued | None:
        """The invoice that was made under this claim before, if there is one. Raises KeyReused."""
        invoice_id = await self._claims.answer(claim) if claim else None
        return await self._read(invoice_id) if invoice_id else None

    async def issue_once(self, claim: Claim | None, **fields: Any) -> Issued:
        """As `issue`; with a claim: once. Raises KeyReused."""
        if claim is None:
            return await self.issue(**fields)
        return await self._read(await self._claims.once(claim, partial(self._issue_under, claim, fields)))

    async def _issue_under(self, claim: Claim, fields: dict[str, Any]) -> UUID:
        return (await self.issue(**fields, claim=claim)).id

    async def _read(self, invoice_id: UUID) -> Issued:
        invoice = await self._database.read(partial(Invoice.objects.get, pk=invoice_id))
        return Issued(
            id=invoice.pk,
            payment_request=invoice.payment_request,
            payment_hash=bytes(invoice.payment_hash),
            expires_at=invoice.expires_at,
        )

    async def issue(
        self,
        *,
        amount_sat: int,
        memo: str,
        expires_seconds: int | None,
        private: bool,
        claim: Claim | None = None,
    ) -> Issued:
        """A new invoice, stored before anybody hears of it. With hints over private channels where the public ones cannot
        receive it now, and always if `private`.
        """
        private = private or invoice_needs_hints((await self._client.list_channels()).channels, amount_sat)
        expires_seconds = expires_seconds or DEFAULT_EXPIRES_SECONDS
        asked = lightning_pb2.Invoice(memo=memo, value=amount_sat, expiry=expires_seconds, private=private)
        added = await self._client.add_invoice(asked)
        # lnd counts from its own clock, at most a moment ago.
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=expires_seconds)
        invoice = Invoice(
            payee=self._own_pubkey,
            payment_hash=added.r_hash,
            payment_request=added.payment_request,
            memo=memo,
            amount_msat=amount_sat * 1000,
            expires_at=expires_at,
        )
        key = claim.row(invoice.pk) if claim else None
        await self._database.write(partial(services.invoice_store, invoice, key))
        return Issued(
            id=invoice.id,
            payment_request=added.payment_request,
            payment_hash=added.r_hash,
            expires_at=expires_at,
        )

    async def take(self, invoice: lightning_pb2.Invoice) -> bool:
        """Reads an invoice of lnd. Whether it is news that it was paid."""
        if invoice.is_keysend:
            return False
        if invoice.state == lightning_pb2.Invoice.SETTLED:
            return await self._database.write(
                partial(
                    services.invoice_settle,
                    payment_hash=invoice.r_hash,
                    paid_msat=invoice.amt_paid_msat,
                    published=self._published,
                )
            )
        if invoice.state == lightning_pb2.Invoice.CANCELED:
            await self._database.write(partial(services.invoice_cancel, invoice.r_hash))
        return False

    async def take_live(self, invoice: lightning_pb2.Invoice) -> None:
        """From the stream. What cannot be stored now is found by the next look."""
        try:
            await self.take(invoice)
        except DatabaseError as error:
            logger.error("a paid invoice could not be stored (%s); it is looked at again", error)

    async def look(self) -> int:
        """Asks lnd for each invoice that may still be paid; how many payments were not known."""
        found = 0
        for invoice in await self._database.read(partial(services.invoice_open, self._own_pubkey)):
            payment_hash = bytes(invoice.payment_hash)
            try:
                found += await self.take(await self._client.lookup_invoice(payment_hash))
            except LndError as error:
                if error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
                # lnd deletes only what was canceled, or was restored from a state before this invoice.
                await self._database.write(partial(services.invoice_cancel, payment_hash))
        return found
