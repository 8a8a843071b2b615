"""How help is laid out: commands in groups, summaries in full, plain names for values."""

from __future__ import annotations

import re
from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

_PLAIN: Final = {"str": "TEXT", "int": "N", "float": "X", "path": "PATH", "file": "FILE"}


class GroupedHelp(TyperGroup):
    """Lists commands by their ``rich_help_panel``, each with the first paragraph of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, a section for each group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            summary = " ".join(command.help.partition("\n\n")[0].split())
            groups.setdefault(command.rich_help_panel, []).append((name, summary))
        width = max(len(name) for rows in groups.values() for name, _ in rows)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in rows])


class PlainHelp(TyperCommand):
    """Names arguments and values as in a manual: ``FILE``, ``--seed N``, ``ray|inline``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line."""
        pieces = super().collect_usage_pieces(ctx)
        return [re.sub(r"^\{(.*?)\}", r"\1", piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options."""
        rows: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                rows[parameter.param_type_name].append(record)
        arguments = [(re.sub(r" <.*>$", "", name), text) for name, text in rows["argument"]]
        options = [(re.sub(r"<(.*)>", _plain, name), text) for name, text in rows["option"]]
        for title, lines in (("Arguments", arguments), ("Options", options)):
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)


def _plain(match: re.Match[str]) -> str:
    kind = match[1].removeprefix("list[").removesuffix("]").split()[0]
    return _PLAIN.get(kind.lower(), kind)
