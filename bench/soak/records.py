"""Hostile keysends: what strangers may put into the records of a payment. Seeded, and signed with real keys."""

import hashlib
import random
from collections import deque
from uuid import UUID

from coincurve import PrivateKey

from protos import envelope_pb2
from tests.support.records import RECORD_NUMBER, deflated, sealed

# Services that take records, that publish foreign ones, that are not there yet; and numbers of nobody.
SERVICES = (100_000, 200_000, 300_000, 400_000, 500_000, 800_000)
STRANGE_NUMBERS = (65_536, 77_777, 400_001, 2**63, 2**64 - 1)
MAX_UINT32, MAX_UINT64 = 2**32 - 1, 2**64 - 1
MEMORY = 200
Payment = dict


class Hostile:
    """Draws payments to one victim. Each public method makes one kind."""

    def __init__(self, victim: bytes, dice: random.Random):
        self._victim, self._dice = victim, dice
        self._key = self._fresh_key()
        self._preimages: deque[bytes] = deque(maxlen=MEMORY)
        self._records: deque[bytes] = deque(maxlen=MEMORY)
        self._bombs = [deflated(bytes(size)) for size in (70_000, 1_000_000, 20_000_000)]
        self._names = sorted(name for name in vars(Hostile) if not name.startswith("_") and name != "draw")

    def draw(self) -> tuple[str, Payment]:
        """A kind, and the arguments of the control's `pay` for it, beside its nodes."""
        name = self._dice.choice(self._names)
        return name, getattr(self, name)()

    # the record

    def good(self) -> Payment:
        """Valid, from a stranger: shown. A NUL, nothing but noise, or as much as fits."""
        body = self._dice.choice([b"\x00", b"hello", self._noise(1, 200), self._dice.randbytes(1_000)])
        record = self._sealed(self._packet(self._item(body)))
        self._records.append(record)
        return self._ours(record)

    def truncated(self) -> Payment:
        whole = self._sealed(self._packet(self._item(b"hello")))
        return self._ours(whole[: self._dice.randrange(len(whole))])

    def magic_and_version(self) -> Payment:
        whole = self._sealed(self._packet(self._item(b"hello")), version=self._dice.choice([0, 2, 255]))
        return self._ours(
            self._dice.choice([whole, b"imp" + whole[3:], b"IMX" + whole[3:], b"\x00" + whole[1:]])
        )

    def flipped_bit(self) -> Payment:
        whole = bytearray(self._sealed(self._packet(self._item(b"hello"))))
        place = self._dice.randrange(len(whole) * 8)
        whole[place // 8] ^= 1 << place % 8
        return self._ours(bytes(whole))

    def signed_by_another(self) -> Payment:
        whole = self._sealed(self._packet(self._item(b"hello")))
        senders = [self._fresh_key().public_key.format(), bytes(33), b"\x02" + self._dice.randbytes(32)]
        return self._ours(whole[:4] + self._dice.choice(senders) + whole[37:])

    def signed_for_another(self) -> Payment:
        recipient, number = self._victim, RECORD_NUMBER
        if self._dice.random() < 0.5:
            recipient = self._fresh_key().public_key.format()
        else:
            number = self._dice.choice([number for number in SERVICES if number != RECORD_NUMBER])
        packet = self._packet(self._item(b"hello"))
        return self._ours(sealed(self._key, packet, recipient=recipient, record_number=number))

    def own_key(self) -> Payment:
        whole = self._sealed(self._packet(self._item(b"hello")))
        return self._ours(whole[:4] + self._victim + whole[37:])

    def told_before(self) -> Payment:
        """The very record of an earlier payment, in a new one."""
        return self._ours(self._dice.choice(self._records)) if self._records else self.good()

    def paid_before(self) -> Payment:
        """Another HTLC on an invoice that is settled, whose preimage the payer knows, with records of its own."""
        if not self._preimages:
            return self.good()
        return self.good() | {"preimage": self._dice.choice(self._preimages).hex(), "amount_msat": 5_000}

    def several_records(self) -> Payment:
        numbers = self._dice.sample(SERVICES, self._dice.randint(2, 5))
        packet = self._packet(self._item(b"hello"))
        key = self._fresh_key()
        return self._paid({n: sealed(key, packet, recipient=self._victim, record_number=n) for n in numbers})

    def foreign(self) -> Payment:
        """Without our magic bytes, for services that show such records and for those that do not."""
        body = self._dice.choice([b"", b"\x00", b"IM", b"hello", self._noise(1, 1_000)])
        return self._paid({self._dice.choice(SERVICES): body})

    def strange_numbers(self) -> Payment:
        return self._paid({number: self._noise(0, 100) for number in self._dice.sample(STRANGE_NUMBERS, 3)})

    def huge_foreign(self) -> Payment:
        return self._paid({RECORD_NUMBER: self._noise(60_000, 70_000)}, any_size=self._dice.random() < 0.1)

    # the packet

    def shares(self) -> Payment:
        amounts = self._dice.choice(
            [[10**9], [MAX_UINT64], [MAX_UINT64] * 3, [0, 0], [1_000, 1], [2**63, 2**63]]
        )
        return self._ours(
            self._sealed(self._packet(*(self._item(b"x", amount_msat=amount) for amount in amounts)))
        )

    def no_items(self) -> Payment:
        return self._ours(self._sealed(self._dice.choice([b"", b"\x1a\x00", b"\xa2\x06\x01x"])))

    def many_items(self) -> Payment:
        """Empty ones, and true ones; ten thousand of them where the onion is no limit."""
        if self._dice.random() < 0.1:
            return self._ours(self._sealed(b"\x0a\x00" * 10_000), any_size=True)
        if self._dice.random() < 0.01:
            return self._ours(
                self._sealed(self._packet(*(self._item(b"x") for _ in range(1_000)))), any_size=True
            )
        return self._ours(self._sealed(b"\x0a\x00" * self._dice.randint(1, 500)))

    def broken_items(self) -> Payment:
        broken = [
            {"id": self._noise(0, 40)},
            {"id": bytes(16)},
            {"reply_to": self._noise(1, 40)},
            {"body": b""},
            {"compression": 2},
            {"compression": -1},
            {"sent_at_ms": -(2**63)},
            {"sent_at_ms": 2**63 - 1},
        ]
        items = [self._item(b"hello", **self._dice.choice(broken)) for _ in range(self._dice.randint(1, 5))]
        return self._ours(self._sealed(self._packet(*items)))

    def same_ids(self) -> Payment:
        item = self._item(b"hello")
        return self._ours(self._sealed(self._packet(*[item] * self._dice.randint(2, 10))))

    def bombs(self) -> Payment:
        bomb = self._dice.choice(self._bombs)
        packet = self._packet(self._item(bomb, compression=envelope_pb2.DEFLATE))
        return self._ours(self._sealed(packet), any_size=len(bomb) > 900)

    def broken_deflate(self) -> Payment:
        whole = deflated(b"hello hello hello")
        body = self._dice.choice([whole[:-1], whole + b"x", b"\x03\x00", self._noise(1, 300)])
        return self._ours(self._sealed(self._packet(self._item(body, compression=envelope_pb2.DEFLATE))))

    def hints(self) -> Payment:
        """Ways back that lead nowhere, by the thousand where the onion is no limit."""
        any_size = self._dice.random() < 0.05
        node_ids = [b"", bytes(33), self._dice.randbytes(33), self._noise(1, 80)]
        hints = [
            envelope_pb2.HopHint(
                node_id=self._dice.choice(node_ids),
                chan_id=self._dice.getrandbits(64),
                fee_base_msat=MAX_UINT32,
                fee_ppm=MAX_UINT32,
                cltv_delta=self._dice.getrandbits(32),
            )
            for _ in range(1_000 if any_size else self._dice.randint(1, 8))
        ]
        packet = envelope_pb2.Packet(items=[self._item(b"hello")], reply_hints=hints).SerializeToString()
        return self._ours(self._sealed(packet), any_size=any_size)

    def broken_protobuf(self) -> Payment:
        nested = b""
        for _ in range(self._dice.randint(50, 120)):
            nested = b"\x32" + _varint(len(nested)) + nested
        groups = b"\x0b" * self._dice.randint(1, 500)
        wrong = [b"\x08\x01", b"\x0a\x05abc", b"\x0d\x01\x02\x03\x04", b"\xff" * 11, self._noise(1, 400)]
        unknown = self._packet(self._item(b"hello")) + b"\xfa\x7f\x03abc" + b"\xf8\x7f\x01"
        deep = b"\x0a" + _varint(len(nested)) + nested
        return self._ours(self._sealed(self._dice.choice([deep, groups, unknown, *wrong])))

    # parts of messages

    def endless_parts(self) -> Payment:
        """The first of more parts, or of more bytes, than there will ever be."""
        wild = [
            {"count": MAX_UINT32, "size": 2**63},
            {"count": 2, "size": MAX_UINT64},
            {"count": MAX_UINT32, "size": 1},
            {"index": MAX_UINT32, "count": MAX_UINT32, "size": 10**6},
            {"index": 5, "count": 5, "size": 1_000},
            {"count": 0, "size": 10},
            {"count": 1, "size": 3},
            {"count": 3, "size": 0},
            {"count": 1_000, "size": 10},
        ]
        return self._part(self._noise(1, 400), **self._dice.choice(wild))

    def parts_alone(self) -> Payment:
        """A part that looks right, of a message that never becomes whole, each time from a new key."""
        count = self._dice.randint(2, 1_000)
        index, key = self._dice.randrange(count), self._fresh_key()
        return self._part(self._dice.randbytes(600), key=key, index=index, count=count, size=600 * count)

    def parts_that_disagree(self) -> Payment:
        """Parts of the same few messages, each time with another index, count, size and hash."""
        count = self._dice.randint(2, 4)
        return self._part(
            self._noise(1, 300),
            id=bytes(15) + bytes([self._dice.randrange(8)]),
            index=self._dice.randrange(count),
            count=count,
            size=self._dice.randint(1, 900),
            sha256=self._noise(0, 40),
        )

    def wrong_hash(self) -> Payment:
        """All parts of a message in one payment; what they make is not what they said."""
        message_id, wrong = self._uuid(), self._dice.randbytes(32)
        items = [
            self._item(
                b"half", id=message_id, part=envelope_pb2.Part(index=index, count=2, size=8, sha256=wrong)
            )
            for index in (0, 1)
        ]
        return self._ours(self._sealed(self._packet(*items)))

    # small things

    def _part(self, body: bytes, *, key: PrivateKey | None = None, id: bytes = b"", **fields) -> Payment:
        part = envelope_pb2.Part(**{"sha256": hashlib.sha256(body).digest()} | fields)
        item = self._item(body, **{"id": id} if id else {}, part=part)
        return self._ours(self._sealed(self._packet(item), key=key))

    def _item(self, body: bytes, /, **fields) -> envelope_pb2.Item:
        return envelope_pb2.Item(**{"id": self._uuid(), "body": body, "amount_msat": 1_000} | fields)

    def _packet(self, *items: envelope_pb2.Item) -> bytes:
        return envelope_pb2.Packet(items=items).SerializeToString()

    def _sealed(self, packet: bytes, *, key: PrivateKey | None = None, version: int = 1) -> bytes:
        return sealed(key or self._key, packet, recipient=self._victim, version=version)

    def _ours(self, record: bytes, **fields) -> Payment:
        return self._paid({RECORD_NUMBER: record}, **fields)

    def _paid(self, records: dict[int, bytes], **fields) -> Payment:
        preimage = self._dice.randbytes(32)
        self._preimages.append(preimage)
        return {
            "records": {str(n): value.hex() for n, value in records.items()},
            "preimage": preimage.hex(),
        } | fields

    def _fresh_key(self) -> PrivateKey:
        return PrivateKey(self._dice.randbytes(32))

    def _uuid(self) -> bytes:
        return UUID(bytes=self._dice.randbytes(16), version=4).bytes

    def _noise(self, least: int, most: int) -> bytes:
        return self._dice.randbytes(self._dice.randint(least, most))


def _varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
