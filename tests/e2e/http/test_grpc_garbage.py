"""Whatever bytes come through the gRPC door: an answer, or an error that is the caller's, never the node's."""

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.grpc_methods import METHODS
from tests.support.streams import GUARD_SECONDS

# The node's own faults; Unavailable would be lnd's, which is there.
OURS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
_TEXT = st.text(max_size=70) | st.from_regex(r"[0-9a-f]{66}", fullmatch=True) | st.uuids().map(str)
_SCALARS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 5),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def values(field: FieldDescriptor) -> st.SearchStrategy:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        one = st.binary(max_size=300) if field.type == FieldDescriptor.TYPE_BYTES else _TEXT
    else:
        one = _SCALARS[field.cpp_type]
    return st.lists(one, max_size=5) if field.is_repeated else one


def requests(message: Descriptor) -> st.SearchStrategy[bytes]:
    """Messages of the type, whatever stands in their fields, and bytes that are none."""
    make = message_factory.GetMessageClass(message)
    fields = st.fixed_dictionaries({}, optional={field.name: values(field) for field in message.fields})
    return fields.map(lambda chosen: make(**chosen).SerializeToString()) | st.binary(max_size=200)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_no_request_is_the_nodes_fault(alice, method):
    reply_class = message_factory.GetMessageClass(method.output_type)
    with grpc.insecure_channel(alice.grpc) as channel:
        path = f"/{method.containing_service.full_name}/{method.name}"
        call = channel.unary_unary(
            path, request_serializer=bytes, response_deserializer=reply_class.FromString
        )

        @given(requests(method.input_type))
        @settings(
            max_examples=examples(60), deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        def ask(request: bytes) -> None:
            try:
                call(request, timeout=GUARD_SECONDS)
            except grpc.RpcError as error:
                assert error.code() not in OURS, f"{error.code()}: {error.details()}"
                assert error.details()

        ask()
    assert alice.process.poll() is None
