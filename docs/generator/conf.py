"""Sphinx's settings, and what the pages need to read the same on a forge and on the site."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(DOCS.parent))

from docs.generator import navigation

project = "Impervious node"
html_title = project
extensions = ["myst_parser"]
exclude_patterns = ["generator"]
root_doc = navigation.START
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

html_theme = "furo"
html_static_path = ["static"]
templates_path = ["templates"]
# Furo's own, and the other pages of the node.
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "node_pages.html",
        "sidebar/scroll-end.html",
    ]
}
html_css_files = ["node.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
html_domain_indices = False
html_baseurl = ""
html_favicon = "static/favicon.svg"
html_theme_options = {
    "top_of_page_buttons": [],
    "footer_icons": [],
    "light_css_variables": {"color-brand-primary": "#9a4f00", "color-brand-content": "#9a4f00"},
    "dark_css_variables": {"color-brand-primary": "#ffb454", "color-brand-content": "#ffb454"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_TITLED_FENCE = re.compile(r"```(\w+) ([^\n]+)\n(.*?)```", re.DOTALL)
# Where the name of a page stands, the site shows its title.
_NAMED_LINK = re.compile(r"\[`?[\w-]+\.md`?\](?=\([\w-]+\.md)")
_LINK_OUT = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)\)")


def _captioned(fence: str) -> str:
    """A block that names a file, and the line behind which it goes, shows both above it."""
    titled = _TITLED_FENCE.fullmatch(fence)
    if not titled:
        return fence
    language, title, text = titled.groups()
    name, _, line = title.partition(" ")
    caption = f"`{name}`, behind the line `{line}`" if line else f"`{name}`"
    return f"```{{code-block}} {language}\n:caption: {caption}\n\n{text or '# an empty file'}\n```"


def _link_out(link: re.Match) -> str:
    """A file of the project comes with the site; a directory is only named."""
    text, target = link.groups()
    return text if (DOCS / target).is_dir() else f"[{text}](path:{target})"


def _toctrees() -> str:
    trees = (
        f"```{{toctree}}\n:hidden:\n:caption: {name}\n\n" + "\n".join(pages) + "\n```"
        for name, pages in navigation.sections(DOCS).items()
    )
    return "\n\n" + "\n\n".join(trees) + "\n"


def _prepare(app, name: str, source: list[str]) -> None:
    parts = _FENCE.split(source[0])
    parts[::2] = [_NAMED_LINK.sub("[]", _LINK_OUT.sub(_link_out, text)) for text in parts[::2]]
    parts[1::2] = [_captioned(fence) for fence in parts[1::2]]
    source[0] = "".join(parts) + (_toctrees() if name == navigation.START else "")


def setup(app) -> None:
    app.connect("source-read", _prepare)
