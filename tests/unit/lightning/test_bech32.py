"""Payment requests as people give them, and what they give in place of one."""

import pytest

from lightning.bech32 import checked_payment_request
from tests.support.bolt11_examples import VALID

INVOICE = VALID["Please make a donation of any amount"]

ADDRESS = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"


@pytest.mark.parametrize(
    "text",
    [
        INVOICE,
        INVOICE.upper(),
        f" {INVOICE}\n",
        f"lightning:{INVOICE}",
        f"LIGHTNING:{INVOICE.upper()}",
        f"lightning://{INVOICE}",
        f"lightning:{INVOICE}?source=page",
        f"bitcoin:?lightning={INVOICE}",
        f"bitcoin:{ADDRESS}?amount=0.00002&label=Shop&lightning={INVOICE}",
        f"BITCOIN:{ADDRESS.upper()}?AMOUNT=0.00002&LIGHTNING={INVOICE.upper()}",
        f"bitcoin:?lno=lno1qqq&lightning={INVOICE}#top",
    ],
)
def test_invoice_in_its_forms(text):
    assert checked_payment_request(text, network="mainnet") == INVOICE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lno1pgx5xmmsv4ezqar0wq", "is a BOLT12 offer, not an invoice"),
        ("LNO1PGX5XMMSV4EZQAR0WQ", "is a BOLT12 offer"),
        ("lightning:lno1pgx5xmmsv4ezqar0wq", "is a BOLT12 offer"),
        ("lni1qqg", "is a BOLT12 invoice,"),
        ("lnr1qqg", "is a BOLT12 invoice request"),
        (
            "lnurl1dp68gurn8ghj7um9wfmxjcm99e3k7mf0v9cxj0m385ekvcenxc6r2c35xvukxefcv5mkvv34x5ekzd3ev56nyd3hxqurzepexejxxepnxscrvwfnv9nxzcn9xq6xyefhvgcxxcmyxymnserxfq5fns",
            "is an LNURL",
        ),
        ("lightning:LNURL1DP68", "is an LNURL"),
        (ADDRESS, "is a bitcoin address"),
        ("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "is a bitcoin address"),
        (f"bitcoin:{ADDRESS}?amount=1", "without a Lightning invoice"),
        ("bitcoin:", "without a Lightning invoice"),
        ("bitcoin:?lightning=", "without a Lightning invoice"),
        ("bitcoin:?lightning=lno1pgx5xmmsv4ezqar0wq", "is a BOLT12 offer"),
        ("alice@example.com", "is a Lightning address"),
        ("hello", "is no BOLT11 invoice"),
        ("", "is no BOLT11 invoice"),
        ("bitcoin:?" + "&".join(["a=1"] * 200), "fields"),
    ],
)
def test_what_is_no_invoice_is_named(text, words):
    with pytest.raises(ValueError, match=words):
        checked_payment_request(text, network="mainnet")
