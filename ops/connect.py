"""Makes what UserHub's connection needs in AWS: an IAM user with an access key, and the Portal's app client."""

import stack
from package import held
from user_pool import UserPool

PARAMETERS = {"UserPoolId", "Access", "PortalDomain"}


def connect(options):
    pool = UserPool(options.pool)
    aws, name = pool.aws, f"{options.name}-connection"
    found = stack.ours(aws, name, PARAMETERS, pool.id)
    own = {"Access": options.access, "PortalDomain": options.portal_domain}
    given = {"UserPoolId": pool.id, **{key: value for key, value in own.items() if value is not None},
             **options.parameters}
    portal = given.get("PortalDomain", stack.values_of(found).get("PortalDomain"))
    given.update(portal_options(pool) if portal else {"PortalManagedLogin": "no", "PortalChoiceBasedSignIn": "no"})
    print(f"deploying   the stack {name} in {aws.region}", flush=True)
    if not stack.change(aws, name, held("connection.yaml").decode(), given, options):
        print("done        nothing to change")
    explain(aws, pool, stack.outputs_of(stack.describe(aws, name)), portal, options)
    return 0


def portal_options(pool):
    """What the Portal's app client has to have, by what the pool has."""
    domain = pool.description.get("CustomDomain") or pool.description.get("Domain")
    managed = False
    if domain:
        found = pool.aws("cognito-idp", "describe-user-pool-domain", "--domain", domain)["DomainDescription"]
        managed = found.get("ManagedLoginVersion") == 2
    else:
        print("note        the user pool has no domain, so nobody can sign in to the Portal until you add one "
              "(Cognito, Branding, Domain); then run connect again")
    factors = pool.description.get("Policies", {}).get("SignInPolicy", {}).get("AllowedFirstAuthFactors", [])
    return {"PortalManagedLogin": "yes" if managed else "no",
            "PortalChoiceBasedSignIn": "yes" if set(factors) - {"PASSWORD"} else "no"}


def explain(aws, pool, outputs, portal, options):
    secret = outputs["AccessKeySecretArn"]
    print(f"""
In UserHub's Admin console: Developers, Connections, Setup for Amazon Cognito
  User pool id    {pool.id}
  Region          {aws.region}
  Access key      the two values that this prints:
    aws secretsmanager get-secret-value --region {aws.region} --query SecretString --output text --secret-id {secret}
Save. If the connection does not become Active, look in CloudTrail (Event history, in {aws.region}) for AccessDenied of
the user whose name begins with {options.name}-connection, and check that the two values were copied whole.""")
    if portal:
        print(f"""
For the Portal's sign-in in UserHub
  Client id       {outputs.get('PortalClientId')}
  Client secret   in the console: Amazon Cognito, {pool.id}, App clients, UserHub Portal
  Issuer URL      {outputs.get('PortalIssuerUrl')}""")
    print(f"\nNext, with the connection's id:\n  {options.say('deploy')} --connection-id conn_…")
