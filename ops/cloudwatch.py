"""Metrics, alarms, and the topics that alarms notify."""

import time

from errors import AwsError, Missing

# The template's alarms, and what they are about; two come with the queue.
ALARMS = {**dict.fromkeys(["errors", "throttles", "duration"], "sign-ins"),
          **dict.fromkeys(["not-reported", "waiting", "given-up"], "reports")}
QUEUE_ALARMS = {"waiting", "given-up"}


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
