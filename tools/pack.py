"""Packs what is deployed and published. The same input always gives the same bytes.

`zip` packs the built function for Lambda (make build), `pyz` the operator's program with the templates and zips that it
holds (make pyz), and `release` writes everything that a tag publishes, from the zips and their components in the folder
of assets (make release).
"""

import argparse
import hashlib
import io
import pathlib
import re
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "ops"))
from errors import Refusal  # noqa: E402
from package import Package, released_template, version  # noqa: E402


def archive(files, mode):
    """A zip with these files, by name, without time stamps."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as writer:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # dated 1980, the earliest that the format knows
            entry.create_system = 3  # Unix, whatever packs it
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".zip") else zipfile.ZIP_DEFLATED
            writer.writestr(entry, content, compresslevel=9)
    return packed.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def pack_function(binary, target):
    write(target, archive({"bootstrap": binary.read_bytes()}, 0o755))


def pack_program(target, zips):
    files = {path.name: path.read_bytes() for kind in ["py", "json"] for path in (ROOT / "ops").glob(f"*.{kind}")}
    files |= {name: (ROOT / name).read_bytes() for name in ["template.yaml", "connection.yaml"]}
    files["VERSION"] = version().encode()
    for path in zips:
        code = Package.read(path)
        if f"{code.architecture}.zip" in files:
            raise Refusal(f"{path} is a second zip for {code.architecture}")
        files[f"{code.architecture}.zip"] = code.content
    write(target, b"#!/usr/bin/env python3\n" + archive(files, 0o644))
    target.chmod(0o755)


def section(number):
    """The version's part of the change log."""
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(number)} - \d{{4}}-\d\d-\d\d\n\n((?:(?!## ).*\n)*)", log, re.MULTILINE)
    if not found:
        raise Refusal(f"CHANGELOG.md has no section ## {number} - with a date: rename Unreleased")
    return found[1]


def release(assets, notes, tag, architectures):
    number = version()
    if tag not in (None, "", f"v{number}"):
        raise Refusal(f"the tag is {tag}, and the version in Cargo.toml is {number}: push the tag v{number}, or "
                      "change the version in Cargo.toml")
    names = {architecture: f"userhub-signin-{number}-{architecture}" for architecture in architectures}
    built = {f"{name}.{kind}" for name in names.values() for kind in ["zip", "cdx.json"]}
    made = {*(f"{name}.yaml" for name in names.values()), "connection.yaml", "userhub-signin.pyz"}
    present = {path.name for path in assets.glob("*")}
    if missing := built - present:
        raise Refusal(f"{assets} lacks {', '.join(sorted(missing))}: make assets makes those of one processor")
    if unknown := present - built - made - {"SHA256SUMS"}:
        raise Refusal(f"{assets} holds {', '.join(sorted(unknown))}, which no release has: delete it")
    notes.write_text(section(number), encoding="utf-8")

    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    for architecture, name in names.items():
        if Package.read(assets / f"{name}.zip").architecture != architecture:
            raise Refusal(f"{name}.zip is for another processor")
        (assets / f"{name}.yaml").write_text(released_template(template, architecture), encoding="utf-8")
    (assets / "connection.yaml").write_bytes((ROOT / "connection.yaml").read_bytes())
    pack_program(assets / "userhub-signin.pyz", [assets / f"{name}.zip" for name in names.values()])

    sums = [f"{hashlib.sha256((assets / name).read_bytes()).hexdigest()}  {name}\n"
            for name in sorted(built | made)]
    (assets / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print("".join(sums), end="")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, command in [("zip", pack_function), ("pyz", pack_program), ("release", release)]:
        commands.add_parser(name).set_defaults(command=command)
    commands.choices["zip"].add_argument("binary", type=pathlib.Path)
    for name in ["zip", "pyz"]:
        commands.choices[name].add_argument("target", type=pathlib.Path)
    commands.choices["pyz"].add_argument("zips", nargs="*")
    options = commands.choices["release"]
    options.add_argument("--assets", type=pathlib.Path, default=ROOT / "target/assets")
    options.add_argument("--notes", type=pathlib.Path, default=ROOT / "target/release-notes.md")
    options.add_argument("--tag")
    options.add_argument("architectures", nargs="+")
    given = vars(parser.parse_args())
    given.pop("command")(**given)


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(str(refusal))
