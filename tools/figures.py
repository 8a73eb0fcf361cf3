"""Puts what was measured into the pages. With --check, as in `make lint`, says where a page differs instead.

With --record and a name, as in `make soak`, first writes what it reads into that section of benches/measured.md.

In a page, `<!-- outage -->` and `<!-- /outage -->` enclose the section outage of benches/measured.md, and `<!--cold-->`
and `<!--/cold-->` one cell of a table, which CELLS names. Tests that docs/security.md names have to exist.
"""

import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEASURED = "benches/measured.md"
FULL, SHARE = "At full speed", "With the processor time that Lambda gives 128 MB"
FIRST, LATER = "refused in the first 10 s", "refused after that"
# File, section, first cells of the row, heading of the column.
CELLS = {f"{word}-{program}": ("outage", "hangs", name, column)
         for word, column in [("first", FIRST), ("then", LATER)]
         for program, name in [("node", "Node.js"), ("direct", "`direct`"), ("queue", "`queue`")]}
for word, row in {"cold": "cold start, to the first response (ms)", "warm": "warm sign-in (ms)",
                  "memory": "peak memory (MiB)", "zip": "zip (MB)"}.items():
    CELLS |= {word: (FULL, row, "ours"), f"{word}-node": (FULL, row, "Node.js"),
              f"{word}-share": (SHARE, row, "ours"), f"{word}-share-node": (SHARE, row, "Node.js")}
# The rows and columns of a large table that a page shows.
PARTS = {"networks": (["round trip, loss", "---", "1 ms, 0 %", "100 ms, 0 %", "100 ms, 5 %", "300 ms, 0 %",
                       "300 ms, 5 %"], range(4)),
         "outage": (["UserHub", "---", "hangs", "every 2nd request hangs"], [0, 1, 2, 3, 6, 8])}


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def section_of(name):
    """What stands below a heading, up to the next one that is as high."""
    found = re.search(rf"^(##+) {re.escape(name)}\n(.*?)(?=^\1 |^## |\Z)", read(MEASURED), re.DOTALL | re.MULTILINE)
    return found[2] if found else ""


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def stamp():
    """What was measured, when, and on what."""
    version = re.search(r'^version = "(.+)"', read("Cargo.toml"), re.MULTILINE)[1]
    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    if git("diff", "--name-only", "HEAD", "--", ".", ":!docs", ":!README.md", ":!benches/measured.md", ":!*.svg"):
        commit += "-dirty"
    processor = re.search("model name\\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
    return (f"userhub-signin {version}, commit {commit}, {time.strftime('%Y-%m-%d')}, "
            f"{os.cpu_count()} of {processor[1] if processor else 'an unknown processor'}")


def record(section):
    """Passes on what it reads, and writes it into benches/measured.md when that has ended."""
    measured_on, lines = stamp(), []
    for line in sys.stdin:
        print(line, end="", flush=True)
        lines.append(line)
    text = read(MEASURED)
    new = f"\n{measured_on}\n\n{''.join(lines).strip()}\n\n"
    old = section_of(section)
    text = text.replace(old, new) if old else f"{text}\n## {section}\n{new}"
    (ROOT / MEASURED).write_text(text.strip() + "\n", encoding="utf-8")


def cell(section, *row_and_column):
    """One cell of a table, without what stands in brackets behind it."""
    *row, column = row_and_column
    text = section_of(section)
    head = []
    for line in filter(lambda line: line.startswith("|"), text.splitlines()):
        if column in cells(line):
            head = cells(line)
        elif head and cells(line)[:len(row)] == row:
            return cells(line)[head.index(column)].partition(" (")[0]
    raise LookupError(f"{MEASURED} has no row {' | '.join(row)} with {column}")


def block(name):
    """What was measured, as far as a page shows it."""
    text = section_of(name).strip()
    rows, columns = PARTS.get(name, ([], []))
    lines = [line if not rows or not line.startswith("|") else
             f"| {' | '.join(cells(line)[column] for column in columns)} |" if cells(line)[0] in rows else None
             for line in text.splitlines()]
    return "\n".join(line for line in lines if line is not None)


if sys.argv[1:2] == ["--record"]:
    record(sys.argv[2])
wrong = []
for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
    text = filled = page.read_text(encoding="utf-8")
    for match in re.finditer(r"<!--( ?)([a-z-]+)\1-->.*?<!--\1/\2\1-->", text, re.DOTALL):
        name = match[2]
        try:
            new = f"<!-- {name} -->\n{block(name)}\n<!-- /{name} -->" if match[1] else (
                f"<!--{name}-->{cell(*CELLS[name])}<!--/{name}-->")
            filled = filled.replace(match[0], new)
        except (LookupError, OSError) as error:
            wrong.append(f"{page.relative_to(ROOT)}, {name}: {error}")
    if "--check" not in sys.argv:
        page.write_text(filled, encoding="utf-8")
    elif filled != text:
        wrong.append(f"{page.relative_to(ROOT)} differs from what was measured: python3 tools/figures.py changes it")
tests = "".join(read(path) for path in (ROOT / "tests").rglob("*.[rp][sy]"))
for name in re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+){2,})`", read("docs/security.md")):
    if not re.search(rf"\b(fn|def) {name}\(", tests):
        wrong.append(f"docs/security.md names the test {name}, which does not exist")
if "--record" in sys.argv:  # other sections may be missing yet
    sys.exit(print("\n".join(wrong), file=sys.stderr) if wrong else None)
sys.exit("\n".join(wrong) or None)
