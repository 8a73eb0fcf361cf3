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
NOT_FOUND = {"ResourceNotFoundException", "NoSuchEntity", "404", "NoSuchBucket", "UserNotFoundException", "NotFound",
             "NotFoundException", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"}


class NotFound(AwsError, Missing):
    """AWS has no such thing."""


@functools.cache
def private_folder():
    """A folder that only this user can read, deleted at the end of the program."""
    return tempfile.TemporaryDirectory()


class Aws:
    """The AWS CLI in one region."""

    def __init__(self, region):
        self.region = region

    def __call__(self, *arguments, **how):
        return self.with_log(*arguments, **how)[0]

    def with_log(self, *arguments, given=None, public=False):
        """The answer, and what the CLI logged.

        `given` is its input as JSON. It goes through a file, which no list of processes shows; `public` input goes
        without, if the disk is full.
        """
        if given is None:
            return self.run(arguments)
        try:
            with tempfile.NamedTemporaryFile("w", dir=private_folder().name, encoding="utf-8") as file:
                file.write(json.dumps(given))
                file.flush()
                return self.run([*arguments, "--cli-input-json", f"file://{file.name}"])
        except OSError as error:
            if public:
                return self.run([*arguments, "--cli-input-json", json.dumps(given)])
            raise Refusal(f"The temporary folder takes no file: {error}") from error

    def run(self, arguments):
        try:  # the CLI's history, if it is switched on, keeps whole answers: it goes, too
            environment = {"AWS_CLI_HISTORY_FILE": os.path.join(private_folder().name, "history")}
        except OSError:  # the history could not be kept elsewhere either
            environment = {}
        try:
            done = subprocess.run(["aws", "--region", self.region, "--output", "json", *arguments],
                                  stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
                                  env={**os.environ, **PINNED, **environment})
        except FileNotFoundError:
            raise Refusal("The AWS CLI is missing: see https://docs.aws.amazon.com/cli/latest/userguide/"
                          "getting-started-install.html") from None
        if done.returncode != 0:
            error = AwsError(self.region, " ".join(arguments[:2]), done.stderr)
            raise NotFound(self.region, " ".join(arguments[:2]), done.stderr) if error.code in NOT_FOUND else error
        return json.loads(done.stdout or "{}"), done.stderr

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


def wait(seconds, what, done, longest=1):
    """Asks until the answer is not None, ever more slowly, and says after a second what is being waited for."""
    start, told, pause = time.monotonic(), False, 0.1
    while (answer := done()) is None:
        if time.monotonic() - start > seconds:
            raise Refusal(f"After {seconds} s it is still {what}: try again later.")
        if not told and time.monotonic() - start > 1:
            told = True
            print(f"waiting     {what}", file=sys.stderr, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, longest)
    return answer
