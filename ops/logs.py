"""The functions' logs, counted by CloudWatch Logs Insights."""

import time

from aws_cli import wait
from errors import Refusal

# How long a query may take, in seconds.
QUERY_LIMIT = 60

REPORTS = """filter outcome in ["reported", "queued", "not_reported"]
| stats count(*) as n, pct(duration_ms, 50) as p50, pct(duration_ms, 95) as p95, max(duration_ms) as longest
  by @log, outcome, error_kind, event_type, trigger_source"""


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
