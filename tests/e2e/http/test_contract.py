"""The API against its own description, with requests that schemathesis makes of it: no server error, no answer that the
description does not know.
"""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.examples import examples
from tests.support.streams import GUARD_SECONDS

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXAMPLES = examples(40)


def check(operation) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def every_answer_is_as_described(case):
        case.call_and_validate(checks=CHECKS, timeout=GUARD_SECONDS)

    every_answer_is_as_described()


def test_every_answer_is_as_described(alice):
    # Other tests have written into this log, too.
    told = len(alice.log)
    schema = schemathesis.openapi.from_url(f"http://{alice.http}/v1/openapi.json", timeout=GUARD_SECONDS)
    # The stream's answer does not end.
    operations = [found.ok() for found in schema.exclude(path="/v1/subscribe").get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        check(operation)
    assert "Traceback" not in alice.log[told:]
    assert alice.process.poll() is None
