"""Completion scripts for shells, and the words of the last answer that they offer.

The scripts read a file instead of starting Python or asking the relay, so that nobody waits. What
stands in the file came from a server, and a shell must never take it for code: identifiers other
than letters, digits, dots, dashes and underscores are left out, and no script evaluates a word.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from dish_shell_tool._menu_api import Listing

SHELLS = ("bash", "zsh", "fish")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REGION = re.compile(r"[^\W_][\w .&-]*")
_MOST_WORDS = 1000


class LastAnswer(NamedTuple):
    """What is kept of the last list of restaurants."""

    relay: str = ""
    form: str = ""
    """The form of the API that answered."""


def memory_path(environ: Mapping[str, str]) -> str:
    """Return the file that keeps the last answer."""
    base = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "list-dishes", "last-answer")


def recall(path: str) -> LastAnswer:
    """Return what is kept in the file; nothing where it cannot be read."""
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        words = dict(line.rstrip("\n").split("\t", 1) for line in file if "\t" in line)
        return LastAnswer(words.get("relay", ""), words.get("form", ""))
    return LastAnswer()


def remember(path: str, relay: str, form: str, listing: Listing) -> None:
    """Keep the last answer for completion; a file that cannot be written is gone without."""
    lines = [("relay", relay), ("form", form)]
    restaurants = listing.restaurants[:_MOST_WORDS]
    names = dict.fromkeys(r.identifier for r in restaurants if _IDENTIFIER.fullmatch(r.identifier))
    regions = dict.fromkeys(r.region for r in restaurants if _REGION.fullmatch(r.region))
    lines += [("identifier", word) for word in names] + [("region", word) for word in regions]
    text = "".join(f"{kind}\t{word}\n" for kind, word in lines)
    with suppress(OSError, ValueError):
        with suppress(OSError), open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        unfinished = f"{path}.{os.getpid()}"
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)


class _Flag(NamedTuple):
    """A flag as a completion script knows it."""

    names: list[str]
    takes: str
    """What follows it: `identifier`, `region`, words to choose from, `value` or nothing."""
    many: bool
    """Whether several may follow."""
    help: str


def completion_script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script of a shell, made from the parser's own flags."""
    flags = [_flag(action) for action in parser._actions if action.option_strings]
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](flags)


def _flag(action: argparse.Action) -> _Flag:
    help_text = re.sub(r" \(.*\)", "", (action.help or "").split(";")[0])
    if action.nargs in (0, "?"):
        takes = ""
    elif action.choices:
        takes = " ".join(map(str, action.choices))
    else:
        takes = {"restaurant": "identifier", "open": "identifier", "near": "identifier"}.get(
            action.dest, "region" if action.dest == "region" else "value"
        )
    words = re.sub(r"[^\w ,.|-]", "", help_text)
    return _Flag(list(action.option_strings), takes, action.nargs == "+", words)


_MEMORY = '"${XDG_CACHE_HOME:-$HOME/.cache}/list-dishes/last-answer"'


def _cases(flags: Iterable[_Flag], kinds: tuple[str, ...]) -> str:
    return "|".join(name for flag in flags if flag.takes in kinds for name in flag.names)


def _choices(flags: Iterable[_Flag]) -> list[_Flag]:
    return [f for f in flags if f.takes not in ("", "value", "identifier", "region")]


def _bash(flags: list[_Flag]) -> str:
    every = " ".join(name for flag in flags for name in flag.names)
    choices = "".join(
        f"        {'|'.join(flag.names)}) words=({flag.takes}) ;;\n" for flag in _choices(flags)
    )
    return f"""\
# Completion for list-dishes: source this file, or: eval "$(list-dishes --completion bash)"
_list_dishes() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} flag= kind= kept word index words=()
    for ((index = COMP_CWORD - 1; index > 0; index--)); do
        if [[ ${{COMP_WORDS[index]}} == -* ]]; then flag=${{COMP_WORDS[index]}}; break; fi
    done
    case $flag in
        {_cases(flags, ("identifier",))}) kind=identifier ;;
        {_cases(flags, ("region",))}) kind=region ;;
{choices}\
    esac
    COMPREPLY=()
    if [[ $current == -* || ( -z $kind && ${{#words[@]}} -eq 0 ) ]]; then
        words=({every})
    elif [[ -n $kind ]]; then
        [[ -r {_MEMORY} ]] && while IFS=$'\\t' read -r kept word; do
            [[ $kept == "$kind" ]] && words+=("$word")
        done <{_MEMORY}
    fi
    for word in "${{words[@]}}"; do
        [[ $word == "$current"* ]] && COMPREPLY+=("$(printf %q "$word")")
    done
}}
complete -o default -F _list_dishes list-dishes list_dishes.py ./list_dishes.py
"""


def _zsh(flags: list[_Flag]) -> str:
    every = " ".join(name for flag in flags for name in flag.names)
    choices = "".join(
        f"        {'|'.join(flag.names)}) offers=({flag.takes}) ;;\n" for flag in _choices(flags)
    )
    return f"""\
#compdef list-dishes list_dishes.py
# Completion for list-dishes: eval "$(list-dishes --completion zsh)" after compinit
_list_dishes() {{
    local flag kind line at
    local -a offers
    for ((at = CURRENT - 1; at > 1; at--)); do
        if [[ $words[at] == -* ]]; then flag=$words[at]; break; fi
    done
    case $flag in
        {_cases(flags, ("identifier",))}) kind=identifier ;;
        {_cases(flags, ("region",))}) kind=region ;;
{choices}\
    esac
    if [[ $PREFIX == -* || ( -z $kind && $#offers -eq 0 ) ]]; then
        offers=({every})
    elif [[ -n $kind && -r {_MEMORY} ]]; then
        while IFS= read -r line; do
            [[ $line == $kind$'\\t'* ]] && offers+=("${{line#*$'\\t'}}")
        done <{_MEMORY}
    fi
    compadd -a offers
}}
compdef _list_dishes list-dishes list_dishes.py
"""


def _fish(flags: list[_Flag]) -> str:
    memory = "(set -q XDG_CACHE_HOME; and echo $XDG_CACHE_HOME; or echo $HOME/.cache)"
    command = "complete -c list-dishes -c list_dishes.py"
    lines = [
        "# Completion for list-dishes: list-dishes --completion fish | source",
        "function __list_dishes_words",
        f"    set -l file {memory}/list-dishes/last-answer",
        "    test -r $file; and string replace -rf \"^$argv\\t\" '' <$file",
        "end",
        "function __list_dishes_after",
        "    set -l flags (commandline -opc | string match -- '-*')",
        "    set -q flags[1]; and contains -- $flags[-1] $argv",
        "end",
        f"{command} -f",
    ]
    for flag in flags:
        names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in flag.names)
        values = f" -xa '{_fish_words(flag.takes)}'" if flag.takes else ""
        lines.append(f"{command} {names}{values} -d '{flag.help}'")
        if flag.many and flag.takes != "value":  # the second and later ones
            after = f"-n '__list_dishes_after {' '.join(flag.names)}'"
            lines.append(f"{command} {after} -a '{_fish_words(flag.takes)}'")
    return "\n".join([*lines, ""])


def _fish_words(takes: str) -> str:
    if takes == "value":
        return ""
    return f"(__list_dishes_words {takes})" if takes in ("identifier", "region") else takes
