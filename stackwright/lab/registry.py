"""An OCI registry for the lab: pull, push, tags and login as the distribution registry answers them, kept in a folder.

Source of behaviour: OCI distribution specification 1.1 and the distribution project's error bodies. It holds charts and
small images; deletion, referrers and cross-repository mounts by redirect are not here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Record = Callable[[str, str, str], None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MANIFEST_LIMIT = 4 * 1024 * 1024
UPLOAD_LIMIT = 512 * 1024 * 1024
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
RUNTIME = "rancher/rke2-runtime"
"""The image that every host of a release pulls first."""


@dataclass
class RegistryState:
    """Where the registry keeps its content, and who may use it. No users means open to all.

    `folder` holds blobs/<sha256> and repositories/<name>/{tags,manifests}/<tag or digest>.
    """

    folder: Path
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    realm: str = "Registry Realm"
    record: Record = lambda wire, target, action: None
    uploads: dict[str, Path] = field(default_factory=dict)

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.removeprefix("sha256:")

    def repository(self, name: str) -> Path:
        return self.folder / "repositories" / name

    def put_blob(self, data: bytes) -> str:
        """Keep a blob and return its digest."""
        digest = digest_of(data)
        path = self.blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, data)
        return digest

    def put_manifest(self, name: str, reference: str, data: bytes, media_type: str) -> str:
        """Keep a manifest under its digest and, where the reference is one, its tag."""
        digest = self.put_blob(data)
        home = self.repository(name)
        (home / "manifests").mkdir(parents=True, exist_ok=True)
        (home / "tags").mkdir(parents=True, exist_ok=True)
        _write(home / "manifests" / digest.removeprefix("sha256:"), media_type.encode())
        if not DIGEST.fullmatch(reference):
            _write(home / "tags" / reference, digest.encode())
        return digest

    def find_manifest(self, name: str, reference: str) -> tuple[str, str, bytes] | None:
        """Return digest, media type and content of a manifest, or None."""
        home = self.repository(name)
        tag = home / "tags" / reference
        digest = reference if DIGEST.fullmatch(reference) else (tag.read_text() if tag.is_file() else "")
        note = home / "manifests" / digest.removeprefix("sha256:")
        return (digest, note.read_text(), self.blob(digest).read_bytes()) if digest and note.is_file() else None

    def names(self) -> list[str]:
        """Return all repositories, sorted."""
        root = self.folder / "repositories"
        return sorted(str(path.parent.relative_to(root)) for path in root.rglob("tags") if path.is_dir())

    def tags(self, name: str) -> list[str] | None:
        """Return a repository's tags, sorted, or None where there is no such repository."""
        folder = self.repository(name) / "tags"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None


def push_image(state: RegistryState, name: str, tag: str) -> None:
    """Put a small image into a registry's storage, as `docker push` would: a configuration and one empty layer."""
    layer = b""
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": {"image": f"{name}:{tag}"}}})
    parts = {"config": config.encode(), "layer": layer}
    for data in parts.values():
        state.put_blob(data)
    described = {
        what: {"mediaType": media, "digest": digest_of(parts[what]), "size": len(parts[what])}
        for what, media in (("config", CONFIG_TYPE), ("layer", LAYER_TYPE))
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": described["config"],
        "layers": [described["layer"]],
    }
    state.put_manifest(name, tag, json.dumps(manifest).encode(), MANIFEST_TYPE)


