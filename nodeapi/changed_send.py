"""An ASGI `send` whose events are changed on their way."""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]


class ChangedSend:
    """`flow.Connection` finds the client behind it all the same, by the arguments that Daphne has put there."""

    def __init__(self, send: Any, change: Callable[[Event], Event]):
        self._send = send
        self._change = change
        self.args = getattr(send, "args", ())

    async def __call__(self, event: Event) -> None:
        await self._send(self._change(event))
