"""A simulated Lightning network that speaks lnd's gRPC API. A program of its own: the node never imports it."""
