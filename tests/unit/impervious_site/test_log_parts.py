"""The names of loggers are public: they stand in one list, whatever files they are used in."""

import re

from impervious_site.log_parts import PARTS, is_known
from tests.support.code import modules

_LOGGER = re.compile(r"getLogger\(([^)]+)\)")


def test_each_logger_has_a_listed_name_and_each_name_a_logger():
    used = {name for path in modules() for name in _LOGGER.findall(path.read_text())}
    assert "__name__" not in used
    # `getLogger(name)` of a level that is set for a part.
    assert {name.strip('"') for name in used - {"name"}} == set(PARTS)


def test_level_of_a_part_of_a_group_and_of_nothing_else():
    assert all(map(is_known, ("messaging.outbox", "messaging", "nodeapi.monitoring", "audit")))
    assert not any(map(is_known, ("", "mess", "messaging.", "messaging.out", "messaging.outbox.x", "grpc")))
