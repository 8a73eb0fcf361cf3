"""The deployed function."""

import base64
import contextlib
import fnmatch
import json
import pathlib
import re
import shlex
import tempfile
import time

from aws_cli import AwsError, NotFound, Refusal

SETTINGS = {"USERHUB_ADMIN_KEY": True, "AMAZON_COGNITO_CONNECTION_ID": True, "USERHUB_BASE_URL": False,
            "USERHUB_EXTRA_CA_CERTS": False, "USERHUB_REPORT": False}  # name: whether it is required

# An event that the function returns without reporting anything: a token refresh.
CHECK_EVENT = json.dumps({"version": "1", "triggerSource": "TokenGeneration_RefreshTokens", "userName": "check",
                          "request": {"userAttributes": {}}, "response": {}}).encode()

# How long to wait for a function that Lambda is still creating, updating or waking, in seconds.
ACTIVE_LIMIT = 120


class Missing(Refusal):
    """What was asked for does not exist."""


class Function:
    """The function, or one of its aliases. Never holds a value of its environment, only the names of the variables."""

    def __init__(self, aws, name, pool_arn):
        self.aws, self.name = aws, name
        self.arn = arn_of(name, aws.region, pool_arn)
        base, _, alias = name.partition(":")
        self.names = ["--function-name", base, *(["--qualifier", alias] if alias else [])]
        self.configure()
        self.log_group = self.configuration["log_group"] or f"/aws/lambda/{base}"
        self.logs_text = self.configuration["log_format"] == "Text"
        self.variables = set(self.configuration["variables"])

    def configure(self):
        """Asks Lambda what it knows of the function."""
        try:
            self.configuration = self.aws(
                "lambda", "get-function-configuration", *self.names, "--query",
                "{arn: FunctionArn, state: State, reason: StateReason, update: LastUpdateStatus, update_reason:"
                " LastUpdateStatusReason, log_group: LoggingConfig.LogGroup, log_format: LoggingConfig.LogFormat,"
                " variables: keys(not_null(Environment.Variables, `{}`)), trouble: Environment.Error.Message,"
                " description: Description, sha256: CodeSha256}")
        except NotFound as error:
            raise Missing(f"There is no function {self.name} in {self.aws.region}: deploy it there with make deploy, "
                          "or name another with FUNCTION=. If somebody deleted it, its stack has to go first: make "
                          "detach, make remove.") from error

    def trouble(self):
        """What keeps Lambda from running the function, or None."""
        found = self.configuration
        if found["trouble"]:
            return f"Lambda cannot read its environment variables: {found['trouble']}"
        if found["state"] not in ("Active", "Inactive"):  # an inactive one wakes when it is invoked
            return f"its state is {found['state']}: {found['reason']}"
        if found["update"] == "Failed":
            return f"its last update failed: {found['update_reason']}"
        return None

    def missing_settings(self):
        return [name for name, required in SETTINGS.items() if required and name not in self.variables]

    def wait_until_active(self):
        """Waits while Lambda creates or updates the function."""
        give_up = time.monotonic() + ACTIVE_LIMIT
        while self.configuration["state"] == "Pending" or self.configuration["update"] == "InProgress":
            if time.monotonic() > give_up:
                raise Refusal(f"Lambda has not finished creating or updating {self.name} after {ACTIVE_LIMIT} s: try "
                              "again later.")
            time.sleep(1)
            self.configure()

    def invoke(self, event):
        """The bytes that come back, whether Lambda calls that a failure, and the function's log lines."""
        with tempfile.TemporaryDirectory() as folder:
            payload, answer = pathlib.Path(folder, "event"), pathlib.Path(folder, "answer")
            payload.write_bytes(event)
            done = self.aws("lambda", "invoke", *self.names, "--payload", f"fileb://{payload}", "--log-type", "Tail",
                            str(answer))
            log = base64.b64decode(done.get("LogResult", "")).decode(errors="replace").splitlines()
            return answer.read_bytes(), "FunctionError" in done, log

    def check(self):
        """Invokes the function with an event that reports nothing. None if it came back, otherwise what happened."""
        try:
            return self.tried()
        except AwsError as error:
            if error.code == "TooManyRequestsException":
                return f"Lambda refused to invoke it, as it would refuse Cognito: {error.message}"
            return f"it could not be invoked: {error}"

    def tried(self):
        self.wait_until_active()
        if self.configuration["state"] == "Inactive":
            with contextlib.suppress(AwsError):
                self.invoke(CHECK_EVENT)  # fails, and wakes it
            self.configure()
            self.wait_until_active()
        if trouble := self.trouble():
            return trouble
        received, failed, log = self.invoke(CHECK_EVENT)
        if not failed and received == CHECK_EVENT:
            return None
        return f"it returned {received[:200].decode(errors='replace')!r}" + "".join(f"\n  {line}" for line in log[-5:])

    def cognito_may_invoke(self, pool_arn):
        """Whether the function's policy lets Cognito call it for this pool. An alias has a policy of its own."""
        return any(allows(statement, pool_arn) for statement in json.loads(self.policy())["Statement"])

    def permitted_pools(self):
        """The ids of the user pools that the function's policy names."""
        return set(re.findall(r":userpool/([a-z0-9-]+_[0-9A-Za-z]+)", self.policy()))

    def policy(self):
        """The text of the function's policy."""
        try:
            return self.aws("lambda", "get-policy", *self.names)["Policy"]
        except NotFound:  # of a policy; that there is a function is known
            return '{"Statement": []}'

    def permission_command(self, pool_id, pool_arn):
        """The command that lets Cognito invoke the function for a pool."""
        return shlex.join([
            "aws", "lambda", "add-permission", "--region", self.aws.region, *self.names, "--statement-id",
            f"cognito-{pool_id}", "--action", "lambda:InvokeFunction", "--principal", "cognito-idp.amazonaws.com",
            "--source-arn", pool_arn, "--source-account", pool_arn.split(":")[4]])

    def stack(self):
        """The name of the CloudFormation stack that owns the function, or None."""
        tags = self.aws("lambda", "list-tags", "--resource", base(self.arn)).get("Tags", {})
        return tags.get("aws:cloudformation:stack-name")


def base(arn):
    """A function's ARN without a version or alias."""
    return ":".join(arn.split(":")[:7])


def arn_of(name, region, pool_arn):
    """The ARN of a function or alias in a pool's account. Lambda is not asked, because the function may be gone."""
    _, partition, _, _, account, _ = pool_arn.split(":", 5)
    return f"arn:{partition}:lambda:{region}:{account}:function:{name}"


def allows(statement, pool_arn):
    principal = statement["Principal"]
    service = principal.get("Service") if isinstance(principal, dict) else principal
    facts = {"aws:sourcearn": pool_arn, "aws:sourceaccount": pool_arn.split(":")[4]}
    return (
        statement["Effect"] == "Allow"
        and service in ("cognito-idp.amazonaws.com", "*")
        and statement.get("Action") in ("lambda:InvokeFunction", "lambda:*")
        and all(
            meets(operator, facts.get(key.lower()), wanted)
            for operator, wants in statement.get("Condition", {}).items()
            for key, wanted in wants.items()
        )
    )


def meets(operator, fact, wanted):
    """Whether a condition of a policy is met. An operator that is not known here counts as not met."""
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if fact and operator in ("ArnLike", "ArnEquals", "StringLike"):
        return any(fnmatch.fnmatchcase(fact, pattern) for pattern in wanted)
    return operator == "StringEquals" and fact in wanted
