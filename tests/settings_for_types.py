"""The node's settings as mypy's Django plugin reads them: no configuration that lies here is loaded for that."""

import os

os.environ["IMPD_UNREAD"] = "1"

from impervious_site.settings import *  # noqa: F403 (settings are names of a module, read after the environment)
