"""`make watch` and `make invoke`: the function in cargo-lambda's emulator."""

import json
import unittest

from support import ROOT, SETTINGS, Process, UserHub, free_port, run, wait_until_open


class Watch(unittest.TestCase):
    def test_reports_the_invoked_event(self):
        run("cargo", "build", "--quiet", "--locked")  # the emulator would give up while cargo builds
        userhub = UserHub()
        port = free_port()
        emulator = Process("make", "watch", f"PORT={port}", cwd=ROOT,
                           environment={**SETTINGS, "USERHUB_BASE_URL": userhub.base_url})
        self.addCleanup(emulator.stop)
        wait_until_open(port)
        answer = run("make", "--no-print-directory", "invoke", f"PORT={port}", "EVENT=events/minimal.json").stdout
        self.assertEqual(json.loads(answer), json.loads((ROOT / "events/minimal.json").read_text()))
        self.assertEqual(userhub.end(), ["sample"])
