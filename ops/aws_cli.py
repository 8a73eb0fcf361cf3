"""The AWS CLI, which is all that these commands know of AWS.

It works with whatever credentials and profiles the user's CLI works with. What it prints is read by this program, so no
setting of the user's may change that.
"""

import json
import os
import re
import subprocess
import tempfile

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

# What an error's code means to somebody who ran a make target.
SIGNED_OUT = ("AWS does not accept these credentials (any more): sign in again, then check with "
              "aws sts get-caller-identity.")
DENIED = "These credentials lack a permission. docs/deploy.md lists the permissions that each command needs."
BUSY = "Somebody else is changing this at the moment: try again in a minute."
MEANINGS = {
    **dict.fromkeys(["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "InvalidSignatureException",
                     "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException"], SIGNED_OUT),
    **dict.fromkeys(["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"], DENIED),
    **dict.fromkeys(["ConcurrentModificationException", "OperationInProgressException", "ResourceConflictException",
                     "Throttling", "ThrottlingException", "TooManyRequestsException"], BUSY),
}
# The CLI's own errors have no code. These are the starts of its sentences.
OWN_ERRORS = [
    (r"Unable to locate credentials|The config profile|Partial credentials",
     "The AWS CLI has no credentials: run aws configure or aws sso login, or set AWS_PROFILE."),
    (r"Error loading SSO|The SSO session|Error when retrieving token", SIGNED_OUT),
    (r"Could not connect to the endpoint|Invalid endpoint",
     "AWS cannot be reached in region {region}: check the region in USER_POOL_ID, REGION, and your network."),
]


class Refusal(Exception):
    """Ends the program with one message for its user."""


class AwsError(Refusal):
    """The AWS CLI failed. `code` is AWS's name for the error, or None for an error of the CLI itself."""

    def __init__(self, region, command, stderr):
        self.code = self.message = None
        found = re.search(r"An error occurred \((\w+)\) when calling the \w+ operation(?: \([^)]*\))?: ?(.*)",
                          stderr, re.DOTALL)
        if found:
            self.code, self.message = found[1], found[2].strip()
            meaning = MEANINGS.get(self.code, "AWS refused.")
        else:
            meaning = next((text for pattern, text in OWN_ERRORS if re.search(pattern, stderr)), "The AWS CLI failed.")
        lines = [line.strip() for line in (found[0] if found else stderr).splitlines() if line.strip()] or ["nothing"]
        said = " ".join(lines) if found else lines[-1]
        super().__init__(f"{meaning.format(region=region)}\naws {command} says: {said}")


class NotFound(AwsError):
    """AWS has no such thing."""


class Aws:
    """The AWS CLI in one region."""

    def __init__(self, region):
        self.region = region

    def __call__(self, *arguments):
        return self.with_log(*arguments)[0]

    def with_log(self, *arguments):
        """The answer, and what the CLI logged."""
        command = ["aws", "--region", self.region, "--output", "json", *arguments]
        try:
            # The CLI's history, if it is switched on, keeps whole answers, so it has to go as well.
            with tempfile.TemporaryDirectory() as folder:
                environment = {**os.environ, **PINNED, "AWS_CLI_HISTORY_FILE": os.path.join(folder, "history")}
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
                                      errors="replace", env=environment)
        except FileNotFoundError:
            raise Refusal("The AWS CLI is missing: see https://docs.aws.amazon.com/cli/latest/userguide/"
                          "getting-started-install.html") from None
        if done.returncode != 0:
            error = AwsError(self.region, " ".join(arguments[:2]), done.stderr)
            if error.code in ("ResourceNotFoundException", "NoSuchEntity"):
                error = NotFound(self.region, " ".join(arguments[:2]), done.stderr)
            raise error
        return json.loads(done.stdout or "{}"), done.stderr


def region_of(pool_id):
    """The region in a user pool's id."""
    return pool_id.split("_")[0]
