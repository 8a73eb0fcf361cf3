"""The AWS CLI, version 1 or 2, which is all that these commands know of AWS.

It works with whatever credentials and profiles the user's CLI works with. What it prints is read by this program, so no
setting of the user's may change that.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

from errors import AwsError, Missing, Refusal

# Settings of the user's that would change what the CLI prints, and what they are set to instead. Versions that do not
# know one of these variables ignore it. There is none for the format of time stamps, so no command may rely on it.
PINNED = {
    "AWS_PAGER": "",
    "AWS_CLI_AUTO_PROMPT": "off",
    "AWS_CLI_ERROR_FORMAT": "legacy",  # since 2.34
    "AWS_CLI_FILE_ENCODING": "UTF-8",
    "AWS_CLI_OUTPUT_ENCODING": "utf-8",
    "PYTHONIOENCODING": "utf-8",
}
STDIN = "file:///dev/stdin"
NOT_FOUND = {"ResourceNotFoundException", "NoSuchEntity", "404", "NoSuchBucket", "UserNotFoundException", "NotFound",
             "NotFoundException", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"}


class NotFound(AwsError, Missing):
    """AWS has no such thing."""


@functools.cache
def history():
    """The CLI's history, if it is switched on, keeps whole answers: it goes to a folder that is deleted at the end."""
    folder = tempfile.TemporaryDirectory()
    return folder, {"AWS_CLI_HISTORY_FILE": os.path.join(folder.name, "history")}


class Aws:
    """The AWS CLI in one region."""

    def __init__(self, region):
        self.region = region

    def __call__(self, *arguments, **how):
        return self.with_log(*arguments, **how)[0]

    def with_log(self, *arguments, given=None):
        """The answer, and what the CLI logged. `given` is its input as JSON, which no list of processes shows."""
        if given is not None:
            arguments = [*arguments, "--cli-input-json", STDIN]
        return self.run(arguments, None if given is None else json.dumps(given).encode())

    def run(self, arguments, stdin=None):
        try:
            environment = {**os.environ, **PINNED, **history()[1]}
        except OSError:  # a full disk, where the CLI could not keep a history either
            environment = {**os.environ, **PINNED}
        try:
            done = subprocess.run(["aws", "--region", self.region, "--output", "json", *arguments], input=stdin or b"",
                                  capture_output=True, env=environment)
        except FileNotFoundError:
            raise Refusal("The AWS CLI is missing: see https://docs.aws.amazon.com/cli/latest/userguide/"
                          "getting-started-install.html") from None
        printed, log = (stream.decode(errors="replace") for stream in [done.stdout, done.stderr])
        if done.returncode != 0:
            error = AwsError(self.region, " ".join(arguments[:2]), log)
            raise NotFound(self.region, " ".join(arguments[:2]), log) if error.code in NOT_FOUND else error
        return json.loads(printed or "{}"), log

    def ask(self, *arguments, **how):
        """The answer, or None if AWS has no such thing."""
        try:
            return self(*arguments, **how)
        except NotFound:
            return None

    @functools.cache  # noqa: B019
    def identity(self):
        """The partition and the account of the credentials."""
        _, partition, _, _, account, _ = self("sts", "get-caller-identity")["Arn"].split(":", 5)
        return partition, account

    def arn(self, service, resource):
        partition, account = self.identity()
        return f"arn:{partition}:{service}:{self.region}:{account}:{resource}"


@contextlib.contextmanager
def undisturbed():
    """Lets what tidies up go on when somebody types Ctrl-C once more."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def wait(seconds, what, done, pause=1):
    """Asks until the answer is not None, and says after a second what is being waited for."""
    start, told = time.monotonic(), False
    while (answer := done()) is None:
        if time.monotonic() - start > seconds:
            raise Refusal(f"After {seconds} s it is still {what}: try again later.")
        if not told and time.monotonic() - start > 1:
            told = True
            print(f"waiting     {what}", file=sys.stderr, flush=True)
        time.sleep(pause)
    return answer
