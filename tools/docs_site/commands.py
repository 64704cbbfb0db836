"""Reference of the commands, generated from their argument parsers."""

from __future__ import annotations

import argparse
import importlib
import re
import textwrap
from collections.abc import Iterator

from cspdet.cli.main import COMMAND_GROUPS, COMMAND_HELP
from cspdet.cli.parser import THREADED_COMMANDS, build_parser
from docs_site.example_values import example_value
from docs_site.markdown import code, page, table, text

DEFAULT = re.compile(r"\s*\(default:? ?((?:[^()]|\([^()]*\))*)\)")
VALUELESS = (argparse._StoreTrueAction, argparse._StoreFalseAction, argparse._StoreConstAction)
FLAG = re.compile(r"(?<![\w`-])(--[a-z][a-z-]*)")
COLUMNS = 78  # of a code block, before a backslash
LOG_GROUP = "log and processor"
TITLES = {"onnx, openvino and torchscript": "ONNX, OpenVINO and TorchScript"}

INDEX = """
# Commands

`cspdet COMMAND ...` and `python -m cspdet COMMAND ...` are the same program. In a clone, each command is also a script
in `tools`. `cspdet help COMMAND` prints the arguments of a command.
"""
RULES = """
## Rules of all commands

- Flags and positional arguments can be in any order. A flag cannot be abbreviated.
- MODEL is a checkpoint (`.pt`, `.safetensors`), a run folder (its `best.pt`), a config file with `--weights`, the name
  of a [released config](../../models/index.md) or of a downloaded model ([of the catalogue](../../how-to/weights.md),
  or [`hf:user/name`](../../how-to/publish.md)), or a file of `cspdet export`.
- `key.path=value` overrides a [config key](../config/index.md); `key.path=FILE.yaml` replaces a section by a file.
- Results are on stdout, the log is on stderr. With `--json`, stdout has one JSON document.
- [Exit codes](../errors.md#exit-codes): 0 success, 2 error of the user.
- Words of other toolkits are read where their meaning is clear, and the log shows the meaning: `predict`, `val`,
  `--conf`, `--iou`, `--imgsz`, `model=X`, `epochs=3`.
"""


def command_pages() -> dict[str, str]:
    """Return the pages of all commands, and their index, by path below docs/."""
    pages = {f"reference/commands/{name}.md": command_page(name) for name in COMMAND_HELP}
    return {"reference/commands/index.md": page(INDEX, *_command_tables(), RULES, _log_flags())} | pages


def _command_tables() -> Iterator[str]:
    for title, commands in COMMAND_GROUPS.items():
        yield f"## {title.capitalize()}"
        yield table(("command", "purpose"), [(f"[`{name}`]({name}.md)", text(use)) for name, use in commands.items()])


