"""Print the command that README.md has after the comment `<!-- NAME -->`.

The comment is followed by one block fenced with ```sh. Usage: readme_command.py NAME
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def command_after(name: str, text: str) -> str:
    """Return the lines of the first ```sh block that directly follows the comment.

    Raises LookupError if there is no such comment with a block after it.
    """
    pattern = rf"^<!-- {re.escape(name)} -->\s*^```sh\n(.*?)^```$"
    found = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"README.md has no ```sh block after <!-- {name} -->")
    return found[1]


if __name__ == "__main__":
    try:
        sys.stdout.write(command_after(sys.argv[1], README.read_text(encoding="utf-8")))
    except (LookupError, OSError) as error:
        sys.exit(f"readme_command.py: {error}")
