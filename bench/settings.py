"""How much is measured: the default run and the quick one."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`rounds` times A, B, A, B, …; the other figures are for one side of one round."""

    rounds: int
    latency_messages: int
    throughput_seconds: float
    doors_seconds: float
    fanout_clients: tuple[int, ...]
    fanout_deliveries: int
    fanout_least_events: int
    memory_clients: tuple[int, ...]
    memory_rounds: int
    starts: int
    vpn_peers: tuple[int, ...]


DEFAULT = Settings(
    rounds=3,
    latency_messages=80,
    throughput_seconds=2.0,
    doors_seconds=1.5,
    fanout_clients=(1, 100, 1_000, 5_000),
    fanout_deliveries=20_000,
    fanout_least_events=16,
    memory_clients=(1_000, 5_000),
    memory_rounds=2,
    starts=3,
    vpn_peers=(1_000, 5_000),
)
QUICK = Settings(
    rounds=1,
    latency_messages=20,
    throughput_seconds=0.6,
    doors_seconds=0.8,
    fanout_clients=(1, 100, 1_000),
    fanout_deliveries=5_000,
    fanout_least_events=5,
    memory_clients=(1_000,),
    memory_rounds=1,
    starts=1,
    vpn_peers=(1_000,),
)
