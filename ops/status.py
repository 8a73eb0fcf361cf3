"""Says whether sign-ins work, whether they are reported, and whether alarms would say so."""

import concurrent.futures
import json

import cloudwatch
import sqs
import stack
from errors import Missing, Refusal
from function import OK, PROBLEM, UNKNOWN, Function, arn_of
from trigger import own_stack
from user_pool import TRIGGERS, UserPool, calling

ROOMS = {"sign-ins": "signIns", "reports": "reports", "alarms": "alarms"}
# From this share of reports on that were lost, something is wrong.
LOST_SHARE = 0.1
# As the alarm …-waiting has it, in seconds.
WAITING_LIMIT = 900
# Fewer concurrent executions than this in the whole account are soon used up; new accounts have 10.
FEW_EXECUTIONS = 100
HIDING = {"WARN", "ERROR", "FATAL"}  # log levels that leave out what was reported


def status(options):
    look = Look(options)
    try:
        look.at_everything()
    except Refusal as refusal:  # nothing can be said without the pool
        look.findings = [(room, UNKNOWN, str(refusal)) for room in ROOMS]
    verdicts = {room: look.verdict(room) for room in ROOMS}
    if options.json:
        print(json.dumps({
            "userPool": options.pool, "function": options.name,
            **{name: {"verdict": verdicts[room], "findings": [
                {"verdict": verdict, "text": text} for where, verdict, text in look.findings if where == room]}
               for room, name in ROOMS.items()},
            "details": [{"about": label, "text": text} for label, text in look.lines]}, indent=2))
    else:
        for label, text in [*verdicts.items(), *((verdict, f"{room}: {text}") for room, verdict, text in
                                                 sorted(look.findings, key=lambda one: [*ROOMS].index(one[0]))),
                            *look.lines]:
            print(f"{label:<12}{text}")
    return 0 if set(verdicts.values()) == {OK} else 1


