"""A second opinion on iPXE scripts: reads and runs them by iPXE's rules, not by ours.

After ``src/core/exec.c``, ``settings.c`` and ``src/image/script.c`` of iPXE: a backslash at the
end joins lines; a line is split at ASCII white space; ``||``, ``&&`` and ``;`` end a command, a
word that begins with ``#`` ends the line; only then is ``${...}`` replaced in each word, the
innermost first, until none is left. A command that is skipped leaves the result as it was; an
empty one succeeds; a line that fails ends the script.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

_TERMINATORS = ("||", "&&", ";")
_SETTING = re.compile(r"\$\{((?:(?!\$\{)[^}])*)\}")
_MAX_STEPS = 20_000


@dataclass(frozen=True)
class Command:
    words: tuple[str, ...]
    terminator: str | None


def lines(script: str) -> list[str]:
    return script.replace("\\\n", "").split("\n")


def commands(line: str) -> list[Command]:
    """The commands of a line; none for a label. Settings are not replaced yet."""
    if line.startswith(":"):
        return []
    found = []
    words: list[str] = []
    for word in re.split(r"[ \t\n\v\f\r]+", line.strip(" \t\n\v\f\r")):
        if word.startswith("#"):
            break
        if word in _TERMINATORS:
            found.append(Command(tuple(words), word))
            words = []
        elif word:
            words.append(word)
    return [*found, Command(tuple(words), None)]


def expand(word: str, settings: Mapping[str, str]) -> str:
    while match := _SETTING.search(word):
        name, _, kind = match[1].partition(":")
        value = settings.get(name, "")
        if kind == "hexraw":
            value = value.encode().hex()
        word = word[: match.start()] + value + word[match.end() :]
    return word


class Hang(Exception):
    """The script goes round and round without a pause for anybody."""


@dataclass
class Run:
    """One machine that runs a script.

    ``fetch`` says whether a URL can be had; ``choose`` picks one of a menu's items, given the
    default too; ``somebody_watches`` and presses a key when asked to.
    """

    settings: dict[str, str]
    fetch: Callable[[str], bool] = lambda _: True
    choose: Callable[[str, Collection[str]], str] = lambda default, _: default
    cpu_is_64_bit: bool = True
    somebody_watches: bool = False
    fetched: list[str] = field(default_factory=list)
    pauses: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    items: dict[str, str] = field(default_factory=dict)
    menu_timeout: int | None = None
    images: list[str] = field(default_factory=list)
    cmdline: str = ""
    end: str = ""

    def run(self, script: str) -> Run:
        assert script.startswith("#!ipxe\n")
        self._lines = lines(script)
        self._at = 0
        steps = 0
        while not self.end:
            steps += 1
            if steps > _MAX_STEPS:
                raise Hang
            if self._at >= len(self._lines):
                self.end = "fell off its end"
            elif not self._line(self._lines[self._at]):
                self.end = f"died in: {self._lines[self._at]}"
            else:
                self._at = self._at + 1 if self._jump is None else self._jump
        return self

    def _line(self, line: str) -> bool:
        self._jump: int | None = None
        ok = is_due = True
        for command in commands(line):
            if is_due:
                words = [expand(word, self.settings) for word in command.words]
                ok = not words or self._command(words[0], words[1:])
                if self.end or self._jump is not None:
                    return True
            is_due = {"||": not ok, "&&": ok, ";": True, None: False}[command.terminator]
        return ok

    def _command(self, name: str, args: list[str]) -> bool:
        do: Callable[[list[str]], bool] = getattr(self, f"_do_{name}")
        return do(args)

    def _operands(self, args: list[str]) -> list[str]:
        while args and args[0].startswith("-"):
            args = args[1 if args[0] in ("--replace", "--autofree", "--gap") else 2 :]
        return args

    def _do_set(self, args: list[str]) -> bool:
        self.settings[args[0].partition(":")[0]] = " ".join(args[1:])
        return True

    def _do_inc(self, args: list[str]) -> bool:
        step = int(args[1]) if len(args) > 1 else 1
        self.settings[args[0]] = str(int(self.settings[args[0]]) + step)
        return True

    def _do_iseq(self, args: list[str]) -> bool:
        one, two = args
        return one == two

    def _do_goto(self, args: list[str]) -> bool:
        for number, line in enumerate(self._lines):
            if line.startswith(":") and line[1:].split()[:1] == args[:1]:
                self._jump = number
                return True
        return False

    def _do_cpuid(self, args: list[str]) -> bool:
        assert args == ["--ext", "29"]
        return self.cpu_is_64_bit

    def _fetch(self, url: str) -> bool:
        self.fetched.append(url)
        return self.fetch(url)

    def _do_chain(self, args: list[str]) -> bool:
        (url,) = self._operands(args)
        if self._fetch(url):
            self.end = f"chained {url}"
        return bool(self.end)

    def _do_kernel(self, args: list[str]) -> bool:
        (url,) = self._operands(args)
        ok = self._fetch(url)
        if ok:
            self.images.append(url)
        return ok

    _do_initrd = _do_kernel

    def _do_imgargs(self, args: list[str]) -> bool:
        self.cmdline = " ".join(args[1:])
        return args[0] == "kernel"

    def _do_imgfree(self, args: list[str]) -> bool:
        self.images.clear()
        return True

    def _do_boot(self, args: list[str]) -> bool:
        self.end = "booted"
        return True

    def _do_sleep(self, args: list[str]) -> bool:
        self.pauses.append(int(args[0]))
        return True

    def _do_prompt(self, args: list[str]) -> bool:
        assert args[0] == "--timeout"
        self.pauses.append(int(args[1]) // 1000)
        return self.somebody_watches

    def _do_echo(self, args: list[str]) -> bool:
        self.said.append(" ".join(args))
        return True

    def _do_menu(self, args: list[str]) -> bool:
        self.items.clear()
        return True

    def _do_item(self, args: list[str]) -> bool:
        operands = self._operands(args)
        if "--gap" not in args[:1]:
            self.items[operands[0]] = " ".join(operands[1:])
        else:
            self.said.append(" ".join(operands))
        return True

    def _do_choose(self, args: list[str]) -> bool:
        options = dict(zip(args[:-1:2], args[1:-1:2], strict=True))
        self.menu_timeout = int(options["--timeout"])
        chosen = self.choose(options["--default"], self.items)
        assert chosen in self.items
        self.settings[args[-1]] = chosen
        return True

    def _do_shell(self, args: list[str]) -> bool:
        self.end = "shell"
        return True

    def _do_reboot(self, args: list[str]) -> bool:
        self.end = "reboot"
        return True

    def _do_exit(self, args: list[str]) -> bool:
        self.end = "exit"
        return True
