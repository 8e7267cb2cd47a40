"""The version that the code names is the one that CHANGELOG.md is about."""

import re

from impervious_site.version import VERSION
from tests.support.nodes import ROOT


def test_changelog_begins_with_this_version():
    """It has a section of its own or, until its release, is named at the top of the unreleased changes."""
    _, newest, *_ = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    heading, text = newest.split("\n", 1)
    if heading == "[Unreleased]":
        assert text.lstrip().startswith(f"This will be version {VERSION}.\n")
    else:
        assert re.fullmatch(re.escape(f"[{VERSION}] - ") + r"\d{4}-\d{2}-\d{2}", heading)


def test_changelog_has_no_section_twice():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert len(headings) == len(set(headings)) > 1
