"""What `./impervious soak` runs: nodes under traffic while everything dies, and records that are compared then."""
