"""Asking an OpenAI-compatible endpoint without losing patience, money or answers.

1. `Pace` spaces requests out, and makes all of them wait when the server says so.
2. `ask` sends one request and tries again where that can help (`Retry`); what cannot be had becomes `NoAnswer`.
3. `AnswerCache` keeps answers in a JSONL file, one whole line per write, so that a killed run loses nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion_circuits import records
from emotion_circuits.errors import ModelError

LONGEST_WAIT = 120.0


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
        """Returns the seconds before the next try: what the server asked for, else exponential with jitter."""
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
        """Waits for this request's turn."""
        while (ahead := self.next - time.monotonic()) > 0:
            if self.gap:
                self.next += self.gap
                await asyncio.sleep(ahead)
                return
            await asyncio.sleep(ahead)
        self.next = time.monotonic() + self.gap

    def hold(self, seconds: float) -> None:
        """Makes every further request wait."""
        self.next = max(self.next, time.monotonic() + seconds)


async def ask(client: Any, request: dict[str, Any], retry: Retry, pace: Pace) -> str | NoAnswer:
    """Sends one chat request until there is an answer.

    Raises:
        ModelError: If the endpoint refuses the key, or does not know the model or path.
    """
    import openai

    problem = ""
    for tries in range(retry.times + 1):
        await pace.turn()
        asked = None
        try:
            return _content(await client.chat.completions.create(**request))
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise ModelError(
                f"the endpoint {client.base_url} refused model {request['model']!r} with status {error.status_code}: "
                "check base_url, the model's name, and the key in the environment variable"
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
        if tries < retry.times:
            await asyncio.sleep(retry.wait(tries, asked))
    return NoAnswer(f"no answer after {retry.times + 1} tries: {problem}")


def _content(response: Any) -> str | NoAnswer:
    """Returns the text of a response; an empty or cut-off one is no answer."""
    choice = response.choices[0]
    if choice.finish_reason == "length":
        return NoAnswer("the answer was cut off: raise max_tokens with request={'max_tokens': ...}")
    return choice.message.content or NoAnswer("the answer is empty")


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


class AnswerCache:
    """Answers by request, in memory and, with a path, in a JSONL file."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.answers: dict[str, str] = {}
        if self.path is not None and self.path.exists():
            for _, record in records.scan(self.path):
                match record:  # anything else is half a line: the writer was killed
                    case {"key": str(key), "answer": str(answer)}:
                        self.answers[key] = answer

    @staticmethod
    def key(request: Any) -> str:
        """Returns a name for everything that an answer depends on."""
        return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self.answers

    def __getitem__(self, key: str) -> str:
        return self.answers[key]

    def add(self, key: str, answer: str) -> None:
        """Keeps an answer; the line is written at once and whole."""
        self.answers[key] = answer
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n"
        with self.path.open("ab") as file:
            if file.tell() and not self._ends_whole():
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def _ends_whole(self) -> bool:
        assert self.path is not None
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
