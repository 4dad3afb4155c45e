"""The S3 wire, on boto3: objects in one bucket of a store outside the cluster, streamed, with errors as ours.

What lies where in the bucket is in domain/bundle.py. A large object goes up in parts, and is there whole or not at all.
"""

from __future__ import annotations

import io
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSHTTPSConnection, AWSHTTPSConnectionPool
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
)
from botocore.exceptions import ConnectionError as WireError
from botocore.httpsession import URLLib3Session
from pydantic import SecretStr
from urllib3.util.ssl_match_hostname import CertificateError

from stackwright.clients.secrets import Secrets, need
from stackwright.clients.trips import trip
from stackwright.domain.errors import StackError
from stackwright.domain.spec import BackupStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_S, READ_S = 10.0, 120.0  # a store may take long to join the parts of a large object
ATTEMPTS = 3
"""Calls of one part: a stream of gigabytes is not begun again for one lost packet. All else is the task's to repeat."""
PART = 8 << 20
PARALLEL = 4
READ_LIMIT = 16 << 20
AT_ONCE = 1000
"""Rows of one page and keys of one deletion: the protocol's own limit."""
FULL = frozenset({
    "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientCapacity", "NoSpaceLeft",
})  # fmt: skip
MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
BUSY = frozenset({"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError", "ThrottlingException"})
REFUSED = frozenset({
    "NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidAccessKeyId",
    "SignatureDoesNotMatch", "RequestTimeTooSkewed", "AccessDenied", "ExpiredToken",
})  # fmt: skip
REMEDIES = {
    "NoSuchBucket": "Create the bucket, or correct `bucket` in the site file.",
    "PermanentRedirect": "Correct `region` and `endpoint` of the store in the site file.",
    "AuthorizationHeaderMalformed": "Correct `region` of the store in the site file.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
}


class StoreError(StackError):
    """The bundle store did not do what was asked."""

    remedy = "Read the store's own log for this request, then start again."


class StoreUnreachableError(StoreError):
    """The store does not answer, broke off, or says that it is busy."""

    remedy = "Check that the store runs and can be reached from here, then start again."
    transient = True


class StoreRefusedError(StoreError):
    """The store does not let us in: a key it does not accept, no such bucket, a certificate that is not trusted."""

    remedy = "Check access key and secret key in the store's block, and what its policy lets them do in this bucket."


class StoreFullError(StoreError):
    """The store has no room left, or the bucket's quota is used up."""

    remedy = "Make room in the store or raise the bucket's quota. Nothing was removed to make room."


class ObjectMissingError(StoreError):
    """There is no such object."""

    remedy = "List what the store holds; the object was removed, or was never written."


class StoredShortError(StoreError):
    """The store said that it keeps an object, and keeps another length of it."""

    remedy = "Do not rely on this store before its operator has found the cause."


@dataclass(frozen=True)
class StoredObject:
    """One object as the store lists it; `modified_s` in seconds since the epoch."""

    key: str
    bytes: int
    modified_s: float


class Store(Protocol):
    """One bucket. Keys are whole: `folder` is for those who make them (domain/bundle.py)."""

    @property
    def where(self) -> str:
        """Where it is, for people: endpoint and bucket."""
        ...

    @property
    def folder(self) -> str:
        """The folder that the site file gives this store."""
        ...

    def put(self, key: str, source: BinaryIO) -> int:
        """Stream a source to its end into an object; return its length, which the store has confirmed.

        The source need not seek. When anything fails, the source's own error included, no object is made.
        """
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write a small object at once."""
        ...

    def read(self, key: str, limit_bytes: int = READ_LIMIT) -> bytes:
        """Return a small object. Raises ObjectMissingError; StoreError when it is longer than the limit."""
        ...

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Read an object as a stream: its end is seen only when it came whole. Raises ObjectMissingError."""
        ...

    def list(self, prefix: str) -> list[StoredObject]:
        """Return all objects below a prefix, sorted by key."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        ...

    def sweep(self, prefix: str, before_s: float) -> int:
        """Give up uploads that were begun before a time and never ended, as a killed run leaves them; return how many.

        They are in no list and take room.
        """
        ...


def connect_store(settings: BackupStore, secrets: Secrets, resolve: Mapping[str, str] | None = None) -> S3Store:
    """Return a store's client; nothing is connected. Raises SecretMissingError. `resolve` gives names addresses."""
    block = settings.credentials_block
    fields = need(secrets, "s3", block)
    return S3Store(settings, fields["access_key"], fields["secret_key"], resolve or {})


