"""The form of a line of the log."""

import json
import logging
from datetime import datetime

from impervious_site.logs import JsonLines


def test_time_is_of_rfc_3339():
    record = logging.LogRecord("messaging.inbox", logging.INFO, "", 0, "received", None, None)
    record.created = 1_796_092_220.1239
    line = json.loads(
        JsonLines("{asctime}{message}", style="{", rename_fields={"asctime": "time"}).format(record)
    )
    assert line["time"] == "2026-12-01T02:30:20.123Z"
    assert datetime.fromisoformat(line["time"]).timestamp() == 1_796_092_220.123