class Look:
    def __init__(self, options):
        self.options, self.lines, self.findings, self.restore = options, [], [], ""

    def say(self, label, text):
        self.lines.append((label, text))

    def find(self, room, verdict, text):
        self.findings.append((room, verdict, text))

    def verdict(self, room):
        found = {verdict for where, verdict, _ in self.findings if where == room}
        return PROBLEM if PROBLEM in found else UNKNOWN if UNKNOWN in found else OK

    def at_everything(self):
        options, self.pool = self.options, UserPool(self.options.pool)
        own = arn_of(options.name, self.pool.arn)
        self.attached = self.pool.calling(own)
        self.say("user pool", f"{self.pool.id} ({self.pool.description['Name']})")
        for trigger in TRIGGERS:
            arn = self.pool.triggers.get(trigger)
            other = arn and not calling({"LambdaConfig": {trigger: arn}}, own)
            self.say("attached", f"{trigger}: {'another function, ' if other else ''}{arn or 'nothing'}")
        if self.attached:
            self.restore = f" This restores sign-in: {options.say('detach')}"
        else:
            self.find("reports", PROBLEM, f"{options.name} is not attached, so nothing is reported: "
                      + options.say("attach"))
        try:
            self.function = Function(self.pool.aws, options.name)
        except Missing as missing:
            if self.attached:
                self.find("sign-ins", PROBLEM, f"every sign-in fails. {missing}{self.restore}")
            return
        self.aws, self.name, self.url = self.pool.aws, options.name, self.function.configuration["queue_url"]
        self.say("function", self.function.arn)
        self.say("version", self.function.configuration["description"] or "(no description)")
        parts = [("sign-ins", "permission"), ("sign-ins", "trial"), ("reports", "settings"), ("sign-ins", "limits"),
                 ("reports", "reports"), ("reports", "queue"), ("alarms", "alarms")]
        with concurrent.futures.ThreadPoolExecutor(4) as threads:  # each of them waits for AWS most of the time
            for part in threads.map(lambda one: self.part(*one), parts):
                self.lines += part.lines
                self.findings += part.findings

    def part(self, room, name):
        """One part. If it cannot be read, that is said, and the others follow all the same."""
        part = Look(self.options)
        part.__dict__ |= {**self.__dict__, "lines": [], "findings": []}
        try:
            getattr(part, name)()
        except Refusal as refusal:
            part.find(room, UNKNOWN, f"{name}: {refusal}")
        return part

    def permission(self):
        if lacking := self.function.lacks_permission(self.pool):
            self.find("sign-ins", PROBLEM, f"every sign-in {'fails' if self.attached else 'would fail'}: {lacking}\n"
                      + self.restore.strip())

    def trial(self):
        verdict, text = self.function.check()
        self.say("trial", f"it {text}" if verdict == OK else text)
        if verdict != OK:
            self.find("sign-ins", verdict, text + (self.restore if verdict == PROBLEM else ""))

    def settings(self):
        found = self.function.configuration
        self.say("settings", f"{', '.join(sorted(found['variables'])) or 'none'} (values are not shown)")
        if missing := self.function.missing_settings():
            self.find("reports", PROBLEM, f"nothing is reported: {' and '.join(missing)} missing")
        if found["trouble"]:
            self.find("reports", UNKNOWN, "Lambda does not show the settings. These credentials may lack kms:Decrypt: "
                      + found["trouble"])
        if found["update"] == "Failed":
            self.say("note", f"the last update failed, and the code before it runs: {found['update_reason']}")

    def limits(self):
        reserved = self.function.reserved()
        if reserved is not None:
            self.find("sign-ins", PROBLEM, f"the function has a reserved concurrency of {reserved}: sign-ins beyond "
                      f"{reserved} at the same time fail. Remove it: aws lambda delete-function-concurrency --region "
                      f"{self.aws.region} --function-name {self.name}")
        limit = self.aws("lambda", "get-account-settings")["AccountLimit"]["ConcurrentExecutions"]
        few = ", which is few: ask AWS for more (Service Quotas, AWS Lambda)" if limit < FEW_EXECUTIONS else ""
        self.say("limit", f"{limit} concurrent executions for all functions of the account{few}")

    def invocations(self):
        """How many there were in the last hour, and in the last 24."""
        dimensions = {"FunctionName": self.name}
        hour, day = ({name: int(sum(values)) for name, values in cloudwatch.metrics(self.aws, seconds, {
            name: ("AWS/Lambda", name, dimensions) for name in ["Invocations", "Errors", "Throttles"]}).items()}
            for seconds in [3600, 86400])
        for name, what in [("Errors", "failed"), ("Throttles", "were refused by Lambda (throttled)")]:
            text = f"{hour[name]} invocations {what} in the last hour, {day[name]} in the last 24 hours"
            if hour[name] or day[name] and not hour["Invocations"]:
                self.find("sign-ins", PROBLEM, f"{text}; sign-ins failed with them.{self.restore}")
            elif day[name]:
                self.say("note", f"{text}; {hour['Invocations']} worked since")
        return hour["Invocations"], day["Invocations"]

    def reports(self):
        invoked, log = (0, 0), self.function.log_group
        try:
            invoked = self.invocations()
        except Refusal as refusal:
            self.find("sign-ins", UNKNOWN, f"invocations: {refusal}")
        if self.function.logs_text:
            return self.find("reports", UNKNOWN, "the function logs text: aws lambda update-function-configuration "
                             f"--region {self.aws.region} --function-name {self.name} --logging-config LogFormat=JSON")
        found = {group["logGroupName"] for group in self.aws(
            "logs", "describe-log-groups", "--log-group-name-prefix", log)["logGroups"]}
        wanted = [log, *([f"{log}-queue"] if self.url else [])]
        if missing := [group for group in wanted if group not in found]:
            never_invoked = log in missing and not invoked[1]
            self.find("reports", UNKNOWN if never_invoked else PROBLEM,
                      f"the log group {' and '.join(missing)} is missing, so nobody sees what is reported")
        if groups := [group for group in wanted if group in found]:
            hour, day = (cloudwatch.Reports(self.aws, groups, hours) for hours in [1, 24])
            self.judge(hour, day, invoked)
        return None

    def judge(self, hour, day, invoked):
        hidden = (self.function.configuration["log"] or {}).get("ApplicationLogLevel") in HIDING
        self.say("reports", f"in the last hour: {hour.in_words()}")
        self.say("", f"in the last 24 hours: {day.in_words()}")
        if hidden:
            self.say("", f"the log level hides what was reported: {invoked[0]} invocations in the last hour, "
                     f"{invoked[1]} in the last 24 hours")
        if times := day.times():
            self.say("", times)
        for value, count in [*day.by("event_type").items(), *day.by("trigger_source").items()]:
            self.say("", f"{count} {value}")
        for counts, calls, span in [(hour, invoked[0], "hour"), (day, invoked[1], "24 hours")]:
            lost, total = counts.count(outcome="not_reported"), max(counts.count(late=False), calls if hidden else 0)
            if lost and (lost >= total or lost > 1 and lost > total * LOST_SHARE):
                return self.find("reports", PROBLEM, f"{lost} of {total} sign-ins in the last {span} were not "
                                 "reported, and will not be; docs/operate.md says what to do about each kind")
            if not lost and (hour.count(outcome="reported") or hidden and calls):
                break  # what was before is over
        return None

    def queue(self):
        if not self.url:
            return self.say("queue", "none: what UserHub does not take is lost")
        waiting, given_up = sqs.waiting(self.aws, self.url), sqs.waiting(self.aws, sqs.given_up(self.url))
        if waiting is None:
            return self.find("reports", PROBLEM, f"the queue {self.url} is gone: what UserHub does not take is lost")
        ages = cloudwatch.metrics(self.aws, 3600, {"Age": ("AWS/SQS", "ApproximateAgeOfOldestMessage", {
            "QueueName": self.url.rsplit("/", 1)[1]})})["Age"]
        age = ages[0] if ages and waiting else 0
        since = f", the oldest for {age / 60:.0f} minutes" if age else ""
        self.say("queue", f"{waiting} reports wait for UserHub{since}; {given_up or 0} were given up")
        if age > WAITING_LIMIT:
            self.find("reports", PROBLEM, f"{waiting} reports wait{since}; the log of {self.name}-queue says why. They "
                      "are reported by themselves once that is over")
        if given_up:
            self.find("reports", PROBLEM, f"{given_up} reports were given up; once the cause is gone, this sends them "
                      f"back: aws sqs start-message-move-task --region {self.aws.region} --source-arn "
                      + self.aws.arn("sqs", sqs.given_up(self.url).rsplit("/", 1)[1]))
        emptier = f"{self.name}-queue"
        try:
            if missing := Function(self.aws, emptier).missing_settings():
                self.find("reports", PROBLEM, f"what waits stays: {emptier} lacks {' and '.join(missing)}")
        except Missing:
            return self.find("reports", PROBLEM, f"there is no function {emptier}, so what waits stays")
        mappings = self.aws("lambda", "list-event-source-mappings", "--function-name", emptier)["EventSourceMappings"]
        states = [mapping["State"].lower() for mapping in mappings] or ["gone"]
        if states[0] in ("disabled", "disabling", "deleting", "gone"):
            self.find("reports", PROBLEM, f"what waits stays: nothing calls {emptier} (its event source mapping is "
                      f"{states[0]})")
        return None

    def alarms(self):
        values = stack.values_of(own_stack(self.function))
        if values.get("Alarms") != "yes":
            return self.say("alarms", "none")
        rooms = {f"{self.name}-{alarm}": room for alarm, room in cloudwatch.ALARMS.items()
                 if values.get("Queue") == "yes" or alarm not in cloudwatch.QUEUE_ALARMS}
        found = cloudwatch.alarms(self.aws, list(rooms))
        for name, room in rooms.items():
            alarm = found.get(name)
            self.say("alarm", f"{name}: {alarm['StateValue'] if alarm else 'missing'}")
            if not alarm:
                self.find("alarms", PROBLEM, f"the alarm {name} was deleted, and CloudFormation does not notice: "
                          "deploy with --parameter Alarms=no, then with --parameter Alarms=yes")
            elif alarm["StateValue"] == "ALARM":
                self.find(room, PROBLEM, f"the alarm {name} has gone off: {alarm.get('AlarmDescription', '')}")
        topics = {topic for alarm in found.values() for topic in alarm.get("AlarmActions", [])}
        for trouble in filter(None, [cloudwatch.topic_trouble(self.aws, topic) for topic in sorted(topics)]):
            self.find("alarms", PROBLEM, trouble)
        if not topics:
            self.say("alarm", "no topic: nobody is told (--parameter AlarmTopicArn=…)")
        return None
