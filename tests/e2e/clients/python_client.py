"""A client of 2021: stubs generated from the published protos, which lie in the working directory, and nothing else.

python python_client.py OWN_GRPC OTHER_GRPC OTHER_PUBKEY → one JSON object on standard output
"""

import json
import sys

import grpc
import lightning_pb2
import lightning_pb2_grpc
import messaging_pb2
import messaging_pb2_grpc
import signing_pb2
import signing_pb2_grpc
import websocket_pb2
import websocket_pb2_grpc

own_address, other_address, pubkey = sys.argv[1:]
with grpc.insecure_channel(own_address) as own, grpc.insecure_channel(other_address) as other:
    stream = websocket_pb2_grpc.WebsocketStub(other).Subscribe(websocket_pb2.SubscribeRequest())
    stream.initial_metadata()
    request = messaging_pb2.SendMessageRequest(msg=b"from Python", pubkey=pubkey, amount=3)
    sent = messaging_pb2_grpc.MessagingStub(own).SendMessage(request)
    event = next(event for event in stream if event.id == sent.id)
    stream.cancel()
    signing = signing_pb2_grpc.SigningStub(own)
    signature = signing.SignMessage(signing_pb2.SignRequest(msg="hello")).signature
    verified = signing.VerifySignature(signing_pb2.VerifyRequest(msg="hello", signature=signature))
    payee = lightning_pb2_grpc.LightningStub(other)
    wanted = lightning_pb2.GenerateInvoiceRequest(amount=5, memo="from Python")
    invoice = payee.GenerateInvoice(wanted).invoice
    paid = lightning_pb2_grpc.LightningStub(own).PayInvoice(lightning_pb2.PayInvoiceRequest(invoice=invoice))
    checked = payee.CheckInvoice(lightning_pb2.CheckInvoiceRequest(invoice=invoice))
print(
    json.dumps(
        {
            "id": sent.id,
            "event": [event.id, event.from_pubkey, event.data.decode(), event.amount],
            "result": verified.result,
            "preimage": len(paid.preimage),
            "paid": checked.paid,
        }
    )
)
