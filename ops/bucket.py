"""The bucket with the zips: private, encrypted, and of this account alone."""

import json
import pathlib
import tempfile

from errors import AwsError, Refusal


def upload(aws, bucket, prefix, package):
    """Puts the zip into a bucket under a name that its content decides. The bucket and that name."""
    _, account = aws.identity()
    own = f"userhub-signin-{account}-{aws.region}"
    bucket = bucket or own
    owner = ["--expected-bucket-owner", account]  # somebody else may have taken the name
    try:
        if aws.ask("s3api", "head-bucket", "--bucket", bucket, *owner) is None:
            if bucket != own:
                raise Refusal(f"There is no bucket {bucket}.")
            create(aws, bucket, owner)
    except AwsError as error:
        if error.code != "403":
            raise
        raise Refusal(f"The bucket {bucket} is not yours to use: these credentials lack a permission, or another "
                      f"account has taken the name. Name another one with --bucket.\n{error}") from error
    key = f"{prefix}/{package.sha256}.zip"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "code.zip")
        path.write_bytes(package.content)
        aws("s3api", "put-object", "--bucket", bucket, "--key", key, "--body", str(path), *owner)
    return bucket, key


def create(aws, bucket, owner):
    print(f"creating    the bucket {bucket}", flush=True)
    place = [] if aws.region == "us-east-1" else ["--create-bucket-configuration", f"LocationConstraint={aws.region}"]
    aws("s3api", "create-bucket", "--bucket", bucket, *place)
    aws("s3api", "put-public-access-block", "--bucket", bucket, "--public-access-block-configuration",
        "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true", *owner)
    aws("s3api", "put-bucket-encryption", "--bucket", bucket, "--server-side-encryption-configuration", json.dumps(
        {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}), *owner)
