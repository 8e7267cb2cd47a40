#!/usr/bin/env python3
"""The node's commands. `--config PATH` (or `-config PATH`) names the configuration, for every command."""

import gc
import os
import sys


def main() -> None:
    # Imports leave next to no garbage, and the search for it is a tenth of their time. CommandLine turns it on again.
    gc.disable()
    from nodeapi import installation

    if sys.argv[1:2] == ["runimpd"] and (problem := installation.stale_packages()):
        sys.exit(problem)
    from impervious_site import launch
    from impervious_site.config import ConfigError
    from impervious_site.version import VERSION

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "impervious_site.settings")
    # gRPC's own lines would stand between the JSON lines of the log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    arguments = sys.argv
    try:
        arguments = launch.take_config(sys.argv, os.environ)
        if "--version" in arguments[1:3]:
            # Django's commands would tell Django's.
            print(f"impervious {VERSION}")
            return
        launch.name_command(arguments, os.environ)
        launch.leave_config_unread(arguments, os.environ)
        launch.forgo_macaroon(arguments, os.environ)
        launch.prepare_simulation(arguments, os.environ)
        launch.find_simulated(arguments, os.environ)
        from impervious_site.command_line import CommandLine

        CommandLine(arguments).execute()
    except ConfigError as error:
        if arguments[1:2] == ["doctor"]:
            from nodeapi.cli.doctor.report import report_problems

            sys.exit(report_problems(error.problems, json="--json" in arguments))
        sys.exit(f"The configuration cannot be used:\n{error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
