"""The version of the node. What changed with each is told in CHANGELOG.md."""

VERSION = "0.2.0"
