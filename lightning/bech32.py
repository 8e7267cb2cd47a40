"""The bech32 text of BOLT11 payment requests: its checksum, and the network that it is for. Pure."""

import re
from urllib.parse import parse_qsl

CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
VALUES = {char: value for value, char in enumerate(CHARSET)}
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
# What stands before the amount (BOLT11), by the name that lnd gives a network; the simulated one is a simnet.
PREFIXES = {
    "mainnet": "lnbc",
    "testnet": "lntb",
    "testnet4": "lntb",
    "signet": "lntbs",
    "regtest": "lnbcrt",
    "simnet": "lnsb",
    "simulated": "lnsb",
}
# lnd's own bound of a payment request.
MAX_CHARACTERS = 7_089
MAX_ADDRESS_CHARACTERS = 320
_URIS = ("lightning:", "bitcoin:")
# What people take for an invoice, by its beginning.
_OTHER_WORDS = (
    ("lnurl1", "is an LNURL, not an invoice: a wallet asks the service behind it for one"),
    (
        "lno1",
        "is a BOLT12 offer, not an invoice: lnd cannot pay offers; ask for a BOLT11 invoice (such as lnbc…)",
    ),
    ("lni1", "is a BOLT12 invoice, which lnd cannot pay; ask for a BOLT11 invoice (such as lnbc…)"),
    ("lnr1", "is a BOLT12 invoice request, not an invoice; ask for a BOLT11 invoice (such as lnbc…)"),
)
_NO_INVOICE_IN_URI = (
    "is a bitcoin: URI without a Lightning invoice (lightning=…); payments on the chain are not made here"
)
_BITCOIN_ADDRESS = re.compile(r"(bc|tb|bcrt)1[02-9ac-hj-np-z]{8,87}|[13][1-9A-HJ-NP-Za-km-z]{25,34}")
_LIGHTNING_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_HUMAN = re.compile(r"(ln[a-z]+?)([0-9]+[munp]?)?")


def expand(human: str) -> list[int]:
    return [ord(char) >> 5 for char in human] + [0] + [ord(char) & 31 for char in human]


def polymod(values: list[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for index, generator in enumerate(_GENERATORS):
            if top >> index & 1:
                checksum ^= generator
    return checksum


def checked_payment_request(text: str, *, network: str) -> str:
    """The request in lower case, taken out of a `lightning:` or `bitcoin:` URI. ValueError says why it is none, or none
    of this network (lnd's name; one that is unknown here is left to lnd).
    """
    text = _out_of_uri(text.strip())
    _refuse_other_words(text)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has {len(text)} characters; the longest invoice has {MAX_CHARACTERS}")
    if text not in (text.lower(), text.upper()):
        raise ValueError("is no BOLT11 invoice: it mixes capitals and small letters")
    text = text.lower()
    human, separator, coded = text.rpartition("1")
    found = _HUMAN.fullmatch(human)
    if not separator or not found or len(coded) < 6 or any(char not in VALUES for char in coded):
        raise ValueError("is no BOLT11 invoice (such as lnbc…)")
    if polymod(expand(human) + [VALUES[char] for char in coded]) != 1:
        raise ValueError("its checksum is wrong: it was changed or cut off on its way")
    prefix = PREFIXES.get(network, found[1])
    if found[1] != prefix:
        names = [name for name, known in PREFIXES.items() if known == found[1] and name != "simulated"]
        raise ValueError(
            f"is for {' or '.join(names) or 'another network'} ({found[1]}…), this node is on {network} ({prefix}…)"
        )
    return text


def _out_of_uri(text: str) -> str:
    """The invoice in a URI of BIP 21 or of wallets; any other text as it is. Raises ValueError."""
    scheme = next((uri for uri in _URIS if text[: len(uri)].lower() == uri), "")
    if not scheme:
        return text
    target, _, query = text[len(scheme) :].removeprefix("//").partition("?")
    if scheme == "lightning:":
        return target
    given = {name.lower(): value for name, value in parse_qsl(query.partition("#")[0], max_num_fields=100)}
    if not given.get("lightning"):
        raise ValueError(_NO_INVOICE_IN_URI)
    return given["lightning"]


def _refuse_other_words(text: str) -> None:
    """ValueError for what is something else, and says so."""
    lower = text[:MAX_CHARACTERS].lower()
    for beginning, problem in _OTHER_WORDS:
        if lower.startswith(beginning):
            raise ValueError(problem)
    if _BITCOIN_ADDRESS.fullmatch(text) or _BITCOIN_ADDRESS.fullmatch(lower):
        raise ValueError("is a bitcoin address, no BOLT11 invoice: payments on the chain are not made here")
    if len(text) < MAX_ADDRESS_CHARACTERS and _LIGHTNING_ADDRESS.fullmatch(text):
        raise ValueError("is a Lightning address, not an invoice: a wallet asks its host for one")
