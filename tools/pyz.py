"""`make pyz`: the operator's program as one file, with the same bytes each time.

Arguments: the file to write, and the function's zips, one for each processor that the program is to hold.
"""

import hashlib
import io
import pathlib
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "ops"))
import package  # noqa: E402
from errors import Refusal  # noqa: E402


def contents(zips):
    """The program's files by name."""
    files = {path.name: path.read_bytes() for kind in ["py", "json"] for path in (ROOT / "ops").glob(f"*.{kind}")}
    files |= {name: (ROOT / name).read_bytes() for name in ["template.yaml", "connection.yaml"]}
    files["VERSION"] = package.version().encode()
    for path in zips:
        code = package.Package.read(path)
        if f"{code.architecture}.zip" in files:
            raise Refusal(f"{path} is a second zip for {code.architecture}")
        files[f"{code.architecture}.zip"] = code.content
    return files


def main(target, *zips):
    packed = io.BytesIO(b"")
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in sorted(contents(zips).items()):
            entry = zipfile.ZipInfo(name)  # dated 1980, the earliest that the format knows
            entry.create_system = 3  # Unix, whatever packs it
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".zip") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=9)
    path = pathlib.Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"#!/usr/bin/env python3\n" + packed.getvalue())
    path.chmod(0o755)
    print(f"{target}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Refusal as refusal:
        sys.exit(str(refusal))
