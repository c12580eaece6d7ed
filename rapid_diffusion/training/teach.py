"""`rapid-diffusion teach MODEL`: a model understands sentences that it never learned.

Each comes with what it means in words that the model knows. Its text tower, as it is, says what the
latter means; a copy learns to say the same of the former (Reimers and Gurevych, 2020,
https://arxiv.org/abs/2004.09813). Nothing that draws is touched and no picture is looked at.
"""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowledge.errors import KnowledgeError
from knowledge.graph import KnowledgeGraph
from rapid_diffusion.checkpoints.folder import (
    folder_digest,
    json_digest,
    load_strict,
    read_json,
    storage_of,
    write_json,
)
from rapid_diffusion.checkpoints.manifest import write_manifest
from rapid_diffusion.components import INDEX, components_of, find_model, finds_base
from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.files import check_replaceable, replacing_folder
from rapid_diffusion.model_folder import Model, load_model, write_text
from rapid_diffusion.text.encoder import KnowledgeTextEncoder
from rapid_diffusion.text.tokens import UNKNOWN, Tokens
from rapid_diffusion.training.config import DataConfig, LoopConfig, read_loops, read_toml
from rapid_diffusion.training.data import read_lines, step_generator, vocabulary_of
from rapid_diffusion.training.finetune_data import graph_with_vectors
from rapid_diffusion.training.loop import run_loop
from rapid_diffusion.training.page import ProgressPage
from rapid_diffusion.training.sentences import NO_ENTITY, Captions, Sentences
from rapid_diffusion.training.stages import Stage, encode_short, stage_folder

NAME = "teach"
LOOP = LoopConfig(1600, 96, 7e-4, warmup=50, cooldown=1100, ema=0.98)
KEYS = {"sentence", "means", "entity"}
_LISTED = 5


@dataclass(frozen=True)
class Lesson:
    """A sentence, what it means, and perhaps the key of the entity that both are about.

    One that means itself is to be understood as before, word by word.
    """

    sentence: str
    means: str
    entity: str = ""


def run(
    model: str | Path,
    sentences: Path,
    out: Path,
    config: Path | None = None,
    *,
    resume: bool = True,
) -> dict[str, Any]:
    """Teach `model` the lines of `sentences`, write `out`; what was learned comes back, for JSON.

    Raises `InvalidRequestError`, `CheckpointError`, `OutputError`.
    """
    check_replaceable(out.absolute(), INDEX)
    folder = find_model(model)
    _check_base(folder, out)
    content = {} if config is None else read_toml(config, ("loops",))
    loop = read_loops(content).get(NAME, LOOP)
    return Teaching(folder, read_lessons(sentences), loop).run(out, resume=resume)


def read_lessons(path: Path) -> list[Lesson]:
    """The lines of a file: JSON with `sentence`, `means` and perhaps `entity`.

    Raises `CheckpointError` naming the file and the line at fault.
    """
    return [Lesson(**line) for line in read_lines(path, _fault)]


def _fault(line: Any) -> str:
    """What is wrong with a line; empty where nothing is."""
    if not isinstance(line, dict) or not {"sentence", "means"} <= set(line) <= KEYS:
        return f": {line!r:.80}; an object with `sentence`, `means` and perhaps `entity` is wanted"
    if not all(isinstance(value, str) for value in line.values()):
        return f": {line!r:.80}; texts are wanted"
    return ""


