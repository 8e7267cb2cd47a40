"""Links and file names in the Markdown pages resolve, and the check finds those that do not."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs.generator import links
from tests.support.nodes import ROOT


@pytest.fixture
def repository(tmp_path) -> Path:
    """A small repository in which every page is sound."""
    files = {
        "README.md": "# The project\n\n[the API](docs/api.md#sending), [above](#the-project)\n",
        "docs/api.md": "# The API\n\n## Sending\n\n[back](../README.md)\n",
        "docs/picture.svg": "<svg/>",
        "messaging/outbox.py": "",
        "config/example.config.yml": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def problems_with(repository: Path, text: str) -> list[str]:
    """What is found when the page docs/page.md has this text."""
    (repository / "docs" / "page.md").write_text(text)
    return [str(problem) for problem in links.check(repository)]


def test_pages_of_the_project_have_no_problem():
    assert [str(problem) for problem in links.check(ROOT)] == []


def test_pages_of_the_project_are_all_looked_at():
    pages = {path.relative_to(ROOT).as_posix() for path in links.Repository(ROOT).markdown_paths}
    expected = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages >= expected | {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"}
    assert not [page for page in pages if page.startswith(".venv")]


@pytest.mark.parametrize(
    "text",
    [
        "[a](api.md), [a](api.md#sending), [a](../README.md#the-project), [a](../messaging)",
        "![a](picture.svg)",
        "[a](https://example.org/x.md#y), [a](mailto:a@example.org), <https://example.org>",
        "[a](page.md#here) [a](#here)\n\n# Here",
        "[a][b]\n\n[b]: api.md",
        "`messaging/outbox.py`, `outbox.py`, `./messaging/outbox.py:12`, `messaging/`",
        "`tests.unit`, `/v1/message/send`, `a/b`, `messaging.Messaging/SendMessage`, `e.g.`, `.py`",
        "`config/local.config.yml`, `nodeapi/site/index.html`",
        "`echo/handlers.py`\n\n```python echo/handlers.py\n```",
        "```sh\npython -m pytest messaging/outbox.py::test_x\n```",
        "```python\nopen('messaging/gone.py')\n```",
    ],
)
def test_what_resolves(repository, text):
    assert problems_with(repository, text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n[a](gone.md)", "docs/page.md:2: gone.md: there is no such file"),
        ("[a](gone.md#b)", "docs/page.md:1: gone.md#b: there is no such file"),
        ("![a](gone.svg)", "docs/page.md:1: gone.svg: there is no such file"),
        ("[a](api.md#gone)", "docs/page.md:1: api.md#gone: no heading has the anchor #gone"),
        ("[a](#gone)", "docs/page.md:1: #gone: no heading has the anchor #gone"),
        ("[a](../../outside.md)", "docs/page.md:1: ../../outside.md: there is no such file"),
        (
            "[a](/docs/api.md)",
            "docs/page.md:1: /docs/api.md: leads nowhere on a forge; write the link relative to the page",
        ),
        ("[a]()", "docs/page.md:1: link without a target"),
        ("[a][b]", "docs/page.md:1: [b]: the page does not define this link"),
        ("[b]: gone.md", "docs/page.md:1: gone.md: there is no such file"),
        ("`messaging/gone.py`", "docs/page.md:1: `messaging/gone.py`: there is no such file"),
        ("`gone/outbox.py`", "docs/page.md:1: `gone/outbox.py`: there is no such file"),
        ("`gone.proto`", "docs/page.md:1: `gone.proto`: there is no such file"),
        ("`messaging/gone`", "docs/page.md:1: `messaging/gone`: there is no such file"),
        (
            "```sh\n\npython messaging/gone.py::test_x\n```",
            "docs/page.md:3: `messaging/gone.py`: there is no such file",
        ),
    ],
)
def test_what_is_reported(repository, text, problem):
    assert problems_with(repository, text) == [problem]


def test_link_out_of_the_repository_is_reported_even_if_the_file_exists(repository):
    (repository.parent / "outside.md").write_text("")
    assert problems_with(repository, "[a](../../outside.md)") == [
        "docs/page.md:1: ../../outside.md: there is no such file"
    ]


def test_installed_and_hidden_directories_are_left_out(repository):
    for name in (".venv", "docs/node_modules", ".github"):
        directory = repository / name
        directory.mkdir()
        (directory / "page.md").write_text("[a](gone.md)")
    assert [problem.page for problem in links.check(repository)] == [".github/page.md"]


def test_problems_come_in_the_order_of_pages_and_lines(repository):
    (repository / "A.md").write_text("[a](gone.md)")
    assert problems_with(repository, "`gone.py`\n\n[b](gone.md)") == [
        "A.md:1: gone.md: there is no such file",
        "docs/page.md:1: `gone.py`: there is no such file",
        "docs/page.md:3: gone.md: there is no such file",
    ]


def test_report_prints_a_line_for_each_problem_and_fails(capsys):
    assert links.report([links.Problem("a.md", 3, "gone"), links.Problem("b.md", 1, "gone")]) == 1
    assert capsys.readouterr().out == "a.md:3: gone\nb.md:1: gone\n"
    assert links.report([]) == 0


def test_command_succeeds_on_the_project():
    ended = subprocess.run(
        [sys.executable, "-m", "docs.generator.links"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
