"""The usual way with Channels: one consumer a client, each in one group of the in-memory layer.

POST /go?count=N&size=N sends N events to the group. Runs under Daphne: `daphne bench.peers.group_send:application`.
"""

from typing import ClassVar
from urllib.parse import parse_qs

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter
from django.conf import settings

from bench.peers.frames import frame_text

settings.configure(
    SECRET_KEY="bench",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()


class Consumer(AsyncWebsocketConsumer):
    groups: ClassVar[list[str]] = ["events"]

    async def tell(self, event):
        await self.send(text_data=event["text"])


async def produce(scope, receive, send):
    query = parse_qs(scope["query_string"].decode())
    layer = get_channel_layer()
    for index in range(int(query["count"][0])):
        text = frame_text(index, int(query["size"][0]))
        await layer.group_send("events", {"type": "tell", "text": text})
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


application = ProtocolTypeRouter({"http": produce, "websocket": Consumer.as_asgi()})