class S3Store:
    """One bucket by S3, with one key. May be used from several threads at once."""

    def __init__(
        self,
        settings: BackupStore,
        access_key: SecretStr,
        secret_key: SecretStr,
        resolve: Mapping[str, str],
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
    ) -> None:
        self.where = f"{settings.endpoint.rstrip('/')}/{settings.bucket}"
        self.folder = settings.folder.strip("/")
        self._bucket = settings.bucket
        with self._errors("connect", ""):
            self._s3 = _client(settings, access_key, secret_key, resolve, connect_s, read_s)

    def put(self, key: str, source: BinaryIO) -> int:
        watched = _Watched(source)
        config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=PARALLEL)
        with self._asked("write", key, watched):
            self._s3.upload_fileobj(cast(BinaryIO, watched), self._bucket, key, Config=config)
        self._check_length(key, watched.bytes)
        return watched.bytes

    def write(self, key: str, data: bytes) -> None:
        with self._asked("write", key):
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=data)
        self._check_length(key, len(data))

    def read(self, key: str, limit_bytes: int = READ_LIMIT) -> bytes:
        with self.open(key) as body:
            data = body.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            wanted = f"at most {limit_bytes} bytes"
            raise StoreError("the object is too long", where=self._at(key), wanted=wanted, seen="more")
        return data

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        with self._asked("read", key):
            answer = self._s3.get_object(Bucket=self._bucket, Key=key)
        with closing(answer["Body"]) as body:
            yield cast(BinaryIO, io.BufferedReader(_Body(self, key, body, answer["ContentLength"]), 1 << 18))

    def list(self, prefix: str) -> list[StoredObject]:
        found = []
        with self._asked("list", prefix):
            pages = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": AT_ONCE}):
                for row in page.get("Contents", ()):
                    found.append(StoredObject(row["Key"], row["Size"], row["LastModified"].timestamp()))
        return sorted(found, key=lambda one: one.key)

    def delete(self, keys: Iterable[str]) -> None:
        left = sorted(set(keys))
        while left:
            batch, left = left[:AT_ONCE], left[AT_ONCE:]
            with self._asked("delete", batch[0]):
                rows: Any = [{"Key": key} for key in batch]
                answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": rows, "Quiet": True})
            failed = answer.get("Errors", [])
            if failed:
                first = failed[0]
                raise StoreRefusedError(
                    f"{len(failed)} of {len(batch)} objects were not deleted",
                    where=self._at(first.get("Key", "")), wanted="all deleted", seen=first.get("Code", "no code"),
                )  # fmt: skip

    def sweep(self, prefix: str, before_s: float) -> int:
        given_up = 0
        with self._asked("sweep", prefix):
            for page in self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix):
                for row in page.get("Uploads", ()):
                    if row["Key"].startswith(prefix) and row["Initiated"].timestamp() < before_s:
                        self._s3.abort_multipart_upload(Bucket=self._bucket, Key=row["Key"], UploadId=row["UploadId"])
                        given_up += 1
        return given_up

    def _check_length(self, key: str, sent: int) -> None:
        with self._asked("look at", key):
            kept = self._s3.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        if kept != sent:
            raise StoredShortError(
                "the store keeps another length than it was sent",
                where=self._at(key), wanted=f"{sent} bytes", seen=f"{kept} bytes",
            )  # fmt: skip

    def _at(self, key: str) -> str:
        return f"{self.where}/{key}" if key else self.where

    @contextmanager
    def _asked(self, verb: str, key: str, source: _Watched | None = None) -> Iterator[None]:
        """One thing asked of the store: a round trip, or a few where it is given in pages or parts."""
        with self._errors(verb, key, source), trip("store", verb):
            yield

    @contextmanager
    def _errors(self, verb: str, key: str, source: _Watched | None = None) -> Iterator[None]:
        """Turn the library's exceptions into ours; an error of the source passes as it is."""
        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error, OSError, ValueError, RuntimeError) as error:
            if source is not None and source.error is not None:
                raise source.error from None
            # The cause is cut off: a run's log shows causes, and a store may quote in its answer what it was sent.
            raise _explained(verb, self._at(key), error) from None


class _Watched(io.RawIOBase):
    """A source that is read once, from its start to its end: it counts, and keeps the error that broke it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.bytes = 0
        self.error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return exactly `size` bytes unless the source ends: a part that is short by chance is a part too small."""
        parts, left = [], size
        while left:
            try:
                part = self._source.read(left)
            except BaseException as error:
                self.error = error
                raise
            if not part:
                break
            parts.append(part)
            left -= len(part)
        data = b"".join(parts) if len(parts) != 1 else parts[0]
        self.bytes += len(data)
        return data


