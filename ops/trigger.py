"""Attaches the function to a user pool, and detaches it."""

import copy
import datetime
import json
import pathlib
import shlex
import tempfile

import stack
from deploy import PARAMETERS
from errors import AwsError, Missing, Refusal
from function import OK, PROBLEM, Function, arn_of, base
from user_pool import TRIGGERS, UserPool, callers, differences, trigger_arn, with_trigger, without

# The function's tag that says whose its stack's termination protection is: only what attach set is detach's to lift.
PROTECTED = "userhub-signin:protected-by"


def attach(options):
    pool = UserPool(options.pool)
    pool.warn_of_owner()
    function = Function(pool.aws, options.name)
    own = own_stack(function)
    if own and stack.values_of(own)["UserPoolId"] != "*":
        stack.refuse_other_pool(own, pool.id)
    if lacking := function.missing_settings():
        raise Refusal(f"No sign-in would be reported: {function.name} lacks {' and '.join(lacking)}. Set it with\n"
                      + options.say("deploy"))
    if text := function.lacks_permission(pool):
        raise Refusal(f"Every sign-in would fail: {text}")
    wanted = dict.fromkeys(options.triggers or TRIGGERS[:1], function.arn)
    missing = {trigger: arn for trigger, arn in wanted.items() if pool.triggers.get(trigger) != arn}
    others = [f"{trigger}: {pool.triggers[trigger]}" for trigger in missing if trigger in pool.triggers]
    if others and not options.replace:
        raise Refusal(f"Another function is attached to {pool.id}, as {' and '.join(others)}\nSay --replace to replace "
                      f"it with {function.name}; Cognito calls only one.")
    if elsewhere := [other for other in calling_pools(function) if other != pool.id]:
        raise Refusal(f"{function.name} is attached to {elsewhere[0]}, and UserHub's connection is for one user pool: "
                      f"deploy another function for {pool.id} with --name.")
    if trouble := function.configuration["trouble"]:
        print(f"note        whether {function.name} has all its settings is unknown: {trouble}")
    verdict, text = function.check()
    if not missing:
        print(f"{function.name} is attached to {pool.id} already ({', '.join(wanted)}); nothing was changed.")
    elif verdict != OK:
        raise Refusal(f"{function.name} was not attached, because sign-ins {'would' if verdict == PROBLEM else 'might'}"
                      f" fail. It was invoked with a token refresh, and {text}")
    else:
        print(f"checked     {function.name} {text}")
        warn_of_limits(function)
        set_triggers(pool, missing, options)
        verdict, text = (OK, "") if options.dry_run else function.check()
    if verdict == PROBLEM:
        raise Refusal(f"The function is attached, but {text}\nSign-ins may fail. This restores sign-in:\n"
                      + options.say("detach"))
    if verdict != OK:
        print(f"note        {text}")
    if own and not options.dry_run:
        protect(function, own)
    return 0


def calling_pools(function):
    try:
        return callers(function.aws, function.arn)
    except AwsError as error:
        print(f"note        whether another user pool calls {function.name} is unknown: {error}")
        return {}


def warn_of_limits(function):
    """Refuses a function that Lambda never runs, and says how many sign-ins at a time it runs otherwise."""
    reserved = function.reserved()
    text = f"{function.name} has a reserved concurrency of {reserved}"
    if reserved == 0:
        raise Refusal(f"{text}, so every sign-in would fail: aws lambda delete-function-concurrency --region "
                      f"{function.aws.region} --function-name {function.name}")
    if reserved:
        print(f"note        {text}: sign-ins beyond {reserved} at the same time fail. Remove that limit.")


def detach(options):
    try:
        return take_off(options)
    except (Refusal, OSError) as error:
        raise Refusal(f"{error}\nThe other way: in AWS's console, Amazon Cognito, User pools, {options.pool}, "
                      f"Extensions, delete the triggers that name {options.name}.") from error


def take_off(options):
    pool = UserPool(options.pool)
    pool.warn_of_owner()
    # By ARN, and without asking Lambda: a function that was deleted must come off all the more.
    arn = arn_of(options.name, pool.arn)
    calling = pool.calling(arn)
    if own := dict.fromkeys(trigger for trigger in calling if trigger in (options.triggers or calling)):
        set_triggers(pool, own, options)
        if not options.dry_run and set(calling) == set(own):
            unprotect(pool, options)
        return 0
    for other in [pool.triggers[name] for name in options.triggers or TRIGGERS[:1] if name in pool.triggers]:
        raise Refusal(f"Another function than {options.name} is attached to {pool.id}, and stays: {other}\n"
                      + (f"Say --name {base(other).split(':')[6]} if that is the one to detach." if
                         other.split(":")[:6] == arn.split(":")[:6] else "It is of another account or region."))
    print(f"{options.name} is not attached to {pool.id}; nothing was changed.")
    return 0


def own_stack(function):
    """The function's stack, if it is of this project's template. Another one is not ours to protect."""
    name = function.tags().get("aws:cloudformation:stack-name")
    found = stack.describe(function.aws, name) if name else None
    if not found or not stack.values_of(found).keys() >= PARAMETERS:
        return None
    if found["StackStatus"].startswith("DELETE_"):
        raise Refusal(f"The stack {name} is {found['StackStatus']}, and the function goes with it.")
    return found


