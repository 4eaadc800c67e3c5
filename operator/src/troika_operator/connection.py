"""One HTTP exchange with the API server: authentication, time-outs, and its refusals as errors.

The client's typed calls would parse answers into models that refuse fields of a newer cluster; this
keeps JSON as it is.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException

from .errors import (
    ClusterError,
    ConflictError,
    NotFoundError,
    RefusedError,
    StartupError,
    UnavailableError,
)
from .resources.objects import Object

TIMEOUT = aiohttp.ClientTimeout(total=30)
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    method: str
    path: str
    body: Object | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON
    accept: str = JSON


class Connection:
    """A pool of connections to one API server."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    async def open(cls) -> "Connection":
        """To the cluster that we run in, or to that of the kubeconfig."""
        settings = Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            else:
                # Named here, because the client looks at the environment only when it is imported.
                path = os.environ.get("KUBECONFIG")
                await config.load_kube_config(path, client_configuration=settings)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise StartupError(f"no cluster to work in: {error}") from error
        return cls(ApiClient(configuration=settings))

    async def close(self) -> None:
        """Close the pool."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def call(self, request: Request) -> Object:
        """The answer's JSON; raises a ClusterError for anything but success."""
        url = self._client.configuration.host + request.path
        if request.query:
            # Values are our own words and label selectors; only these need escaping.
            pairs = (f"{k}={v}".replace(" ", "%20") for k, v in request.query.items())
            url += "?" + "&".join(pairs)
        headers = {"Content-Type": request.content_type, "Accept": request.accept}
        try:
            # Reads the service account's token anew each minute, and puts it into the headers.
            await self._client.update_params_for_auth(
                headers, [], ["BearerToken"], request.path, request.method, request.body
            )
            answer = await self._client.call_api(
                request.method,
                url,
                header_params=headers,
                body=request.body,
                _request_timeout=TIMEOUT,
            )
            data: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, ApiException, OSError) as error:
            what = f"{request.method} {request.path}: {type(error).__name__}: {error}"
            raise UnavailableError(what) from error
        if answer.status >= 300:
            raise _refusal(answer.status, data, f"{request.method} {request.path}")
        result: Object = json.loads(data)
        return result


def _refusal(status: int, data: bytes, call: str) -> ClusterError:
    """The API server's answer as one of our errors."""
    try:
        message = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data.decode(errors="replace")
    text = f"{call}: {status}: {message[:2000]}"
    match status:
        case 404:
            return NotFoundError(text)
        case 409:
            return ConflictError(text)
        case 400 | 401 | 403 | 405 | 413 | 422:
            return RefusedError(message[:2000])
        case _:
            return UnavailableError(text)
