"""Says whether sign-ins work, whether they are reported, and whether alarms would say so."""

import concurrent.futures
import json

import cloudwatch
import logs
import sqs
import stack
from errors import Missing, Refusal
from function import OK, PROBLEM, UNKNOWN, Function, arn_of
from trigger import own_stack
from user_pool import TRIGGERS, UserPool, calling

ROOMS = ["sign-ins", "reports", "alarms"]
# From this share of reports on that were lost, something is wrong.
LOST_SHARE = 0.1
# As the alarm …-waiting has it, in seconds.
WAITING_LIMIT = 900
# Fewer concurrent executions than this in the whole account are soon used up; new accounts have 10.
FEW_EXECUTIONS = 100


class Status:
    def __init__(self, options):
        self.options, self.lines = options, []
        self.findings = {room: [] for room in ROOMS}
        self.restore = ""

    def say(self, label, text):
        self.lines.append((label, text))

    def find(self, room, verdict, text):
        self.findings[room].append((verdict, text))

    def look(self, room, ask):
        """One part. If it cannot be read, that is said, and the others follow all the same."""
        part = Status(self.options)
        part.restore = self.restore
        try:
            ask(part)
        except Refusal as refusal:
            part.find(room, UNKNOWN, f"{ask.__name__.replace('_', ' ')}: {refusal}")
        return part

    def verdict(self, room):
        found = {verdict for verdict, _ in self.findings[room]}
        return PROBLEM if PROBLEM in found else UNKNOWN if UNKNOWN in found else OK

    def show(self):
        if self.options.json:
            print(json.dumps({
                "userPool": self.options.pool, "function": self.options.name,
                **{name: {"verdict": self.verdict(room), "findings": [
                    {"verdict": verdict, "text": text} for verdict, text in self.findings[room]]}
                    for name, room in zip(["signIns", "reports", "alarms"], ROOMS)},
                "details": [{"about": label, "text": text} for label, text in self.lines]}, indent=2))
        else:
            for room in ROOMS:
                print(f"{room:<12}{self.verdict(room)}")
            for room in ROOMS:
                for verdict, text in self.findings[room]:
                    print(f"{verdict:<12}{room}: {text}")
            for label, text in self.lines:
                print(f"{label:<12}{text}")
        return 0 if all(self.verdict(room) == OK for room in ROOMS) else 1


def status(options):
    result = Status(options)
    try:
        look(result, options)
    except Refusal as refusal:  # nothing can be said without the pool
        for room in ROOMS:
            result.find(room, UNKNOWN, str(refusal))
    return result.show()


