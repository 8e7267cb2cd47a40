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
    joined_seconds: float
    joined_alone: int
    stored_few: int
    stored_many: int
    stored_seconds: float
    catchup_messages: int
    replay_events: int
    commits_seconds: float
    relay_seconds: float
    relay_delays: int
    vpn_peers: tuple[int, ...]
    idle_connections: int
    vpn_tunnels: int
    vpn_sales: int


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
    joined_seconds=6.0,
    joined_alone=20,
    stored_few=1_000,
    stored_many=1_000_000,
    stored_seconds=4.0,
    catchup_messages=10_000,
    replay_events=100_000,
    commits_seconds=3.0,
    relay_seconds=2.0,
    relay_delays=5_000,
    vpn_peers=(1_000, 5_000),
    idle_connections=10_000,
    vpn_tunnels=5,
    vpn_sales=60,
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
    joined_seconds=1.5,
    joined_alone=8,
    stored_few=1_000,
    stored_many=20_000,
    stored_seconds=1.0,
    catchup_messages=500,
    replay_events=5_000,
    commits_seconds=0.6,
    relay_seconds=0.5,
    relay_delays=1_000,
    vpn_peers=(1_000,),
    idle_connections=1_000,
    vpn_tunnels=2,
    vpn_sales=10,
)
