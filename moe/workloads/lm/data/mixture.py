"""The data source that mixes others by weight, in exact proportions.

N examples, K sources.
"""

import dataclasses
import fractions
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from moe.config import ConfigError, Counted, OneOf, PositiveFloat, PositiveSteps
from moe.workloads.lm.data.sources import SOURCES, Corpus, Mixed, Source
from moe.workloads.lm.data.tokens import Joined, as_tokens


@dataclasses.dataclass(frozen=True)
class Stage:
    """Weights from a step on.

    Attributes:
      step: the first step with these weights; a text such as '2e9 tokens' is
        the number of steps that read so many, rounded up.
      weights: weight of each source by name.
    """

    step: PositiveSteps
    weights: Mapping[str, PositiveFloat]


@SOURCES.register('mixture')
@dataclasses.dataclass(frozen=True)
class Mixture(Source):
    """Sequences of several sources, of the same tokenizer, by weight.

    Of the first n sequences of a source with the share w there are n w, up to
    less than K, and exactly as many whenever n w is whole for all. Each source
    is shuffled, and begins anew when it ends. Validation is all of theirs, and
    each by itself under its name.

    Attributes:
      sources: the sources by name, as `{name: {name: text, ...}}`.
      weights: share of the sequences of each by name, of any sum; {} for equal
        ones.
      stages: other weights from later steps on, in the order of the steps.
    """

    sources: Mapping[str, Annotated[Source, OneOf(SOURCES)]]
    weights: Mapping[str, PositiveFloat] = dataclasses.field(
        default_factory=dict
    )
    stages: tuple[Stage, ...] = ()

    def __post_init__(self):
        if not self.sources:
            raise ConfigError('sources', {}, 'one source at least')
        for name, source in self.sources.items():
            check_name('sources', name)
            if isinstance(source, Mixture):
                raise ConfigError(f'sources.{name}', 'mixture', 'no mixture')
        given = {'weights': self.weights} if self.weights else {}
        stages = enumerate(self.stages)
        given |= {f'stages[{i}].weights': stage.weights for i, stage in stages}
        for field, weights in given.items():
            if set(weights) != set(self.sources):
                allowed = f'of each of {", ".join(self.sources)}'
                raise ConfigError(field, dict(weights), allowed)
        steps = [stage.step for stage in self.stages]
        # Numbers of tokens are compared when they are steps.
        counted = any(isinstance(step, Counted) for step in steps)
        if not counted and any(a >= b for a, b in itertools.pairwise(steps)):
            raise ConfigError('stages', steps, 'of ascending steps')

    def in_steps(self, convert: Callable[[str, int], int]) -> 'Mixture':
        """Returns a copy whose stages begin at steps, not at tokens.

        Args:
          convert: a function from a field and its value to a step.

        Raises:
          ConfigError: if they do not ascend.
        """
        stages = (
            dataclasses.replace(s, step=convert(f'stages[{i}].step', s.step))
            for i, s in enumerate(self.stages)
        )
        return dataclasses.replace(self, stages=tuple(stages))

    @property
    def _first(self) -> Source:
        return next(iter(self.sources.values()))

    @property
    def vocab_size(self) -> int:
        """Returns the largest of the sources'."""
        return max(source.vocab_size for source in self.sources.values())

    @property
    def bytes_per_token(self) -> float | None:  # type: ignore[override]
        """Returns that of the sources, if it is the same."""
        found = {source.bytes_per_token for source in self.sources.values()}
        return found.pop() if len(found) == 1 else None

    def tokenizer_digest(self):
        """Returns that of the first source."""
        return self._first.tokenizer_digest()

    def tokenizer_json(self):
        """Returns the contents of the first source's that has some."""
        found = (s.tokenizer_json() for s in self.sources.values())
        return next((text for text in found if text is not None), None)

    def token_bytes(self):
        """Returns those of the first source that has some."""
        for source in self.sources.values():
            found = source.token_bytes()
            if found is not None:
                return found
        return None

    def encode(self, text):
        """Returns the ids by the first source."""
        return self._first.encode(text)

    def decode(self, ids):
        """Returns the text by the first source."""
        return self._first.decode(ids)

    def pieces(self, ids):
        """Returns the text of each id by the first source."""
        return self._first.pieces(ids)

    def load(self, seq_len):
        """Opens all sources."""
        parts = {}
        for name, source in self.sources.items():
            try:
                parts[name] = source.load(seq_len)
            except ConfigError as error:
                raise error.inside(f'sources.{name}') from None
        check_tokenizers(self.sources, 'sources')
        weights = self.weights or dict.fromkeys(parts, 1.0)
        stages = [(0, weights), *((s.step, s.weights) for s in self.stages)]
        return mixed(parts, Mixed(parts, tuple(stages)))


