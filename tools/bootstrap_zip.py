"""Packs the built function for Lambda: the same binary always gives the same zip, with no time stamp in it.

Arguments: the binary, the zip to write.
"""

import hashlib
import sys
import zipfile
from pathlib import Path

binary, archive = map(Path, sys.argv[1:])
entry = zipfile.ZipInfo("bootstrap")  # dated 1980, the earliest that the format knows
entry.create_system = 3  # Unix, whatever packs it
entry.external_attr = 0o100755 << 16
entry.compress_type = zipfile.ZIP_DEFLATED
with zipfile.ZipFile(archive, "w") as writer:
    writer.writestr(entry, binary.read_bytes(), compresslevel=9)
content = archive.read_bytes()
print(f"{archive}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
