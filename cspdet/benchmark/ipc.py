"""A worker process and its parent talk in lines of JSON: a question in, an answer out."""

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
    """A row that cannot be measured, with the reason."""


class Worker:
    """The parent's end. Closing it ends the process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - close()
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, text=True,
            env=dict(environment),
        )  # fmt: skip

    def ask(self, question: Message) -> Message:
        """Send a question and wait for its answer.

        Raises:
            WorkerError: the worker says that it cannot, or it died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._last_words())
        answer: Message = json.loads(line)
        if "problems" in answer:
            raise WorkerError(*answer["problems"])
        return answer

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._complaints.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        said = [line.strip() for line in self._complaints if line.strip()]
        return f"the process that runs it ended with {code}: {said[-1][:300] if said else 'nothing was said'}"


def answer_all(answer: Callable[[Message], Message], questions: IO[str], answers: IO[str]) -> None:
    """The worker's end: answer line by line until the parent closes. A UserError goes to the parent as such."""
    for line in questions:
        try:
            reply = answer(json.loads(line))
        except UserError as error:
            reply = {"problems": list(error.problems)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def own_streams() -> tuple[IO[str], IO[str]]:
    """stdin, and stdout for the answers alone: whatever else is printed goes to stderr from now on."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    return sys.stdin, answers
