"""The deployed function, and the one that empties its queue."""

import base64
import contextlib
import fnmatch
import json
import pathlib
import re
import shlex
import tempfile

from aws_cli import NotFound, wait
from errors import AwsError, Missing

OK, PROBLEM, UNKNOWN = "ok", "problem", "unknown"
# An event that the function returns without reporting anything: a token refresh.
CHECK_EVENT = json.dumps({"version": "1", "triggerSource": "TokenGeneration_RefreshTokens", "userName": "check",
                          "request": {"userAttributes": {}}, "response": {}}).encode()
# How long to wait for a function that Lambda is still creating, updating or waking, in seconds.
ACTIVE_LIMIT = 120
# Errors of Invoke that Cognito meets too, beside throttling: Lambda cannot run the function.
CANNOT_RUN = re.compile(r"KMS|EC2|ENI|EFS|Subnet|Invalid(Runtime|SubnetID|SecurityGroupID|ZipFile)|SnapStart")


class Function:
    """The function. Never holds a secret of its environment, only the names of its variables."""

    def __init__(self, aws, name):
        self.aws, self.name = aws, name
        self.configure()

    def configure(self):
        """Asks Lambda what it knows of the function."""
        try:
            found = self.aws(
                "lambda", "get-function-configuration", "--function-name", self.name, "--query",
                "{arn: FunctionArn, state: State, reason: StateReason, update: LastUpdateStatus, update_reason:"
                " LastUpdateStatusReason, log: LoggingConfig, role: Role, memory: MemorySize, timeout: Timeout,"
                " architectures: Architectures, variables: keys(not_null(Environment.Variables, `{}`)),"
                " via: Environment.Variables.USERHUB_REPORT_VIA, queue_url: Environment.Variables.USERHUB_QUEUE_URL,"
                " trouble: Environment.Error.Message, description: Description, sha256: CodeSha256}")
        except NotFound as error:
            raise Missing(f"There is no function {self.name} in {self.aws.region}: deploy it, or name another with "
                          "--name. If somebody deleted it, its stack has to go first: detach, remove.") from error
        self.configuration, self.arn, self.variables = found, found["arn"], found["variables"]
        log = found["log"] or {}
        self.log_group = log.get("LogGroup") or f"/aws/lambda/{self.name}"
        self.logs_text = log.get("LogFormat") == "Text"

    def missing_settings(self):
        """The names of settings without which nothing is reported; empty if Lambda does not show them."""
        required = (["USERHUB_QUEUE_URL"] if self.configuration["via"] == "queue"
                    else ["USERHUB_ADMIN_KEY", "AMAZON_COGNITO_CONNECTION_ID"])
        return [] if self.configuration["trouble"] else [name for name in required if name not in self.variables]

    def wait_until_active(self):
        def busy():
            return self.configuration["state"] == "Pending" or self.configuration["update"] == "InProgress"

        def active():
            if busy():
                self.configure()
            return None if busy() else True

        wait(ACTIVE_LIMIT, f"creating or updating {self.name}", active)

    def invoke(self, event):
        """The bytes that come back, whether Lambda calls that a failure, and the function's log lines."""
        with tempfile.TemporaryDirectory() as folder:
            payload, answer = pathlib.Path(folder, "event"), pathlib.Path(folder, "answer")
            payload.write_bytes(event)
            done = self.aws("lambda", "invoke", "--function-name", self.name, "--payload", f"fileb://{payload}",
                            "--log-type", "Tail", str(answer))
            log = base64.b64decode(done.get("LogResult", "")).decode(errors="replace").splitlines()
            return answer.read_bytes(), "FunctionError" in done, log

    def check(self):
        """Invokes the function with an event that reports nothing. A verdict, and what happened.

        It is a problem only if Cognito would meet it, too.
        """
        try:
            self.wait_until_active()
            if self.configuration["state"] == "Inactive":
                with contextlib.suppress(AwsError):
                    self.invoke(CHECK_EVENT)  # fails, and wakes it
                self.configure()
                self.wait_until_active()
            if self.configuration["state"] == "Failed":
                return PROBLEM, f"its state is Failed: {self.configuration['reason']}"
            received, failed, log = self.invoke(CHECK_EVENT)
        except AwsError as error:
            return judge(error)
        if not failed and received == CHECK_EVENT:
            return OK, "returned a token refresh unchanged"
        return PROBLEM, f"it returned {received[:200].decode(errors='replace')!r}" + "".join(
            f"\n  {line}" for line in log[-5:])

    def lacks_permission(self, pool):
        """That Cognito may not call the function for a pool, with the command that lets it, or None."""
        try:
            policy = self.aws("lambda", "get-policy", "--function-name", self.name)["Policy"]
        except NotFound:  # of a policy; that there is a function is known
            policy = '{"Statement": []}'
        if any(allows(statement, pool.arn) for statement in json.loads(policy)["Statement"]):
            return None
        return f"Cognito may not invoke {self.name} for this user pool. This lets it:\n" + shlex.join([
            "aws", "lambda", "add-permission", "--region", self.aws.region, "--function-name", self.name,
            "--statement-id", f"cognito-{pool.id}", "--action", "lambda:InvokeFunction", "--principal",
            "cognito-idp.amazonaws.com", "--source-arn", pool.arn, "--source-account", pool.arn.split(":")[4]])

    def tags(self):
        return self.aws("lambda", "list-tags", "--resource", self.arn).get("Tags", {})

    def reserved(self):
        """The function's reserved concurrency, which is a limit as well, or None."""
        return self.aws("lambda", "get-function-concurrency", "--function-name", self.name).get(
            "ReservedConcurrentExecutions")


def judge(error):
    """The verdict on a function that could not be invoked, and what happened."""
    if error.code == "TooManyRequestsException":
        return PROBLEM, f"Lambda refused to invoke it, as it would refuse Cognito: {error.message}"
    if "cannot be assumed by Lambda" in (error.message or ""):
        return PROBLEM, f"Lambda cannot assume its role, which was deleted or changed: {error.message}"
    if error.code == "ResourceNotFoundException":
        return PROBLEM, "it is gone"
    if CANNOT_RUN.match(error.code or ""):
        return PROBLEM, f"Lambda cannot run it: {error.code}, {error.message}"
    return UNKNOWN, f"it could not be tried: {error}"


def base(arn):
    """A function's ARN without a version or alias."""
    return ":".join(arn.split(":")[:7])


def arn_of(name, pool_arn):
    """The ARN of a function in a pool's account and region. Lambda is not asked, because the function may be gone."""
    _, partition, _, region, account, _ = pool_arn.split(":", 5)
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
