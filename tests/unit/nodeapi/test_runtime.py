"""What a node finds out about its database when it starts."""

from pathlib import Path

import pytest

from messaging.models import InvoiceMark
from nodeapi.errors import StartError
from nodeapi.locks import FileLock
from nodeapi.runtime import refuse_others_database
from tests.support.tables import emptied

FILE = Path("/home/you/impervious.sqlite3")
OWN, OTHER = "02" + "aa" * 32, "03" + "bb" * 32


@pytest.fixture
def marks(migrated: None):
    yield from emptied((InvoiceMark,))


@pytest.mark.parametrize("pubkeys", [[], [OWN], [OTHER, OWN]])
def test_a_database_of_this_node(marks, pubkeys):
    for pubkey in pubkeys:
        InvoiceMark.objects.create(pubkey=pubkey, add_index=1)
    refuse_others_database(FILE, OWN)


def test_a_database_of_another_node(marks):
    InvoiceMark.objects.create(pubkey=OTHER, add_index=1)
    with pytest.raises(StartError) as error:
        refuse_others_database(FILE, OWN)
    assert str(error.value).startswith(
        f"database.url: {FILE} is the database of the node {OTHER}, and this one is {OWN};"
    )


def test_a_locked_database_says_how_to_have_another(tmp_path):
    file = tmp_path / "impervious.sqlite3"
    with (
        FileLock(file),
        pytest.raises(StartError, match=r"another runimpd .* by database\.url"),
        FileLock(file),
    ):
        pass
