"""Reports after the response, in AWS's own runtime interface emulator: it tells when the runtime was done with an
invocation, and ends the invocation when the extension is done as well."""

import os
import re
import signal
import time
import unittest

from support import ROOT, SETTINGS, Lambda, UserHub

EVENT = (ROOT / "events/minimal.json").read_bytes().strip()


class AfterResponse(unittest.TestCase):
    def start(self, fault=None, **settings):
        self.invocations = 0
        self.userhub = UserHub(fault)
        self.function = Lambda(self.userhub.base_url, settings=SETTINGS | settings)
        self.addCleanup(self.function.stop)

    def invoke(self):
        """How long the runtime took to answer, and how long the invocation went on, in seconds."""
        start = time.monotonic()
        self.assertEqual(self.function.invoke(EVENT), EVENT)
        elapsed = time.monotonic() - start
        self.invocations += 1
        self.assertEqual(self.function.successes(self.invocations), self.invocations)
        done = [line for line in self.function.lines if "INVOKE RTDONE(" in line][-1]
        return float(re.search(r"duration: ([\d.]+)ms", done)[1]) / 1000, elapsed

    def test_cognito_has_its_event_back_while_userhub_takes_a_second(self):
        self.start("slow", USERHUB_REPORT="after-response")
        for _ in range(3):
            answered, ended = self.invoke()
            self.assertLess(answered, 0.3)
            self.assertGreaterEqual(ended, 1, "the report was still to come")
        self.assertEqual([line["outcome"] for line in self.function.outcomes(3)], ["reported"] * 3)
        self.assertEqual(self.userhub.end(), ["sample"] * 3)

    def test_by_default_it_has_to_wait(self):
        self.start("slow")
        answered, _ = self.invoke()
        self.assertGreaterEqual(answered, 1)
        self.assertEqual(self.userhub.end(), ["sample"])

    def test_a_userhub_that_fails_is_asked_three_times(self):
        self.start("500", USERHUB_REPORT="after-response")
        answered, ended = self.invoke()
        self.assertLess(answered, 0.3)
        self.assertGreaterEqual(ended, 0.6)
        [line] = self.function.outcomes(1)
        self.assertEqual((line["error_kind"], line["tries"]), ("unavailable", 3))
        self.assertEqual(self.userhub.end(), ["sample"] * 3)

    def test_the_next_process_works_after_an_invocation_that_timed_out(self):
        self.start(USERHUB_REPORT="after-response", AWS_LAMBDA_FUNCTION_TIMEOUT="2")
        self.invoke()
        os.kill(self.function.process_id(), signal.SIGSTOP)
        self.assertIn(b"timed out", self.function.invoke(EVENT))
        answered, _ = self.invoke()
        self.assertLess(answered, 0.3)
        self.assertEqual([line["outcome"] for line in self.function.outcomes(2)], ["reported"] * 2)
        self.function.wait_for("Internal agent userhub-signin .* registered", 2)
        self.assertEqual(self.userhub.end(), ["sample"] * 2)
