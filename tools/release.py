"""`make release`: everything that a tag publishes, from the zips and their components in the folder of assets."""

import argparse
import hashlib
import pathlib
import re
import sys

import pyz  # lets ops/ be imported too
from errors import Refusal
from package import Package, released_template, version

ROOT = pathlib.Path(__file__).resolve().parent.parent


def notes(number):
    """The version's section of the change log."""
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(number)} - \d{{4}}-\d\d-\d\d\n\n((?:(?!## ).*\n)*)", log, re.MULTILINE)
    if not section:
        raise Refusal(f"CHANGELOG.md has no section ## {number} - with a date: rename Unreleased")
    return section[1]


def main():
    parser = argparse.ArgumentParser(prog="make release")
    parser.add_argument("--assets", type=pathlib.Path, default=ROOT / "target/assets")
    parser.add_argument("--notes", type=pathlib.Path, default=ROOT / "target/release-notes.md")
    parser.add_argument("--tag")
    parser.add_argument("architectures", nargs="+")
    given = parser.parse_args()
    number = version()
    if given.tag not in (None, "", f"v{number}"):
        raise Refusal(f"the tag is {given.tag}, and the version in Cargo.toml is {number}: push the tag v{number}, or "
                      "change the version in Cargo.toml")
    names = {architecture: f"userhub-signin-{number}-{architecture}" for architecture in given.architectures}
    built = {f"{name}.{kind}" for name in names.values() for kind in ["zip", "cdx.json"]}
    made = {*(f"{name}.yaml" for name in names.values()), "connection.yaml", "userhub-signin.pyz"}
    present = {path.name for path in given.assets.glob("*")}
    if missing := built - present:
        raise Refusal(f"{given.assets} lacks {', '.join(sorted(missing))}: make assets makes those of one processor")
    if unknown := present - built - made - {"SHA256SUMS"}:
        raise Refusal(f"{given.assets} holds {', '.join(sorted(unknown))}, which no release has: delete it")
    given.notes.write_text(notes(number), encoding="utf-8")

    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    for architecture, name in names.items():
        if Package.read(given.assets / f"{name}.zip").architecture != architecture:
            raise Refusal(f"{name}.zip is for another processor")
        (given.assets / f"{name}.yaml").write_text(released_template(template, architecture), encoding="utf-8")
    (given.assets / "connection.yaml").write_bytes((ROOT / "connection.yaml").read_bytes())
    pyz.main(given.assets / "userhub-signin.pyz", *(given.assets / f"{name}.zip" for name in names.values()))

    sums = [f"{hashlib.sha256((given.assets / name).read_bytes()).hexdigest()}  {name}\n"
            for name in sorted(built | made)]
    (given.assets / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print("".join(sums), end="")


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(str(refusal))
