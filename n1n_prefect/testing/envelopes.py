"""The shapes in which this family of gateways says no."""

from typing import Any

Json = dict[str, Any]

GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class RejectedError(Exception):
    """A request that is answered with an error: its status and the body of the answer."""

    def __init__(self, status: int, content: Json, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, content)
        self.status = status
        self.content = content
        self.headers = headers or {}


def google(code: int, message: str, *details: Json, status: str = "") -> Json:
    """Google's envelope, as a transparent gateway passes it on."""
    error: Json = {"code": code, "message": message, "status": status or GOOGLE_STATUS.get(code, "UNKNOWN")}
    if details:
        error["details"] = list(details)
    return {"error": error}


def detail(kind: str, **fields: Any) -> Json:
    """One entry of Google's `details`, such as `RetryInfo`."""
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def own(message: str, code: str = "") -> Json:
    """The envelope of an error that the gateway itself makes."""
    return {"error": {"message": message, "type": "new_api_error", "code": code}}


def relayed(message: str, code: str | int | None, kind: str = "", param: str = "") -> Json:
    """The envelope of an upstream error that went through the gateway's relay, which loses status and details."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def page(title: str, server: str = "openresty") -> str:
    """The HTML page that a proxy in front of the gateway sends."""
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        f"<hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
    )


def invalid(message: str, *details: Json) -> RejectedError:
    """Google's 400 for a request that must be changed."""
    return RejectedError(400, google(400, message, *details))


def with_request_id(content: Any, request_id: str) -> Any:
    """The content with the gateway's id at the end of its error message, where it has one."""
    if not isinstance(content, dict):
        return content
    suffix = f" (request id: {request_id})"
    error: Any = content.get("error")
    if isinstance(error, dict) and error.get("message"):
        return {**content, "error": {**error, "message": error["message"] + suffix}}
    if "type" in content and content.get("description"):
        return {**content, "description": content["description"] + suffix}
    return content
