"""The documents are run: each command in them parses, each option in them exists, each file they name is there."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "devices/README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: str, *languages: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [body for language, body in FENCE.findall(text) if language in languages]


def commands(first: str) -> list[tuple[str, list[str]]]:
    """(document, words) of each line of a code block that begins with a word; `;` and `&&` part commands."""
    found = []
    for document in DOCUMENTS:
        for block in blocks(document, "", "sh", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                for piece in re.split(r"\s*(?:;|&&)\s*", line.strip().removeprefix("$ ")):
                    words = shlex.split(piece, comments=True)
                    if words and words[0] == first:
                        found.append((document, words))
    return found


def mentions(first: str) -> list[tuple[str, list[str]]]:
    """(document, words) of each command named in running text, where arguments may be left out."""
    found = []
    for document in DOCUMENTS:
        text = FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))
        found += [(document, shlex.split(piece)) for piece in re.findall(rf"`({first} [^`]+)`", text)]
    return found


EDGESKIN = commands("edgeskin")
MENTIONS = mentions("edgeskin")


def cli():
    from edgeskin.cli import app

    return typer.main.get_command(app)


def resolve(words: list[str]):
    """The command that a line names, and the words that are left for it."""
    command, rest = cli(), words[1:]
    while getattr(command, "commands", None) and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def leaves(command, path=()):
    children = getattr(command, "commands", None)
    if not children:
        return {path}
    return {leaf for name, child in children.items() if not child.hidden for leaf in leaves(child, (*path, name))}


def test_there_are_commands_to_check():
    assert len(EDGESKIN) >= 10


def check_names(document: str, words: list[str]):
    """The command exists and has each option; gives the command and the words left for it."""
    command, rest = resolve(words)
    told = f"{document}: {' '.join(words)}"
    general = {"--help", "--version"} & set(rest)
    assert not getattr(command, "commands", None) or general, f"{told}: no such command"
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("-") and word not in general:
            assert word.split("=")[0] in options, f"{told}: no option {word}"
    return command, rest, general


@pytest.mark.parametrize(("document", "words"), EDGESKIN, ids=[" ".join(words) for _, words in EDGESKIN])
def test_each_command_parses(document, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a documented path may not decide the outcome
    command, rest, general = check_names(document, words)
    if not general:
        command.make_context(words[-1], list(rest))  # parses and checks types and required values, runs nothing


@pytest.mark.parametrize(("document", "words"), MENTIONS, ids=[" ".join(words) for _, words in MENTIONS])
def test_each_command_named_in_the_text_exists(document, words):
    check_names(document, words)


def test_each_command_of_the_program_is_documented():
    told = {tuple(words[1:]) for _, words in EDGESKIN + MENTIONS}
    for leaf in leaves(cli()):
        assert any(words[: len(leaf)] == leaf for words in told), f"`edgeskin {' '.join(leaf)}` is in no document"


def test_each_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {word for _, words in commands("make") + mentions("make") for word in words[1:] if "=" not in word}
    assert {"demo", "test"} <= named
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_link_and_picture_is_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert (ROOT / document).parent.joinpath(link).exists(), link


def test_each_python_example_compiles():
    snippets = [(document, body) for document in DOCUMENTS for body in blocks(document, "python")]
    assert snippets
    for document, body in snippets:
        compile(body, document, "exec")


def test_the_tree_in_contributing_names_what_is_there():
    tree = blocks("CONTRIBUTING.md", "text")[0]
    folders = {"": ROOT, **{line.split()[0]: ROOT / line.split()[0] for line in tree.splitlines() if line[0] != " "}}
    assert "edgeskin/" in folders
    for name, folder in folders.items():
        assert folder.exists(), name
    told = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    there = {
        path.name
        for path in (ROOT / "edgeskin").iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    }
    assert told == there, "the tree in CONTRIBUTING.md and the package differ"


def test_research_use_is_said():
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("not a medical device") == 1
