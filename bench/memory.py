"""Memory of the idle node and of its websocket clients, and how soon it answers after its start."""
from bench.report import Section
async def measure(directory, settings):
    return
    yield Section("")
