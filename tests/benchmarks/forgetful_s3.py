"""An S3 server for runs of any length: it checks images and forgets their bytes, and keeps everything else.

It speaks what boto3 needs here: buckets, conditional puts, uploads in parts, reads, heads, removals and lists. Of an
image it keeps length, SHA-256 and metadata, so that nothing is counted as stored that did not arrive whole.
"""

import base64
import threading
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE = 1000
_PIECE = 1 << 18


@dataclass(frozen=True)
class Stored:
    """An object; `body` is None where it was forgotten."""

    size: int
    sha256: str
    headers: dict[str, str]
    body: bytes | None

    @property
    def etag(self) -> str:
        return f'"{self.sha256[:32]}"'


class Objects:
    """Everything that was put, by bucket and key."""

    def __init__(self) -> None:
        self._stored: dict[str, Stored] = {}
        self._parts: dict[str, dict[int, bytes]] = {}
        self._numbers = count(1)
        self._lock = threading.Lock()

    def reset(self) -> None:
        with self._lock:
            self._stored.clear()
            self._parts.clear()

    def find(self, path: str) -> Stored | None:
        return self._stored.get(path)

    def put(self, path: str, stored: Stored, *, only_new: bool) -> bool:
        """Whether it was put; not if only a new one may be, and there is one."""
        with self._lock:
            if only_new and path in self._stored:
                return False
            self._stored[path] = stored
            return True

    def remove(self, path: str) -> None:
        with self._lock:
            self._stored.pop(path, None)

    def keys(self, bucket: str, prefix: str, after: str) -> list[tuple[str, Stored]]:
        """The objects of a bucket below a prefix and behind another key, in order."""
        begin = f"{bucket}/{prefix}"
        with self._lock:
            found = [path for path in self._stored if path.startswith(begin)]
        keys = sorted(path.removeprefix(f"{bucket}/") for path in found)
        return [(key, self._stored[f"{bucket}/{key}"]) for key in keys if key > after]

    def begin(self) -> str:
        """The id of a new upload in parts."""
        name = f"upload-{next(self._numbers)}"
        self._parts[name] = {}
        return name

    def add_part(self, upload: str, number: int, body: bytes) -> None:
        self._parts[upload][number] = body

    def end(self, upload: str) -> bytes:
        """The parts of an upload, joined."""
        return b"".join(body for _, body in sorted(self._parts.pop(upload).items()))


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: ClassVar[Objects] = Objects()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Stays silent."""

    @property
    def _path(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/")

    @property
    def _query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    def do_PUT(self) -> None:
        """A bucket, a part, or an object."""
        if "/" not in self._path:
            self._answer(200)
        elif "uploadId" in self._query:
            body, digest = self._read(keep=True)
            self.objects.add_part(self._query["uploadId"], int(self._query["partNumber"]), body)
            self._answer(200, headers={"ETag": f'"{digest[:32]}"'})
        else:
            self._put()

    def _put(self) -> None:
        kept = self._kept_headers()
        is_image = kept.get("content-type", "").startswith("image/")
        body, digest = self._read(keep=not is_image)
        asked = self.headers.get("x-amz-checksum-sha256")
        if asked and base64.b64decode(asked).hex() != digest:
            self._refuse(400, "BadDigest")
            return
        stored = Stored(int(self.headers["content-length"]), digest, kept, None if is_image else body)
        if self.objects.put(self._path, stored, only_new=self.headers.get("if-none-match") == "*"):
            self._answer(200, headers={"ETag": stored.etag})
        else:
            self._refuse(412, "PreconditionFailed")

    def do_POST(self) -> None:
        """The beginning or the end of an upload in parts; or the same reset as moto's."""
        if self._path == "moto-api/reset":
            self.objects.reset()
            self._answer(200)
        elif "uploads" in self._query:
            self._answer(200, _xml("InitiateMultipartUploadResult", UploadId=self.objects.begin()))
        else:
            self._read(keep=False)
            body = self.objects.end(self._query["uploadId"])
            stored = Stored(len(body), sha256(body).hexdigest(), {}, body)
            self.objects.put(self._path, stored, only_new=False)
            self._answer(200, _xml("CompleteMultipartUploadResult", ETag=stored.etag))

    def do_GET(self) -> None:
        """An object that was not forgotten, a list, or a sign of life."""
        if "/" not in self._path:
            self._list()
            return
        stored = self.objects.find(self._path)
        if stored is None:
            self._refuse(404, "NoSuchKey")
        elif stored.body is None:
            self._refuse(410, "BodyForgotten")
        else:
            self._answer(200, stored.body, {**stored.headers, "ETag": stored.etag})

    def do_HEAD(self) -> None:
        """What is known of an object."""
        stored = self.objects.find(self._path)
        if stored is None:
            self._answer(404)
        else:
            self._answer(200, None, {**stored.headers, "ETag": stored.etag, "Content-Length": str(stored.size)})

    def do_DELETE(self) -> None:
        """Removes an object."""
        self.objects.remove(self._path)
        self._answer(204)

    def _list(self) -> None:
        query = self._query
        found = self.objects.keys(self._path, query.get("prefix", ""), query.get("continuation-token", ""))
        page, more = found[:_PAGE], found[_PAGE:]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{it.size}</Size><ETag>{escape(it.etag)}</ETag></Contents>"
            for key, it in page
        )
        token = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if more else ""
        truncated = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        self._answer(200, f"<ListBucketResult>{contents}{truncated}{token}</ListBucketResult>".encode())

    def _kept_headers(self) -> dict[str, str]:
        return {
            name.lower(): value
            for name, value in self.headers.items()
            if name.lower() == "content-type" or name.lower().startswith("x-amz-meta-")
        }

    def _read(self, *, keep: bool) -> tuple[bytes, str]:
        """The body, if it is to be kept, and its SHA-256; a caller that goes away in the middle stores nothing."""
        digest, kept, left = sha256(), bytearray(), int(self.headers.get("content-length", 0))
        while left:
            piece = self.rfile.read(min(left, _PIECE))
            if not piece:
                raise ConnectionResetError("the caller closed the connection before the body was whole")
            digest.update(piece)
            left -= len(piece)
            if keep:
                kept += piece
        return bytes(kept), digest.hexdigest()

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, _xml("Error", Code=code, Message=code))

    def _answer(self, status: int, body: bytes | None = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}) and status != 204:
            self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)


def _xml(root: str, **values: Any) -> bytes:
    inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in values.items())
    return f"<{root}>{inner}</{root}>".encode()


class Server(ThreadingHTTPServer):
    """The server; an unlucky caller's end is no error of its own."""

    daemon_threads = True
    request_queue_size = 512


def serve(port: int) -> None:
    """Runs the server until the process is ended."""
    with Server(("127.0.0.1", port), Handler) as server:
        server.serve_forever()
