"""Invokes the deployed function with an event that it reports."""

import json
import pathlib

from aws_cli import Refusal
from function import Function
from user_pool import UserPool


def smoke(options):
    path = pathlib.Path(options.event)
    if not path.is_file():
        raise Refusal(f"There is no file {path}: say for example EVENT=events/post-authentication.json")
    sent = path.read_bytes().strip()  # white space around it is an editor's, not Cognito's
    if options.user_name:
        try:
            event = {**json.loads(sent), "userName": options.user_name, "userPoolId": options.user_pool_id}
        except (ValueError, TypeError) as error:
            raise Refusal(f"{path} is not an event, which is a JSON object: {error}") from error
        sent = json.dumps(event, ensure_ascii=False).encode()
    pool = UserPool(options.user_pool_id, options.region)
    function = Function(pool.aws, options.function, pool.arn)
    function.wait_until_active()
    received, failed, log = function.invoke(sent)
    outcomes = {line: fields["outcome"] for line in log if (fields := outcome_line(line))}
    print("event       " + ("came back byte for byte" if received == sent else "did not come back as it was"))
    for line in outcomes or log or ["(no log came with the answer)"]:
        print(f"log         {line}")
    if failed or received != sent:
        raise Refusal("Sign-ins would fail. Do not attach this function; if it is attached, make detach.")
    if "reported" not in outcomes.values():
        raise Refusal("Sign-ins work, but this one was not seen to be reported. docs/operate.md says what to do about "
                      "each kind of error.")
    return 0


def outcome_line(text):
    """The fields of the function's line about a sign-in, or None for any other line."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and "outcome" in fields else None
