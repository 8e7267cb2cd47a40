"""Makes the site at /docs out of docs/*.md: `./impervious docs`."""
