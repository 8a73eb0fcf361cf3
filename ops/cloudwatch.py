"""Metrics, alarms with the topics that they notify, and the functions' logs, counted by Logs Insights."""

import time

from aws_cli import wait
from errors import AwsError, Missing, Refusal

# The template's alarms, and what they are about; two come with the queue.
ALARMS = {**dict.fromkeys(["errors", "throttles", "duration"], "sign-ins"),
          **dict.fromkeys(["not-reported", "waiting", "given-up"], "reports")}
QUEUE_ALARMS = {"waiting", "given-up"}
# How long a query may take, in seconds.
QUERY_LIMIT = 60
REPORTS = """filter outcome in ["reported", "queued", "not_reported"]
| stats count(*) as n, pct(duration_ms, 50) as p50, pct(duration_ms, 95) as p95, max(duration_ms) as longest
  by @log, outcome, error_kind, event_type, trigger_source"""


def metrics(aws, seconds, wanted):
    """The figures of the last seconds, newest first, by name. `wanted` has name: (namespace, metric, dimensions)."""
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago)) for ago in [seconds, 0])
    answer = aws("cloudwatch", "get-metric-data", given={
        "StartTime": start, "EndTime": end, "ScanBy": "TimestampDescending", "MetricDataQueries": [
            {"Id": name.lower(), "MetricStat": {
                "Period": 300, "Stat": "Maximum" if "Age" in metric else "Sum", "Metric": {
                    "Namespace": namespace, "MetricName": metric,
                    "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()]}}}
            for name, (namespace, metric, dimensions) in wanted.items()]})
    found = {result["Id"]: result["Values"] for result in answer["MetricDataResults"]}
    return {name: found.get(name.lower(), []) for name in wanted}


def alarms(aws, names):
    """The alarms of these names that exist, by name."""
    found = aws("cloudwatch", "describe-alarms", "--alarm-names", *names)
    return {alarm["AlarmName"]: alarm for alarm in found["MetricAlarms"]}


def topic_trouble(aws, arn):
    """Why an alarm's message would reach nobody, or None."""
    try:
        found = aws("sns", "get-topic-attributes", "--topic-arn", arn)["Attributes"]
    except AwsError as error:
        if isinstance(error, Missing):
            return f"the topic {arn} does not exist"
        raise
    if found.get("KmsMasterKeyId") == "alias/aws/sns":
        return (f"CloudWatch cannot publish to the topic {arn}, which AWS's own key (alias/aws/sns) encrypts: use a "
                "key whose policy lets cloudwatch.amazonaws.com use it, or none")
    if int(found.get("SubscriptionsConfirmed", 0)) == 0:
        return f"nobody has confirmed a subscription to the topic {arn}"
    return None


def query(aws, log_groups, hours, text):
    """The rows of a query over the last hours, as dictionaries."""
    now = int(time.time())
    started = aws("logs", "start-query", "--log-group-names", *log_groups, "--start-time",
                  str(now - int(hours * 3600)), "--end-time", str(now), "--query-string", text)

    def complete():
        answer = aws("logs", "get-query-results", "--query-id", started["queryId"])
        if answer["status"] not in ("Scheduled", "Running", "Complete"):
            raise Refusal(f"CloudWatch Logs Insights says that the query is {answer['status']}.")
        return answer if answer["status"] == "Complete" else None

    rows = wait(QUERY_LIMIT, "counting log lines", complete)["results"]
    return [{field["field"]: field["value"] for field in row} for row in rows]


class Reports:
    """How reports went in the last hours, at sign-ins and out of the queue."""

    def __init__(self, aws, log_groups, hours):
        self.rows = query(aws, log_groups, hours, REPORTS)
        try:
            for row in self.rows:
                row["n"] = int(float(row["n"]))
                row["late"] = row["@log"].endswith("-queue")
        except (KeyError, ValueError):
            raise Refusal(f"CloudWatch Logs Insights answered what was not asked: {row}") from None

    def count(self, **fields):
        return sum(row["n"] for row in self.rows if all(row.get(name) == value for name, value in fields.items()))

    def by(self, field, late=False):
        """How many of each value there are, most frequent first."""
        counts = {}
        for row in self.rows:
            if row.get(field) and row["late"] == late:
                counts[row[field]] = counts.get(row[field], 0) + row["n"]
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def in_words(self):
        counts = [f"{self.count(outcome=outcome, late=late)} {text}" for outcome, late, text in [
            ("reported", False, "reported"), ("queued", False, "queued"),
            ("reported", True, "reported out of the queue"), ("not_reported", False, "not reported"),
            ("not_reported", True, "lost out of the queue")] if text in ("reported", "not reported")
            or self.count(outcome=outcome, late=late)]
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.by("error_kind").items())
        return ", ".join(counts) + (f"; errors: {kinds}" if kinds else "")

    def times(self):
        """How long the most frequent kind of report took, in words."""
        rows = [row for row in self.rows if row["outcome"] == "reported" and not row["late"]]
        if not rows:
            return None
        row = max(rows, key=lambda row: row["n"])
        p50, p95, longest = (round(float(row[field])) for field in ["p50", "p95", "longest"])
        return f"{p50} ms median, {p95} ms 95th percentile, {longest} ms longest (of the reported ones)"