def _log_flags() -> str:
    """Return the section with the flags that all commands have."""
    groups = {group.title: group._group_actions for group in parser_of("train")._action_groups}
    return f"## Flags of all commands\n\n{flag_table('train', groups[LOG_GROUP])}"


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command, as `cspdet COMMAND` builds it."""
    return build_parser(command, importlib.import_module(f"cspdet.cli.{command.replace('-', '_')}"))


def subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return the help and the parser of each subcommand by name; {} if the command has no subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            help_of = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (help_of[name], sub) for name, sub in action.choices.items()}
    return {}


def command_page(command: str) -> str:
    """Return the page of one command."""
    parser = parser_of(command)
    parts = [f"# cspdet {command}", *_description(parser.description or "")]
    if subs := subcommands(parser):
        for name, (summary, sub) in subs.items():
            parts += [f"## {command} {name}", text(summary[:1].upper() + summary[1:] + ".")]
            parts += _arguments(f"{command} {name}", sub, "###")
    else:
        parts += _arguments(command, parser, "##")
    return page(*parts)


def _description(docstring: str) -> Iterator[str]:
    """Yield the paragraphs of the docstring of a command; its example lines are code blocks."""
    for paragraph in docstring.strip("\n").split("\n\n"):
        lines = paragraph.splitlines()
        if all(line.strip().startswith("cspdet ") for line in lines):
            yield "\n".join(["```sh", *(_wrapped(line.strip()) for line in lines), "```"])
        else:
            yield text(FLAG.sub(r"`\1`", paragraph))


def _wrapped(line: str) -> str:
    """Return a command line with continuation lines if it is too long; a flag and its value stay on one line."""
    bound = re.sub(r"(--[a-z-]+) (?!-)", "\\1\0", line)  # a zero byte is no place to wrap
    parts = textwrap.wrap(bound, COLUMNS, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return line if "#" in line else " \\\n".join(parts).replace("\0", " ")


def _arguments(command: str, parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    """Yield the usage and one table per group of arguments."""
    groups = {str(group.title): visible(group._group_actions) for group in parser._action_groups}
    positional = groups.pop("positional arguments")
    words = [f"[{name(action)}]" if action.nargs in ("?", "*") else name(action) for action in positional]
    words += [f"{action.option_strings[0]} {value_name(action)}" for action in parser._actions if is_required(action)]
    yield "\n".join(["```text", " ".join(["cspdet", command, *words, "[options]"]), "```"])
    yield table(("argument", "meaning"), [(code(name(action)), meaning(action)) for action in positional])
    for title, actions in groups.items():
        if actions and title != LOG_GROUP:
            yield f"{heading} {TITLES.get(title, title.capitalize())}"
            yield flag_table(command, actions)
    yield f"And the [flags of all commands](index.md#flags-of-all-commands){_threads_note(command)}."


def _threads_note(command: str) -> str:
    return "" if command.split()[0] in {*THREADED_COMMANDS, "benchmark"} else ", without `--threads`"


def flag_table(command: str, actions: list[argparse.Action]) -> str:
    """Return the table of the flags of a command."""
    return table(("flag", "default", "meaning"), [_row(command, action) for action in actions])


def visible(actions: list[argparse.Action]) -> list[argparse.Action]:
    """Return the actions that the reference lists: all except --help and subcommands."""
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in actions if not isinstance(action, hidden) and action.help != argparse.SUPPRESS]


def is_required(action: argparse.Action) -> bool:
    """Return whether an action is a flag without which the command does not run."""
    return bool(action.option_strings) and action.required


def name(action: argparse.Action) -> str:
    """Return the name of a positional argument, such as `SOURCE...`."""
    return f"{action.metavar or action.dest}{'...' if action.nargs in ('+', '*') else ''}"


def value_name(action: argparse.Action) -> str:
    """Return the name of the value of a flag; "" for a flag without a value."""
    if isinstance(action, (*VALUELESS, argparse.BooleanOptionalAction)):
        return ""
    names = action.metavar or (action.dest.rpartition("_")[2].upper())
    many = {"+": f"{names}...", "?": f"[{names}]"}
    return many.get(str(action.nargs), str(names))


def meaning(action: argparse.Action) -> str:
    """Return the help of an argument without its default, followed by the allowed values that the help does not name.

    Raises:
        ValueError: The argument has no help.
    """
    words = FLAG.sub(r"`\1`", DEFAULT.sub("", action.help or "").strip())
    if not words:
        raise ValueError(f"{'/'.join(action.option_strings) or action.dest}: expected a help text, found none")
    allowed = [str(choice) for choice in action.choices or ()]
    if not all(re.search(rf"\b{re.escape(choice)}\b", words) for choice in allowed):
        return f"{text(words)}: one of {', '.join(map(code, allowed))}"
    return text(words)


def default(action: argparse.Action) -> str:
    """Return the default of a flag: as its help states it, or the value in the parser."""
    found = DEFAULT.search(action.help or "")
    if action.required:
        return "required"
    if found and found[1] and "%(default)s" not in found[1]:
        return text(found[1]) if " " in found[1] else code(found[1])
    if isinstance(action, VALUELESS):
        return "on" if action.default is action.const else "off"
    if action.default is None or action.default == []:
        return ""
    values = action.default if isinstance(action.default, list) else [action.default]
    return code(" ".join(map(str, values)))


def example(command: str, action: argparse.Action) -> str:
    """Return a flag with an example value, as on a command line."""
    flag = action.option_strings[-1 if action.dest == "log_level" else 0]
    if action.choices is None and not value_name(action):
        return action.option_strings[-1] if isinstance(action, argparse.BooleanOptionalAction) else flag
    return f"{flag} {example_value(command, flag)}"


def _row(command: str, action: argparse.Action) -> tuple[str, str, str]:
    flags = ",<br>".join(code(f"{flag} {value_name(action)}".strip()) for flag in action.option_strings)
    return flags, default(action), f"{meaning(action)}<br>Example: {code(example(command, action))}"