class Teaching:
    """A model, the sentences, and a tower that begins as a copy of the model's."""

    def __init__(self, folder: Path, lessons: Sequence[Lesson], loop: LoopConfig) -> None:
        self.folder, self.lessons, self.loop = folder, lessons, loop
        self.model = load_model(folder)
        graph = check_teachable(self.model)
        texts = [lesson.sentence for lesson in lessons]
        self.tokenizer = self.model.tokenizer.grown(vocabulary_of(texts))
        self.sentences = Sentences(DataConfig(""), graph, self.tokenizer)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self, out: Path, *, resume: bool) -> dict[str, Any]:
        """Learn, and write the folder."""
        stage, learning = self.stage()
        output = out.with_name(f"{out.name}-training")
        page = ProgressPage(output, self.model.card.name)
        folder = stage_folder(output, NAME)
        weights = run_loop(stage, self.loop, folder, resume=resume, watch=page.update)
        page.write()
        load_strict(learning, weights, folder)
        self._write(learning.cpu(), out)
        return self.report()

    def _write(self, learned: KnowledgeTextEncoder, out: Path) -> None:
        """The model's files as they are, but for the text tower and the word pieces."""
        config = replace(self.model.text_config, vocabulary=len(self.tokenizer))
        taught = replace(
            self.model, tokenizer=self.tokenizer, text_config=config, text_encoder=learned
        )
        storage = storage_of(components_of(self.folder)["text_encoder"])
        with replacing_folder(out, INDEX) as temporary:
            hidden = shutil.ignore_patterns(".*")
            shutil.copytree(self.folder, temporary, dirs_exist_ok=True, ignore=hidden)
            write_text(taught, temporary, storage)
            parts = sorted(path.name for path in temporary.iterdir() if path.is_dir())
            write_json(temporary / INDEX, read_json(temporary / INDEX) | {"components": parts})
            write_manifest(temporary)

    def report(self) -> dict[str, Any]:
        """Counts, and the characters that were new."""
        said = [lesson.sentence for lesson in self.lessons]
        cut = self.tokenizer(said, [[] for _ in said], 1).truncated
        known = len(self.model.tokenizer)
        return {
            "sentences": len(said),
            "kept_as_before": sum(lesson.sentence == lesson.means for lesson in self.lessons),
            "longer_than_the_model_reads": sum(place is not None for place in cut),
            "new_pieces": self.tokenizer.words()[known:],
        }

    def stage(self) -> tuple[Stage, KnowledgeTextEncoder]:
        """The stage, and the tower that learns in it."""
        teacher = self.model.text_encoder.to(self.device).requires_grad_(False).eval()
        learning = _grown_encoder(teacher, len(self.tokenizer))
        same = torch.tensor([lesson.sentence == lesson.means for lesson in self.lessons])
        sentences, loop, known = self.sentences, self.loop, len(self.model.tokenizer)
        said, meant = self._captions()
        self._check_meanings(meant, same)

        def loss(step: int) -> Tensor:
            generator = step_generator(loop.seed, step)
            numbers = torch.randint(len(same), (loop.batch,), generator=generator)
            # The same words are hidden of both. Links are left out of the sentence alone: in bare
            # words it comes to mean what the graph makes of them.
            shown = sentences.vary(said.at(numbers), step_generator(loop.seed + 1, step))
            wanted = sentences.vary(
                meant.at(numbers), step_generator(loop.seed + 1, step), "linked"
            )
            strange = _not_meant(shown, wanted) & ~same[numbers, None]
            shown = sentences.replaced(shown, strange, generator)
            with torch.no_grad():
                target = encode_short(teacher, _in_known_pieces(wanted, known))
            found = encode_short(learning, shown)
            error = (found.hidden - target.hidden).square().mean(-1)
            counted = target.mask & same[numbers, None].to(self.device)
            return error[:, 0].mean() + (error * counted).sum() / counted.sum().clamp(min=1)

        settings = {
            "model": folder_digest(self.folder),
            "sentences": json_digest([vars(lesson) for lesson in self.lessons]),
        }
        return Stage(NAME, learning, loss, settings=settings), learning

    def _captions(self) -> tuple[Captions, Captions]:
        """The sentences and what they mean, linked and in pieces."""
        subjects = [_subject(self.sentences, lesson) for lesson in self.lessons]
        said = self.sentences.tokenise([lesson.sentence for lesson in self.lessons], subjects)
        meant = self.sentences.tokenise([lesson.means for lesson in self.lessons], subjects)
        return said, meant

    def _check_meanings(self, meant: Captions, same: Tensor) -> None:
        """What a sentence means must be in words that the teacher reads, or linked."""
        strange = (meant.ids >= len(self.model.tokenizer)) | (meant.ids == UNKNOWN)
        lines = ((strange & (meant.entities == NO_ENTITY)).any(1) & ~same).nonzero().flatten()
        if len(lines):
            told = (repr(self.lessons[n].means) for n in lines[:_LISTED].tolist())
            raise InvalidRequestError(
                "means",
                f"{len(lines)} lines mean something in characters that the model does not know "
                f"({', '.join(told)}); say it in words of its captions",
            )


def _check_base(folder: Path, out: Path) -> None:
    """Asked before anything learns: will what shares the parts of another find them?"""
    base = components_of(folder).base
    if base is not None and not finds_base(out, base):
        raise InvalidRequestError(
            "out",
            f"{out}; the model shares the parts of {base}, which must lie beside it: "
            f"give --out {base.parent}/NAME",
        )


def check_teachable(model: Model) -> KnowledgeGraph:
    """The graph of a model whose sentence state draws; `InvalidRequestError` for others."""
    graph = graph_with_vectors(model, "model")
    if not model.denoiser.takes_sentence:
        raise InvalidRequestError(
            "model", "its UNet looks at word pieces only, which this does not teach; train it anew"
        )
    return graph


def _subject(sentences: Sentences, lesson: Lesson) -> int:
    """The entity that a line is about; `InvalidRequestError` for one that the graph has not."""
    try:
        return sentences.subject({"entity": lesson.entity} if lesson.entity else {})
    except KnowledgeError as error:
        raise InvalidRequestError(
            "entity",
            f"{lesson.entity!r} of {lesson.sentence!r}; {error}: leave it out, or correct it",
        ) from error


def _grown_encoder(encoder: KnowledgeTextEncoder, pieces: int) -> KnowledgeTextEncoder:
    """A copy with room for more word pieces; the new ones begin as the unknown one."""
    grown = copy.deepcopy(encoder).requires_grad_(True)
    tower: Any = grown.tower
    before = tower.get_input_embeddings().num_embeddings
    embeddings = tower.resize_token_embeddings(pieces, mean_resizing=False)
    with torch.no_grad():
        embeddings.weight[before:] = embeddings.weight[UNKNOWN]
    return grown


def _not_meant(shown: Tokens, wanted: Tokens) -> Tensor:
    """Which pieces (B, L) of sentences are neither in what they mean nor linked."""
    also_there = (shown.ids[:, :, None] == wanted.ids[:, None, :]).any(2)
    return shown.mask & ~also_there & ~shown.entity_vectors.any(-1)


def _in_known_pieces(tokens: Tokens, known: int) -> Tokens:
    """The sentences as a tower reads them that has the first `known` pieces only."""
    ids = torch.where(tokens.ids < known, tokens.ids, UNKNOWN)
    return replace(tokens, ids=ids)
