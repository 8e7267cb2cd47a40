"""The bech32 text of BOLT11 payment requests: its checksum, and the network that it is for. Pure."""

import re

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
_URI = "lightning:"
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
    """The request in lower case, without `lightning:` before it. ValueError says why it is none, or none of this network
    (lnd's name; one that is unknown here is left to lnd).
    """
    text = text.strip()
    if text[: len(_URI)].lower() == _URI:
        text = text[len(_URI) :]
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
