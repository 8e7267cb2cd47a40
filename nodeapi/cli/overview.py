"""The list of commands, in the words of each command's own help."""

from django.core.management import get_commands, load_command_class
from rich.console import Console
from rich.text import Text

from nodeapi import terminal

APPS = ("nodeapi", "messaging", "federation", "invoices", "vpn")
# What ./impervious does itself; runimpd is its first line.
OF_THE_SCRIPT = {
    "": "Runs the node. Without a configuration: on a simulated Lightning network, with a partner that answers.",
    "test, bench, scale, soak": "Runs the tests, the benchmarks, the nodes under kill -9 (for who works on the code).",
}
_HIDDEN = ("runimpd", "commands")


def show(out: Console) -> None:
    out.print("./impervious [--config PATH] [COMMAND …]\n")
    rows = terminal.facts()
    listed = [(name, app) for name, app in sorted(get_commands().items()) if is_listed(name, app)]
    for name, words in (OF_THE_SCRIPT | {name: help_of(name, app) for name, app in listed}).items():
        rows.add_row(Text(name, "head"), words)
    terminal.put(out, rows)
    out.print(
        "\n./impervious COMMAND --help tells a command's options, ./impervious help runimpd those of the node itself. "
        "docs/commands.md shows them at work."
    )


def is_listed(name: str, app: str) -> bool:
    return app in APPS and name not in _HIDDEN


def help_of(name: str, app: str) -> str:
    return load_command_class(app, name).help
