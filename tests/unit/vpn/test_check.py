"""What buyers will leave out, as `./impervious vpn check` tells the seller."""

import ipaddress

import pytest

from vpn.check import left_out_by_buyers
from vpn.pool import Pool

POOL = Pool((ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00:1::/64")))


@pytest.mark.parametrize(
    ("allowed_ips", "left_out"),
    [
        ("0.0.0.0/0, ::/0", ""),
        ("10.0.0.0/24, 10.0.0.1/32, 10.0.0.0/16, fd00:1::/64", ""),
        ("8.8.8.0/24, 2606:4700::/32", ""),
        ("0.0.0.0/0, 192.168.1.0/24, 10.1.0.0/24", "192.168.1.0/24, 10.1.0.0/24"),
        ("192.168.0.0/15, fe80::/10", "192.168.0.0/15, fe80::/10"),
    ],
)
def test_networks_that_buyers_leave_out(allowed_ips, left_out):
    networks = [ipaddress.ip_network(text) for text in allowed_ips.split(", ")]
    assert ", ".join(map(str, left_out_by_buyers(networks, POOL))) == left_out
