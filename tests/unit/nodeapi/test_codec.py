"""proto3 JSON as grpc-gateway speaks it: what is read, what is refused and by what words, and what is written."""

import base64
import json

import grpc
import pytest

from nodeapi.codec import dump, json_from_message, message_from_body, message_from_json
from nodeapi.errors import ApiError
from protos import messaging_pb2, vpn_pb2, websocket_pb2

Send = messaging_pb2.SendMessageRequest
BODIES = [b"", b"\0", b"\xfb\xff\xfe\x3e\x3f", b"\xfb\xff", b"\xfb", b"\xff\xff\xff", bytes(range(256))]


def refused(data, message_class=Send, *, as_text: bool = False) -> str:
    read = message_from_body if isinstance(data, bytes) else message_from_json
    with pytest.raises(ApiError) as error:
        read(data, message_class, as_text=as_text)
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return error.value.message


@pytest.mark.parametrize("body", [b"", b" \n", b"{}", b"\xef\xbb\xbf{}", b'{"unknown": {"knows": [1]}}'])
def test_empty_request(body):
    assert message_from_body(body, Send) == Send()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"replyToId": "x"}, Send(reply_to_id="x")),
        ({"reply_to_id": "x"}, Send(reply_to_id="x")),
        ({"amount": 10}, Send(amount=10)),
        ({"amount": "10"}, Send(amount=10)),
        ({"amount": 10.0}, Send(amount=10)),
        ({"amount": "-3"}, Send(amount=-3)),
        ({"amount": None, "msg": None, "replyToId": None}, Send()),
    ],
)
def test_fields(data, message):
    assert message_from_json(data, Send) == message


@pytest.mark.parametrize(
    ("price", "text"),
    [
        ("100", "100"),
        (100, "100"),
        (100.0, "100"),
        (0, "0"),
        (-1, "-1"),
        (1.5, "1.5"),
        (10**18, "1" + "0" * 18),
    ],
)
def test_price_is_text_or_a_number(price, text):
    for request in (vpn_pb2.AcceptContractRequest, vpn_pb2.RefreshContractRequest):
        assert message_from_json({"price": price}, request) == request(price=text)


@pytest.mark.parametrize("price", [True, [100], {"sat": 100}, float("inf"), float("nan")])
def test_price_that_is_no_number(price):
    try:
        read = message_from_json({"price": price}, vpn_pb2.AcceptContractRequest)
    except ApiError as error:
        assert error.message == "price: must be text"
    else:
        assert not read.price.isdecimal()


@pytest.mark.parametrize("body", BODIES)
def test_base64_in_either_alphabet_padded_or_not(body):
    for encoded in (base64.b64encode(body), base64.urlsafe_b64encode(body)):
        for text in (encoded.decode(), encoded.decode().rstrip("=")):
            assert message_from_json({"msg": text}, Send).msg == body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"msg": "not base64!"}, "msg: is not base64"),
        ({"msg": "aGVsbG8=="[:5]}, "msg: is not base64"),
        # A space within a line is of a text that was not encoded.
        ({"msg": "aGVs bG8="}, "msg: is not base64"),
        ({"msg": "aGVsb\fG8="}, "msg: is not base64"),
        ({"amout": "500"}, "amout: is not known; did you mean `amount`?"),
        ({"amuont": 21, "amount": 1}, "amuont: is not known; did you mean `amount`?"),
        ({"Amount": 21}, "Amount: is not known; did you mean `amount`?"),
        ({"pubKey": ""}, "pubKey: is not known; did you mean `pubkey`?"),
        ({"replyToID": ""}, "replyToID: is not known; did you mean `replyToId`?"),
        ({"reply_toid": ""}, "reply_toid: is not known; did you mean `reply_to_id`?"),
        ({"expiresin": 5}, "expiresin: is not known; did you mean `expiresIn`?"),
        ({"msg": "ä"}, "msg: is not base64"),
        ({"msg": 5}, "msg: must be base64 text"),
        ({"msg": ["aGk="]}, "msg: must be base64 text"),
        ({"pubkey": 5}, "pubkey: must be text"),
        ({"pubkey": {"a": "secret"}}, "pubkey: must be text"),
        ({"replyToId": ["secret"]}, "replyToId: must be text"),
        ({"reply_to_id": 7}, "reply_to_id: must be text"),
        ({"amount": "secret"}, "amount: must be a whole number of 64 bits"),
        ({"amount": 1.5}, "amount: must be a whole number of 64 bits"),
        ({"amount": True}, "amount: must be a whole number of 64 bits"),
        ({"amount": {}}, "amount: must be a whole number of 64 bits"),
        ({"amount": 2**63}, "amount: must be a whole number of 64 bits"),
        ({"amount": 10**30}, "amount: must be a whole number of 64 bits"),
        ({"amount": "1_0"}, "amount: must be a whole number of 64 bits"),
        ({"amount": "\N{ARABIC-INDIC DIGIT THREE}"}, "amount: must be a whole number of 64 bits"),
        ([], "body: must be a JSON object"),
        ("secret", "body: must be a JSON object"),
        (None, "body: must be a JSON object"),
        (5, "body: must be a JSON object"),
    ],
)
def test_what_is_wrong_is_named_and_not_repeated(data, message):
    assert refused(data) == message


