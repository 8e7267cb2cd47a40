"""What the site's navigation shows. A page that is in no section is shown under the last one."""

from pathlib import Path

SECTIONS: dict[str, tuple[str, ...]] = {
    "Begin": ("quick-start", "real-lnd", "hosted-lnd", "commands"),
    "For programs": ("api", "errors", "simulator"),
    "Services": ("messages", "federation", "vpn", "socket", "signing", "invoices", "websocket"),
    "Run it": (
        "operating",
        "configuration",
        "access",
        "security",
        "internet",
        "tls",
        "macaroon",
        "inbound",
        "deploying",
        "monitoring",
        "runbook",
        "backup",
        "upgrading",
        "scaling",
    ),
    "How it is made": ("architecture", "adding-a-service", "performance", "soak", "dependencies"),
    "More": (),
}
START = "index"


def sections(docs: Path) -> dict[str, list[str]]:
    """The pages that are there, by section."""
    there = {path.stem for path in docs.glob("*.md")} - {START}
    placed = {name: [page for page in pages if page in there] for name, pages in SECTIONS.items()}
    *_, last = placed
    placed[last] += sorted(there - {page for pages in placed.values() for page in pages})
    return {name: pages for name, pages in placed.items() if pages}
