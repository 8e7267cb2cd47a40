"""The socket service's UDP relay: `service` is its state and life, `pump` the process that passes datagrams on."""
