"""vpn.exit_rules while the node runs: nftables forgets its rules when the machine restarts, or when somebody flushes
them.
"""

import logging

from vpn import rules
from vpn.rules import RulesError
from vpn.settings import VpnSettings

logger = logging.getLogger("vpn.exits")


class ExitRules:
    """`keep` now and then, with the interface that is sold on."""

    def __init__(self, settings: VpnSettings):
        self._settings = settings
        self._trouble = ""

    async def keep(self, interface: str) -> None:
        """Puts them in force if the configuration wants them and they are not. A node that may not (only root may) says
        so, and goes on selling: it cannot tell whether they are.
        """
        if not self._settings.exit_rules:
            return
        try:
            if rules.exit_table(interface) not in await rules.tables():
                text = rules.exit_rules(interface, self._settings.allowed_ips, self._settings.dns)
                await rules.apply(text)
                logger.info("VPN: the exit rules are in force for %s", interface)
            self._trouble = ""
        except RulesError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                logger.warning(
                    "vpn.exit_rules is true, but whether the rules are in force cannot be seen or changed from here "
                    "(%s): run ./impervious vpn rules --apply as root at each start of the machine",
                    error,
                )
