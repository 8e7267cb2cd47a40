"""What a Markdown page contains: its links, its anchors, and the code it quotes.

Reads what a forge and MyST both understand. Code and comments contain no links; every position is kept, so
that a finding can be reported with its line.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(
    r"^[ \t]*(?P<ticks>`{3,}|~{3,})[ \t]*(?P<language>\w*)[ \t]*(?P<title>[^\n]*)\n"
    r"(?P<text>.*?)(?:^[ \t]*(?P=ticks)[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# Within one paragraph: a lone backtick does not turn the rest of the page into code.
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?P<text>(?:(?!\n[ \t]*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
_INLINE_LINK = re.compile(
    r"""\]\(\s*(?P<target><[^>\n]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+["'][^)]*)?\s*\)"""
)
_DEFINITION = re.compile(r"^ {0,3}\[(?P<label>[^\]^][^\]]*)\]:\s*(?P<target>\S+)", re.MULTILINE)
_REFERENCE = re.compile(r"\[(?P<text>[^\[\]]+)\]\[(?P<label>[^\[\]]*)\]")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(?P<text>.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_HTML_ANCHOR = re.compile(r"""<\w+[^>]*\b(?:id|name)=["'](?P<name>[^"']+)["']""")
_LINK_TEXT = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")


@dataclass(frozen=True)
class Found:
    """A piece of a page, and the line it begins on."""

    line: int
    text: str


@dataclass(frozen=True)
class Fence:
    """A fenced block; `title` is what follows the language, such as the name of a file."""

    line: int
    language: str
    title: str
    text: str


class Page:
    """One page.

    Attributes:
        fences: Its fenced blocks.
        code_spans: What is in backticks within its text.
        links: The targets of its inline links and images, and of its link definitions.
        undefined_labels: Labels of reference links that the page does not define.
        anchors: The names that a `#fragment` may have.
    """

    def __init__(self, text: str):
        self._text = text
        self.fences = [
            Fence(self._line(match.start()), match["language"], match["title"].strip(), match["text"])
            for match in _FENCE.finditer(text)
        ]
        prose = _blank(_COMMENT, _blank(_FENCE, text))
        self.code_spans = [self._found(match, "text") for match in _CODE_SPAN.finditer(prose)]
        self.anchors = _anchors(prose)
        prose = _blank(_CODE_SPAN, prose)
        self.links = [
            self._found(match, "target")
            for pattern in (_INLINE_LINK, _DEFINITION)
            for match in pattern.finditer(prose)
        ]
        self.undefined_labels = list(self._undefined_labels(prose))

    def _undefined_labels(self, prose: str) -> Iterator[Found]:
        defined = {match["label"].casefold() for match in _DEFINITION.finditer(prose)}
        for match in _REFERENCE.finditer(prose):
            label = match["label"] or match["text"]
            if label.casefold() not in defined:
                yield Found(self._line(match.start()), label)

    def _found(self, match: re.Match[str], group: str) -> Found:
        return Found(self._line(match.start(group)), match[group])

    def _line(self, position: int) -> int:
        return self._text.count("\n", 0, position) + 1


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Replace every match by spaces; line ends stay where they are."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _anchors(prose: str) -> set[str]:
    anchors = {match["name"] for match in _HTML_ANCHOR.finditer(prose)}
    seen: Counter[str] = Counter()
    for match in _HEADING.finditer(prose):
        slug = heading_slug(match["text"])
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors


def heading_slug(heading: str) -> str:
    """Return the anchor that a forge and MyST give a heading."""
    text = _LINK_TEXT.sub(r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
