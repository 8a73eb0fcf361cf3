"""Deploys the function, attaches it to a Cognito user pool, says how it is doing, and removes it.

`make deploy`, `attach`, `detach`, `status`, `smoke` and `remove` run this. It needs Python 3.9 and the AWS CLI, version
1 or 2; deploying needs SAM too.
"""

import argparse
import os
import re
import signal
import sys

import smoke
import stack
import status
import trigger
from aws_cli import Refusal
from user_pool import TRIGGERS

COMMANDS = {"deploy": stack.deploy, "attach": trigger.attach, "detach": trigger.detach, "status": status.status,
            "smoke": smoke.smoke, "remove": stack.remove}


def yes(text):
    """Whether an option of make was switched on."""
    if text not in ("", "0", "no", "1", "yes"):
        raise Refusal(f"{text} is neither yes nor no: say 1 or yes, or leave the option out")
    return text in ("1", "yes")


def arguments():
    parser = argparse.ArgumentParser(prog="ops", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    for option in ["--user-pool-id", "--region", "--function", "--zip", "--parameters", "--triggers", "--event",
                   "--replace", "--dry-run", "--new-key"]:
        parser.add_argument(option, default="")
    options = parser.parse_args()
    example = f"make {options.command} USER_POOL_ID=eu-west-1_AbCd12345"
    if not options.user_pool_id:
        raise Refusal(f"USER_POOL_ID is missing: say for example {example}")
    # Region and id, as in the API's reference for UserPoolId.
    if not re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d+_[0-9A-Za-z]+", options.user_pool_id):
        raise Refusal(f"USER_POOL_ID={options.user_pool_id} is not a user pool id: say for example {example}")
    if options.region and not re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d+", options.region):
        raise Refusal(f"REGION={options.region} is not a region: say for example {example} REGION=eu-central-1")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}(:([A-Za-z0-9_-]{1,128}|\$LATEST))?", options.function):
        raise Refusal(f"FUNCTION={options.function} is not the name of a function: say for example {example} "
                      "FUNCTION=userhub-signin, or FUNCTION=userhub-signin:live for an alias")
    name, _, alias = options.function.partition(":")
    if re.fullmatch(r"\d+|\$LATEST", alias) and options.command not in ("detach", "status"):
        raise Refusal(f"FUNCTION={options.function} is a version. Cognito calls a function or an alias, never a "
                      f"version: make an alias for it (aws lambda create-alias), and say FUNCTION={name}:<alias>")
    if alias and options.command in ("deploy", "remove"):
        raise Refusal(f"FUNCTION={options.function} is an alias; make {options.command} takes the function: "
                      f"FUNCTION={name}")
    options.triggers = options.triggers.split()
    if unknown := [trigger for trigger in options.triggers if trigger not in TRIGGERS]:
        raise Refusal(f"There is no trigger {unknown[0]} for this function: say for example {example} "
                      f"TRIGGERS=\"{' '.join(TRIGGERS)}\"")
    options.region = options.region or None
    options.replace, options.dry_run, options.new_key = map(yes, [options.replace, options.dry_run, options.new_key])
    options.user_name = os.environ.get("USER_NAME", "")  # arguments are in the process list
    return options


def main():
    os.umask(0o077)  # what is saved describes how people sign in
    for number in [signal.SIGTERM, signal.SIGHUP]:  # as Ctrl-C, so that no temporary file stays
        signal.signal(number, signal.default_int_handler)
    try:
        options = arguments()
        return COMMANDS[options.command](options)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; make status says how things are", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
