"""Communication with a worker process: requests and responses are lines of JSON on its stdin and stdout."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from cspdet.errors import UserError

Message = dict[str, Any]


class WorkerError(UserError):
    """Raised if a benchmark row cannot be measured; the message gives the reason."""


class Worker:
    """Connection from the parent to a worker process: `request` sends a request, `close` ends the process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - close()
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            encoding="utf-8", env=dict(environment),
        )  # fmt: skip

    def request(self, message: Message) -> Message:
        """Send a request, wait for the response, and return it.

        Raises:
            WorkerError: The worker reported an error, or it crashed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._crash_message())
        response: Message = json.loads(line)
        if "problems" in response:
            raise WorkerError(*response["problems"])
        return response

    def close(self) -> None:
        """End the process; kill it if it does not exit within 10 seconds."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _crash_message(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        return f"its process exited with {code}: {lines[-1][:300] if lines else 'no output'}"


def serve(handler: Callable[[Message], Message], requests: IO[str], responses: IO[str]) -> None:
    """Pass each request to `handler` and write its response, until stdin is closed.

    If the handler raises a UserError, its messages are sent to the parent as the response.
    """
    for line in requests:
        try:
            reply = handler(json.loads(line))
        except UserError as error:
            reply = {"problems": list(error.problems)}
        responses.write(json.dumps(reply) + "\n")
        responses.flush()


def reserve_stdio() -> tuple[IO[str], IO[str]]:
    """Return stdin and stdout for `serve`, and redirect the output of `print` to stderr."""
    responses = sys.stdout
    sys.stdout = sys.stderr
    return sys.stdin, responses
