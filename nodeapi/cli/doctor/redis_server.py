"""Redis, where one is configured: it wakes the streams of further daphne processes."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import redis

from nodeapi.cli.doctor.findings import Finding, Patient, ok, wrong

ANSWER_SECONDS = 3
FULL_SHARE = 0.9


def check(patient: Patient) -> Iterator[Finding]:
    if patient.config.redis_url is None:
        yield ok("redis.url is not set: further daphne processes would look at the event log by themselves")
        return
    url = patient.config.redis_url.get_secret_value()
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port or 6379}"
    server = redis.Redis.from_url(url, socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS)
    try:
        server.ping()
        memory = _memory(server)
    except redis.AuthenticationError:
        yield wrong(f"Redis at {where} refuses the password", "correct redis.url")
        return
    except (redis.RedisError, OSError) as error:
        reason = (
            "it does not answer in time"
            if isinstance(error, redis.TimeoutError)
            else "nothing answers there"
            if isinstance(error, redis.ConnectionError)
            else " ".join(str(error).split())
        )
        yield wrong(
            f"Redis at {where} cannot be used: {reason}",
            "start it, or correct redis.url; meanwhile streams "
            "of further daphne processes look at the event log ten times a second",
        )
        return
    finally:
        server.close()
    yield ok(f"Redis answers at {where}")
    yield from _about_memory(memory)


def _memory(server: redis.Redis) -> dict:
    try:
        return server.info("memory")
    except redis.ResponseError:
        # Hosted servers may keep it to themselves.
        return {}


def _about_memory(memory: dict) -> Iterator[Finding]:
    used, most = memory.get("used_memory", 0), memory.get("maxmemory", 0)
    if most and used > FULL_SHARE * most:
        yield wrong(
            f"Redis uses {used / 2**20:,.0f} of its {most / 2**20:,.0f} MiB",
            "give it more (maxmemory), or find out who else fills it",
        )