def digest_of(data: bytes) -> str:
    """Return a blob's digest as registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def registry_app(state: RegistryState) -> web.Application:
    """Make the registry's application; TLS is the server's affair."""
    app = web.Application(middlewares=[_login(state)], client_max_size=UPLOAD_LIMIT)
    wire = _Wire(state)
    app.router.add_get("/v2/", wire.base)
    app.router.add_get("/v2/_catalog", wire.catalogue)
    app.router.add_get(f"/v2/{{name:{NAME}}}/tags/list", wire.tags)
    app.router.add_get(f"/v2/{{name:{NAME}}}/manifests/{{reference}}", wire.get_manifest)  # HEAD comes with it
    app.router.add_put(f"/v2/{{name:{NAME}}}/manifests/{{reference}}", wire.put_manifest)
    app.router.add_post(f"/v2/{{name:{NAME}}}/blobs/uploads/", wire.start_upload)
    app.router.add_get(f"/v2/{{name:{NAME}}}/blobs/uploads/{{upload}}", wire.upload_status)
    app.router.add_patch(f"/v2/{{name:{NAME}}}/blobs/uploads/{{upload}}", wire.add_chunk)
    app.router.add_put(f"/v2/{{name:{NAME}}}/blobs/uploads/{{upload}}", wire.finish_upload)
    app.router.add_delete(f"/v2/{{name:{NAME}}}/blobs/uploads/{{upload}}", wire.cancel_upload)
    app.router.add_get(f"/v2/{{name:{NAME}}}/blobs/{{digest}}", wire.get_blob)
    return app


class _Wire:
    """The handlers, one an endpoint of the specification."""

    def __init__(self, state: RegistryState) -> None:
        self.state = state

    async def base(self, request: web.Request) -> web.Response:
        return web.json_response({}, headers=_version())

    async def catalogue(self, request: web.Request) -> web.Response:
        names, more = _page(self.state.names(), request)
        link = {"Link": f'</v2/_catalog?last={names[-1]}&n={len(names)}>; rel="next"'} if more else {}
        return web.json_response({"repositories": names}, headers={**_version(), **link})

    async def tags(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = self.state.tags(name)
        if found is None:
            return error(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": name})
        tags, more = _page(found, request)
        link = {"Link": f'</v2/{name}/tags/list?last={tags[-1]}&n={len(tags)}>; rel="next"'} if more else {}
        return web.json_response({"name": name, "tags": tags}, headers={**_version(), **link})

    async def get_manifest(self, request: web.Request) -> web.Response:
        name, reference = request.match_info["name"], request.match_info["reference"]
        found = self.state.find_manifest(name, reference)
        if found is None:
            key = "Digest" if DIGEST.fullmatch(reference) else "Tag"
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown", {key: reference})
        digest, media_type, data = found
        headers = {"Docker-Content-Digest": digest, "Etag": f'"{digest}"', "Content-Type": media_type, **_version()}
        return web.Response(body=data, headers=headers)

    async def put_manifest(self, request: web.Request) -> web.Response:
        name, reference = request.match_info["name"], request.match_info["reference"]
        if not DIGEST.fullmatch(reference) and not TAG.fullmatch(reference):
            return error(400, "TAG_INVALID", "manifest tag did not match URI")
        data = await request.read()
        problem = self._manifest_problem(name, reference, data)
        if problem is not None:
            return problem
        self.state.record("registry", f"{name}:{reference}", "put manifest")
        digest = self.state.put_manifest(name, reference, data, request.headers.get("Content-Type", MANIFEST_TYPE))
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest, **_version()}
        return web.Response(status=201, headers=headers)

    def _manifest_problem(self, name: str, reference: str, data: bytes) -> web.Response | None:
        if len(data) > MANIFEST_LIMIT:
            return error(413, "MANIFEST_INVALID", "manifest invalid", "the manifest is too large")
        try:
            manifest = json.loads(data)
        except ValueError as bad:
            return error(400, "MANIFEST_INVALID", "manifest invalid", str(bad))
        if DIGEST.fullmatch(reference) and digest_of(data) != reference:
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        parts = [manifest.get("config"), *manifest.get("layers", ())] if isinstance(manifest, dict) else []
        for part in parts:
            if isinstance(part, dict) and not self.state.blob(part.get("digest", "sha256:none")).is_file():
                return error(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", {"digest": part.get("digest")})
        return None

    async def start_upload(self, request: web.Request) -> web.Response:
        name, mount, digest = request.match_info["name"], request.query.get("mount", ""), request.query.get("digest")
        if DIGEST.fullmatch(mount) and self.state.blob(mount).is_file():
            return _created(name, mount)
        upload = secrets.token_hex(16)
        path = self.state.folder / "uploads" / upload
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.state.uploads[upload] = path
        if digest:  # the whole blob in this one request
            return await self._finish(request, name, upload, digest)
        return _accepted(name, upload, 0)

    async def upload_status(self, request: web.Request) -> web.Response:
        path = self.state.uploads.get(request.match_info["upload"])
        if path is None:
            return _no_upload()
        return _accepted(request.match_info["name"], request.match_info["upload"], path.stat().st_size, status=204)

    async def add_chunk(self, request: web.Request) -> web.Response:
        name, upload = request.match_info["name"], request.match_info["upload"]
        path = self.state.uploads.get(upload)
        if path is None:
            return _no_upload()
        size = path.stat().st_size
        wanted = re.fullmatch(r"(?:bytes=)?(\d+)-(\d+)", request.headers.get("Content-Range", f"{size}-{size}"))
        if wanted is None or int(wanted.group(1)) != size:
            return _accepted(name, upload, size, status=416)
        await _append(path, request)
        return _accepted(name, upload, path.stat().st_size)

    async def finish_upload(self, request: web.Request) -> web.Response:
        digest = request.query.get("digest", "")
        return await self._finish(request, request.match_info["name"], request.match_info["upload"], digest)

    async def _finish(self, request: web.Request, name: str, upload: str, digest: str) -> web.Response:
        path = self.state.uploads.get(upload)
        if path is None:
            return _no_upload()
        if not DIGEST.fullmatch(digest):
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content", "digest missing")
        await _append(path, request)
        del self.state.uploads[upload]
        data = path.read_bytes()
        path.unlink()
        if digest_of(data) != digest:
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if not self.state.blob(digest).exists():
            self.state.record("registry", f"{name}@{digest}", "put blob")
        self.state.put_blob(data)
        return _created(name, digest)

    async def cancel_upload(self, request: web.Request) -> web.Response:
        path = self.state.uploads.pop(request.match_info["upload"], None)
        if path is None:
            return _no_upload()
        path.unlink()
        return web.Response(status=204, headers=_version())

    async def get_blob(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        if not DIGEST.fullmatch(digest):
            return error(404, "DIGEST_INVALID", "provided digest did not match uploaded content")
        path = self.state.blob(digest)
        if not path.is_file():
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry", {"digest": digest})
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream", **_version()}
        return web.FileResponse(path, headers=headers)


def error(status: int, code: str, message: str, detail: Any = None) -> web.Response:
    """Return the registry's own error body."""
    body = {"errors": [{"code": code, "message": message, **({} if detail is None else {"detail": detail})}]}
    return web.json_response(body, status=status, headers=_version())


