"""How the commands show themselves: as those of ./impervious, without the options that each has from Django."""

import gc
from functools import partial

from django.core.management import ManagementUtility
from django.core.management.base import BaseCommand

from impervious_site.launch import ABOUT_A_NODE

# Beside those in Django's own packages, such as changepassword.
OWN = ("nodeapi.", "messaging.", "federation.", "invoices.", "vpn.")
# They still work; no operator needs to read of them.
OF_DJANGO = {
    "--version",
    "--verbosity",
    "--settings",
    "--pythonpath",
    "--traceback",
    "--no-color",
    "--force-color",
    "--skip-checks",
}
WITHOUT_CONFIGURATION = frozenset({"simulate", "commands"})


class CommandLine(ManagementUtility):
    def __init__(self, arguments: list[str]):
        super().__init__(["./impervious", *arguments[1:]])

    def fetch_command(self, subcommand: str) -> BaseCommand:
        command = super().fetch_command(subcommand)
        if type(command).__module__.startswith(OWN):
            command.suppressed_base_arguments = OF_DJANGO
            epilog = about_configuration(subcommand)
            command.create_parser = partial(command.create_parser, epilog=epilog)  # type: ignore[method-assign]  # as argparse takes it
        # What has been imported by now stays: the collector need not walk through it.
        gc.freeze()
        gc.enable()
        return command


def about_configuration(command: str) -> str:
    if command in WITHOUT_CONFIGURATION:
        return ""
    then = ", and then the simulated node that ./impervious starts" if command in ABOUT_A_NODE else ""
    return (
        "--config PATH names the node's configuration; without it, config/local.config.yml and config/config.yml are looked "
        f"for{then}."
    )
