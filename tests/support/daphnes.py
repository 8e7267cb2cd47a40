"""A daphne of its own beside a node's runimpd."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.nodes import ROOT, Node, launched, node_environ
from tests.support.ports import free_port

KEY = "a-key-with-more-than-20-characters"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


class Daphne(Node):
    """The HTTP of `engine`, served by a daphne of its own."""

    def __init__(self, engine: Node):
        self.__dict__.update(engine.__dict__)
        self.http_port = free_port()
        self.log_path = engine.directory / f"daphne-{self.http_port}.log"

    def start(self) -> Node:
        return self._launch_until(self._answers)

    @contextmanager
    def serving(self) -> Iterator["Daphne"]:
        """Once it serves, whatever it answers."""
        self._launch_until(self._serves)
        try:
            yield self
        finally:
            self.kill()

    def _serves(self) -> bool:
        try:
            return self.get("/health/live").status == 200
        except OSError:
            return False

    def launch(self) -> None:
        command = [sys.executable, "-m", "daphne", *self.endpoint()]
        environ = node_environ() | {"IMPD_CONFIG": str(self.config_path)} | self.environ
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(
                [*command, "impervious_site.asgi:application"], cwd=ROOT, env=environ, stdout=log, stderr=log
            )
        launched.append(self)

    def endpoint(self) -> list[str]:
        return ["-b", "127.0.0.1", "-p", str(self.http_port)]

    def _answers(self) -> bool:
        try:
            return self.get("/v1/messages", AUTHORIZED).status == 200
        except OSError:
            return False