@pytest.mark.parametrize(
    "text", ["aGVs\nbG8=", "aGVs\r\nbG8=\r\n", "\naGVsbG8", " aGVsbG8=\n", "aGVs\n    bG8=\n", "aGVsbG8=\t"]
)
def test_line_breaks_in_base64(text):
    """Many encoders break long lines; grpc-gateway passes over it."""
    assert message_from_json({"msg": text}, Send).msg == b"hello"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"after": "-1"}, "after: must be a whole number of 64 bits, 0 or more"),
        ({"after": "x"}, "after: must be a whole number of 64 bits, 0 or more"),
        ({"services": [5]}, "services: must be a list, of which each must be text"),
    ],
)
def test_other_kinds_of_fields(data, message):
    assert refused(data, websocket_pb2.SubscribeRequest) == message


@pytest.mark.parametrize(
    ("body", "start"),
    [
        (b"{", "body: is not JSON ("),
        (b"nothing", "body: is not JSON ("),
        (b"{'msg': 1}", "body: is not JSON ("),
        (b'{"msg":"\\ud800"}', "body: is not JSON ("),
        (b'{"msg": "h\xe9llo"}', "body: is not UTF-8"),
        (b"\x00", "body: is not JSON ("),
        (b"[" * 10_000 + b"]" * 10_000, "body: "),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "body: "),
        (b"null", "body: must be a JSON object"),
        (b"[]", "body: must be a JSON object"),
    ],
)
def test_bodies_that_are_none(body, start):
    assert refused(body).startswith(start)


@pytest.mark.parametrize("text", ["hello", "aGVsbG8=", 'grüße 😀 "quoted"\n', "NUL \0 too", ""])
def test_text_in_place_of_base64(text):
    message = message_from_json({"msg": text}, Send, as_text=True)
    assert message.msg == text.encode()
    sent = messaging_pb2.GetMessageResponse(message={"msg": message.msg, "id": "x"})
    assert json_from_message(sent, as_text=True)["message"]["msg"] == text


def test_text_that_is_none():
    assert refused({"msg": 5}, as_text=True) == "msg: must be text"
    listed = messaging_pb2.ListMessagesResponse(messages=[{"msg": b"a\xffb"}, {"msg": b"\xe2\x82c"}])
    texts = [message["msg"] for message in json_from_message(listed, as_text=True)["messages"]]
    assert texts == ["a\N{REPLACEMENT CHARACTER}b", "\N{REPLACEMENT CHARACTER}c"]


@pytest.mark.parametrize("body", BODIES)
def test_bytes_are_written_as_base64(body):
    event = websocket_pb2.SubscribeResponse(data=body, seq=5, amount=2**62)
    assert json_from_message(event) == {
        "id": "",
        "replyToId": "",
        "fromPubkey": "",
        "data": base64.b64encode(body).decode(),
        "serviceType": "",
        "amount": str(2**62),
        "seq": "5",
    }


def test_every_field_is_written_in_the_order_of_the_proto():
    names = [field.json_name for field in vpn_pb2.GetLeaseConfigResponse.DESCRIPTOR.fields]
    assert list(json_from_message(vpn_pb2.GetLeaseConfigResponse())) == names


def test_dump_is_compact_utf8():
    written = dump({"message": "grüße", "details": []})
    assert written == '{"message":"grüße","details":[]}'.encode()
    assert json.loads(written) == {"message": "grüße", "details": []}
