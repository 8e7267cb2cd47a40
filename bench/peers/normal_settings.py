"""The node's settings, but its commits do not wait for the disk: what synchronous=FULL costs is measured with it."""

from impervious_site.settings import *  # noqa: F403 (settings are names of a module)

_options = DATABASES["default"]["OPTIONS"]  # noqa: F405 (of them)
_options["init_command"] = _options["init_command"].replace("synchronous=FULL", "synchronous=NORMAL")
