"""Asking an OpenAI-compatible endpoint without losing patience, money or answers.

1. `open_client` makes the client; the key comes from the environment and appears in no message. An address that may
   hold a secret itself is refused as soon as it is given (`check_url`), since addresses end up in messages and logs.
2. `Pace` spaces requests out, and makes all of them wait when the server says so.
3. `ask` sends one request and tries again where that can help (`Retry`); what cannot be had becomes `NoAnswer`.
4. `ask_side_by_side` sends many, so many at once; `run` does it from ordinary code, also in a notebook.
5. `AnswerCache` keeps answers in a file of records, one whole line with a checksum per write, so that a killed run
   loses nothing and a damaged answer is asked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from emotion_circuits import records
from emotion_circuits.errors import ModelError

logger = logging.getLogger(__name__)
LONGEST_WAIT = 120.0

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class NoAnswer:
    """Why a request stayed without an answer."""

    reason: str


@dataclass(frozen=True)
class Retry:
    """How often and after how long a failed request is sent again.

    Args:
        times: Further tries after the first.
        backoff: Seconds before the first of them; each further one waits about twice as long.
    """

    times: int
    backoff: float

    def wait(self, tries: int, asked: float | None) -> float:
        """The seconds before the next try: what the server asked for, else exponential with jitter."""
        if asked is not None:
            return min(asked, LONGEST_WAIT) + random.uniform(0, self.backoff)
        return min(self.backoff * 2**tries * random.uniform(0.5, 1.5), LONGEST_WAIT)


class Pace:
    """Lets requests start one after another at no more than a given rate."""

    def __init__(self, per_minute: float | None = None) -> None:
        if per_minute is not None and per_minute <= 0:
            raise ValueError(f"requests_per_minute is {per_minute}, expected a positive number or None")
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self.next = 0.0

    async def turn(self) -> None:
        """Wait for this request's turn."""
        while (ahead := self.next - time.monotonic()) > 0:
            if self.gap:
                self.next += self.gap
                await asyncio.sleep(ahead)
                return
            await asyncio.sleep(ahead)
        self.next = time.monotonic() + self.gap

    def hold(self, seconds: float) -> None:
        """Make every further request wait."""
        self.next = max(self.next, time.monotonic() + seconds)


def open_client(base_url: str | None, api_key_env: str, timeout: float) -> Any:
    """The asynchronous client of an endpoint; retries are ours (`ask`).

    Args:
        base_url: e.g. ``http://localhost:8000/v1``; None is OpenAI's.
        api_key_env: The environment variable that holds the key; a local endpoint may do without.
        timeout: Seconds for one request.

    Raises:
        ImportError: the ``openai`` package is not installed.
        ModelError: there is no key for an endpoint that needs one, or the address may hold a secret.
    """
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise ImportError('endpoints need the openai client: pip install "emotion-circuits[judges]"') from error
    check_url(base_url, api_key_env=api_key_env)
    if base_url is None:
        check_url(os.environ.get("OPENAI_BASE_URL"), "OPENAI_BASE_URL", api_key_env)  # the openai client reads it
    key = os.environ.get(api_key_env)
    if not key and base_url is None:
        raise ModelError(
            f"the environment variable {api_key_env} is empty: set it to the endpoint's key, name another one "
            "with api_key_env=, or give base_url= of a local endpoint that needs none"
        )
    return AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout)


def check_url(url: str | None, what: str = "base_url", api_key_env: str = "OPENAI_API_KEY") -> None:
    """Refuse an address that may hold a secret.

    Args:
        url: The address; None is fine.
        what: Its name in the message.
        api_key_env: The environment variable that is meant for the key.

    Raises:
        ModelError: it has a user name, a password, a query or a fragment; does not repeat them.
    """
    # Wherever these signs stand: a password may hold a slash, and then a parser no longer finds it.
    if url and set(url) & set("@?#"):
        raise ModelError(
            f"{what} must be a plain address such as http://localhost:8000/v1, without a user name, a password or "
            f"anything after ? or #: put the key into the environment variable {api_key_env}"
        )


def content(response: Any) -> str | NoAnswer:
    """The text of a response; an empty or cut-off one is no answer."""
    choice = response.choices[0]
    if choice.finish_reason == "length":
        return NoAnswer("the answer was cut off: raise max_tokens with request={'max_tokens': ...}")
    return choice.message.content or NoAnswer("the answer is empty")


