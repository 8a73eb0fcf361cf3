"""Deletes the function's stack, unless somebody still needs it."""

import stack
import trigger
from aws_cli import Aws
from deploy import PARAMETERS, refuse_waiting
from errors import Missing, Refusal
from function import Function
from user_pool import UserPool, callers


def remove(options):
    try:
        pool = UserPool(options.pool)
        aws, pool_id = pool.aws, pool.id
        pool.warn_of_owner()
    except Missing:  # the pool was deleted
        aws, pool_id = Aws(options.pool.split("_")[0]), options.pool
    found = stack.ours(aws, options.name, PARAMETERS, pool_id, broken_too=True)
    if found is None:
        raise Refusal(f"There is no stack {options.name} in {aws.region}: say --name for another name.")
    # By name too: a stack whose function was renamed keeps the one that the pool still calls.
    arns = {aws.arn("lambda", f"function:{options.name}"), stack.outputs_of(found).get("FunctionArn")} - {None}
    calling = {pool for arn in arns for pool in callers(aws, arn)}
    if calling:
        raise Refusal("\n".join([
            f"{', '.join(sorted(calling))} calls the function, so every sign-in there would fail. First:",
            *[options.say("detach", pool) for pool in sorted(calling)]]))
    try:
        function = Function(aws, options.name)
        refuse_waiting(function, options)
        attached = trigger.PROTECTED in function.tags()
    except Missing:
        function, attached = None, False
    kept = [resource["LogicalResourceId"] for resource in aws(
        "cloudformation", "describe-stack-resources", "--stack-name", options.name)["StackResources"]
        if resource["ResourceType"] in ("AWS::IAM::AccessKey", "AWS::Cognito::UserPoolClient")]
    if kept and not options.force:
        raise Refusal(f"The stack has {' and '.join(kept)}, which UserHub's connection and Portal use. If they are not "
                      "needed any more, say --force.")
    if found.get("EnableTerminationProtection"):
        if not attached:
            raise Refusal(f"Somebody else has protected the stack {options.name} from deletion. If that is meant for "
                          f"this: aws cloudformation update-termination-protection --region {aws.region} --stack-name "
                          f"{options.name} --no-enable-termination-protection")
        trigger.lift(function, found)
    print(f"deleting    the stack {options.name} in {aws.region}, with its log", flush=True)
    stack.delete(aws, found)
    print(f"done        what is left: the bucket userhub-signin-{aws.identity()[1]}-{aws.region} with the zips, the "
          f"stack {options.name}-connection if connect made it, and in UserHub the connection and the Admin API key")
    return 0