def protect(function, own):
    """Deleting the stack would delete the function, while the pool calls it."""
    if own.get("EnableTerminationProtection") or own.get("ParentId"):
        return
    try:
        function.aws("lambda", "tag-resource", given={"Resource": function.arn, "Tags": {PROTECTED: "attach"}})
        stack.protect(function.aws, own, True)
        print(f"protected   the stack {own['StackName']} cannot be deleted until detach")
    except AwsError as error:
        print(f"note        the function's stack is not protected from deletion: {error}")


def unprotect(pool, options):
    """Lifts what attach set, unless another pool needs it."""
    try:
        function = Function(pool.aws, options.name)
        if PROTECTED not in function.tags():
            return
        if other := callers(pool.aws, function.arn):
            print(f"note        the function's stack stays protected from deletion: {', '.join(other)} calls it, too")
        elif own := own_stack(function):
            lift(function, own)
            print(f"unprotected the stack {own['StackName']} can be deleted now ({options.say('remove')})")
    except (AwsError, Missing) as error:
        print(f"note        the function's stack may still be protected from deletion: {error}")


def lift(function, own):
    stack.protect(function.aws, own, False)
    function.aws("lambda", "untag-resource", "--resource", function.arn, "--tag-keys", PROTECTED)


def set_triggers(pool, wanted, options):
    """Changes each trigger to its ARN, or removes it, and proves that nothing else has changed."""
    detaching = options.command == "detach"
    if pool.unknown and not (detaching and options.force):
        raise Refusal("This AWS CLI is too old for this user pool. It would reset settings that it does not know ("
                      + ", ".join(pool.unknown) + "), so nothing was changed: install the current version 2, or use "
                      "AWS CloudShell." + (" With --force it goes on, and those may be reset." if detaching else ""))
    attached = pool.description.get("LambdaConfig", {})
    update = pool.as_update()
    restore = copy.deepcopy(update)  # without this function, which may be gone by the time that somebody restores
    for trigger in pool.calling(arn_of(options.name, pool.arn)):
        restore["LambdaConfig"] = with_trigger(restore["LambdaConfig"], trigger, None)
    print(f"user pool   {pool.id} ({pool.description['Name']})")
    for trigger, arn in wanted.items():
        update["LambdaConfig"] = with_trigger(update.get("LambdaConfig", {}), trigger, arn)
        print(f"will change LambdaConfig.{trigger}: {trigger_arn(attached, trigger) or '(none)'} -> {arn or '(none)'}")
    before = pool.settings()
    if options.dry_run:
        print(f"unchanged   {len(before)} settings; this was a dry run, nothing was changed")
        return

    stem = f"{pool.id}-{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%S.%fZ}"
    described = save(f"{stem}-description.json", {"UserPool": pool.description, "MfaConfig": pool.mfa}, detaching)
    restoring = save(f"{stem}-restore.json", restore, detaching)
    print(f"saved       {described}")
    restore_command = shlex.join(["aws", "cognito-idp", "update-user-pool", "--region", pool.aws.region,
                                  "--cli-input-json", f"file://{restoring}"])
    # The update would revert whatever somebody changed since the first look.
    if changes := differences(before, UserPool(pool.id).settings()):
        raise Refusal("\n".join(["Somebody changed the user pool just now; nothing was changed: try again.", *changes]))
    try:
        pool.aws("cognito-idp", "update-user-pool", given=update, public=True)
    except (AwsError, KeyboardInterrupt) as error:
        raise Refusal(failed_update(pool, before, restore_command, error)) from error

    try:
        after = UserPool(pool.id)
    except Refusal as refusal:
        raise Refusal("The update was made, but what it changed could not be checked: compare the pool with "
                      f"{described}\n{refusal}") from refusal
    for trigger, arn in wanted.items():
        if (found := trigger_arn(after.description.get("LambdaConfig", {}), trigger)) != arn:
            raise Refusal(f"AWS accepted the update, but the trigger {trigger} is {found or '(none)'}: run this again.")
    others = without(wanted, before)
    if changes := differences(others, without(wanted, after.settings())):
        raise Refusal("\n".join([
            f"The trigger is {'off' if detaching else 'set'}, but the update changed something else too:", *changes,
            f"How it was is in {described} (set-user-pool-mfa-config sets MfaConfig). This restores it, without "
            f"{options.name}:", restore_command]))
    print(f"done        {len(others)} other settings compared with before: none changed")
    print(f"to undo     {options.say('attach' if detaching else 'detach')}")
    print(f"to restore  {restore_command}\n            resets the pool to what it was, but without {options.name}")


def failed_update(pool, before, restore_command, error):
    """What became of the pool. AWS may have made an update whose answer was an error, or did not arrive."""
    error = str(error) or "This was interrupted."
    try:
        changes = differences(before, UserPool(pool.id).settings())
    except Refusal as refusal:
        return f"{error}\nWhether the user pool was changed could not be checked: see status.\n{refusal}"
    if not changes:
        return f"Nothing was changed.\n{error}"
    return "\n".join([error, "The user pool was changed all the same:", *changes, "To restore it:", restore_command])


def save(name, value, whatever_happens):
    """Keeps how it was in the folder user-pools, in a temporary one if that is not possible. The path."""
    for folder in [lambda: "user-pools", lambda: tempfile.mkdtemp(prefix="user-pools-")]:
        try:
            path = pathlib.Path(folder(), name)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            return path
        except OSError as error:
            problem = error
    if whatever_happens:
        return f"(nowhere: {problem})"
    raise Refusal(f"Nothing was changed, because the user pool's description cannot be saved: {problem}")
