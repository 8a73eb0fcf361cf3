"""`make release`: everything that a tag publishes, from the zips and their components in the folder of assets."""

import argparse
import hashlib
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "ops"))
from aws_cli import Refusal  # noqa: E402
from template import with_code  # noqa: E402

# What `make deploy ZIP=…` and the other commands of an operator need, and what explains them.
ARCHIVED = ["CHANGELOG.md", "Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "Makefile", "README.md",
            "SECURITY.md", "benches/results.md", "benches/results.svg", "docs", "events", "ops", "template.yaml",
            "tools/setup.txt"]


def found(pattern, file):
    """What stands in a file after a line's beginning."""
    text = (ROOT / file).read_text(encoding="utf-8")
    [value] = re.findall(pattern, text, re.MULTILINE) or [None]
    return value


def checked_version(tag):
    """The version, which has to be the same wherever it is written."""
    version = found(r'^version = "(.+)"', "Cargo.toml")
    semantic = found(r"^    SemanticVersion: (.+)", "template.yaml")
    if semantic != version:
        raise Refusal(f"SemanticVersion in template.yaml is {semantic}, and Cargo.toml's version {version}")
    if tag not in (None, "", f"v{version}"):
        raise Refusal(f"the tag is {tag}, and the version in Cargo.toml is {version}: push the tag v{version}, or "
                      "change the version in Cargo.toml and template.yaml")
    return version


def notes(version):
    """The version's section of the change log."""
    section = found(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n\n((?:(?!## ).*\n)*)", "CHANGELOG.md")
    if not section:
        raise Refusal(f"CHANGELOG.md has no section ## {version} - with a date: rename Unreleased")
    return section


def main():
    parser = argparse.ArgumentParser(prog="make release")
    parser.add_argument("--assets", type=pathlib.Path, default=ROOT / "target/assets")
    parser.add_argument("--notes", type=pathlib.Path, default=ROOT / "target/release-notes.md")
    parser.add_argument("--tag")
    parser.add_argument("architectures", nargs="+")
    given = parser.parse_args()
    version = checked_version(given.tag)
    zips = [f"userhub-signin-{architecture}.zip" for architecture in given.architectures]
    made = {*zips, *(name.replace(".zip", ".cdx.json") for name in zips)}
    present = {path.name for path in given.assets.glob("*")}
    if missing := made - present:
        raise Refusal(f"{given.assets} lacks {', '.join(sorted(missing))}: make assets makes those of one processor")
    archive = f"userhub-signin-{version}.tar.gz"
    if unknown := present - made - {"template.yaml", archive, "SHA256SUMS"}:
        raise Refusal(f"{given.assets} holds {', '.join(sorted(unknown))}, which no release has: delete it")
    given.notes.write_text(notes(version), encoding="utf-8")

    # A template beside the zip, for those who deploy with SAM or nest it.
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    (given.assets / "template.yaml").write_text(with_code(template, zips[0]), encoding="utf-8")
    subprocess.run(["git", "archive", "--format=tar.gz", f"--prefix=userhub-signin-{version}/",
                    f"--output={given.assets / archive}", "HEAD", *ARCHIVED], cwd=ROOT, check=True)

    sums = [f"{hashlib.sha256((given.assets / name).read_bytes()).hexdigest()}  {name}\n"
            for name in sorted({*made, "template.yaml", archive})]
    (given.assets / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print("".join(sums), end="")


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(str(refusal))