def check_name(field: str, name: Any) -> None:
    """Refuses the name of a validation set that metrics cannot have.

    Args:
      field: the section that has it.
      name: the name.

    Raises:
      ConfigError: for no text, an empty one, or one with a slash.
    """
    if not isinstance(name, str) or not name or '/' in name:
        raise ConfigError(field, name, 'of names without a slash')


def check_tokenizers(sources: Mapping[str, Source], field: str) -> None:
    """Refuses sources whose ids are of several tokenizers.

    Args:
      sources: the sources by name; one of an unknown tokenizer fits all.
      field: the field that holds them, for the message.

    Raises:
      ConfigError: with the names of two that differ.
    """
    known: dict[str, str] = {}
    for name, source in sources.items():
        digest = source.tokenizer_digest()
        if digest is not None:
            known.setdefault(digest, name)
    if len(known) > 1:
        first, second, *_ = known.values()
        allowed = f'of the tokenizer of {first}'
        raise ConfigError(field, second, allowed)


def mixed(parts: Mapping[str, Corpus], mixture: Mixed | None) -> Corpus:
    """Returns one corpus of several.

    Args:
      parts: the corpora by name.
      mixture: how their training sets are mixed.
    """
    join = lambda which: Joined(
        [as_tokens(getattr(p, which)) for p in parts.values()]
    )
    digest = hashlib.sha256()
    facts: dict[str, Any] = {}
    notes: list[str] = []
    for name, part in parts.items():
        digest.update(f'{name} {part.fingerprint} '.encode())
        facts |= {f'{name}_{fact}': value for fact, value in part.facts.items()}
        notes += [f'{name}: {note}' for note in part.notes]
    return Corpus(
        join('train'),
        join('val'),
        digest.hexdigest()[:16],
        facts,
        tuple(notes),
        mixture,
    )


class Proportions:
    """Which source each of the examples is of, in exact proportions.

    Of sources in a row the first takes example n if `floor((n + 1) p)` is more
    than `floor(n p)`, for its share p of what the sources from it on have; the
    others share the rest in the same way.

    Args:
      weights: of the sources.
    """

    def __init__(self, weights: Sequence[float]):
        exact = [fractions.Fraction(str(float(weight))) for weight in weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * scale) for weight in exact]
        common = math.gcd(*whole)
        self._weights = [weight // common for weight in whole]

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the source of an example, and how many it had before."""
        total = sum(self._weights)
        for i, weight in enumerate(self._weights[:-1]):
            before = index * weight // total
            if (index + 1) * weight // total > before:
                return i, before
            index, total = index - before, total - weight
        return len(self._weights) - 1, index

    def counts(self, size: int) -> list[int]:
        """Returns how many of the first examples each source has."""
        total, found = sum(self._weights), []
        for weight in self._weights:
            found.append(size * weight // total)
            size, total = size - found[-1], total - weight
        return found


class MixedExamples:
    """Endless examples of several sources, by weights that change.

    Args:
      examples: endless examples of each source, by name.
      mixture: weights by step.
      batch_size: examples of a step.
      dtype: of the ids of all.
    """

    def __init__(
        self,
        examples: Mapping[str, Any],
        mixture: Mixed,
        batch_size: int,
        dtype: np.dtype,
    ):
        self._examples = list(examples.values())
        self._dtype = dtype
        self._stages: list[tuple[int, Proportions, list[int]]] = []
        taken = [0] * len(self._examples)
        for step, weights in mixture.stages:
            if self._stages:
                start, before, _ = self._stages[-1]
                more = before.counts(step * batch_size - start)
                taken = [a + b for a, b in zip(taken, more, strict=True)]
            ordered = Proportions([weights[name] for name in examples])
            self._stages.append((step * batch_size, ordered, taken))

    def __len__(self) -> int:
        return 2**63 - 1

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the source of an example, and how many it had before."""
        start, proportions, taken = next(
            stage for stage in reversed(self._stages) if stage[0] <= index
        )
        source, count = proportions.locate(index - start)
        return source, taken[source] + count

    def __getitem__(self, index: int) -> Any:
        source, count = self.locate(int(index))
        example = self._examples[source][count]
        if isinstance(example, tuple):  # Packed
            tokens, *rest = example
            return type(example)(tokens.astype(self._dtype), *rest)
        return example.astype(self._dtype)
