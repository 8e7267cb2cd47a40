"""deploy/vpn/impervious-wg as an operator installs it: called by a user who is not root, by the real sudo, in a mount
namespace of its own, so that nothing of this machine's /etc is changed.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.machines import why_no_machines
from tests.support.nodes import ROOT
from vpn import keys
from vpn.wireguard import INTERFACES_FILE, WRAPPER, sudo_rule

USER = "nobody"
SECRET = "the first line of a file that only root can read"
GUARD_SECONDS = 600

# Root's part: the mounts hide what is there of the same names, for this namespace alone.
INSTALL = f"""set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
mount -t tmpfs -o mode=755 tmpfs /etc/sudoers.d
mkdir -p /etc/impervious && mount -t tmpfs -o mode=755 tmpfs /etc/impervious
install -o root -g root -m 755 "$1" {WRAPPER}
echo '{sudo_rule(USER)}' > /etc/sudoers.d/impervious && chmod 440 /etc/sudoers.d/impervious
echo "$2" > {INTERFACES_FILE}
shift 2
exec setpriv --reuid={USER} --regid=nogroup --clear-groups -- "$@"
"""

Call = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def called(tmp_path_factory) -> Call:
    if not all(map(shutil.which, ("sudo", "setpriv", "unshare"))):
        pytest.skip("not run: sudo, setpriv or unshare is missing")
    if reason := why_no_machines():
        pytest.skip(f"not run: {reason}")
    directory = tmp_path_factory.mktemp("root")
    secret = directory / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    had_directory = Path("/etc/impervious").exists()

    def call(*arguments: str, program: str = WRAPPER, environ: dict[str, str] | None = None):
        words = [str(secret) if word == "SECRET" else word for word in arguments]
        shell = [
            "sh",
            "-c",
            INSTALL,
            "sh",
            str(ROOT / "deploy/vpn/impervious-wg"),
            "wg-none",
            program,
            *words,
        ]
        return subprocess.run(
            ["unshare", "--mount", *shell],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], **(environ or {})},
            timeout=GUARD_SECONDS,
            check=False,
        )

    yield call
    if not had_directory:
        Path("/etc/impervious").rmdir()


def test_what_the_node_calls_comes_to_wg(called):
    """There is no such interface, which is `wg`'s own answer, and only root gets it."""
    assert called("show", "all", "public-key").returncode == 0
    for arguments in (
        ("show", "wg-none", "transfer"),
        ("set", "wg-none", "peer", keys.new_key_pair().public, "remove"),
    ):
        done = called(*arguments)
        assert done.returncode == 1
        assert "impervious-wg" not in done.stderr
        assert done.stderr.startswith("Unable to "), done.stderr
        assert "not permitted" not in done.stderr


def test_sudo_lets_the_user_to_nothing_else(called):
    assert called("-n", "/usr/bin/wg", "show", "all", "public-key", program="/usr/bin/sudo").returncode == 1
    assert called("-n", "cat", "SECRET", program="/usr/bin/sudo").returncode == 1


KEY = keys.new_key_pair().public


@pytest.mark.parametrize(
    "arguments",
    [
        ("set", "wg-none", "peer", KEY, "preshared-key", "SECRET"),
        ("set", "wg-none", "peer", KEY, "remove", "peer", KEY, "preshared-key", "SECRET"),
        ("set", "wg-none", "private-key", "SECRET"),
        ("set", "wg-none", "peer", "*"),
        ("set", "wg-none", "peer", f"{KEY}\npreshared-key\n", "SECRET"),
        ("set", "wg-none", "peer", KEY, "allowed-ips", "0.0.0.0/0"),
        ("set", "lo", "peer", KEY, "remove"),
        ("addconf", "wg-none", "SECRET"),
        ("setconf", "wg-none", "SECRET"),
        ("syncconf", "wg-none", "SECRET"),
        ("show", "wg-none", "private-key"),
        ("show", "all", "dump"),
        ("show", "wg-other", "public-key"),
        ("show", "wg-none", "öffentlich"),
        ("-c", "import os; os.system('id')"),
        (),
    ],
)
def test_what_the_node_does_not_call_is_refused(called, arguments):
    done = called(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("impervious-wg: Operation not permitted: "), done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert KEY not in done.stderr


def test_environment_changes_nothing(called, tmp_path):
    """Of a user who puts modules and programs of his own in the way."""
    tmp_path.chmod(0o755)
    for name in ("re.py", "ipaddress.py", "sitecustomize.py"):
        (tmp_path / name).write_text("print('taken over')\n")
    for name in ("wg", "sudo"):
        (tmp_path / name).write_text("#!/bin/sh\necho taken over\n")
        (tmp_path / name).chmod(0o755)
    environ = {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "re.py"),
        "PYTHONHOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "WG_HIDE_KEYS": "never",
    }
    done = called("show", "all", "public-key", environ=environ)
    assert "taken over" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
