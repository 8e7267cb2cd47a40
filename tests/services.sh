# Sourced by ./impervious test: installs and starts what the tests need beside Python, on free ports, and stops it at the end.

# $1: a package of apt; the rest: a command that succeeds once it is there.
provide() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 && return 0
    say "Installing $package …"
    # Another run may be installing too: it is waited for.
    apt_get="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300"
    { $apt_get update || true; $apt_get install -y --no-install-recommends "$package" || true; } >/dev/null 2>&1
    "$@" >/dev/null 2>&1
}

need() {
    provide "$@" && return 0
    say "The tests need $1, which could not be installed here: apt install $1"
    exit 1
}

# What only VPN tests need: without it they tell that they did not run, and why.
wish() {
    provide "$@" || say "$1 could not be installed: VPN tests that need it do not run."
}

# wireguard-go needs it where the kernel has no WireGuard.
make_tun() {
    [ -e /dev/net/tun ] && return 0
    { $as_root mkdir -p /dev/net && $as_root mknod /dev/net/tun c 10 200; } >/dev/null 2>&1 || true
    [ -e /dev/net/tun ] || say "There is no /dev/net/tun: VPN tests that need it do not run."
}

prepare_vpn() {
    PATH="$PATH:/usr/sbin:/sbin"
    wish iproute2 command -v ip
    wish nftables command -v nft
    wish wireguard-tools command -v wg
    wish wireguard-go command -v wireguard-go
    # visudo checks the line for sudoers that an operator is told.
    wish sudo command -v visudo
    make_tun
}

# For the alerts. Of Prometheus' package only this program is taken: installed, it would start a server.
provide_promtool() {
    PATH="$PATH:$tools/bin"
    command -v promtool >/dev/null 2>&1 && return 0
    say "Fetching promtool …"
    (
        unpacked=$(mktemp -d)
        trap 'rm -rf "$unpacked"' EXIT
        cd "$unpacked"
        apt-get -qq download prometheus || { $as_root apt-get -qq update && apt-get -qq download prometheus; }
        dpkg-deb --extract prometheus_*.deb . && cp usr/bin/promtool "$tools/bin/promtool.$$"
        # At once: another run may be looking for it.
        mv "$tools/bin/promtool.$$" "$tools/bin/promtool"
    ) >/dev/null 2>&1 || say "promtool could not be fetched: the alerts are not tested."
}

# The package starts a server of its own on the usual port unless it is told not to.
refuse_packaged_cluster() {
    [ -e /etc/postgresql-common/createcluster.conf ] && return 0
    $as_root mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
}

# Debian keeps PostgreSQL's programs out of PATH.
find_postgres() {
    in_path=$(command -v initdb || true)
    for directory in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) "${in_path%/initdb}"; do
        [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ] && postgres_bin=$directory && return 0
    done
    return 1
}

# Neither a port that the kernel gives to a connection, while tests stop a server, nor one of tests/support/ports.py.
free_port() {
    "$venv/bin/python" -c '
import random, socket
while True:
    port = random.SystemRandom().randrange(10_000, 12_000)
    try:
        socket.socket().bind(("127.0.0.1", port))
    except OSError:
        continue
    break
print(port)'
}

# $1: the command that starts a server on $port. Another run may have taken the port since it was found free.
on_a_free_port() {
    for attempt in 1 2 3; do
        port=$(free_port)
        "$1" && return 0
    done
    return 1
}

start_redis() {
    on_a_free_port try_redis || {
        cat "$services/redis.log" >&2
        say "Redis could not be started."
        exit 1
    }
    export TEST_REDIS_URL="redis://127.0.0.1:$port/0"
}

try_redis() {
    : >"$services/redis.log"
    redis-server --bind 127.0.0.1 --port "$port" --dir "$services" --save "" --appendonly no >"$services/redis.log" 2>&1 &
    redis_process=$!
    for _ in $(seq 600); do
        grep -q "Ready to accept connections" "$services/redis.log" && return 0
        grep -qi "address already in use" "$services/redis.log" && return 1
        sleep 0.1
    done
    return 1
}

start_postgres() {
    password=$("$venv/bin/python" -c 'import secrets; print(secrets.token_hex(16))')
    printf '%s' "$password" >"$postgres/password"
    owner=""
    if [ "$(id -u)" = 0 ]; then
        # PostgreSQL refuses to run as root.
        user=postgres
        id "$user" >/dev/null 2>&1 || user=nobody
        chown -R "$user" "$postgres"
        owner="setpriv --reuid=$user --regid=$(id -g "$user") --clear-groups"
    fi
    (
        cd "$postgres"
        $owner "$postgres_bin/initdb" --pgdata="$postgres/data" --username=impervious --pwfile="$postgres/password" \
            --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync
        # The tests end processes, not the machine: nothing needs to reach the disk.
        $owner tee -a "$postgres/data/postgresql.conf" >/dev/null <<END
listen_addresses = '127.0.0.1'
unix_socket_directories = '$postgres'
fsync = off
# Nodes of all workers.
max_connections = 400
END
    ) >"$services/postgres.log" 2>&1 || refuse_postgres
    postgres_ctl="$owner $postgres_bin/pg_ctl --pgdata=$postgres/data --log=$postgres/log --wait --timeout=240"
    on_a_free_port try_postgres || refuse_postgres
    export TEST_POSTGRES_URL="postgresql://impervious:$password@127.0.0.1:$port/postgres"
    # For tests with a server of their own.
    export TEST_POSTGRES_BIN="$postgres_bin"
}

try_postgres() {
    (
        cd "$postgres"
        echo "port = $port" | $owner tee -a "$postgres/data/postgresql.conf" >/dev/null
        $postgres_ctl start
    ) >>"$services/postgres.log" 2>&1
}

refuse_postgres() {
    cat "$services/postgres.log" >&2
    cat "$postgres/log" >&2 2>/dev/null || true
    say "PostgreSQL could not be started."
    exit 1
}

stop_services() {
    if [ -n "$redis_process" ]; then kill "$redis_process" 2>/dev/null || true; fi
    if [ -n "$postgres_ctl" ]; then (cd / && $postgres_ctl --mode=immediate stop >/dev/null 2>&1) || true; fi
    rm -rf "$services" "$postgres"
}

as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
need redis-server command -v redis-server
need curl command -v curl
provide_promtool
prepare_vpn
find_postgres || refuse_packaged_cluster
need postgresql find_postgres
find_postgres

# Where the machine has no node and npm, they come from PyPI: apt's npm would take minutes.
install_javascript() {
    PATH="$PATH:$tools/bin"
    command -v npm >/dev/null 2>&1 || install_tools requirements-javascript.txt
    packages="$here/tests/e2e/clients/javascript"
    is_fresh='[ node_modules/.package-lock.json -nt package-lock.json ]'
    # One run at a time: npm begins by deleting what another may be using.
    npm_ci="npm ci --no-audit --no-fund --silent >/dev/null 2>&1"
    (cd "$packages" && flock package-lock.json sh -c "$is_fresh || $npm_ci") ||
        say "Clients in JavaScript are not tested: npm ci failed."
}
install_javascript

redis_process=""
postgres_ctl=""
services=$(mktemp -d)
# Of short name, for the socket in it, and below a directory that its user may enter.
postgres=$(mktemp -d /tmp/impervious-postgres.XXXXXX)
trap stop_services EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
start_redis
start_postgres