def _login(state: RegistryState) -> Any:
    """Ask for a login with HTTP basic on every path, as the registry's htpasswd access control does."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if state.users and not _known(state, request.headers.get("Authorization", "")):
            answer = error(401, "UNAUTHORIZED", "authentication required")
            answer.headers["WWW-Authenticate"] = f'Basic realm="{state.realm}"'
            return answer
        return await handler(request)

    return check


def _known(state: RegistryState, header: str) -> bool:
    kind, _, text = header.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    wanted = state.users.get(user)
    return wanted is not None and hmac.compare_digest(wanted.encode(), password.encode())


async def _append(path: Path, request: web.Request) -> None:
    with path.open("ab") as out:
        async for chunk in request.content.iter_chunked(65536):
            out.write(chunk)


def _page(names: list[str], request: web.Request) -> tuple[list[str], bool]:
    last, count = request.query.get("last", ""), request.query.get("n", "")
    rest = [name for name in names if name > last]
    page = rest[: int(count)] if count.isdigit() else rest
    return page, len(page) < len(rest) and bool(page)


def _accepted(name: str, upload: str, size: int, *, status: int = 202) -> web.Response:
    headers = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Range": f"0-{max(0, size - 1)}"}
    return web.Response(status=status, headers={**headers, "Docker-Upload-UUID": upload, **_version()})


def _created(name: str, digest: str) -> web.Response:
    headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers={**headers, **_version()})


def _no_upload() -> web.Response:
    return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")


def _version() -> dict[str, str]:
    return {"Docker-Distribution-Api-Version": "registry/2.0"}


def _write(path: Path, data: bytes) -> None:
    """Write so that a reader sees the old content or the new, never a part."""
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    scratch.write_bytes(data)
    scratch.replace(path)
