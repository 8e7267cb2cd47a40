"""States of the node as a whole, as GetInfo tells them."""

RUNNING, STARTING, WAITING_FOR_LND = "running", "starting", "waiting for lnd"
