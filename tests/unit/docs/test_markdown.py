"""What is read out of a Markdown page, and on which line it is found."""

import pytest

from docs.generator.markdown import Found, Page, heading_slug


def targets(text: str) -> list[str]:
    return [link.text for link in Page(text).links]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("[a](b.md)", "b.md"),
        ("[a](b.md#c)", "b.md#c"),
        ('[a](b.md "A title")', "b.md"),
        ("[a](<b c.md>)", "<b c.md>"),
        ("[a](b_(c).md)", "b_(c).md"),
        ("[`a`](b.md)", "b.md"),
        ("![a](b.png)", "b.png"),
        ("[a]()", ""),
        ("[a]: b.md", "b.md"),
        ("| [a](b.md) | c |", "b.md"),
    ],
)
def test_target_of_a_link(text, target):
    assert targets(text) == [target]


def test_image_inside_a_link_has_two_targets():
    assert targets("[![a](b.svg)](c.md)") == ["b.svg", "c.md"]


@pytest.mark.parametrize(
    "text",
    [
        "`[a](b.md)`",
        "``[a](b.md) ` ``",
        "```\n[a](b.md)\n```",
        "~~~sh\n[a](b.md)\n~~~",
        "- item\n\n  ```sh\n  [a](b.md)\n  ```",
        "````md\n```\n[a](b.md)\n```\n````",
        "```\n[a](b.md) in a block that is never closed",
        "<!-- [a](b.md) -->",
        "a[0] (b.md)",
        "[ ] (b.md)",
    ],
)
def test_what_is_no_link(text):
    assert targets(text) == []


def test_link_after_a_block_is_found_on_its_line():
    page = Page("# A\n\n```sh\nls\n```\n\nwords [over\ntwo lines](b.md)\n")
    assert page.links == [Found(8, "b.md")]


def test_lone_backtick_hides_nothing_in_the_next_paragraph():
    assert targets("a ` b\n\n[a](b.md) ` c") == ["b.md"]


def test_reference_links_need_a_definition():
    page = Page("[a][one], [Two][] and\n[b][three]\n\n[ONE]: b.md\n[two]: c.md\n")
    assert page.undefined_labels == [Found(2, "three")]
    assert [link.text for link in page.links] == ["b.md", "c.md"]


def test_code_spans_with_their_lines():
    page = Page("`a` and ``b ` c``\n\n```\n`d`\n```\n`e\nf`\n")
    assert page.code_spans == [Found(1, "a"), Found(1, "b ` c"), Found(6, "e\nf")]


def test_fence_has_its_language_title_and_text():
    (fence,) = Page("a\n\n```python echo/handlers.py\nx = 1\n```\n").fences
    assert (fence.line, fence.language, fence.title, fence.text) == (
        3,
        "python",
        "echo/handlers.py",
        "x = 1\n",
    )


@pytest.mark.parametrize(
    ("heading", "slug"),
    [
        ("Two commands", "two-commands"),
        ("What's new?", "whats-new"),
        ("REST, gRPC and the stream", "rest-grpc-and-the-stream"),
        ("`messages.keep_days`", "messageskeep_days"),
        ("A – B", "a--b"),
        ("[The API](api.md) in short", "the-api-in-short"),
        ("0.2.0 - 2026-12-01", "020---2026-12-01"),
        ("Größe", "größe"),
    ],
)
def test_slug_of_a_heading(heading, slug):
    assert heading_slug(heading) == slug


def test_anchors_of_a_page():
    page = Page('# A page\n\n## Same\n\n## Same ##\n\n```sh\n# a comment\n```\n\n<a id="by-hand"></a>\n')
    assert page.anchors == {"a-page", "same", "same-1", "by-hand"}
