"""Says what is attached and how it fares."""

from aws_cli import AwsError, Refusal
from function import SETTINGS, Function, Missing, arn_of
from logs import Reports
from user_pool import TRIGGERS, UserPool

# The template's alarms: what comes after the function's name.
ALARMS = ["not-reported", "userhub-down", "errors", "throttles", "duration"]

# From this share of reports in the last hour that failed on, something is wrong now.
FAILED_SHARE = 0.1


class Status:
    def __init__(self):
        self.problems = []

    def say(self, label, text, problem=None):
        print(f"{label:<12}{text}", flush=True)
        if problem:
            self.problems.append(problem)

    def part(self, label, ask):
        """One part of the report. If it cannot be read, that is said, and the others follow all the same."""
        try:
            ask()
        except Missing:
            raise
        except Refusal as refusal:
            self.say(label, "unknown", f"{label} could not be read: {refusal}")


def status(options):
    """Fails if sign-ins would fail, or if the recent reports do."""
    result = Status()
    pool = UserPool(options.user_pool_id, options.region)
    own = arn_of(options.function, pool.aws.region, pool.arn)
    result.say("user pool", f"{pool.id} ({pool.description['Name']})")
    attached = own in pool.triggers.values()
    for trigger in TRIGGERS:
        arn = pool.triggers.get(trigger)
        result.say("attached", f"{trigger}: {'another function, ' if arn and arn != own else ''}{arn or 'nothing'}")
    if not attached:
        result.problems.append(f"{options.function} is not attached: {pool.command('attach', options.function)}")
    try:
        function = Function(pool.aws, options.function, pool.arn)
        function_parts(result, pool, function, "every sign-in fails: " if attached else "")
    except Missing as missing:
        result.say("function", "missing", f"{'every sign-in fails: ' if attached else ''}{missing}")
        if attached:
            result.problems.append(f"{pool.command('detach', options.function)} lets everybody in")
    for problem in result.problems:
        print(f"problem     {problem}")
    return 1 if result.problems else 0


def function_parts(result, pool, function, blocked):
    trouble = function.trouble()
    result.say("function", function.arn, trouble and blocked + trouble)
    result.say("version", function.configuration["description"] or "(no description)")
    result.say("code", f"sha256 {function.configuration['sha256']} (base64)")

    def permission():
        if function.cognito_may_invoke(pool.arn):
            result.say("permission", "Cognito may invoke it for this user pool")
        else:
            result.say("permission", "missing", f"{blocked}Cognito may not invoke the function:\n"
                       f"{function.permission_command(pool.id, pool.arn)}")

    def trial():
        problem = function.check()
        result.say("trial", problem or "it returned a token refresh byte for byte", problem and blocked + problem)

    result.part("permission", permission)
    result.part("trial", trial)
    result.say("settings", ", ".join(f"{name} {'present' if name in function.variables else 'absent'}"
                                     for name in SETTINGS))
    if missing := function.missing_settings():
        result.problems.append(f"nothing is reported: {' and '.join(missing)} missing")
    if function.logs_text:
        result.say("reports", "unknown, the function logs text: aws lambda update-function-configuration --region "
                   f"{pool.aws.region} --function-name {function.name} --logging-config LogFormat=JSON")
    else:
        result.part("reports", lambda: reports(result, pool, function))
    result.part("alarms", lambda: alarms(result, pool, function))


def reports(result, pool, function):
    try:
        hour, day = (Reports(pool.aws, function.log_group, hours) for hours in [1, 24])
    except AwsError as error:
        if error.code != "ResourceNotFoundException":
            raise
        return result.say("reports", f"none, there is no log group {function.log_group}")
    failed, total = hour.count(outcome="not_reported"), hour.count()
    result.say("reports", f"in the last hour: {hour.in_words()}",
               f"{failed} of {total} sign-ins in the last hour were not reported; docs/operate.md says what to do "
               "about each kind" if failed > 1 and failed > total * FAILED_SHARE else None)
    result.say("", f"in the last 24 hours: {day.in_words()}")
    if times := day.times():
        result.say("", times)
    for field in ["event_type", "trigger_source"]:
        for value, count in day.by(field):
            result.say("", f"{count} {value}")
    return None


def alarms(result, pool, function):
    names = [f"{function.name.split(':')[0]}-{name}" for name in ALARMS]
    found = pool.aws("cloudwatch", "describe-alarms", "--alarm-names", *names)
    for alarm in found["MetricAlarms"]:
        name, state = alarm["AlarmName"], alarm["StateValue"]
        result.say("alarm", f"{name}: {state}",
                   f"the alarm {name} has gone off: {alarm.get('AlarmDescription', '')}" if state == "ALARM" else None)
    if not found["MetricAlarms"]:
        result.say("alarm", "none")