def look(result, options):
    pool = UserPool(options.pool)
    own = arn_of(options.name, pool.arn)
    attached = pool.calling(own)
    result.say("user pool", f"{pool.id} ({pool.description['Name']})")
    for trigger in TRIGGERS:
        arn = pool.triggers.get(trigger)
        ours = arn and calling({"LambdaConfig": {trigger: arn}}, own)
        result.say("attached", f"{trigger}: {'another function, ' if arn and not ours else ''}{arn or 'nothing'}")
    if attached:
        result.restore = f" This restores sign-in: {options.program} detach {pool.id}{options.name_option}"
    else:
        result.find("reports", PROBLEM, f"{options.name} is not attached, so nothing is reported: {options.program} "
                    f"attach {pool.id}{options.name_option}")
    try:
        function = Function(pool.aws, options.name)
    except Missing as missing:
        if attached:
            result.find("sign-ins", PROBLEM, f"every sign-in fails. {missing}{result.restore}")
        return
    result.say("function", function.arn)
    result.say("version", f"{function.configuration['description'] or '(no description)'}")

    def permission(part):
        if not function.cognito_may_invoke(pool.arn):
            part.find("sign-ins", PROBLEM, f"Cognito may not invoke the function, so every sign-in "
                      f"{'fails' if attached else 'would fail'}.{part.restore}\nThis lets it: "
                      + function.permission_command(pool.id, pool.arn))

    def trial(part):
        verdict, text = function.check()
        part.say("trial", f"it {text}" if verdict == OK else text)
        if verdict != OK:
            part.find("sign-ins", verdict, text + (part.restore if verdict == PROBLEM else ""))

    def settings(part):
        names = ", ".join(sorted(function.variables)) or "none"
        part.say("settings", f"{names} (values are not shown)")
        if missing := function.missing_settings():
            part.find("reports", PROBLEM, f"nothing is reported: {' and '.join(missing)} missing")
        if trouble := function.configuration["trouble"]:
            part.find("reports", UNKNOWN, f"Lambda does not show the settings. These credentials may lack kms:Decrypt: "
                      f"{trouble}")
        if function.configuration["update"] == "Failed":
            part.say("note", "the last update failed, and the code before it runs: "
                     + function.configuration["update_reason"])

    def limits(part):
        reserved = function.reserved()
        if reserved is not None:
            part.find("sign-ins", PROBLEM, f"the function has a reserved concurrency of {reserved}: sign-ins beyond "
                      f"{reserved} at the same time fail. Remove it: aws lambda delete-function-concurrency --region "
                      f"{pool.aws.region} --function-name {options.name}")
        limit = pool.aws("lambda", "get-account-settings")["AccountLimit"]["ConcurrentExecutions"]
        part.say("limit", f"{limit} concurrent executions for all functions of the account" + (
            ", which is few: ask AWS for more (Service Quotas, AWS Lambda)" if limit < FEW_EXECUTIONS else ""))

    def invocations(part):
        dimensions = {"FunctionName": options.name}
        hour, day = ({name: sum(values) for name, values in cloudwatch.metrics(pool.aws, seconds, {
            name: ("AWS/Lambda", name, dimensions) for name in ["Invocations", "Errors", "Throttles"]}).items()}
            for seconds in [3600, 86400])
        for name, what in [("Errors", "failed"), ("Throttles", "were refused by Lambda (throttled)")]:
            text = f"{hour[name]:.0f} invocations {what} in the last hour, {day[name]:.0f} in the last 24 hours"
            if hour[name] or day[name] and not hour["Invocations"]:
                part.find("sign-ins", PROBLEM, f"{text}; sign-ins failed with them.{part.restore}")
            elif day[name]:
                part.say("note", f"{text}; {hour['Invocations']:.0f} worked since")
        return hour["Invocations"], day["Invocations"]

    def reports(part):
        count_reports(part, function, invocations)

    def waiting(part):
        look_at_queue(part, function)

    def alarms(part):
        look_at_alarms(part, function)

    parts = [("sign-ins", permission), ("sign-ins", trial), ("reports", settings), ("sign-ins", limits),
             ("reports", reports), ("reports", waiting), ("alarms", alarms)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:  # each of them waits for AWS most of the time
        for part in threads.map(lambda one: result.look(*one), parts):
            result.lines += part.lines
            for room in ROOMS:
                result.findings[room] += part.findings[room]


def count_reports(part, function, invocations):
    try:
        total = invocations(part)
    except Refusal as refusal:
        part.find("sign-ins", UNKNOWN, f"invocations: {refusal}")
        total = (0, 0)
    if function.logs_text:
        return part.find("reports", UNKNOWN, "the function logs text: aws lambda update-function-configuration "
                         f"--region {function.aws.region} --function-name {function.name} --logging-config "
                         "LogFormat=JSON")
    queue_log = f"{function.log_group}-queue"
    wanted = [function.log_group, *([queue_log] if function.configuration["queue_url"] else [])]
    found = {group["logGroupName"] for group in function.aws(
        "logs", "describe-log-groups", "--log-group-name-prefix", function.log_group)["logGroups"]}
    if missing := [group for group in wanted if group not in found]:
        part.find("reports", UNKNOWN if function.name in missing[0] and not total[1] else PROBLEM,
                  f"the log group {' and '.join(missing)} is missing, so nobody sees what is reported")
    groups = [group for group in wanted if group in found]
    if not groups:
        return None
    hour, day = (logs.Reports(function.aws, groups, hours) for hours in [1, 24])
    hidden = function.configuration["log"] and function.configuration["log"].get("ApplicationLogLevel") in (
        "WARN", "ERROR", "FATAL")
    part.say("reports", f"in the last hour: {hour.in_words()}")
    part.say("", f"in the last 24 hours: {day.in_words()}")
    if hidden:
        part.say("", f"the log level hides what was reported: {total[0]:.0f} invocations in the last hour, "
                 f"{total[1]:.0f} in the last 24 hours")
    if times := day.times():
        part.say("", times)
    for field in ["event_type", "trigger_source"]:
        for value, count in day.by(field).items():
            part.say("", f"{count} {value}")
    arrived, well = hour.arrived() or hidden and total[0] > hour.lost(), not hour.lost()
    for counts, invoked, span in [(hour, total[0], "hour"), (day, total[1], "24 hours")]:
        lost, all_of_them = counts.lost(), max(counts.signed_in(), invoked if hidden else 0)
        if span == "24 hours" and arrived and well:
            break  # it is over
        if lost and (lost >= all_of_them or lost > 1 and lost > all_of_them * LOST_SHARE):
            return part.find("reports", PROBLEM, f"{lost} of {all_of_them:.0f} sign-ins in the last {span} were not "
                             "reported, and will not be; docs/operate.md says what to do about each kind")
    return None


def look_at_queue(part, function):
    url, aws = function.configuration["queue_url"], function.aws
    if not url:
        return part.say("queue", "none: what UserHub does not take is lost")
    waiting, given_up = sqs.waiting(aws, url), sqs.waiting(aws, sqs.given_up(url))
    if waiting is None:
        return part.find("reports", PROBLEM, f"the queue {url} is gone: what UserHub does not take is lost")
    ages = cloudwatch.metrics(aws, 3600, {"Age": ("AWS/SQS", "ApproximateAgeOfOldestMessage", {
        "QueueName": url.rsplit("/", 1)[1]})})["Age"]
    age = ages[0] if ages and waiting else 0
    since = f", the oldest for {age / 60:.0f} minutes" if age else ""
    part.say("queue", f"{waiting} reports wait for UserHub{since}; {given_up or 0} were given up")
    if age > WAITING_LIMIT:
        part.find("reports", PROBLEM, f"{waiting} reports wait, the oldest for {age / 60:.0f} minutes; the log of "
                  f"{function.name}-queue says why, and they are reported by themselves once that is over")
    if given_up:
        part.find("reports", PROBLEM, f"{given_up} reports were given up; once the cause is gone, this sends them "
                  f"back: aws sqs start-message-move-task --region {aws.region} --source-arn "
                  + aws.arn("sqs", sqs.given_up(url).rsplit("/", 1)[1]))
    try:
        emptier = Function(aws, f"{function.name}-queue")
    except Missing:
        return part.find("reports", PROBLEM, f"there is no function {function.name}-queue, so what waits stays")
    if missing := emptier.missing_settings():
        part.find("reports", PROBLEM, f"what waits stays: {emptier.name} lacks {' and '.join(missing)}")
    mappings = aws("lambda", "list-event-source-mappings", "--function-name", emptier.name)["EventSourceMappings"]
    if not any(mapping["State"] in ("Enabled", "Enabling", "Creating", "Updating") for mapping in mappings):
        part.find("reports", PROBLEM, f"what waits stays: nothing calls {emptier.name} (its event source mapping is "
                  f"{mappings[0]['State'].lower() if mappings else 'gone'})")
    return None


def look_at_alarms(part, function):
    values = stack.values_of(own_stack(function))
    if values.get("Alarms") != "yes":
        return part.say("alarms", "none")
    about = {"sign-ins": cloudwatch.SIGN_IN_ALARMS,
             "reports": cloudwatch.REPORT_ALARMS[:3 if values.get("Queue") == "yes" else 1]}
    found = cloudwatch.alarms(function.aws, [f"{function.name}-{name}" for names in about.values() for name in names])
    for room, names in about.items():
        for name in [f"{function.name}-{name}" for name in names]:
            alarm = found.get(name)
            part.say("alarm", f"{name}: {alarm['StateValue'] if alarm else 'missing'}")
            if not alarm:
                part.find("alarms", PROBLEM, f"the alarm {name} was deleted, and CloudFormation does not notice: "
                          "deploy with --parameter Alarms=no, then with --parameter Alarms=yes")
            elif alarm["StateValue"] == "ALARM":
                part.find(room, PROBLEM, f"the alarm {name} has gone off: {alarm.get('AlarmDescription', '')}")
    topics = {topic for alarm in found.values() for topic in alarm.get("AlarmActions", [])}
    for topic in sorted(topics):
        if trouble := cloudwatch.topic_trouble(function.aws, topic):
            part.find("alarms", PROBLEM, trouble)
    if not topics:
        part.say("alarm", "no topic: nobody is told (--parameter AlarmTopicArn=…)")
    return None
