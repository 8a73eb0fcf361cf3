"""Puts what was measured into the pages. With --check, as in `make lint`, says where a page differs instead.

In a page, `<!-- soak -->` and `<!-- /soak -->` enclose what docs/measured/soak.md has before its first "## ".
`<!--cold-->` and `<!--/cold-->` enclose one cell of a table, which CELLS names. docs/security.md names tests that must exist.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = "benches/results.md|At full speed"
SHARE = "benches/results.md|With the processor time that Lambda gives 128 MB"
OUTAGE = "docs/measured/outage.md||hangs"
# File, section (or none), the first cells of the row, the heading of the column.
CELLS = {
    "cold": f"{BENCH}|cold start, to the first answer (ms)|ours",
    "cold-node": f"{BENCH}|cold start, to the first answer (ms)|Node.js",
    "cold-share": f"{SHARE}|cold start, to the first answer (ms)|ours",
    "cold-share-node": f"{SHARE}|cold start, to the first answer (ms)|Node.js",
    "warm": f"{BENCH}|warm sign-in (ms)|ours",
    "warm-node": f"{BENCH}|warm sign-in (ms)|Node.js",
    "warm-share": f"{SHARE}|warm sign-in (ms)|ours",
    "warm-share-node": f"{SHARE}|warm sign-in (ms)|Node.js",
    "memory": f"{BENCH}|peak memory (MiB)|ours",
    "memory-node": f"{BENCH}|peak memory (MiB)|Node.js",
    "zip": f"{BENCH}|zip (MB)|ours",
    "first-node": f"{OUTAGE}|Node.js|refused in the first 10 s",
    "first-direct": f"{OUTAGE}|direct, with queue|refused in the first 10 s",
    "first-queue": f"{OUTAGE}|queue|refused in the first 10 s",
    "then-node": f"{OUTAGE}|Node.js|refused after that",
    "then-direct": f"{OUTAGE}|direct, with queue|refused after that",
    "then-queue": f"{OUTAGE}|queue|refused after that",
}


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def cell(where):
    """One cell of a table, without what stands in brackets behind it."""
    path, section, *row, column = where.split("|")
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0] if section else text
    head = []
    for line in lines.splitlines():
        if line.startswith("|") and column in cells(line):
            head = cells(line)
        elif line.startswith("|") and head and cells(line)[:len(row)] == row:
            return cells(line)[head.index(column)].partition(" (")[0]
    raise LookupError(f"no {where}")


def measured(match):
    """What belongs between two marks."""
    name, inline = match[2], match[1] == "<!--"
    if inline:
        return f"<!--{name}-->{cell(CELLS[name])}<!--/{name}-->"
    content = (ROOT / f"docs/measured/{name}.md").read_text(encoding="utf-8").partition("\n## ")[0].strip()
    return f"<!-- {name} -->\n{content}\n<!-- /{name} -->"


wrong = []
for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
    text = page.read_text(encoding="utf-8")
    filled = text
    for match in re.finditer(r"(<!-- ?)([a-z-]+)( ?-->).*?\1/\2\3", text, re.DOTALL):
        try:
            filled = filled.replace(match[0], measured(match))
        except (LookupError, OSError) as error:
            wrong.append(f"{page.relative_to(ROOT)}, {match[2]}: {error}")
    if "--check" not in sys.argv:
        page.write_text(filled, encoding="utf-8")
    elif filled != text:
        wrong.append(f"{page.relative_to(ROOT)} differs from what was measured: run python3 tools/figures.py")

tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.[rp][sy]"))
for name in re.findall(r"`((?:\w+_){2,}\w+)`", (ROOT / "docs/security.md").read_text(encoding="utf-8")):
    if name.islower() and not re.search(rf"\b(fn|def) {name}\(", tests):
        wrong.append(f"docs/security.md names the test {name}, which does not exist")
sys.exit("\n".join(wrong) or None)
