"""Where health and metrics are served, on each process that serves HTTP."""

LIVE_PATH, READY_PATH = "/health/live", "/health/ready"
# The second is of runimpd, whichever process is asked.
METRICS_PATH, RUNIMPD_PATH = "/metrics", "/metrics/runimpd"

HEALTH_PATHS = frozenset({LIVE_PATH, READY_PATH})
METRICS_PATHS = frozenset({METRICS_PATH, RUNIMPD_PATH})
PATHS = HEALTH_PATHS | METRICS_PATHS
