"""Where the files of a node are that a backup holds beside its database, and how files are put in their place."""

import os
from pathlib import Path

from nodeapi.backups.archive import SECRET_KEY, VPN_KEY, VPN_STATE
from nodeapi.safety_copy import sync


def places_of(config) -> dict[str, Path]:
    """By their names in an archive: Django's secret key (the private keys of bought VPN leases are sealed under it),
    and what `vpn setup` made.
    """
    places = {SECRET_KEY: config.database.secret_key_path}
    if config.path:
        places[VPN_STATE] = config.path.with_suffix(".vpn.json")
        places[VPN_KEY] = config.path.with_suffix(".vpn.key")
    return places


def home_of(config) -> Path:
    """Where a node's database is, or, if that is on a server, its secret key: there is room for copies."""
    return (config.database.sqlite_path or config.database.secret_key_path).parent


def staged(place: Path) -> Path:
    """Where a file waits that will be put in this place."""
    return place.with_name(place.name + ".restoring")


def kept(place: Path, stamp: str) -> Path:
    """Under which name the file goes on that was in this place before the restore of that moment."""
    return place.with_name(f"{place.name}.{stamp}.before-restore")


def exchange(new: Path, place: Path, aside: Path) -> None:
    """Puts `new` in its place; what was there goes on as `aside`. Whenever this is broken off, the place holds the one
    or the other, and it can be done again.
    """
    if place.exists() and not aside.exists():
        os.link(place, aside)
    os.replace(new, place)
    sync(place.parent)
