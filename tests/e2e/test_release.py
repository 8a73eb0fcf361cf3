"""What a release publishes, and what it is good for alone, in an empty folder."""

import hashlib
import pathlib
import shutil
import tempfile
import unittest

from samtranslator.yaml_helper import yaml_parse
from support import BINARY, ROOT, SETTINGS, Ministack, run, zipped
from test_infrastructure import RELEASE, RELEASED, VERSION


class Release(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.assets = cls.folder / "assets"
        cls.assets.mkdir()
        (cls.assets / f"{RELEASE}.zip").write_bytes(zipped(BINARY))
        (cls.assets / f"{RELEASE}.cdx.json").write_text("{}")  # to list the components would take minutes
        run("python3", "tools/release.py", "--assets", cls.assets, "--notes", cls.folder / "notes.md", "x86_64")

    def release(self, *options, code=0):
        done = run("python3", "tools/release.py", "--assets", self.assets, "--notes", self.folder / "notes.md",
                   *options, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stdout + done.stderr

    def test_the_checksums_are_those_of_all_files(self):
        run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=self.assets)
        listed = {line.split("  ")[1] for line in (self.assets / "SHA256SUMS").read_text().splitlines()}
        self.assertEqual(listed, {f"{RELEASE}.zip", f"{RELEASE}.cdx.json", f"{RELEASE}.yaml", "connection.yaml",
                                  "userhub-signin.pyz"})
        self.assertEqual({path.name for path in self.assets.iterdir()}, {*listed, "SHA256SUMS"})

    def test_the_same_commit_gives_the_same_files(self):
        before = (self.assets / "SHA256SUMS").read_text()
        self.assertTrue(self.release("x86_64").endswith(before))

    def test_the_notes_are_the_change_logs_section(self):
        notes = (self.folder / "notes.md").read_text()
        log = (ROOT / "CHANGELOG.md").read_text()
        self.assertIn(f"\n## {VERSION} - ", log)
        self.assertIn(notes, log)
        self.assertIn("### Added\n- ", notes)
        self.assertNotIn("\n## ", notes)

    def test_a_version_that_differs_and_a_file_that_is_missing_or_unknown_are_refused(self):
        self.assertIn(f"the tag is v9.0.0, and the version in Cargo.toml is {VERSION}",
                      self.release("--tag", "v9.0.0", "x86_64", code=1))
        self.release("--tag", f"v{VERSION}", "x86_64")
        arm = RELEASE.replace("x86_64", "arm64")
        self.assertIn(f"lacks {arm}.cdx.json, {arm}.zip", self.release("x86_64", "arm64", code=1))
        for kind in ["zip", "cdx.json"]:
            shutil.copy(self.assets / f"{RELEASE}.{kind}", self.assets / f"{arm}.{kind}")
            self.addCleanup((self.assets / f"{arm}.{kind}").unlink)
        self.assertIn(f"{arm}.zip is for another processor", self.release("x86_64", "arm64", code=1))
        (self.assets / "key.txt").write_text("")
        self.addCleanup((self.assets / "key.txt").unlink)
        self.assertIn("holds key.txt", self.release("x86_64", "arm64", code=1))

    def test_the_program_deploys_the_releases_template_and_zip_from_an_empty_folder(self):
        aws = Ministack()
        self.addCleanup(aws.stop)
        pool = aws.client("cognito-idp").create_user_pool(PoolName="pool")["UserPool"]["Id"]
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(self.assets / "userhub-signin.pyz", folder)
            run("python3", "userhub-signin.pyz", "deploy", pool, "--connection-id", "conn_local", cwd=folder,
                environment={"AWS_ENDPOINT_URL": aws.url, "USERHUB_ADMIN_KEY": SETTINGS["USERHUB_ADMIN_KEY"]})
            self.assertEqual([path.name for path in pathlib.Path(folder).iterdir()], ["userhub-signin.pyz"])
        template = aws.client("cloudformation").get_template(StackName="userhub-signin")["TemplateBody"]
        released = (self.assets / f"{RELEASE}.yaml").read_text()
        self.assertEqual(released, RELEASED)
        self.assertEqual(yaml_parse(template), yaml_parse(released), "the program leaves the comments out")
        self.assertEqual((self.assets / "connection.yaml").read_text(), (ROOT / "connection.yaml").read_text())
        digest = hashlib.sha256((self.assets / f"{RELEASE}.zip").read_bytes()).hexdigest()
        for function in aws.client("lambda").list_functions()["Functions"]:
            self.assertIn(f"({VERSION}, sha256 {digest})", function["Description"])
