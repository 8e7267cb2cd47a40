"""Selling VPN, where the configuration means to: what `./impervious vpn check` says."""

import asyncio
from collections.abc import Iterator

from nodeapi.cli.doctor.findings import Finding, Patient, State, note, ok
from vpn.check import check as check_server
from vpn.setup import Wanted

KEY = "vpn.server_pub_key"


def check(patient: Patient) -> Iterator[Finding]:
    config = patient.config
    if not any(service.service_type == "vpn" and service.active for service in config.services):
        yield ok("the service vpn is off")
        return
    if not config.vpn.server_pub_key:
        if any(warning.startswith(f"{KEY}:") for warning in config.warnings):
            yield note(
                f"{KEY} is no WireGuard key (still the placeholder?), so no VPN is sold",
                "./impervious vpn setup makes a key and an interface; leave it empty to sell none",
            )
        else:
            yield ok(f"no VPN is sold: {KEY} is not set")
        return
    for finding in asyncio.run(check_server(Wanted.from_config(config.path, config.vpn))):
        words, _, advice = finding.words.partition("; ")
        yield Finding(State.WRONG if finding.wrong else State.OK, words, advice)
