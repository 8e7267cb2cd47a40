# The node as a container: not root, nothing written but /data. compose.yaml shows it at work; docs/deploying.md explains.
#   docker build -t impervious .
# Another base with Python 3.11 to 3.14 and apt will do: --build-arg BASE=…
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS packages
WORKDIR /app
COPY requirements.txt ./
COPY requirements-postgresql.txt ./
RUN python3 -m venv .venv \
 && .venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile \
    --require-hashes --only-binary :all: -r requirements.txt -r requirements-postgresql.txt \
 # Nothing is installed any more, and no package's tests are run.
 && .venv/bin/python -m pip uninstall --yes --quiet pip \
 && find .venv -type d \( -name tests -o -name test \) -path '*/site-packages/*' -prune -exec rm -r {} +

# The pages at /docs.
FROM ${BASE} AS site
WORKDIR /app
COPY requirements-docs.txt ./
RUN python3 -m venv .venv \
 && .venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: -r requirements-docs.txt
COPY docs docs
COPY config/example.config.yml config/
COPY CHANGELOG.md ./
COPY deploy/grafana deploy/grafana
COPY deploy/prometheus deploy/prometheus
RUN .venv/bin/python -m docs.generator.site

FROM ${BASE}
# postgresql-client: for backup and restore of a database on PostgreSQL.
ARG PACKAGES=""
RUN if [ -n "$PACKAGES" ]; then \
        apt-get update -q && apt-get install -qy --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi \
 && useradd --system --uid 10001 --user-group --home-dir /data --shell /usr/sbin/nologin impervious \
 && install -d -o impervious -g impervious -m 700 /data
WORKDIR /app
COPY --from=packages /app/.venv .venv
COPY manage.py ./
COPY deploy/healthcheck.py deploy/
COPY protos protos
COPY lightning lightning
COPY messaging messaging
COPY federation federation
COPY invoices invoices
COPY vpn vpn
COPY nodeapi nodeapi
COPY --from=site /app/nodeapi/site nodeapi/site
COPY impervious_site impervious_site
# The root file system is read-only later.
RUN python3 -m compileall -q /app || true
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER impervious
WORKDIR /data
VOLUME /data
EXPOSE 8881 8882
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["/app/.venv/bin/python", "/app/deploy/healthcheck.py", "http://127.0.0.1:8882/health/ready"]
ENTRYPOINT ["/app/.venv/bin/python", "/app/manage.py"]
CMD ["runimpd", "--config", "/data/config.yml"]