class _Body(io.RawIOBase):
    """An object on its way here. Raises where it breaks off, and where it is shorter than the store announced."""

    def __init__(self, store: S3Store, key: str, body: Any, length: int) -> None:
        self._store, self._key, self._body, self._left = store, key, body, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._store._errors("read", self._key):
            data: bytes = self._body.read(len(buffer))
        self._left -= len(data)
        if not data and self._left:
            raise StoreUnreachableError(
                "the object broke off",
                where=self._store._at(self._key),
                wanted=f"{self._left} more bytes",
                seen="its end",
            )
        buffer[: len(data)] = data
        return len(data)


# --- the library ------------------------------------------------------------------------------------------------------


def _client(
    settings: BackupStore,
    access_key: SecretStr,
    secret_key: SecretStr,
    resolve: Mapping[str, str],
    connect_s: float,
    read_s: float,
) -> S3Client:
    """Return boto3's client. Nothing of this machine's own settings for AWS has a say in it."""
    config = Config(
        connect_timeout=connect_s,
        read_timeout=read_s,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        signature_version="s3v4",
        # The signature covers the body, which every store checks; newer checksums are not known to all of them.
        s3={"addressing_style": "path", "payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies={},
    )
    verify = settings.ca_file or True
    with _making:
        client: S3Client = _session().client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region,
            aws_access_key_id=access_key.get_secret_value(),
            aws_secret_access_key=secret_key.get_secret_value(),
            verify=verify,
            config=config,
        )
    host = urlsplit(settings.endpoint).hostname or ""
    if host in resolve:
        send = _resolving(resolve[host], verify, (connect_s, read_s))
        client.meta.events.register("before-send.s3", send)
    return client


_making = threading.Lock()  # clients may be used by several threads, a session may not


@cache
def _session() -> boto3.session.Session:
    """Return the session that all clients are made by: it holds no keys, and reading its data takes half a second."""
    core = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    core.set_config_variable("config_file", os.devnull)
    core.set_config_variable("credentials_file", os.devnull)
    return boto3.session.Session(botocore_session=core)


def _resolving(address: str, verify: str | bool, timeout: tuple[float, float]) -> Callable[..., Any]:
    """Return what sends requests to one address whatever the name; the certificate is checked for the name."""

    class Connection(AWSHTTPSConnection):
        def _new_conn(self) -> Any:
            self._dns_host = address
            return super()._new_conn()

    class Pool(AWSHTTPSConnectionPool):
        ConnectionCls = Connection

    library: Any = URLLib3Session  # its stub knows less than the library
    session = library(verify=verify, timeout=timeout, max_pool_connections=PARALLEL * 2)
    session._pool_classes_by_scheme["https"] = Pool
    session._manager.pool_classes_by_scheme = session._pool_classes_by_scheme
    return lambda request, **_: session.send(request)


def _explained(verb: str, where: str, error: Exception) -> StoreError:
    """Return what an exception of the library means. Its words are not repeated: they may quote what was sent."""
    if isinstance(error, ClientError):
        return _answered(verb, where, error)
    certificate = _certificate_error(error)
    if certificate:
        remedy = "Give the CA of the store's certificate as `ca_file`, and a name that the certificate holds."
        what = "the store's certificate is not trusted"
        return StoreRefusedError(what, where=where, seen=certificate, remedy=remedy)
    if isinstance(error, WireError | HTTPClientError | IncompleteReadError | OSError):
        return StoreUnreachableError(f"could not {verb}: no whole answer", where=where, seen=type(error).__name__)
    if isinstance(error, ParamValidationError | NoCredentialsError | ValueError):
        remedy = "Correct endpoint and bucket in the site file and the keys in the store's block."
        return StoreRefusedError(f"could not {verb}", where=where, seen=type(error).__name__, remedy=remedy)
    return StoreError(f"could not {verb}", where=where, seen=type(error).__name__)


def _answered(verb: str, where: str, error: ClientError) -> StoreError:
    """Return what an error answer means. Codes before status: stores say "full" with several."""
    code = str(error.response.get("Error", {}).get("Code", ""))[:60]
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    kind: type[StoreError] = StoreError
    if code in FULL or status == 507:
        kind = StoreFullError
    elif code in MISSING:
        kind = ObjectMissingError
    elif code in REFUSED or status in (301, 401, 403):
        kind = StoreRefusedError
    elif code in BUSY or status == 429 or status >= 500:
        kind = StoreUnreachableError
    return kind(f"could not {verb}", where=where, seen=f"{status} {code}", remedy=REMEDIES.get(code, ""))


def _certificate_error(error: BaseException) -> str:
    """Return why a certificate was not trusted, or nothing when the error is another one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message
        if isinstance(seen, CertificateError):
            return "it is for another name"
        nested = next((one for one in seen.args if isinstance(one, BaseException)), None)
        seen = seen.__cause__ or seen.__context__ or nested
    return ""