async def ask(
    client: Any,
    request: Mapping[str, Any],
    retry: Retry,
    pace: Pace,
    read: Callable[[Any], Answer | NoAnswer] = content,
) -> Answer | NoAnswer:
    """Send one chat request until there is an answer.

    Args:
        client: From `open_client`.
        request: Arguments of the request.
        retry: How often it is tried again.
        pace: Shared by all requests to this endpoint.
        read: Takes what is wanted out of a response; by default its text.

    Raises:
        ModelError: the endpoint refuses the key, or does not know the model or path.
    """
    import openai

    problems: list[str] = []
    for tries in range(retry.times + 1):
        await pace.turn()
        asked = None
        try:
            return read(await client.chat.completions.create(**request))
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise ModelError(
                f"the endpoint {client.base_url} refused model {request['model']!r} with status "
                f"{error.status_code}: check base_url, the model's name, and the key in the environment variable"
            ) from None
        except openai.APIStatusError as error:
            problem = f"status {error.status_code}"
            if error.status_code not in (408, 409, 429) and error.status_code < 500:
                return NoAnswer(f"{problem}: {_message(error, client.api_key)}")
            asked = _retry_after(error)
            if error.status_code == 429 and asked is not None:
                pace.hold(min(asked, LONGEST_WAIT))
        except openai.APITimeoutError:
            problem = "time-out"
        except openai.APIConnectionError:
            problem = "the connection failed or broke off"
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            problem = f"unreadable response ({type(error).__name__})"
        problems.append(problem)
        if tries < retry.times:
            wait = retry.wait(tries, asked)
            logger.info("%s, asking again in %.1f s", problem, wait)
            await asyncio.sleep(wait)
    return NoAnswer(f"no answer after {retry.times + 1} tries: {', then '.join(dict.fromkeys(problems))}")


def _message(error: Any, key: str) -> str:
    """What the server says about a rejected request, without the key, should it repeat that."""
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or body.get("detail") or "rejected"  # OpenAI's word for it, or FastAPI's
    return str(said).replace(key, "***")[:200]


def _retry_after(error: Any) -> float | None:
    try:
        return max(0.0, float(error.response.headers.get("retry-after")))
    except (TypeError, ValueError):
        return None


async def ask_side_by_side(
    client: Any,
    requests: Mapping[Key, Mapping[str, Any]],
    retry: Retry,
    pace: Pace,
    concurrency: int,
    on_answer: Callable[[Key, Answer | NoAnswer], None],
    read: Callable[[Any], Answer | NoAnswer] = content,
) -> None:
    """`ask` for every request, at most ``concurrency`` at once; ``on_answer`` is told each answer as it comes."""
    gate = asyncio.Semaphore(concurrency)

    async def one(key: Key, request: Mapping[str, Any]) -> None:
        async with gate:
            answer = await ask(client, request, retry, pace, read)
        on_answer(key, answer)

    async with client, asyncio.TaskGroup() as group:
        for key, request in requests.items():
            group.create_task(one(key, request))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine from ordinary code, also inside a notebook's running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _unwrap(asyncio.run, work)
    box: dict[str, Any] = {}

    def target() -> None:
        try:
            box["value"] = _unwrap(asyncio.run, work)
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if "error" in box:
        raise box["error"]
    return box["value"]


def _unwrap(start: Any, work: Coroutine[Any, Any, Any]) -> Any:
    """A task group wraps the error that stopped it; the user wants the error."""
    try:
        return start(work)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


class AnswerCache:
    """Answers by request, in memory and, with a path, in a file of `emotion_circuits.records`.

    A line that is damaged or has no checksum does not count: its request is sent again.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.answers: dict[str, str] = {}
        if self.path is not None and self.path.exists():
            for _, record in records.scan(self.path, checked=True):
                match record:  # anything else is damaged, or half a line: the writer was killed
                    case {"key": str(key), "answer": str(answer)}:
                        self.answers[key] = answer

    @staticmethod
    def key(request: Any) -> str:
        """A name for everything that an answer depends on."""
        return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self.answers

    def __getitem__(self, key: str) -> str:
        return self.answers[key]

    def add(self, key: str, answer: str) -> None:
        """Keep an answer; the line is written at once and whole."""
        self.answers[key] = answer
        if self.path is None:
            return
        file = records.Appender(self.path)
        try:
            file.add({"key": key, "answer": answer})
        finally:
            file.close()
