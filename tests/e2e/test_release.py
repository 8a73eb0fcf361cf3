"""What a release publishes, and `make deploy` from its archive and zip alone."""

import hashlib
import pathlib
import re
import shutil
import tarfile
import tempfile
import unittest

from support import ROOT, SETTINGS, Ministack, client, release_assets, run

VERSION = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]


class Release(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.assets = cls.folder / "assets"
        cls.assets.mkdir()
        release_assets(cls.assets)

    def release(self, *options, code=0):
        done = run("python3", "tools/release.py", "--assets", self.assets, "--notes", self.folder / "notes.md",
                   *options, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stdout + done.stderr

    def test_the_checksums_are_those_of_all_files(self):
        sums = dict(reversed(line.split("  ")) for line in (self.assets / "SHA256SUMS").read_text().splitlines())
        self.assertEqual(set(sums), {"userhub-signin-x86_64.zip", "userhub-signin-x86_64.cdx.json", "template.yaml",
                                     f"userhub-signin-{VERSION}.tar.gz"})
        for name, value in sums.items():
            self.assertEqual(hashlib.sha256((self.assets / name).read_bytes()).hexdigest(), value, name)

    def test_the_same_commit_gives_the_same_archive(self):
        before = (self.assets / "SHA256SUMS").read_text()
        self.assertEqual(self.release("x86_64"), before)

    def test_the_notes_are_the_change_logs_section(self):
        notes = (self.folder / "notes.md").read_text()
        self.assertIn(f"\n## {VERSION} - ", (ROOT / "CHANGELOG.md").read_text())
        self.assertIn(notes, (ROOT / "CHANGELOG.md").read_text())
        self.assertIn("### Added\n- The function: ", notes)
        self.assertNotIn("\n## ", notes)

    def test_a_version_that_differs_and_a_file_that_is_missing_or_unknown_are_refused(self):
        self.assertIn(f"the tag is v9.0.0, and the version in Cargo.toml is {VERSION}",
                      self.release("--tag", "v9.0.0", "x86_64", code=1))
        self.release("--tag", f"v{VERSION}", "x86_64")
        self.assertIn("lacks userhub-signin-arm64.cdx.json, userhub-signin-arm64.zip",
                      self.release("x86_64", "arm64", code=1))
        (self.assets / "key.txt").write_text("")
        self.addCleanup((self.assets / "key.txt").unlink)
        self.assertIn("holds key.txt", self.release("x86_64", code=1))

    def test_the_archive_and_the_zip_deploy_without_a_repository(self):
        with tempfile.TemporaryDirectory() as name:
            with tarfile.open(self.assets / f"userhub-signin-{VERSION}.tar.gz") as archive:
                archive.extractall(name, filter="data")
            [folder] = pathlib.Path(name).iterdir()
            self.assertEqual(folder.name, f"userhub-signin-{VERSION}")
            aws = Ministack()
            self.addCleanup(aws.stop)
            pool = client(aws.url, "cognito-idp").create_user_pool(PoolName="pool")["UserPool"]["Id"]
            printed = run(
                "make", "deploy", f"USER_POOL_ID={pool}", f"ZIP={self.assets}/userhub-signin-x86_64.zip",
                "PARAMETERS=SavedQueries=no", cwd=folder, environment={  # the emulator has no saved queries
                    "AWS_ENDPOINT_URL": aws.url, "USERHUB_ADMIN_KEY": SETTINGS["USERHUB_ADMIN_KEY"]}).stdout
        self.assertIn("checked     userhub-signin returned a token refresh byte for byte", printed)
        [function] = client(aws.url, "lambda").list_functions()["Functions"]
        self.assertIn(f"({VERSION}, sha256 ", function["Description"])
