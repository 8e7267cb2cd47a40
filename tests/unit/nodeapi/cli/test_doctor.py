"""What doctor's checks say of set-ups that no node need run for."""

import resource
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import yaml

from impervious_site.config import ConfigError, load_config
from lightning.client import LndError, Trouble
from nodeapi.cli.doctor import access, certificate, clock, configuration, descriptors, lnd, node, run
from nodeapi.cli.doctor.findings import Patient, State
from nodeapi.keys import StoredKey, StoredKeys
from protos import node_pb2
from tests.support.certificates import Authority

LND = {"ip": "127.0.0.1", "port": 10009, "admin_macaroon_hex": "00ff"}

MESSAGES = {"service_type": "message", "active": True, "custom_record_number": 400_000}


def written(tmp_path, **sections):
    path = tmp_path / "config.yml"
    tree = {"lightning": {"lnd_node": LND}, "service_list": [MESSAGES], **sections}
    path.write_text(yaml.safe_dump(tree))
    return path


def patient_of(tmp_path, **sections) -> Patient:
    return Patient(load_config(written(tmp_path, **sections), {}), version="0.2.0")


def partial_patient(tmp_path, **sections) -> Patient:
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, **sections), {})
    return Patient(error.value.partial, version="0.2.0", problems=error.value.problems)


def found(findings) -> dict[State, list[str]]:
    by_state: dict[State, list[str]] = {}
    for finding in findings:
        by_state.setdefault(finding.state, []).append(f"{finding.words} → {finding.advice}")
    return by_state


def key(**fields) -> StoredKey:
    made = {"name": "shop", "hash": b"", "scopes": (), "budget_sat": None, "calls_per_minute": None}
    return StoredKey(**made | {"expires_at": None} | fields)


EXPOSED = {"server": {"http_addr": "0.0.0.0:8882"}}
VALID = key()
EXPIRED = key(expires_at=datetime.now(UTC) - timedelta(days=1))


@pytest.mark.parametrize(
    ("sections", "keys", "ever", "state", "words"),
    [
        (
            EXPOSED,
            (),
            False,
            State.WRONG,
            "reachable from other machines and no API key is set: the node does not",
        ),
        (EXPOSED, (EXPIRED,), True, State.WRONG, "no API key is valid"),
        (EXPOSED, (VALID, EXPIRED), True, State.OK, "1 API key is valid"),
        ({}, (VALID, VALID, VALID), True, State.OK, "3 API keys are valid"),
        ({}, (EXPIRED,), True, State.NOTE, "no API key is valid any more"),
        ({}, (), True, State.NOTE, "no API key is valid any more"),
        ({}, (), False, State.OK, "there are no API keys"),
    ],
)
def test_keys_as_the_start_asks_for_them(tmp_path, monkeypatch, sections, keys, ever, state, words):
    patient = patient_of(tmp_path, **sections)
    patient.config.database.sqlite_path.touch()
    monkeypatch.setattr(access, "read_keys", lambda: StoredKeys(keys=keys, any_ever=ever))
    told = found(access.check(patient))
    assert list(told) == [state]
    assert words in told[state][0]


def test_keys_without_a_database(tmp_path):
    patient = patient_of(tmp_path, **EXPOSED)
    assert list(found(access.check(patient))) == [State.WRONG]
    assert not patient.config.database.sqlite_path.exists()


def test_certificate_that_clients_refuse_is_wrong_and_told_once(tmp_path):
    cert, private_key = tmp_path / "tls.cert", tmp_path / "tls.key"
    for path, pem in zip((cert, private_key), Authority().issue("localhost", days=-1), strict=True):
        path.write_bytes(pem)
    private_key.chmod(0o644)
    patient = patient_of(tmp_path, server={"tls_cert": str(cert), "tls_key": str(private_key)})
    patient.door = SimpleNamespace(tls_cert=cert.read_bytes())
    told = found(configuration.check(patient))
    assert len(told[State.WRONG]) == 1
    assert "the certificate ended on" in told[State.WRONG][0]
    assert not any("holds until" in words for words in told.get(State.NOTE, []))
    assert not any("tls_key" in words for words in told.get(State.NOTE, []))


def test_other_checks_go_on_where_the_configuration_is_wrong(tmp_path, monkeypatch):
    missing = LND | {"tls_cert": "missing.cert"}
    patient = partial_patient(
        tmp_path, lightning={"lnd_node": missing}, redis={"url": "nowhere"}, message={"in_flight": "many"}
    )
    asked = []
    monkeypatch.setattr(
        run, "CHECKS", {name: lambda _, name=name: asked.append(name) or [] for name in run.CHECKS}
    )
    told = dict(run.examine(patient, lambda name: None))
    assert set(run.CHECKS) - set(asked) == {"Redis"}
    assert [finding.words for finding in told["Redis"]] == ["not checked, because redis.url is wrong"]
    problems = found(configuration.check(patient))[State.WRONG]
    assert {problem.partition(":")[0] for problem in problems} == {
        "redis.url",
        "message.in_flight",
        "lightning.lnd_node.tls_cert",
    }


