"""An event of the same form and size as the node's."""

import json
import uuid


def frame_text(index: int, data_size: int) -> str:
    """`data_size`: characters of the data, which is base64 in the node's events."""
    result = {
        "id": str(uuid.uuid4()),
        "replyToId": "",
        "fromPubkey": "02" + "ab" * 32,
        "data": "x" * data_size,
        "serviceType": "message",
        "amount": "1",
        "seq": str(index),
    }
    return json.dumps({"result": result}, separators=(",", ":"))
