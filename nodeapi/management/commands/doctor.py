from django.conf import settings

from nodeapi import terminal
from nodeapi.cli.client import Door, NodeError, find_key
from nodeapi.cli.command import NodeCommand, configuration
from nodeapi.cli.doctor import report
from nodeapi.cli.doctor.findings import Patient, State
from nodeapi.cli.doctor.run import examine


class Command(NodeCommand):
    help = "Looks for what is wrong with the node's set-up, and says what to do. Exit code 1 if anything is wrong."

    def run(self, *, as_json, key_file, **options):
        try:
            patient = self._patient(key_file)
        except NodeError as error:
            return report.report_problems([str(error)], json=as_json)
        out = terminal.console()
        found = []
        with out.status("") as line:
            for name, findings in examine(patient, lambda name: line.update(f"checking {name} …")):
                found.append((name, findings))
                if not as_json:
                    report.show_part(name, findings, out)
        if as_json:
            terminal.print_json(report.as_json(found))
        else:
            report.show_sum(found, out)
        return 1 if report.count(found, State.WRONG) else 0

    def _patient(self, key_file: str | None) -> Patient:
        config = configuration()
        patient = Patient(config, settings.VERSION, problems=settings.CONFIG_PROBLEMS)
        try:
            patient.door = Door.of(config, find_key(config, scopes=self.requires_scopes, key_file=key_file))
        except NodeError as error:
            patient.no_door = str(error)
        return patient
