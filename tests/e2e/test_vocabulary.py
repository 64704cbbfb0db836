"""The field's words everywhere: identifiers, docstrings, comments, messages, help, configs and documents.

Run as a script it lists what it finds: `python tests/e2e/test_vocabulary.py cspdet/datasets docs`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CODE_ROOMS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "cspdet").iterdir() if path.is_dir() and path.name != "__pycache__"
)
ROOMS = [*CODE_ROOMS, "cspdet/*.py", "tools", "benchmarks", "tests", "configs", "docs", "*.md"]

# --- the words -----------------------------------------------------------------------------------

# Part of an identifier (picture_size, PictureSize, readPicture) -> the field's word.
NAME_PARTS = {
    "picture": "image", "pictures": "images", "judge": "evaluate", "judged": "evaluated", "judges": "evaluate",
    "judging": "evaluating", "judgment": "eval_result", "judgement": "eval_result", "told": "logged", "tell": "log",
    "tells": "logs", "teller": "logger", "telling": "logging", "anew": "again", "goal": "target", "goals": "targets",
    "whoever": "caller", "twin": "duplicate_pair", "twins": "near_duplicates", "doctor": "validate",
    "likeness": "similarity", "badness": "error_score", "wishes": "candidates", "wished": "requested",
    "guest": "neighbor", "unpunished": "ignore_mask", "punished": "penalized", "suspects": "label_issues",
    "suspect": "label_issue", "lanes": "num_workers", "lane": "worker", "abreast": "throughput",
    "hull": "enclosing_box",
    "riddle": "ambiguous", "abandoned": "stale", "draft": "tmp_path", "drafts": "tmp_files", "quickest": "fastest",
    "handoff": "interop", "tally": "issue_counter", "burn": "warmup", "photograph": "camera_noise", "shown": "visible",
    "carried": "shortcut", "worked": "main", "slots": "priors", "slot": "prior", "stopwatch": "timer",
    "truths": "gt", "mend": "fix", "mended": "fixed", "foreign": "external", "stale_numbers": "metrics",
}  # fmt: skip

# An identifier as a whole -> the field's way.
NAME_PATTERNS = {
    r"^_?(MOST|LEAST|LARGEST|SMALLEST|ENOUGH|USUAL|NEWEST|LONGEST)(_|$)": "MAX_, MIN_, DEFAULT_",
    r"(?<=[a-z0-9])_an?_(?=[a-z])": "_per_",
    r"(^|_)(share|shares)(_of|_a)?$": "fraction or ratio",
    r"^(wanted|ways?|anyhow|mine|ours|whole_numbers?)$": "requested, branches, local, integers",
}

# A phrase in text -> the field's words.
PHRASES = {
    r"pictures?": "image(s)",
    r"judg(?:e|es|ed|ing|e?ments?)": "evaluate",
    r"told|tells?|telling": "log, report, state, distinguish",
    r"anew": "again, re-",
    r"whoever|whosoever|whatsoever|whichever": "the user, the caller, any",
    r"besides": "in addition",
    r"goals?": "target",
    r"(?:a|the|large|small|what|this|its|that|same) shares? (?:of|that)": "fraction, ratio",
    r"slots?": "prior",
    r"answers? for": "is assigned to, positive",
    r"(?:un)?punish(?:ed|es)?": "penalized, ignored",
    r"dealt out|deals? out": "distributed",
    r"deaf to": "ignores",
    r"(?:no|a) say in|has no say|have no say": "ignored",
    r"no words? for": "cannot be expressed",
    r"honest|truthful": "valid, calibrated",
    r"promises? too much": "overconfident",
    r"work(?:s|ed)? off": "process",
    r"so-manieth": "n-th",
    r"in the making": "under construction",
    r"as ever|ever after|evermore": "unchanged",
    r"look(?:s|ed)? away from": "down-weight",
    r"who is who": "ranks",
    r"mak(?:es|ing) of it": "computes",
    r"mishaps?": "error",
    r"the like": "similar",
    r"at hand": "available",
    r"abreast": "in parallel",
    r"a picture": "per image",
    r"numbers that (?:matter|count)": "metrics",
    r"costs what it costs": "the cost",
    r"thereof|therein|thereupon|hence|lest|upon": "plain conjunction",
    r"many a|such a one|the one that is|be it": "plain statement",
    r"twins?": "near-duplicate",
    r"likeness": "similarity",
    r"badness": "error score",
    r"burn-?in": "warm-up",
    r"stands? alone": "is isolated",
    r"what (?:became|becomes) of": "which were loaded, result of",
    r"are called by their|go(?:es)? by the name": "are named",
    r"comes? to a meeting|meets? at": "collective",
    r"riddles?": "ambiguity",
    r"forgets?": "drops",
    r"whereof|wherein|wherever it": "where",
    r"taken for|takes? .{1,20} for what": "predicted as",
    r"mend(?:s|ed|ing)?": "fix",
    r"asunder|apart from that": "except",
    r"(?:one|a) cell of": "grid cell",
    r"gives? out": "returns",
    r"the mood|its mood": "variation",
    r"ought": "should",
}

# (path pattern, matched text pattern): where the word is right, with the reason.
ALLOWED: list[tuple[str, str, str]] = [
    (r"tests/e2e/test_vocabulary\.py", r".", "lists the words"),
    (r"cspdet/config/aliases\.py|docs/glossary\.md|CHANGELOG\.md", r".", "names the words of version 1"),
    (
        r"cspdet/cli/benchmark\.py|docs/reference/commands/benchmark\.md",
        r"^picture$",
        "the flag of version 1 that is still accepted",
    ),
    (r".", r"__slots__|hence(?=forth)", "Python's own name"),
]

# --- reading -------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """One dead word."""

    path: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r} -> {self.instead}"


_PHRASE = re.compile("|".join(rf"(?P<p{i}>\b(?:{phrase})\b)" for i, phrase in enumerate(PHRASES)), re.IGNORECASE)
_REPLACEMENTS = list(PHRASES.values())
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|[a-z]+|[0-9]+")


def dead_parts(name: str) -> Iterator[tuple[str, str]]:
    """Dead words of an identifier."""
    for part in _PARTS.findall(name):
        if part.lower() in NAME_PARTS:
            yield name, NAME_PARTS[part.lower()]
    for pattern, instead in NAME_PATTERNS.items():
        is_sentence = name.startswith("test_")  # whose "a" is an article
        if re.search(pattern, name) and not (is_sentence and instead == "_per_"):
            yield name, instead


def dead_phrases(text: str) -> Iterator[tuple[int, str, str]]:
    """(offset, phrase, the field's word) of every dead phrase in a text."""
    for match in _PHRASE.finditer(text):
        yield match.start(), match.group(), _REPLACEMENTS[int((match.lastgroup or "p0")[1:])]


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that the source defines: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def texts(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of comments and strings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string


def is_allowed(path: str, word: str) -> bool:
    return any(re.search(where, path) and re.search(what, word) for where, what, _ in ALLOWED)


def scan(path: Path) -> Iterator[Finding]:
    """The dead words of one file; of tests only their identifiers."""
    name = path.relative_to(ROOT).as_posix()
    found: list[tuple[int, str, str]] = [(1, word, instead) for word, instead in dead_parts(path.stem)]
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found += [
            (line, word, to) for line, defined in defined_names(ast.parse(source)) for word, to in dead_parts(defined)
        ]
        if not name.startswith("tests/"):
            for line, text in texts(source):
                found += [(line + text[:at].count("\n"), word, to) for at, word, to in dead_phrases(text)]
    else:
        found += [(source[:at].count("\n") + 1, word, to) for at, word, to in dead_phrases(source)]
    yield from (Finding(name, line, word, to) for line, word, to in found if not is_allowed(name, word))


def files_of(room: str) -> list[Path]:
    suffixes = {".py", ".md", ".yaml", ".html", ".js", ".css"}
    if "*" in room:
        return sorted(ROOT.glob(room))
    folder = ROOT / room
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return sorted(path for path in files if path.suffix in suffixes and "__pycache__" not in path.parts)


# --- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_only_words_of_the_field(room):
    findings = [str(finding) for path in files_of(room) for finding in scan(path)]
    assert not findings, "\n".join(findings[:40])


@pytest.mark.parametrize(
    "name", ["read_picture", "PictureCache", "MOST_TILES", "boxes_a_picture", "told", "loss_share"]
)
def test_dead_names_are_found(name):
    assert list(dead_parts(name))


@pytest.mark.parametrize("name", ["read_image", "share_memory_", "shared", "MAX_TILES", "boxes_per_image", "at_least"])
def test_names_of_the_field_pass(name):
    assert not list(dead_parts(name))


@pytest.mark.parametrize(
    "text",
    ["reads a picture", "drawn anew", "AP is judged", "a share of the boxes", "slots answer for boxes", "Told once"],
)
def test_dead_phrases_are_found(text):
    assert list(dead_phrases(text))


def test_text_of_the_field_passes():
    assert not list(dead_phrases("The assigner maps ground-truth boxes to priors; processes share memory."))


if __name__ == "__main__":
    for argument in sys.argv[1:] or ROOMS:
        print("\n".join(str(finding) for path in files_of(argument) for finding in scan(path)))
