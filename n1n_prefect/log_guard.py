"""Keeps secrets out of what the libraries below us log, for those who turn their DEBUG level on.

At that level httpcore logs the headers of replies, hpack those of requests, and botocore all that
it signs and whatever STS answers; Prefect ships such lines to its database, where
`PREFECT_LOGGING_EXTRA_LOGGERS` asks for them.
"""

import logging
import re

from n1n_prefect.masking import without_secrets

_LIBRARIES = {"httpx", "httpcore", "hpack", "h2", "botocore", "boto3", "urllib3"}
# Temporary keys, which are new to us: in an answer of STS, and where botocore signs with them.
_TEMPORARY = re.compile(
    r"(?<=<SecretAccessKey>)[^<]+|(?<=<SessionToken>)[^<]+|(?i:(x-amz-security-token['\"]?: ?b?['\"]?))[^\s'\",]+"
)
_formatter = logging.Formatter()


def guard_logs() -> None:
    """Masks secrets in the log lines of every library below us that is loaded by now; once is enough."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LIBRARIES:
            logger.addFilter(_mask)  # which does not add the same one twice


def _mask(record: logging.LogRecord) -> bool:
    """Changes the record where it shows a secret; it is logged in any case."""
    said = record.getMessage()
    masked = _without_secrets(said)
    if masked != said:
        record.msg, record.args = masked, ()
    if record.exc_info:
        record.exc_text = _without_secrets(_formatter.formatException(record.exc_info))
    return True


def _without_secrets(text: str) -> str:
    return _TEMPORARY.sub(lambda found: f"{found[1] or ''}***", without_secrets(text))
