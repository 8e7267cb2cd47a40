"""Writes docs/configuration.md, then the site that the node serves at /docs."""

import sys

from docs.generator import configuration, site

if __name__ == "__main__":
    (site.DOCS / configuration.PAGE).write_text(configuration.page())
    site.main()
    for key in configuration.without_meaning():
        print(f"{key}: has no comment in config/example.config.yml", file=sys.stderr)
