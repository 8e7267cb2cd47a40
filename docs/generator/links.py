"""Checks that links and file names in the Markdown pages resolve: `python -m docs.generator.links`.

Covers relative links and their #anchors, reference links, and names of files in backticks and in shell
examples. Links to other sites are not followed, so that the check needs no network and gives the same result
everywhere.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from docs.generator.markdown import Found, Page

ROOT = Path(__file__).resolve().parents[2]

# Not in a fresh clone: an operator writes them, or the project's commands make them.
MADE_LATER = frozenset(
    {"config/local.config.yml", "config/config.yml", "deploy/compose/secrets", "nodeapi/site"}
)
HIDDEN_DIRECTORIES_OF_THE_PROJECT = frozenset({".ci", ".github"})
NOT_OF_THE_PROJECT = frozenset({"__pycache__", "node_modules"})
# Names with these suffixes are always names of the project's files, with or without a directory.
SOURCE_SUFFIXES = frozenset({".py", ".proto"})
SHELL_LANGUAGES = frozenset({"sh", "console"})

# A path as it is written in code, perhaps with a line (`:12`) or a test (`::test_x`) behind it.
_PATH = re.compile(r"(?:\./)?(?P<path>[\w.-]+(?:/[\w.-]+)*)/?(?:::?[\w:\[\]-]+)?")


@dataclass(frozen=True, order=True)
class Problem:
    """A link or a name that does not resolve; `page` is relative to the repository."""

    page: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.message}"


class Repository:
    """The files of a working copy, without what is generated or installed into it."""

    def __init__(self, root: Path):
        self.root = root
        self._pages: dict[Path, Page] = {}

    @cached_property
    def paths(self) -> list[PurePosixPath]:
        """All files and directories, relative to the root."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[PurePosixPath]:
        for directory, subdirectories, files in os.walk(self.root):
            relative = PurePosixPath(Path(directory).relative_to(self.root).as_posix())
            subdirectories[:] = [
                name
                for name in subdirectories
                if _is_of_the_project(name) and str(relative / name) not in MADE_LATER
            ]
            yield from (relative / name for name in (*subdirectories, *files))

    @cached_property
    def top_level_names(self) -> set[str]:
        return {path.parts[0] for path in self.paths if len(path.parts) > 1}

    @cached_property
    def _path_ends(self) -> set[PurePosixPath]:
        return {PurePosixPath(*path.parts[start:]) for path in self.paths for start in range(len(path.parts))}

    @property
    def markdown_paths(self) -> list[Path]:
        return [self.root / path for path in self.paths if path.suffix == ".md"]

    def page(self, path: Path) -> Page:
        path = path.resolve()
        if path not in self._pages:
            self._pages[path] = Page(path.read_text())
        return self._pages[path]

    def names_a_path(self, word: str) -> bool:
        """Whether a word of code claims to be a path of this repository."""
        path = PurePosixPath(word)
        in_top_level = len(path.parts) > 1 and path.parts[0] in self.top_level_names
        return in_top_level or (path.suffix in SOURCE_SUFFIXES and path.stem != "")

    def has(self, word: str) -> bool:
        """Whether a path is there, written from the root or from a directory that the text is about."""
        path = PurePosixPath(word)
        made_later = {str(path), *map(str, path.parents)} & MADE_LATER
        return bool(made_later) or path in self._path_ends


def _is_of_the_project(directory_name: str) -> bool:
    hidden = directory_name.startswith(".") and directory_name not in HIDDEN_DIRECTORIES_OF_THE_PROJECT
    return not hidden and directory_name not in NOT_OF_THE_PROJECT


def check(root: Path) -> list[Problem]:
    """Return the problems of every Markdown page below `root`, in order."""
    repository = Repository(root)
    return sorted(problem for path in repository.markdown_paths for problem in check_page(path, repository))


def check_page(path: Path, repository: Repository) -> Iterator[Problem]:
    """Yield what is wrong with one page."""
    page = repository.page(path)
    name = path.relative_to(repository.root).as_posix()
    for link in page.links:
        if message := _link_problem(link.text, path, repository):
            yield Problem(name, link.line, message)
    for label in page.undefined_labels:
        yield Problem(name, label.line, f"[{label.text}]: the page does not define this link")
    created = {fence.title.partition(" ")[0] for fence in page.fences}
    for word in _words_of_code(page):
        written = _PATH.fullmatch(word.text)
        if not written or not repository.names_a_path(written["path"]) or written["path"] in created:
            continue
        if not repository.has(written["path"]):
            yield Problem(name, word.line, f"`{written['path']}`: there is no such file")


def _words_of_code(page: Page) -> Iterator[Found]:
    for span in page.code_spans:
        yield from (Found(span.line, word) for word in span.text.split())
    for fence in page.fences:
        if fence.language in SHELL_LANGUAGES:
            for number, line in enumerate(fence.text.splitlines(), fence.line + 1):
                yield from (Found(number, word) for word in line.split())


def _link_problem(target: str, path: Path, repository: Repository) -> str | None:
    target = target.removeprefix("<").removesuffix(">")
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None
    if not target:
        return "link without a target"
    if target.startswith("/"):
        return f"{target}: leads nowhere on a forge; write the link relative to the page"
    linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not linked.is_relative_to(repository.root.resolve()) or not linked.exists():
        return f"{target}: there is no such file"
    if (
        parts.fragment
        and linked.suffix == ".md"
        and unquote(parts.fragment) not in repository.page(linked).anchors
    ):
        return f"{target}: no heading has the anchor #{parts.fragment}"
    return None


def report(problems: Iterable[Problem]) -> int:
    """Print the problems; return the exit status."""
    lines = [f"{problem}\n" for problem in problems]
    sys.stdout.writelines(lines)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(report(check(ROOT)))
