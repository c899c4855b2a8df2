"""How replies are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from emotion_circuits.errors import PromptError


@dataclass(frozen=True)
class GenerationConfig:
    """How replies are decoded.

    Attributes:
        max_new_tokens: longest reply.
        min_new_tokens: the end token is impossible before.
        temperature: 0 is greedy.
        top_p: nucleus of the distribution that is sampled from.
        repetition_penalty: 1 is none; the reference modulates at 1.1.
        no_repeat_ngram_size: 0 is none; the reference modulates at 3.
        stop: strings that end a reply.
        seed: of sampling. One number gives each prompt a seed of its own, by its place in the list; a tuple with one
            seed per prompt makes a prompt's text the same wherever it stands.
    """

    max_new_tokens: int = 100
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    seed: int | tuple[int, ...] = 0

    @classmethod
    def preset(cls, name: str) -> GenerationConfig:
        """``"default"``, or ``"paper"``: what the reference modulates with (method.md, stage 7)."""
        if name == "paper":
            return cls(min_new_tokens=10, repetition_penalty=1.1, no_repeat_ngram_size=3)
        return cls()

    def check(self, n_prompts: int) -> None:
        """Raise a `PromptError` unless there is a seed for every prompt."""
        if isinstance(self.seed, tuple) and len(self.seed) != n_prompts:
            raise PromptError(f"{len(self.seed)} seeds for {n_prompts} prompts; give one number, or one per prompt")

    def seed_of(self, sample: int) -> int:
        """Seed of the prompt at place ``sample`` of the list."""
        seed = self.seed[sample] if isinstance(self.seed, tuple) else self.seed * 1_000_003 + sample
        return seed % 2**63
