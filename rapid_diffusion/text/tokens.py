"""Chinese word pieces with character offsets: spans of a sentence -> positions of a sequence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Encoding, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor

from rapid_diffusion.errors import CheckpointError
from rapid_diffusion.files import write_bytes

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNKNOWN = SPECIAL.index("[UNK]")


@dataclass(frozen=True)
class EntitySpan:
    """An entity's vector (E,), already weighted, for the characters start..end of the sentence.

    Without a span (`start` is None) the vector goes to the CLS token.
    """

    vector: Tensor
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Tokens:
    """A batch of sentences, padded to the model's length L.

    ids (B, L) int64; mask (B, L) bool, True = a real token; entity_vectors (B, L, E) float32;
    truncated: for each sentence the index of the first character that did not fit, or None;
    unknown: for each sentence what the vocabulary has no piece for and no entity stands for:
    Chinese characters one by one, other words whole; each once, as it is written.
    """

    ids: Tensor
    mask: Tensor
    entity_vectors: Tensor
    truncated: list[int | None]
    unknown: list[list[str]] = field(default_factory=list)


class TextTokenizer:
    """Word pieces of a sentence, with the entity vectors laid over the pieces of their spans."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        padding = tokenizer.token_to_id("[PAD]")
        if padding is None:
            raise ValueError("the vocabulary has no [PAD]")
        # Cutting and padding are done here; what a foreign file says of them would come first.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.padding_id: int = padding
        self.unknown_id: int | None = tokenizer.token_to_id("[UNK]")

    @classmethod
    def from_vocabulary(cls, words: Sequence[str], max_length: int) -> "TextTokenizer":
        """BERT's word pieces over `words` (each id is its place; the five specials come first)."""
        if tuple(words[:5]) != SPECIAL:
            raise ValueError(f"a vocabulary starts with {SPECIAL}, this one with {words[:5]}")
        vocabulary = {word: place for place, word in enumerate(words)}
        tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.post_processor = processors.BertProcessing(
            ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
        )
        return cls(tokenizer, max_length)

    @classmethod
    def from_folder(cls, folder: Path, max_length: int) -> "TextTokenizer":
        """Read `tokenizer.json`; `CheckpointError` where it is missing or damaged."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(path, "no such file; the model folder is not complete")
        try:
            return cls(Tokenizer.from_file(str(path)), max_length)
        except Exception as error:  # the library raises nothing more precise
            raise CheckpointError(path, f"not a tokenizer file ({error})") from error

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into an existing folder; raises `OutputError`."""
        write_bytes(folder / "tokenizer.json", self.tokenizer.to_str(pretty=True).encode())

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def words(self) -> list[str]:
        """The word pieces in the order of their ids."""
        vocabulary = self.tokenizer.get_vocab()
        return sorted(vocabulary, key=vocabulary.__getitem__)

    def grown(self, words: Sequence[str]) -> "TextTokenizer":
        """The same with those word pieces after its own that it has not yet."""
        content = json.loads(self.tokenizer.to_str())
        vocabulary: dict[str, int] = content["model"]["vocab"]
        for word in words:
            vocabulary.setdefault(word, len(vocabulary))
        return TextTokenizer(Tokenizer.from_str(json.dumps(content)), self.max_length)

    def __call__(
        self, texts: Sequence[str], spans: Sequence[Sequence[EntitySpan]], dimension: int
    ) -> Tokens:
        """Encode one sentence a row; `spans[i]` are the entities of `texts[i]`, E = `dimension`.

        All word pieces that overlap a span get its vector; where two overlap, they add up.
        """
        encodings = self.tokenizer.encode_batch(list(texts))
        length = self.max_length
        ids = torch.full((len(texts), length), self.padding_id)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        vectors = torch.zeros(len(texts), length, dimension)
        for row, encoding in enumerate(encodings):
            kept = self._fit(encoding.ids)
            ids[row, : len(kept)] = torch.tensor(kept)
            mask[row, : len(kept)] = True
            for span in spans[row]:
                for position in _positions(encoding, span, length - 1):
                    vectors[row, position] += span.vector
        lost = [self._first_lost(encoding) for encoding in encodings]
        has_entity = vectors.any(-1).tolist()
        unknown = [self._unknown(*row) for row in zip(texts, encodings, has_entity, strict=True)]
        return Tokens(ids, mask, vectors, lost, unknown)

    def _fit(self, ids: list[int]) -> list[int]:
        """Cut to the model's length, keeping the closing token."""
        return ids if len(ids) <= self.max_length else [*ids[: self.max_length - 1], ids[-1]]

    def _unknown(self, text: str, encoding: Encoding, has_entity: list[bool]) -> list[str]:
        """What is read as [UNK] inside the model's length."""
        read = encoding.ids[: self.max_length - 1]  # what follows is cut off, or [SEP]
        kept = zip(read, encoding.offsets, has_entity, strict=False)
        found = [span for i, span, named in kept if i == self.unknown_id and not named]
        return list(dict.fromkeys(text[start:end] for start, end in found))

    def _first_lost(self, encoding: Encoding) -> int | None:
        if len(encoding.ids) <= self.max_length:
            return None
        return int(encoding.offsets[self.max_length - 1][0])


def _positions(encoding: Encoding, span: EntitySpan, limit: int) -> list[int]:
    if span.start is None or span.end is None:
        return [0]
    return [
        position
        for position, (start, end) in enumerate(encoding.offsets[:limit])
        if start < span.end and span.start < end
    ]
