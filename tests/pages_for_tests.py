"""The pages of docs/ as tests read them: their blocks, their commands, their examples."""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
ASSIGNMENT = re.compile(r"^[A-Z_]+=")
SEPARATORS = {"&&", "||", ";", "|", "&"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _commands(page: Path) -> Iterator[list[str]]:
    """Give the fedbox commands of a page's bash blocks as words behind `fedbox`."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command: list[str] = []
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            for word in [*lexer, ";"]:
                if word not in SEPARATORS:
                    command.append(word)
                    continue
                while command and ASSIGNMENT.match(command[0]):
                    command.pop(0)
                if command[:3] in (["python", "-m", "fedbox"], ["python3", "-m", "fedbox"]):
                    command = command[2:]
                if command[:1] == ["fedbox"]:
                    yield command[1:]
                command = []


COMMANDS = [(page, words) for page in PAGES for words in _commands(page)]
EXAMPLES = [
    (page, name.group(1), block)
    for page in PAGES
    for block in blocks(page, "python")
    if (name := re.match(r'"""(?:[^"\n]*?\b)?(\w+)\.py\b', block))
]


def lay_out(folder: Path) -> None:
    """Make a reader's folder of it: the pages' examples, and the example package as installed."""
    for _, name, block in EXAMPLES:
        (folder / f"{name}.py").write_text(block, encoding="utf-8")
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if named := re.match(r"# (\w+\.yaml)\n", block):
                (folder / named.group(1)).write_text(block, encoding="utf-8")
    example = ROOT / "examples" / "fedbox-median"
    shutil.copy(example / "fedbox_median.py", folder)
    info = folder / "fedbox_median-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedbox-median\nVersion: 0.1.0\n", encoding="utf-8")
    points = tomllib.loads((example / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    lines = [
        line for group, names in points.items() for line in (f"[{group}]", *(f"{n} = {v}" for n, v in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
