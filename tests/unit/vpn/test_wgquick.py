"""What no seller can do: get a line of his own into the file that the buyer's wg-quick runs as root."""

import dataclasses
import ipaddress
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.machines import needs
from vpn import keys, wgquick

SERVER, CLIENT = keys.new_key_pair(), keys.new_key_pair()
PLAIN = wgquick.Peering(
    addresses=(ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fd00:1::7")),
    endpoint_host=ipaddress.ip_address("203.0.113.5"),
    endpoint_port=51820,
    server_pub_key=SERVER.public,
    allowed_ips=(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")),
    keepalive_seconds=25,
    dns=(ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("2001:4860:4860::8888")),
)
KEYS = {
    "Interface": {"PrivateKey", "Address", "DNS"},
    "Peer": {"PublicKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"},
}


def parsed(text: str) -> dict[str, dict[str, str]]:
    """A parser of wg-quick's format as wg-quick(8) reads it: any unknown line is an error."""
    sections: dict[str, dict[str, str]] = {}
    current = None
    for line in text.split("\n"):
        assert line.isprintable()
        assert "#" not in line
        if line in ("[Interface]", "[Peer]"):
            assert line[1:-1] not in sections
            current = sections.setdefault(line[1:-1], {})
            allowed = KEYS[line[1:-1]]
        elif line:
            key, equals, value = line.partition(" = ")
            assert equals, line
            assert value, line
            assert key in allowed, line
            assert key not in current, line
            current[key] = value
    assert set(sections) == set(KEYS)
    return sections


def test_the_file_has_all_that_a_tunnel_needs():
    sections = parsed(wgquick.render(PLAIN, CLIENT.private))
    assert sections["Interface"] == {
        "PrivateKey": CLIENT.private,
        "Address": "10.0.0.7/32, fd00:1::7/128",
        "DNS": "8.8.8.8, 2001:4860:4860::8888",
    }
    assert sections["Peer"] == {
        "PublicKey": SERVER.public,
        "AllowedIPs": "0.0.0.0/0, ::/0",
        "Endpoint": "203.0.113.5:51820",
        "PersistentKeepalive": "25",
    }


def test_lines_are_left_out_where_there_is_nothing():
    bare = dataclasses.replace(PLAIN, dns=(), keepalive_seconds=0, addresses=PLAIN.addresses[1:])
    sections = parsed(wgquick.render(bare, CLIENT.private))
    assert "DNS" not in sections["Interface"]
    assert "PersistentKeepalive" not in sections["Peer"]
    assert sections["Interface"]["Address"] == "fd00:1::7/128"


def test_an_endpoint_of_ipv6_has_brackets():
    peering = dataclasses.replace(PLAIN, endpoint_host=ipaddress.ip_address("2001:db8::1"))
    assert parsed(wgquick.render(peering, CLIENT.private))["Peer"]["Endpoint"] == "[2001:db8::1]:51820"
    assert wgquick.parse_peering(wgquick.peering_fields(peering)) == peering


@pytest.mark.parametrize(
    "peering", [PLAIN, dataclasses.replace(PLAIN, dns=(), addresses=PLAIN.addresses[:1])]
)
def test_fields_of_a_lease_are_read_back(peering):
    assert wgquick.parse_peering(wgquick.peering_fields(peering)) == peering


_NASTY = st.text("0123456789abcdef.:/%[], \n\r\t=#PostUp\x00\x85\u2028é", max_size=40)
_INJECTIONS = st.sampled_from(
    [
        "10.0.0.7/32\nPostUp = id",
        "fe80::1%a\nPostUp = id",
        "fe80::1%a\nPostUp = id/128",
        "10.0.0.7\r\nPostUp=id",
        "10.0.0.7/32 # x",
        "[fe80::1%a\nPostUp = id]:1",
        "0.0.0.0/0,\nPostDown = id",
        "8.8.8.8\n[Interface]",
        "::%\n/0",
        SERVER.public + "\n",
        "１０.0.0.7/32",
        "1.2.3.4:٣",
    ]
)
_VALUES = (
    _NASTY
    | _INJECTIONS
    | st.none()
    | st.integers()
    | st.lists(st.text(max_size=3), max_size=2)
    | st.booleans()
)
_FIELDS = sorted(wgquick.peering_fields(PLAIN))


@settings(max_examples=examples(500))
@given(st.dictionaries(st.sampled_from(_FIELDS), _VALUES, min_size=1))
def test_no_field_smuggles_a_line(hostile):
    fields = wgquick.peering_fields(PLAIN) | hostile
    try:
        peering = wgquick.parse_peering(fields)
    except ValueError as error:
        assert str(error).isprintable()
        return
    sections = parsed(wgquick.render(peering, CLIENT.private))
    assert sections["Interface"]["PrivateKey"] == CLIENT.private


@pytest.mark.parametrize("name", [name for name in _FIELDS if name != "keepalive"])
@pytest.mark.parametrize(
    "text", ["10.0.0.7/32\nPostUp = id", "fe80::1%a\nPostUp = id", "fe80::1%a\nPostUp = id/128"]
)
def test_injections_are_refused(name, text):
    with pytest.raises(ValueError, match=f"^{name.removeprefix('further_')}: "):
        wgquick.parse_peering(wgquick.peering_fields(PLAIN) | {name: text})


def test_a_zone_cannot_be_typed_either():
    zoned = ipaddress.ip_network("fe80::1%a\nPostUp = id/128")
    for name, change in (
        ("dns", {"dns": (zoned.network_address,)}),
        ("allowed_ips", {"allowed_ips": (zoned,)}),
        ("address", {"addresses": (zoned.network_address,)}),
        ("endpoint", {"endpoint_host": zoned.network_address}),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .* without a zone$"):
            dataclasses.replace(PLAIN, **change)


def test_first_dns_is_told_as_older_nodes_read_it():
    fields = wgquick.peering_fields(PLAIN)
    assert (fields["dns"], fields["further_dns"]) == ("8.8.8.8", "2001:4860:4860::8888")
    alone = wgquick.peering_fields(dataclasses.replace(PLAIN, dns=PLAIN.dns[:1]))
    assert alone["dns"] == "8.8.8.8"
    assert "further_dns" not in alone


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"allowed_ips": ", ".join(["10.0.0.0/24"] * 257)}, "allowed_ips: must be at most 256"),
        ({"allowed_ips": "1" * 20_000}, "allowed_ips: must be text of at most"),
        ({"address": "10.0.0.7/32, 10.0.0.8/32"}, "address: must be one"),
        ({"address": "10.0.0.0/24"}, "address: must be of a single host"),
        ({"endpoint": "example.com:1"}, "endpoint: must be an IP"),
        ({"endpoint": "1.2.3.4:0"}, "endpoint: must be a whole number"),
        ({"dns": ", ".join(["8.8.8.8"] * 9)}, "dns: must be at most 8"),
        ({"dns": "8.8.8.8, dns.example"}, "dns: must be an IP"),
        ({"further_dns": "fe80::1%eth0"}, "dns: must be an IP address without a zone"),
        ({"address": "fe80::1%eth0/128"}, "address: must be an IP address without a zone"),
        ({"endpoint": "[fe80::1%eth0]:1"}, "endpoint: must be an IP address without a zone"),
        ({"allowed_ips": "::/0, fe80::1%eth0/128"}, "allowed_ips: must be an IP address without a zone"),
        ({"keepalive": True}, "keepalive: must be a whole number"),
        ({"keepalive": 65_536}, "keepalive: must be a whole number"),
        ({"server_pub_key": "A" * 43 + "="}, "server_pub_key: is a weak"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        wgquick.parse_peering(wgquick.peering_fields(PLAIN) | change)


@needs("wg-quick")
@pytest.mark.parametrize("dns", [PLAIN.dns, ()])
def test_wg_quick_reads_it(tmp_path, dns):
    file = tmp_path / "impd-file.conf"
    file.touch(mode=0o600)
    file.write_text(wgquick.render(dataclasses.replace(PLAIN, dns=dns), CLIENT.private))
    stripped = subprocess.run(
        ["wg-quick", "strip", str(file)], capture_output=True, text=True, check=True
    ).stdout
    lines = dict(line.split(" = ", 1) for line in stripped.splitlines() if " = " in line)
    assert lines == {
        "PrivateKey": CLIENT.private,
        "PublicKey": SERVER.public,
        "AllowedIPs": "0.0.0.0/0, ::/0",
        "Endpoint": "203.0.113.5:51820",
        "PersistentKeepalive": "25",
    }
