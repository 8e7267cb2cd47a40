"""Who may use the node: what its start demands of API keys, by the same code, and how many are valid."""

from collections.abc import Iterator

from django.db import Error, connection
from django.utils import timezone

from nodeapi.cli.doctor import report
from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong
from nodeapi.errors import StartError
from nodeapi.keys import NO_VALID_KEY, StoredKeys, read_keys, require_credentials

NO_KEYS = StoredKeys(keys=(), any_ever=False)
MAKE_ONE = "./impervious keys make --name NAME --scopes read,send"


def check(patient: Patient) -> Iterator[Finding]:
    config = patient.config
    try:
        stored = _stored(patient)
    except Error:
        # The check of the database has said why.
        yield note("the API keys in the database cannot be read")
        return
    finally:
        connection.close()
    try:
        refused = require_credentials(config, stored)
    except StartError as error:
        for problem in str(error).splitlines():
            words, advice = report.split(problem)
            yield wrong(f"{words}: the node does not start", advice)
        return
    valid = len(config.server.api_keys) + len(stored.valid(timezone.now()))
    if refused:
        yield wrong(NO_VALID_KEY, MAKE_ONE)
    elif valid:
        yield ok(f"{valid} API {'key is' if valid == 1 else 'keys are'} valid, and every call needs one")
    elif stored.any_ever:
        yield note("no API key is valid any more, so every call is refused", MAKE_ONE)
    else:
        yield ok("there are no API keys: whoever has an account on this machine may use the node")


def _stored(patient: Patient) -> StoredKeys:
    """Raises django.db.Error."""
    database = patient.config.database.sqlite_path
    missing = database is not None and not database.exists()
    if missing or any(name.startswith("nodeapi.0002") for name in patient.pending_migrations):
        return NO_KEYS
    return read_keys()
