import pytest

# Modules of cases that several test modules share: their asserts tell as much as those of a test.
pytest.register_assert_rewrite("tests.support.lnd_cases", "tests.support.wireguard_cases")
