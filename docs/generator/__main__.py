"""Writes docs/configuration.md, then the site that the node serves at /docs."""

import sys

from docs.generator import configuration, site

if __name__ == "__main__":
    (site.DOCS / configuration.PAGE).write_text(configuration.page())
    try:
        files = site.build(site.SERVED)
    except site.BuildError as error:
        sys.exit(str(error))
    for key in configuration.without_meaning():
        print(f"{key}: has no comment in config/example.config.yml", file=sys.stderr)
    print(f"{len(files)} files, {sum(map(len, files.values())) // 1024} KiB: {site.SERVED}")
