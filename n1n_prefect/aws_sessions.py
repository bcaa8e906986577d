"""Whose keys S3 is called with: those given, a profile's, what boto3 finds, or a role that any of them assumes.

Imports boto3, so it is imported where a client is made.
"""

from collections.abc import Mapping
from typing import Any

from boto3.session import Session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials
from botocore.session import Session as BotocoreSession

from n1n_prefect.masking import remember_secret

_USUAL_SECONDS = 3600
# Calls wait for STS; what it refuses for a moment is tried again by whoever makes them.
_BRIEF = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})


def make_session(
    *,
    aws_access_key_id: str = "",
    aws_secret_access_key: str = "",
    aws_session_token: str = "",
    profile_name: str = "",
    region_name: str = "",
    role: Mapping[str, Any] | None = None,
) -> Session:
    """A boto3 session of its own, so that threads may build clients at once.

    Args:
        aws_access_key_id: Without keys boto3 finds them: profile, environment, web identity, role of the machine.
        aws_secret_access_key: Belongs to the access key ID.
        aws_session_token: For temporary keys.
        profile_name: A profile of the machine's AWS configuration.
        region_name: Empty for what the profile or the environment says.
        role: Arguments of STS's AssumeRole. Its keys are asked for at the first call and renewed before they
            expire; where STS is, boto3 finds out, for instance from `AWS_ENDPOINT_URL_STS`.
    """
    source = Session(
        aws_access_key_id=aws_access_key_id or None,
        aws_secret_access_key=aws_secret_access_key or None,
        aws_session_token=aws_session_token or None,
        profile_name=profile_name or None,
        region_name=region_name or None,
    )
    if not role:
        return source
    assuming = BotocoreSession(profile=profile_name or None)
    assuming.register_component("credential_provider", CredentialResolver(providers=[_RoleProvider(role, source)]))
    return Session(botocore_session=assuming, region_name=source.region_name)


class _RoleProvider(CredentialProvider):
    METHOD = "assume-role"

    def __init__(self, role: Mapping[str, Any], source: Session) -> None:
        super().__init__()
        self.role = role
        self.source = source

    def load(self) -> Any:
        return _RoleCredentials(self.role.get("DurationSeconds", _USUAL_SECONDS), self.assume)

    def assume(self) -> dict[str, Any]:
        """What STS gives, in the words of botocore's refreshable credentials."""
        answer = self.source.client("sts", config=_BRIEF).assume_role(**self.role)["Credentials"]
        for secret in (answer["SecretAccessKey"], answer["SessionToken"]):
            remember_secret(secret, is_temporary=True)
        return {
            "access_key": answer["AccessKeyId"],
            "secret_key": answer["SecretAccessKey"],
            "token": answer["SessionToken"],
            "expiry_time": answer["Expiration"].isoformat(),
        }


class _RoleCredentials(DeferredRefreshableCredentials):
    """Keys that renew themselves, as botocore has them for a profile's role.

    botocore renews 10 to 15 minutes ahead; of a role of 15 minutes that would be at every call, so
    a role of less than an hour is renewed as much later as it is shorter.
    """

    def __init__(self, duration_seconds: int, assume: Any) -> None:
        super().__init__(refresh_using=assume, method=_RoleProvider.METHOD)
        self._share = min(1.0, duration_seconds / _USUAL_SECONDS)

    def refresh_needed(self, refresh_in: float | None = None) -> bool:
        ahead = self._advisory_refresh_timeout if refresh_in is None else refresh_in
        return super().refresh_needed(ahead * self._share)
