"""Sphinx's output, made fit for being served by the node: only what pages use, no script within a page."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
SERVED = DOCS.parent / "nodeapi" / "site"
INLINE_SCRIPTS = "_static/page.js"

_LEFT_OUT = re.compile(r"\.map$|^\.|/debug\.css$|/(minus|plus|file)\.png$|^objects\.inv$")
# Where a browser may break the words of code within text; narrow tables need it.
_CODE_WORD = re.compile(r'(?<=<span class="pre">)[^<]+(?=</span>)')
_BREAK = re.compile(r"(?<=\w)([/_]+|\.(?=[A-Za-z]))(?=\w)")
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class BuildError(Exception):
    """Sphinx's warnings: a link that leads nowhere, a page that cannot be read."""


def build(target: Path) -> dict[str, bytes]:
    """Makes the site anew in `target`; its files by their paths. The same pages give the same bytes."""
    with tempfile.TemporaryDirectory() as directory:
        _run_sphinx(Path(directory))
        files = _kept(Path(directory))
    _replace(target, files)
    return files


def _replace(target: Path, files: dict[str, bytes]) -> None:
    """A node that serves the older pages goes on until all of the new ones are there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as directory:
        new, old = Path(directory, "new"), Path(directory, "old")
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if target.exists():
            target.rename(old)
        new.rename(target)


def _run_sphinx(target: Path) -> None:
    settings = ["-q", "-W", "--keep-going", "-c", DOCS / "generator"]
    command = [sys.executable, "-m", "sphinx", *settings, "-b", "html", DOCS, target]
    ended = subprocess.run(
        command, cwd=DOCS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode:
        raise BuildError(ended.stdout)


def _kept(directory: Path) -> dict[str, bytes]:
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    files = {name: (directory / name).read_bytes() for name in names if not _LEFT_OUT.search(name)}
    scripts: set[str] = set()
    for name in [name for name in files if name.endswith(".html")]:
        text = files[name].decode()
        scripts.update(_INLINE_SCRIPT.findall(text))
        text = _INLINE_SCRIPT.sub(f'<script src="{INLINE_SCRIPTS}"></script>', text)
        files[name] = _CODE_WORD.sub(lambda word: _BREAK.sub(r"\1<wbr>", word[0]), text).encode()
    # Then the pages can be served under a policy that allows no script of theirs.
    (only,) = scripts
    return files | {INLINE_SCRIPTS: only.strip().encode() + b"\n"}


def main() -> None:
    try:
        files = build(SERVED)
    except BuildError as error:
        sys.exit(str(error))
    print(f"{len(files)} files, {sum(map(len, files.values())) // 1024} KiB: {SERVED}")


if __name__ == "__main__":
    main()
