"""Attaches the function to a user pool, and detaches it."""

import copy
import datetime
import json
import pathlib
import shlex

from aws_cli import AwsError, Refusal
from function import Function, Missing, arn_of
from stack import calling_elsewhere, describe, is_ours
from user_pool import TRIGGERS, UserPool, differences, with_trigger, without

SAVED = pathlib.Path("user-pools")


def attach(options):
    pool = UserPool(options.user_pool_id, options.region)
    pool.warn_of_owner()
    function = Function(pool.aws, options.function, pool.arn)
    if trouble := function.trouble():
        raise Refusal(f"Sign-ins would fail with the function {function.name}: {trouble}")
    if missing := function.missing_settings():
        raise Refusal(f"No sign-in would be reported, because {function.name} lacks {' and '.join(missing)}: set it "
                      "with make deploy PARAMETERS=\"ConnectionId=conn_…\".")
    if not function.cognito_may_invoke(pool.arn):
        raise Refusal(f"Every sign-in would fail, because Cognito may not invoke {function.name} for this user pool. "
                      f"This lets it:\n{function.permission_command(pool.id, pool.arn)}")
    wanted = {trigger: function.arn for trigger in options.triggers or TRIGGERS[:1]}
    missing = {trigger: arn for trigger, arn in wanted.items() if pool.triggers.get(trigger) != arn}
    if not missing:
        print(f"{function.name} is attached to {pool.id} already ({', '.join(wanted)}); nothing was changed.")
        if not options.dry_run:
            protect_stack(function, pool)
            check_after(function, pool)
        return 0
    others = [f"{trigger}: {pool.triggers[trigger]}" for trigger in missing if trigger in pool.triggers]
    if others and not options.replace:
        raise Refusal(f"Another function is attached to {pool.id}, as {' and '.join(others)}\nSay REPLACE=1 to replace "
                      f"it with {function.name}; Cognito calls only one.")
    check_before(function)
    if not options.dry_run:
        protect_stack(function, pool)
    result = set_triggers(pool, missing, options)
    if not options.dry_run:
        check_after(function, pool)
    return result


def detach(options):
    pool = UserPool(options.user_pool_id, options.region)
    pool.warn_of_owner()
    # By ARN, and without asking Lambda: a function that was deleted must come off all the more.
    arn = arn_of(options.function, pool.aws.region, pool.arn)
    own = {trigger: None for trigger in options.triggers or TRIGGERS if pool.triggers.get(trigger) == arn}
    if own:
        result = set_triggers(pool, own, options)
        if not options.dry_run and set(pool.calling(arn)) <= set(own):
            unprotect_stack(pool, options.function)
        return result
    others = [pool.triggers[trigger] for trigger in options.triggers or TRIGGERS[:1] if trigger in pool.triggers]
    if others:
        raise Refusal(f"Another function than {options.function} is attached to {pool.id}, and stays: {others[0]}"
                      + same_account_hint(others[0], arn))
    if unusual := set(pool.calling(arn)) - set(TRIGGERS):
        raise Refusal(f"{options.function} is attached to {pool.id} as {', '.join(sorted(unusual))}, where it reports "
                      "nothing. Remove it there in the console (Extensions, Lambda triggers).")
    print(f"{options.function} is not attached to {pool.id}; nothing was changed.")
    return 0


def same_account_hint(other, own):
    """How to name the other function, if it is one of the same account and region."""
    name = other.split(":", 6)[6]
    if other.split(":")[:6] != own.split(":")[:6]:
        return "\nIt belongs to another account or region, so detach it where it was attached."
    return f"\nSay FUNCTION={name} if that is the one to detach."


def check_before(function):
    if problem := function.check():
        raise Refusal(f"Sign-ins would fail, so {function.name} was not attached. It was invoked with a token refresh, "
                      f"and {problem}")
    print(f"checked     {function.name} returned a token refresh byte for byte")


def check_after(function, pool):
    if problem := function.check():
        raise Refusal(f"The function is attached, but {problem}\nSign-ins may fail. This lets everybody in:\n"
                      f"{pool.command('detach', function.name)}")


def protect_stack(function, pool):
    """Deleting the stack would delete the function, while the pool calls it."""
    try:
        stack = own_stack(function)
        if stack and stack["StackStatus"].startswith("DELETE_"):
            raise Refusal(f"The stack {stack['StackName']} is {stack['StackStatus']}, and the function goes with it.")
        if stack:
            protect(function, stack, "--enable-termination-protection")
            print(f"protected   the stack {stack['StackName']} cannot be deleted until make detach")
    except AwsError as error:
        print(f"note        the function's stack is not protected from deletion: {error}")


