"""`OpenAIBackend`: replies from any server of OpenAI's protocol, e.g. one that serves a baked checkpoint.

1. Every prompt is one chat request; the server renders it with its own template. Many are in flight at once.
2. What may pass (429, 5xx, time-outs, broken connections) is tried again (`emotion_circuits.endpoint`). A prompt that
   gets no reply in the end keeps its place, with the error.
3. No hook reaches into a server: patches are refused. Bake one into the server's model instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emotion_circuits import endpoint
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.endpoint import NoAnswer, Pace, Retry
from emotion_circuits.errors import ModelError, PatchError, PromptError
from emotion_circuits.generation import GenerationConfig, Made, OnMade
from emotion_circuits.interventions import Patch

IN_FLIGHT = 32

# What the protocol has no word for, and the value that asks for nothing.
_UNKNOWN = {"min_new_tokens": 0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


class OpenAIBackend:
    """See the module's docstring.

    Args:
        model: the model's name at the server.
        base_url: the server, e.g. ``http://localhost:8000/v1``; None is OpenAI's.
        tokenizer: of the served model, for `Reply.tokens`: the protocol brings texts only. The tokens are those that
            the text has when it is read, usually those that it was made of. Without it there are none.
        api_key_env: the environment variable that holds the key; a local server may do without.
        requests_per_minute: largest rate, None for no limit.
        max_retries: further tries after the first.
        backoff: seconds before the first retry; doubles each time, with jitter.
        timeout: seconds for one request.
        request: more arguments of each request; None removes one, e.g. ``{"seed": None}``.

    Raises:
        ModelError: the address may hold a secret.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        tokenizer: Any = None,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        requests_per_minute: float | None = None,
        max_retries: int = 6,
        backoff: float = 1.0,
        timeout: float = 600.0,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        endpoint.check_url(base_url, api_key_env=api_key_env)
        self.model, self.base_url, self.tokenizer = model, base_url, tokenizer
        self.api_key_env, self.requests_per_minute, self.timeout = api_key_env, requests_per_minute, timeout
        self.retry, self.request, self.name = Retry(max_retries, backoff), dict(request or {}), f"openai:{model}"

    def make(
        self,
        prompts: Mapping[int, Prompt],
        patches: Sequence[Patch],
        config: GenerationConfig,
        batch_size: int | None,
        on_made: OnMade,
    ) -> None:
        """See `emotion_circuits.generation.Backend`; ``batch_size`` is the number of requests in flight."""
        if patches:
            raise PatchError(
                f"{self.name} is a server, into which no hook reaches: generate with a HookedModel, or bake the patch "
                "into a checkpoint (ec.bake) and serve that"
            )
        _check(config)
        requests = {index: self._request(index, prompt, config) for index, prompt in prompts.items()}

        def keep(index: int, answer: Made | NoAnswer) -> None:
            on_made(index, Made(error=answer.reason) if isinstance(answer, NoAnswer) else answer)

        client = endpoint.open_client(self.base_url, self.api_key_env, self.timeout)
        pace, in_flight = Pace(self.requests_per_minute), batch_size or IN_FLIGHT
        endpoint.run(endpoint.ask_side_by_side(client, requests, self.retry, pace, in_flight, keep, self._read))

    def _request(self, index: int, prompt: Prompt, config: GenerationConfig) -> dict[str, Any]:
        if prompt.text is not None or not prompt.messages or prompt.messages[-1][0] == "assistant":
            raise PromptError(
                f"prompt {index} is raw text or ends with the assistant's turn, which a chat server would answer "
                "instead of going on with it; generate with a HookedModel"
            )
        held = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in prompt.messages],
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "stop": list(config.stop) or None,
            "seed": config.seed_of(index) % 2**31 if config.temperature > 0 else None,
        } | self.request
        return {name: value for name, value in held.items() if value is not None}

    def _read(self, response: Any) -> Made | NoAnswer:
        choice = response.choices[0]
        text = choice.message.content
        if choice.finish_reason not in ("stop", "length") or text is None:
            return NoAnswer(f"the server ended the reply for another reason: {choice.finish_reason}")
        if self.tokenizer is None:
            return Made(text.strip())
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ended = [self.tokenizer.eos_token_id] if choice.finish_reason == "stop" else []
        return Made(text.strip(), (*tokens, *ended))

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.model} at {self.base_url or 'OpenAI'})"


def _check(config: GenerationConfig) -> None:
    """Raise a `ModelError` if the protocol cannot ask for this way of decoding."""
    wanted = [name for name, nothing in _UNKNOWN.items() if getattr(config, name) != nothing]
    if wanted:
        raise ModelError(
            f"OpenAI's protocol has no {', '.join(wanted)}: leave it out, or generate with a HookedModel or vLLM. If "
            "your server has a word of its own for it, send that with request={'extra_body': {...}}"
        )
