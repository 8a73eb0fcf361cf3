"""The zip to deploy: is it one that Lambda can run, and for which processor?"""

import hashlib
import pathlib
import struct
import zipfile

from aws_cli import Refusal

# e_machine in an ELF header: Lambda's name of the processor.
MACHINES = {62: "x86_64", 183: "arm64"}


class Package:
    """A zip with an executable file `bootstrap`."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        try:
            content = self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo("bootstrap")
                head = archive.read(entry)[:20]
        except FileNotFoundError:
            raise Refusal(f"There is no file {path}: make build makes one, or give a release's with ZIP=.") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise Refusal(f"{path} is not a zip: {error}") from error
        except KeyError:
            raise Refusal(f"{path} has no file bootstrap, which Lambda would start.") from None
        if not entry.external_attr >> 16 & 0o111:
            raise Refusal(f"bootstrap in {path} is not executable, so Lambda could not start it.")
        machine = struct.unpack("<H", head[18:20])[0] if len(head) == 20 and head[:4] == b"\x7fELF" else None
        if machine not in MACHINES:
            raise Refusal(f"bootstrap in {path} is not a program for x86-64 or arm64 (ELF), so Lambda could not start "
                          "it.")
        self.architecture = MACHINES[machine]
        self.sha256 = hashlib.sha256(content).hexdigest()
