"""Django REST framework without two packages that it would load because they are installed: psycopg, for fields that no
model has, and Pygments, for pages that the node does not show. Without them a node on SQLite takes 11 MB less.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rest_framework.apps import RestFrameworkConfig

# What it looks for; the first one imports psycopg.
UNUSED = ("django.contrib.postgres", "pygments")


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """As if these were not installed. What has been loaded stays; afterwards all can be imported as ever."""
    hidden = [name for name in names if name not in sys.modules]
    # Python finds these here, and takes None for what cannot be imported.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # see above
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with absent(*UNUSED):
    # All its looking for optional packages is in this module.
    import rest_framework.compat  # noqa: F401


class LeanConfig(RestFrameworkConfig):
    """Named by the settings, so that this module is loaded before the framework."""
