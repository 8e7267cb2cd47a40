"""The socket service's UDP relay: `service` is its state and life, `pump` the small process that passes datagrams on."""
