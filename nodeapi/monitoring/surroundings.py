"""What lies around the database and the engine and can end a node: the disk, and the certificates."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from shutil import disk_usage

from nodeapi.monitoring.asking import Asked, NoAnswer, Refreshed
from nodeapi.shown_certificate import shown_by
from nodeapi.tls import PairFiles

DISK_KEEP_SECONDS = 5.0
CERTIFICATE_KEEP_SECONDS = 3_600.0
CERTIFICATE_RETRY_SECONDS = 60.0
# Labels of certificates.
OWN, LND = "own", "lnd"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`certificate_ends` by the label; what could not be read is not there."""

    disk_free_bytes: int | None = None
    certificate_ends: Mapping[str, datetime] = field(default_factory=dict)


class Surroundings:
    """`directory` is that of the database's file, or of the node's other files; `lnd_address` is given in the process that
    talks to lnd.
    """

    def __init__(
        self, *, directory: Path, tls: PairFiles | None = None, lnd_address: tuple[str, int] | None = None
    ):
        self._tls = tls
        self._disk = Asked(
            lambda: asyncio.to_thread(lambda: disk_usage(directory).free), keep_seconds=DISK_KEEP_SECONDS
        )
        self._lnd_certificate = (
            Refreshed(
                lambda: asyncio.to_thread(shown_by, *lnd_address),
                keep_seconds=CERTIFICATE_KEEP_SECONDS,
                retry_seconds=CERTIFICATE_RETRY_SECONDS,
                what="lnd's certificate",
            )
            if lnd_address
            else None
        )

    async def look(self) -> Seen:
        return Seen(disk_free_bytes=await self._disk_free_bytes(), certificate_ends=self._certificate_ends())

    async def _disk_free_bytes(self) -> int | None:
        try:
            return await self._disk.answer()
        except (NoAnswer, OSError):
            return None

    def _certificate_ends(self) -> dict[str, datetime]:
        ends = {OWN: self._tls.current().ends} if self._tls else {}
        if self._lnd_certificate and (certificate := self._lnd_certificate.last):
            ends[LND] = certificate.not_valid_after_utc
        return ends