def test_lnd_that_is_not_named(tmp_path):
    patient = partial_patient(tmp_path, lightning={"lnd_node": {"ip": "127.0.0.1"}})
    (finding,) = lnd.check(patient)
    assert finding.words == "not checked, because lightning.lnd_node is not complete"


class UnreadyLnd:
    address = "127.0.0.1:10009"

    def __init__(self, error: LndError):
        self._error = error

    async def get_info(self):
        raise self._error

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("trouble", "details", "state", "words"),
    [
        (
            Trouble.LOCKED,
            "wallet not created, create one",
            State.WRONG,
            "has no wallet yet → run lncli create",
        ),
        (Trouble.LOCKED, "wallet locked, unlock it", State.WRONG, "locked → run lncli unlock"),
        (Trouble.MACAROON, "cannot get macaroon", State.NOTE, "an lnd answers at"),
    ],
)
def test_lnd_whose_credentials_cannot_be_read(tmp_path, monkeypatch, trouble, details, state, words):
    without = {name: value for name, value in LND.items() if name != "admin_macaroon_hex"}
    patient = partial_patient(
        tmp_path, lightning={"lnd_node": without | {"admin_macaroon": str(tmp_path / "admin.macaroon")}}
    )
    shown = SimpleNamespace(public_bytes=lambda _: b"")
    monkeypatch.setattr(certificate, "shown_by", lambda *_: shown)
    error = LndError(trouble, "lnd is locked", code=None, details=details)
    monkeypatch.setattr(lnd, "LndClient", lambda **_: UnreadyLnd(error))
    told = found(lnd.check(patient))
    assert list(told) == [state]
    assert words in told[state][0]


def test_clock_that_nothing_keeps_right(tmp_path, monkeypatch):
    patient = patient_of(tmp_path)
    monkeypatch.setattr(clock, "_kernel_state", lambda: clock.TIME_ERROR)
    assert "no program keeps this machine's clock right" in found(clock.check(patient))[State.NOTE][0]
    monkeypatch.setattr(clock, "_kernel_state", lambda: 0)
    assert State.NOTE not in found(clock.check(patient))


def test_kernel_is_asked_for_its_clock():
    assert clock._kernel_state() in range(-1, clock.TIME_ERROR + 1)


def test_limit_of_open_files(tmp_path, monkeypatch):
    patient = patient_of(tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert "may open 4,096 files, and would need 11,256" in found(descriptors.check(patient))[State.NOTE][0]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 65_536))
    assert list(found(descriptors.check(patient))) == [State.OK]


def test_daphne_of_a_node_that_does_not_run_is_left_alone(tmp_path, monkeypatch):
    patient = patient_of(tmp_path)
    patient.door = SimpleNamespace(http_address=("127.0.0.1", 8882))
    refused = {"code": 14, "message": "runimpd does not answer", "details": []}
    monkeypatch.setattr(node, "ask_http", lambda door: (503, refused))
    monkeypatch.setattr(node, "_bind_problem", lambda address: "taken" if address.port == 8882 else "")
    told = found(node._no_answer(patient, node.NodeError("away", away=True)))
    assert State.WRONG not in told
    assert any("the node does not run" in words for words in told[State.NOTE])
    assert any("a daphne of this node answers at 127.0.0.1:8882" in words for words in told[State.OK])
    # Somebody else's program there is in the way.
    monkeypatch.setattr(node, "ask_http", lambda door: (200, {"hello": "world"}))
    assert len(found(node._no_answer(patient, node.NodeError("away", away=True)))[State.WRONG]) == 1


@pytest.mark.parametrize(
    ("state", "warnings", "told"),
    [
        ("running", [], (State.OK, "the node runs, and answers at 127.0.0.1:8881")),
        (
            "waiting for lnd",
            ["lnd is locked; the node waits for it"],
            (State.NOTE, "has not started yet: lnd is locked; the node waits for it"),
        ),
    ],
)
def test_node_that_waits_is_not_said_to_run(tmp_path, state, warnings, told):
    """Nor to be another one, because it does not know its key yet."""
    patient = patient_of(tmp_path)
    patient.lnd_info = SimpleNamespace(identity_pubkey="02aa")
    own = {"pubkey": "02aa", "lnd_reachable": True} if state == "running" else {}
    info = node_pb2.GetInfoResponse(version=patient.version, state=state, warnings=warnings, **own)
    state_of_finding, words = told
    (finding,) = node._runs(patient, info)
    assert finding.state is state_of_finding
    assert words in finding.words


def test_node_that_waits_for_its_database_is_no_other_program(tmp_path, monkeypatch):
    patient = patient_of(tmp_path)
    patient.door = SimpleNamespace()

    class Waiting:
        def __init__(self, door, *, call_seconds):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def info(self):
            raise node.NodeError("the node waits for its database", away=True, waits=True)

    monkeypatch.setattr(node, "NodeClient", Waiting)
    (finding,) = node.check(patient)
    assert (finding.state, patient.running) == (State.NOTE, True)
    assert "has not started yet: the node waits for its database" in finding.words
