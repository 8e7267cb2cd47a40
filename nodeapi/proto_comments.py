"""What the .proto files say of their messages' fields: the comments behind them. The generated code does not keep them."""

import re
from functools import cache
from pathlib import Path

PROTOS = Path(__file__).resolve().parent.parent / "protos"

_PACKAGE = re.compile(r"package (\w+);")
_MESSAGE = re.compile(r"message (\w+) \{")
_FIELD = re.compile(r"\s*(?:optional |repeated )?[\w.]+ (\w+) = \d+;\s*(?://\s*(.*))?")


@cache
def field_comments(file_name: str) -> dict[str, str]:
    """By "package.Message.field", for one .proto file, named as in its descriptor ("protos/x.proto")."""
    comments, package, message = {}, "", ""
    for line in (PROTOS / Path(file_name).name).read_text().splitlines():
        if found := _PACKAGE.match(line):
            package = found[1]
        elif found := _MESSAGE.match(line):
            message = found[1]
        elif message and (found := _FIELD.match(line)) and found[2]:
            comments[f"{package}.{message}.{found[1]}"] = found[2].strip()
    return comments