def unprotect_stack(pool, name):
    try:
        function = Function(pool.aws, name, pool.arn)
        if other := calling_elsewhere(function, pool):
            print(f"note        the function's stack stays protected from deletion, because {other} calls it as well")
        elif stack := own_stack(function):
            protect(function, stack, "--no-enable-termination-protection")
            print(f"unprotected the stack {stack['StackName']} can be deleted now (make remove)")
    except (AwsError, Missing) as error:
        print(f"note        the function's stack may still be protected from deletion: {error}")


def own_stack(function):
    """The function's stack, if it is of this project's template. Another one is not ours to protect."""
    name = function.stack()
    stack = describe(function.aws, name) if name else None
    return stack if stack and is_ours(stack) else None


def protect(function, stack, option):
    function.aws("cloudformation", "update-termination-protection", "--stack-name", stack["StackName"], option)


def set_triggers(pool, wanted, options):
    """Changes each trigger to its ARN, or removes it, and proves that nothing else has changed."""
    if pool.unknown:
        raise Refusal("This AWS CLI is too old for this user pool. It would reset settings that it does not know ("
                      + ", ".join(pool.unknown) + "): install the current version 2, or set the trigger in the console "
                      "(Extensions, Lambda triggers). Nothing was changed.")
    restore = pool.as_update()
    update = copy.deepcopy(restore)
    for trigger, arn in wanted.items():
        update["LambdaConfig"] = with_trigger(update.get("LambdaConfig", {}), trigger, arn)
    before = pool.settings()

    print(f"user pool   {pool.id} ({pool.description['Name']})")
    for trigger, arn in wanted.items():
        print(f"will change LambdaConfig.{trigger}: {pool.triggers.get(trigger, '(none)')} -> {arn or '(none)'}")
    if options.dry_run:
        print(f"unchanged   {len(before)} settings; this was DRY_RUN, nothing was changed")
        return 0

    stem = SAVED / f"{pool.id}-{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%S.%fZ}"
    described = save(stem, "description", {"UserPool": pool.description, "MfaConfig": pool.mfa})
    print(f"saved       {described}")
    restoring = save(stem, "restore", restore)
    restore_command = shlex.join(["aws", "cognito-idp", "update-user-pool", "--region", pool.aws.region,
                                  "--cli-input-json", f"file://{restoring}"])
    # The update would revert whatever somebody changed since the first look.
    if changes := differences(before, UserPool(pool.id, pool.aws.region).settings()):
        raise Refusal("Somebody changed the user pool just now, so nothing was changed by this: try again.\n"
                      + "\n".join(changes))
    try:
        pool.aws("cognito-idp", "update-user-pool", "--cli-input-json", f"file://{save(stem, 'update', update)}")
    except (AwsError, KeyboardInterrupt) as error:
        raise Refusal(failed_update(pool, before, restore_command, error)) from error

    try:
        after = UserPool(pool.id, pool.aws.region)
    except Refusal as refusal:
        raise Refusal("The update was made, but what it changed could not be checked: compare the pool with "
                      f"{described}\n{refusal}") from refusal
    for trigger, arn in wanted.items():
        if after.triggers.get(trigger) != arn:
            raise Refusal(f"AWS accepted the update, but the trigger {trigger} is "
                          f"{after.triggers.get(trigger, '(none)')}: run this again.")
    others = without(wanted, before)
    if changes := differences(others, without(wanted, after.settings())):
        raise Refusal("The trigger is set, but the update changed something else too:\n" + "\n".join(changes)
                      + f"\nto restore everything, including the trigger:\n{restore_command}"
                      + f"\nHow it all was is in {described} (MfaConfig is set with set-user-pool-mfa-config).")
    print(f"done        {len(others)} other settings compared with before: none changed")
    print(f"to undo     {pool.command('detach' if options.command == 'attach' else 'attach', options.function)}")
    print(f"to restore  {restore_command}\n            resets everything in the pool to how it was before this")
    return 0


def failed_update(pool, before, restore_command, error):
    """What became of the pool. AWS may have made an update whose answer was an error, or did not arrive."""
    error = str(error) or "This was interrupted."
    try:
        changes = differences(before, UserPool(pool.id, pool.aws.region).settings())
    except Refusal as refusal:
        return f"{error}\nWhether the user pool was changed could not be checked: see make status.\n{refusal}"
    if not changes:
        return f"Nothing was changed.\n{error}"
    return "\n".join([error, "The user pool was changed all the same:", *changes, "To restore it:", restore_command])


def save(stem, what, value):
    path = pathlib.Path(f"{stem}-{what}.json")
    try:
        SAVED.mkdir(mode=0o700, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Refusal(f"Nothing was changed, because the user pool's description cannot be saved: {error}") from error
    return path
