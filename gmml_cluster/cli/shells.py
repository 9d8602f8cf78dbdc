"""What a shell reads to complete our commands, and the answer when it asks while a person types.

click has the protocol and the scripts. bash's is our own, for two things: bash takes `=` and `:` for ends of words, so
what it asks of `optim.lr=1` is `1`; and it would put a space behind `optim.lr=`.
"""

import os
from contextlib import redirect_stderr

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    shell_complete,
    split_arg_string,
)

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' item
    COMPREPLY=()
    local line="${COMP_LINE:0:COMP_POINT}"
    for item in $(COMP_LINE="$line" COMP_BREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1"); do
        case $item in
        plain,*) COMPREPLY+=("${item#plain,}") ;;
        dir,*) compopt -o dirnames ;;
        file,*) compopt -o default ;;
        esac
    done
    case "${COMPREPLY[*]}" in *[=.]) compopt -o nospace ;; esac
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_ZSH_ADDS = "compadd -U -V unsorted -a completions"
_ZSH_ADDS_WITHOUT_SPACE = """\
compadd -U -V unsorted -S '' -- ${(M)completions:#*[=.]}
        compadd -U -V unsorted -- ${completions:#*[=.]}"""


class Bash(BashComplete):
    """Candidates for what bash takes for the current word."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Words before the current one, and that one, of the line up to the cursor."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        return (words[1:], "") if line[-1:].isspace() else (words[1:-1], words[-1])

    def format_completion(self, item: "CompletionItem[str]") -> str:
        """Without what is in front of the last break: bash replaces what follows it."""
        breaks = {"=", ":"} & set(os.environ.get("COMP_BREAKS", ""))
        _, typed = self.get_completion_args()
        kept = max((typed.rfind(each) + 1 for each in breaks), default=0)
        return f"{item.type},{item.value[kept:]}"


class Zsh(ZshComplete):
    """click's script, which puts no space behind what goes on."""

    source_template = ZshComplete.source_template.replace(_ZSH_ADDS, _ZSH_ADDS_WITHOUT_SPACE)


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": FishComplete}
for _class in SHELLS.values():
    add_completion_class(_class)


def variable_of(program: str) -> str:
    """The variable by which a shell's script asks a program."""
    return f"_{program}_COMPLETE".replace("-", "_").upper()


def answer(command: click.Command, program: str, instruction: str) -> int:
    """Print what a shell asked for; a fault says nothing, for it would stand in the line that a person types."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        return shell_complete(command, {}, program, variable_of(program), instruction)
