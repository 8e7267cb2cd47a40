"""What the nodes of one network share."""

from dataclasses import dataclass

from lightning.simulator.faults import Faults
from lightning.simulator.invoices import Invoices
from lightning.simulator.messages import Messages
from lightning.simulator.network import Network
from lightning.simulator.payments import Payments
from lightning.simulator.store import Store


@dataclass(frozen=True)
class Services:
    network: Network
    invoices: Invoices
    payments: Payments
    messages: Messages
    faults: Faults


def make_services(store: Store) -> Services:
    network, faults = Network(store), Faults()
    invoices = Invoices(network)
    return Services(network, invoices, Payments(network, invoices, faults), Messages(network), faults)
