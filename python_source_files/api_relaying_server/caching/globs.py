"""Globs as an operator writes them: `*` stands for any text, all else for itself."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache


@lru_cache(maxsize=1024)
def glob_pattern(*globs: str) -> re.Pattern[str]:
    """Matches, from its start to its end, a text that one of the globs describes."""
    # In brackets: else `translate` takes them for a set of letters and for any one letter.
    plain = [re.sub(r"[\[?]", r"[\g<0>]", glob) for glob in globs]
    return re.compile("|".join(map(translate, plain)))
