"""Invokes the deployed function with the sign-in of a real user, which it reports."""

import getpass
import json
import sys

from aws_cli import NotFound
from errors import AwsError, Refusal
from function import PROBLEM, Function, judge
from user_pool import UserPool


def smoke(options):
    name = options.user
    if name == "-":
        name = getpass.getpass("User (not shown): ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    pool = UserPool(options.pool)
    try:  # by any name that the pool takes, such as an e-mail address
        user = pool.aws("cognito-idp", "admin-get-user", "--query", "{name: Username}",
                        given={"UserPoolId": pool.id, "Username": name})["name"]
    except NotFound as error:
        raise Refusal(f"There is no such user in {pool.id}, and nothing was reported to UserHub.") from error
    function = Function(pool.aws, options.name)
    function.wait_until_active()
    sent = json.dumps({
        "version": "1", "region": pool.aws.region, "userPoolId": pool.id, "userName": user, "callerContext": {
            "awsSdkVersion": "userhub-signin", "clientId": "userhub-signin"},
        "triggerSource": "PostAuthentication_Authentication",
        "request": {"userAttributes": {}, "newDeviceUsed": False}, "response": {}}, ensure_ascii=False).encode()
    try:
        received, failed, log = function.invoke(sent)
    except AwsError as error:
        verdict, text = judge(error)
        raise Refusal(f"{'Sign-ins would fail: ' if verdict == PROBLEM else ''}{text}") from error
    outcomes = {line: fields["outcome"] for line in log if (fields := outcome_line(line))}
    print(f"event       {'came back unchanged' if received == sent else 'did not come back as it was'}")
    for line in outcomes or [line for line in log if user not in line] or ["(no log came with the answer)"]:
        print(f"log         {line}")
    if failed or received != sent:
        raise Refusal("Sign-ins would fail. Do not attach this function; if it is attached, this restores sign-in:\n"
                      + options.say("detach"))
    if "queued" in outcomes.values():
        print(f"queued      it waits for UserHub, and {options.say('status')} says how long")
        if function.configuration["via"] == "queue":
            return 0
    if "reported" not in outcomes.values():
        raise Refusal("Sign-ins work, but this one was not seen to be reported at once. The field error_kind says why, "
                      "and docs/operate.md what to do about each kind.")
    return 0


def outcome_line(text):
    """The fields of the function's line about a sign-in, or None for any other line."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and "outcome" in fields else None
