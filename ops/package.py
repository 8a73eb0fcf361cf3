"""What is deployed: a zip that Lambda can run, and the templates. The program itself may hold them (make pyz)."""

import base64
import hashlib
import io
import os
import pathlib
import re
import struct
import zipfile

from errors import Refusal

# e_machine in an ELF header: Lambda's name of the processor.
MACHINES = {62: "x86_64", 183: "arm64"}
HERE = os.path.dirname(os.path.abspath(__file__))


def held(name):
    """The bytes of a file that the program holds, or None. In a checkout the templates are a folder above."""
    for folder in [HERE, os.path.dirname(HERE)]:
        try:
            return __loader__.get_data(os.path.join(folder, name))
        except OSError:
            continue
    return None


def version():
    return (held("VERSION") or re.search(rb'^version = "(.+)"', held("Cargo.toml"), re.MULTILINE)[1]).decode().strip()


def held_zips():
    """The zips in the program by processor."""
    return {machine: content for machine in MACHINES.values() if (content := held(f"{machine}.zip"))}


class Package:
    """A zip with an executable file `bootstrap`."""

    def __init__(self, content, path):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                entry = archive.getinfo("bootstrap")
                head = archive.read(entry)[:20]
        except zipfile.BadZipFile as error:
            raise Refusal(f"{path} is not a zip: {error}") from error
        except KeyError:
            raise Refusal(f"{path} has no file bootstrap, which Lambda would start.") from None
        if not entry.external_attr >> 16 & 0o111:
            raise Refusal(f"bootstrap in {path} is not executable, so Lambda could not start it.")
        machine = struct.unpack("<H", head[18:20])[0] if len(head) == 20 and head[:4] == b"\x7fELF" else None
        if machine not in MACHINES:
            raise Refusal(f"bootstrap in {path} is not a program for x86-64 or arm64 (ELF), so Lambda could not start "
                          "it.")
        self.content, self.path, self.architecture = content, path, MACHINES[machine]
        digest = hashlib.sha256(content)
        self.sha256, self.code_sha256 = digest.hexdigest(), base64.b64encode(digest.digest()).decode()

    @classmethod
    def read(cls, path):
        try:
            return cls(pathlib.Path(path).read_bytes(), path)
        except FileNotFoundError:
            raise Refusal(f"There is no file {path}: make build makes one, and a release has them.") from None
        except OSError as error:
            raise Refusal(f"{path} cannot be read: {error}") from error


def choose(zip_path, architecture, deployed):
    """The zip to deploy. Without a path it is one that the program holds, for the processor in use."""
    zips = held_zips()
    if zip_path:
        package = Package.read(zip_path)
    elif not zips:
        raise Refusal("This program holds no zip (a release's userhub-signin.pyz does): name one with --zip.")
    else:
        wanted = architecture or deployed or ("x86_64" if "x86_64" in zips else next(iter(zips)))
        if wanted not in zips:
            raise Refusal(f"This program holds the zip for {' and '.join(zips)}, and none for {wanted}: name one with "
                          "--zip, or say --architecture.")
        package = Package(zips[wanted], f"the zip for {wanted}")
    if architecture not in (None, package.architecture):
        raise Refusal(f"{package.path} is for {package.architecture}, not for {architecture}.")
    return package


def released_template(text, architecture):
    """template.yaml for a zip that is in a bucket (parameters CodeBucket, CodeKey) and for one processor."""
    other, = set(MACHINES.values()) - {architecture}
    for pattern, replacement, times in [
        (r"\nParameters:\n", "\nParameters:\n"
         "  CodeBucket:\n    Description: Bucket with the zip of the function, in the region of this stack\n"
         "    Type: String\n    AllowedPattern: ^[a-z0-9.-]{3,63}$\n"
         "    ConstraintDescription: must be the name of a bucket\n"
         "  CodeKey:\n    Description: Name of the zip in that bucket\n"
         "    Type: String\n    MinLength: 1\n", 1),
        (r"\n( +)Code: \.\n", r"\n\1Code: {S3Bucket: !Ref CodeBucket, S3Key: !Ref CodeKey}\n", None),
        (r"\n +Metadata:\n +BuildMethod: rust-cargolambda\n", "\n", None),
        # Lambda would start the binary of one processor on the other, and every sign-in would fail.
        (r"(\n  Architecture:\n(?:    .*\n)*?)    Default: .*\n", rf"\g<1>    Default: {architecture}\n", 1),
        (rf"(\n  Architecture:\n(?:    .*\n)*?)      - {other}\n", r"\g<1>", 1),
        (r"(\n  Architecture:\n(?:    .*\n)*?)    ConstraintDescription: .*\n",
         rf"\g<1>    ConstraintDescription: must be {architecture}, the processor of this release's zip\n", 1),
    ]:
        text, found = re.subn(pattern, replacement, text)
        if found != times if times else not found:
            raise ValueError(f"{pattern!r} is {found} times in the template")
    return text
