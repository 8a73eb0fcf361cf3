"""What goes wrong, and what it means to the person at the keyboard."""

import datetime
import re


class Refusal(Exception):
    """Ends the program with one message for its user."""


class Missing(Refusal):
    """What was asked for does not exist."""


SIGNED_OUT = ("AWS does not accept these credentials (any more). Sign in again (aws login, aws sso login, or new "
              "access keys), then check with aws sts get-caller-identity.")
DENIED = "These credentials lack a permission. `permissions` prints the IAM policy that each command needs."
BUSY = "Somebody else is changing this at the moment: try again in a minute."
SLOWER = "AWS asks this account for fewer requests: try again in a minute."
MEANINGS = {
    **dict.fromkeys(["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch",
                     "IncompleteSignature", "InvalidAccessKeyId", "UnrecognizedClientException"], SIGNED_OUT),
    **dict.fromkeys(["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError",
                     "403", "NotAuthorizedException", "Forbidden"], DENIED),
    **dict.fromkeys(["Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded",
                     "RequestThrottled", "SlowDown", "ThrottledException"], SLOWER),
    **dict.fromkeys(["ConcurrentModificationException", "OperationInProgressException",
                     "ResourceConflictException"], BUSY),
}
# Operations with which the CLI gets credentials: any error there is about the person, not about what was asked.
SIGNING_IN = {"CreateOAuth2Token", "GetRoleCredentials", "CreateToken", "AssumeRole", "AssumeRoleWithSAML",
              "AssumeRoleWithWebIdentity"}
# The CLI's own errors have no code. These are the starts of its sentences.
OWN_ERRORS = [
    (r"Unable to locate credentials|The config profile|Partial credentials",
     "The AWS CLI has no credentials: run aws configure, aws login or aws sso login, or set AWS_PROFILE."),
    (r"Error loading SSO|The SSO session|Error when retrieving|Your session has expired|Token has expired|"
     r"Refreshing .* failed|reauthenticate", SIGNED_OUT),
    (r"Could not connect to the endpoint|Invalid endpoint|Connect(ion)? .*timed? ?out|Connection was closed",
     "AWS cannot be reached in region {region}: check the region in the user pool's id, and your network."),
]


class AwsError(Refusal):
    """The AWS CLI failed. `code` is AWS's name for the error, or None for an error of the CLI itself.

    `own` is true if it says something about the person's credentials, clock or network, and nothing about the thing
    that was asked for.
    """

    def __init__(self, region, command, stderr):
        stderr = re.sub(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ - .*\n?", "", stderr)  # what --debug adds
        self.code = self.message = None
        found = re.search(r"An error occurred \(([\w.]+)\) when calling the (\w+) operation(?: \([^)]*\))?: ?(.*)",
                          stderr, re.DOTALL)
        if found:
            self.code, self.message = found[1], found[3].strip()
            meaning = SIGNED_OUT if found[2] in SIGNING_IN else clock(self.message) or MEANINGS.get(self.code)
            self.own = meaning is not None
        else:
            meaning = next((text for pattern, text in OWN_ERRORS if re.search(pattern, stderr)), None)
            self.own = True
        lines = [line.strip() for line in (found[0] if found else stderr).splitlines() if line.strip()] or ["nothing"]
        said = " ".join(lines) if found else lines[-1]
        meaning = meaning or ("AWS refused." if found else "The AWS CLI failed.")
        super().__init__(f"{meaning.format(region=region)}\naws {command} says: {said}")


def clock(message):
    """What AWS says about this machine's clock, or None."""
    skewed = re.search(r"Signature (expired|not yet current): (\d{8}T\d{6}Z) is .*?\((\d{8}T\d{6}Z)", message)
    if not skewed:
        return ("This machine's clock is not AWS's: set it, then try again."
                if re.search(r"[Ss]kew|too large|clock", message) else None)
    own, theirs = (datetime.datetime.strptime(text, "%Y%m%dT%H%M%SZ") for text in skewed.groups()[1:])
    minutes = round(abs((own - theirs).total_seconds()) / 60)
    return (f"This machine's clock is {minutes} minutes {'behind' if own < theirs else 'ahead of'} AWS's: set it, then "
            "try again.")
