"""Keeps secrets out of what the libraries below us log, for those who turn their DEBUG level on.

At that level httpcore logs the headers of replies, hpack those of requests, and botocore all that
it signs and whatever STS answers; Prefect ships such lines to its database, where
`PREFECT_LOGGING_EXTRA_LOGGERS` asks for them.
"""

import logging
import re
from typing import Any

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
    """Changes the record where it shows a secret; it is logged in any case, and whoever logs meets no error."""
    said = _said(record)
    masked = _without_secrets(_parts(record) if said is None else said)
    if masked != said:
        record.msg, record.args = masked, ()
    if record.exc_info:
        record.exc_text = _without_secrets(_traceback(record.exc_info))
    return True


def _said(record: logging.LogRecord) -> str | None:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - of a format or a value of the library's
        return None


def _parts(record: logging.LogRecord) -> str:
    """What stands in the place of a line that has no words: logging itself would print the parts unmasked."""
    try:
        return f"{record.msg!r} with {record.args!r}"
    except Exception:  # noqa: BLE001
        return "(a line that cannot be formatted)"


def _traceback(exc_info: Any) -> str:
    try:
        return _formatter.formatException(exc_info)
    except Exception:  # noqa: BLE001
        return "(a traceback that cannot be formatted)"


def _without_secrets(text: str) -> str:
    return _TEMPORARY.sub(lambda found: f"{found[1] or ''}***", without_secrets(text))
