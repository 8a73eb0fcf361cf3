"""Real sign-ins: the AWS CLI signs in at cognito-local, which calls the release binary in AWS's runtime interface
emulator, which reports to the strict stand-in for UserHub. And two that need OpenSSL, or cargo-lambda's emulator."""

import concurrent.futures
import json
import pathlib
import tempfile
import unittest

from support import REGION, ROOT, SETTINGS, Lambda, Process, UserHub, aws, client, free_port, run, wait_until_open

PASSWORD = "Not-a-secret-1"
CODE = "123456"  # that cognito-local would mail to every user
USER_NAMES = [
    "plain",
    "with.dots_and-dashes",
    "sample.user+tag@example.com",
    "Provider_1/2?3#4%5&6",
    "1f0e2d3c-4b5a-4697-8877-665544332211",
    "名前",
    "e\u0301👩‍🚀",
]


class Cognito(unittest.TestCase):
    """A Cognito on this machine, with the function as these triggers of all its pools."""

    triggers = []
    function = "function"  # as AWS's runtime interface emulator calls it

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        port, cls.lambda_port = free_port(), free_port()
        config = pathlib.Path(folder.name, ".cognito", "config.json")
        config.parent.mkdir()
        config.write_text(json.dumps({
            "LambdaClient": {"endpoint": f"http://127.0.0.1:{cls.lambda_port}", "region": REGION,
                             "credentials": {"accessKeyId": "testing", "secretAccessKey": "testing"}},
            "TriggerFunctions": dict.fromkeys(cls.triggers, cls.function),
            "UserPoolDefaults": {"UsernameAttributes": []},  # cognito-local's own default is e-mail
        }))
        cognito = Process(ROOT / ".tools/e2e/node_modules/.bin/cognito-local", cwd=folder.name,
                          environment={"PORT": str(port), "CODE": CODE})
        cls.addClassCleanup(cognito.stop)
        wait_until_open(port)
        cls.url = f"http://127.0.0.1:{port}"
        cls.cognito = client(cls.url, "cognito-idp")

    def pool_with(self, users, **options):
        """An app client of a new user pool that has these users."""
        pool = self.cognito.create_user_pool(PoolName="pool", **options)["UserPool"]["Id"]
        for user in users:
            self.cognito.admin_create_user(UserPoolId=pool, Username=user, MessageAction="SUPPRESS")
            self.cognito.admin_set_user_password(UserPoolId=pool, Username=user, Password=PASSWORD, Permanent=True)
        app = self.cognito.create_user_pool_client(
            UserPoolId=pool, ClientName="app", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"])
        return app["UserPoolClient"]["ClientId"]

    def authenticate(self, app, users):
        for user in users:
            answer = aws(
                self.url, "cognito-idp", "initiate-auth", "--client-id", app, "--auth-flow", "USER_PASSWORD_AUTH",
                "--auth-parameters", json.dumps({"USERNAME": user, "PASSWORD": PASSWORD}))
            self.assertTrue(answer["AuthenticationResult"]["AccessToken"])
            self.assertTrue(answer["AuthenticationResult"]["IdToken"])


class SignIns(Cognito):
    triggers = ["PostAuthentication", "PostConfirmation"]

    def sign_in(self, app, users, fault=None, base_url=None):
        """Signs the users in. Gives the reported user names, and the function's outcomes."""
        userhub = UserHub(fault)
        function = Lambda(base_url or userhub.base_url, self.lambda_port)
        self.addCleanup(function.stop)
        self.authenticate(app, users)
        # cognito-local lets a user in even if the trigger fails; Cognito does not.
        self.assertEqual(function.successes(len(users)), len(users), function.lines)
        outcomes = function.outcomes(len(users))
        self.assertEqual(len(outcomes), len(users), function.lines)
        return userhub.end(), [line.get("error_kind", line["outcome"]) for line in outcomes]

    def test_every_kind_of_user_name_is_reported_once(self):
        app = self.pool_with(USER_NAMES)
        self.assertEqual(self.sign_in(app, USER_NAMES), (USER_NAMES, ["reported"] * len(USER_NAMES)))

    def test_a_pool_with_email_sign_in_reports_the_sub(self):
        app = self.pool_with(["sample.user@example.com"], UsernameAttributes=["email"])
        [reported], outcomes = self.sign_in(app, ["sample.user@example.com"])
        self.assertRegex(reported, "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        self.assertEqual(outcomes, ["reported"])

    def test_a_sign_up_and_a_new_password_are_reported_as_what_they_are(self):
        app = self.pool_with([], AutoVerifiedAttributes=["email"])
        userhub = UserHub()
        function = Lambda(userhub.base_url, self.lambda_port)
        self.addCleanup(function.stop)

        def newcomer(operation, *arguments):
            return aws(self.url, "cognito-idp", operation, "--client-id", app, "--username", "newcomer", *arguments)

        newcomer("sign-up", "--password", PASSWORD, "--user-attributes", "Name=email,Value=newcomer@example.com")
        newcomer("confirm-sign-up", "--confirmation-code", CODE)
        newcomer("forgot-password")
        newcomer("confirm-forgot-password", "--confirmation-code", CODE, "--password", PASSWORD)
        self.assertEqual(function.successes(2), 2, function.lines)
        self.assertEqual([line["outcome"] for line in function.outcomes(2)], ["reported"] * 2)
        self.assertEqual(userhub.reports(), [("SIGNUP", "newcomer"), ("CHANGED", "newcomer")])

    def test_users_get_in_whatever_userhub_does(self):
        app = self.pool_with(["plain"])
        for fault, outcome in {"hang": "timed_out", "reset": "connect", "401": "rejected", "429": "rate_limited",
                               "500": "unavailable", "slow": "reported"}.items():
            with self.subTest(fault):
                reported, outcomes = self.sign_in(app, ["plain"], fault)
                self.assertEqual(set(reported), {"plain"})
                self.assertEqual(len(reported), 2 if fault == "reset" else 1, "a lost connection is tried once more")
                self.assertEqual(outcomes, [outcome])
            self.doCleanups()

    def test_users_get_in_when_nothing_listens(self):
        app = self.pool_with(["plain"])
        unused = f"http://127.0.0.1:{free_port()}"
        self.assertEqual(self.sign_in(app, ["plain"], base_url=unused), ([], ["connect"]))


class TokenGeneration(Cognito):
    """The function as the trigger before tokens are generated, which fires when they are refreshed as well."""

    triggers = ["PostAuthentication", "PreTokenGeneration"]

    def test_a_sign_in_is_reported_and_a_refresh_is_not(self):
        app = self.pool_with(["plain"])
        userhub = UserHub()
        function = Lambda(userhub.base_url, self.lambda_port, settings={**SETTINGS, "AWS_LAMBDA_LOG_LEVEL": "DEBUG"})
        self.addCleanup(function.stop)

        def tokens(flow, **parameters):
            return aws(self.url, "cognito-idp", "initiate-auth", "--client-id", app, "--auth-flow", flow,
                       "--auth-parameters", json.dumps(parameters))["AuthenticationResult"]

        signed_in = tokens("USER_PASSWORD_AUTH", USERNAME="plain", PASSWORD=PASSWORD)
        refreshed = tokens("REFRESH_TOKEN_AUTH", REFRESH_TOKEN=signed_in["RefreshToken"])
        self.assertTrue(refreshed["AccessToken"])
        self.assertEqual(function.successes(3), 3, function.lines)
        self.assertEqual([(line["outcome"], line["trigger_source"]) for line in function.outcomes(3)], [
            ("reported", "PostAuthentication_Authentication"),
            ("ignored", "TokenGeneration_Authentication"),
            ("ignored", "TokenGeneration_RefreshTokens"),
        ])
        self.assertEqual(userhub.end(), ["plain"])


class Watch(unittest.TestCase):
    def test_reports_the_invoked_event(self):
        run("cargo", "build", "--quiet", "--locked")  # the emulator would give up while cargo builds
        userhub = UserHub()
        port = free_port()
        emulator = Process("make", "watch", f"PORT={port}", cwd=ROOT,
                           environment={**SETTINGS, "USERHUB_BASE_URL": userhub.base_url})
        self.addCleanup(emulator.stop)
        wait_until_open(port)
        answer = run("make", "--no-print-directory", "invoke", f"PORT={port}", "EVENT=events/console-test.json").stdout
        self.assertEqual(json.loads(answer), json.loads((ROOT / "events/console-test.json").read_text()))
        self.assertEqual(userhub.end(), ["testName"])


EVENT = (ROOT / "events/post-authentication.json").read_bytes()


class Renegotiation(unittest.TestCase):
    def test_the_function_takes_no_part_and_reports_the_next_sign_in(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        key, certificate = pathlib.Path(folder.name, "key.pem"), pathlib.Path(folder.name, "certificate.pem")
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
            "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext",
            "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate)
        port = free_port()
        server = Process("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_2", "-crlf", "-key", key,
                         "-cert", certificate)
        self.addCleanup(server.stop)
        server.wait_for("^ACCEPT")
        settings = {**SETTINGS, "USERHUB_EXTRA_CA_CERTS": str(certificate)}
        function = Lambda(f"https://localhost:{port}", settings=settings)
        self.addCleanup(function.stop)

        def type_in(text):
            server.process.stdin.write(text)
            server.process.stdin.flush()

        with concurrent.futures.ThreadPoolExecutor() as background:
            for count, typed in [(1, "r\n"), (2, "HTTP/1.1 200 OK\nContent-Length: 0\n\n")]:
                answer = background.submit(function.invoke, EVENT)
                server.wait_for("^content-length", count)
                type_in(typed)
                self.assertEqual(json.loads(answer.result()), json.loads(EVENT))
        server.wait_for("no renegotiation")
        first, second = function.outcomes(2)
        self.assertEqual(first["error_kind"], "tls")
        self.assertEqual(second["outcome"], "reported")
