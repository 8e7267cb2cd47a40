# Sourced by ./impervious test: installs and starts what the tests need beside Python, on free ports, and stops it at the end.

find_redis() {
    command -v redis-server >/dev/null 2>&1 && return 0
    say "Installing redis-server …"
    as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    { $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends redis-server; } >/dev/null 2>&1 &&
        command -v redis-server >/dev/null 2>&1 && return 0
    say "The tests need redis-server, which could not be installed here: apt install redis-server"
    return 1
}

start_redis() {
    services=$(mktemp -d)
    trap stop_services EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    redis-server --bind 127.0.0.1 --port "$port" --dir "$services" --save "" --appendonly no >"$services/redis.log" 2>&1 &
    redis_process=$!
    export TEST_REDIS_URL="redis://127.0.0.1:$port/0"
}

stop_services() {
    kill "$redis_process" 2>/dev/null || true
    rm -rf "$services"
}

find_redis || exit 1
start_redis
