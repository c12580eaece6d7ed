"""The linker of one version: dictionary, candidates, and the choice among them."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from knowledge.context import (
    Weights,
    evidence,
    is_supported,
    needs_support,
    scores,
    stands_alone,
)
from knowledge.linking import (
    Candidate,
    Link,
    Match,
    NormalText,
    Reading,
    Unlinked,
    best_spans,
    find_matches,
    is_weak,
    normal_text,
    normalise,
    strongest,
)
from knowledge.storage import StringTable
from knowledge.stored_facts import StoredFacts
from knowledge.surfaces import Surfaces

_PROFILES = 1024  # kept at a time: about 2 MB
_KINDS = 8192  # entities of which is kept whether they need support: about 1 MB
_MOST_CANDIDATES = 32  # weighed against the sentence; the others of a surface cannot win


class Linker:
    """Finds the links of sentences. Safe to share between threads."""

    def __init__(
        self,
        surfaces: Surfaces,
        keys: StringTable,
        names: StringTable,
        facts: StoredFacts,
        *,
        simplified: bool,
    ) -> None:
        self.weights = Weights()
        self._surfaces = surfaces
        self._keys = keys
        self._names = names
        self._profile = lru_cache(maxsize=_PROFILES)(facts.profile)
        self._needs_support = lru_cache(maxsize=_KINDS)(
            lambda entity: needs_support(facts.kinds(entity))
        )
        self._simplified = simplified

    def read(self, text: str, max_entities: int) -> Reading:
        """See `KnowledgeGraph.read`."""
        normal = normalise(text)
        spans, links = self._weighed(text, normal)
        kept = strongest(spans, max_entities)
        left = {span: "too_many" for span in spans if span not in kept}
        taken = {place for span in spans for place in range(span.start, span.end)}
        free = [s for s, link in links.items() if not link and taken.isdisjoint(range(*s[:2]))]
        left |= dict.fromkeys(best_spans(free), "below_threshold")
        found = [links[span] for span in kept]
        return Reading(
            [link for link in found if link is not None],
            [self._unlinked(text, normal, *one) for one in sorted(left.items(), key=_start)],
        )

    def _weighed(
        self, text: str, normal: NormalText
    ) -> tuple[list[Match], dict[Match, Link | None]]:
        """The best spans, and of all that were tried what each means: None where the sentence is
        against it. A name that it does not support gives its characters back to other names.
        """
        matches = self.matches(text, normal)
        links: dict[Match, Link | None] = {}
        while True:
            spans = best_spans(matches)
            links |= {span: self._link(text, normal, span) for span in spans if span not in links}
            if all(links[span] for span in spans):
                return spans, links
            matches = [match for match in matches if links.get(match, True)]

    def matches(self, text: str, normal: NormalText) -> list[Match]:
        """Every surface of the text that is no weak one; `normal` is the normalised text."""
        found = list(self._found(normal))
        if not self._simplified:  # the dictionary has traditional characters where it was given any
            found += self._found(normalise(text, simplify=False))
            found = list(set(found))
        return sorted(found)

    def candidates(self, span: Match) -> tuple[Candidate, ...]:
        """What the surface of a span may mean, the likeliest first."""
        rows = self._surfaces.rows(span.surface)
        return tuple([Candidate(entity, self._keys[entity], prior) for entity, prior in rows])

    def _link(self, text: str, normal: NormalText, span: Match) -> Link | None:
        candidates = self.candidates(span)
        choice = self._choice(normal, span, candidates[:_MOST_CANDIDATES])
        if choice is None:
            return None
        start, end = normal.starts[span.start], normal.ends[span.end - 1]
        surface, chosen = text[start:end], candidates[choice[0]]
        name = self._names[chosen.entity]
        return Link(start, end, surface, chosen.entity, chosen.key, name, choice[1], candidates)

    def _choice(
        self, normal: NormalText, span: Match, candidates: Sequence[Candidate]
    ) -> tuple[int, float] | None:
        """(number, score) of the candidate that is meant; None where none is."""
        if len(candidates) == 1 and not self._needs_support(candidates[0].entity):
            return 0, 1.0  # nothing to choose: its facts are not read
        profiles = [self._profile(candidate.entity) for candidate in candidates]
        counted = evidence(normal.text, span.start, span.end, profiles)
        shares = scores([candidate.prior for candidate in candidates], counted, self.weights)
        best = shares.index(max(shares))
        if all(needs_support(known.kinds) for known in profiles):
            strength = counted[best].weigh(self.weights)
            if not is_supported(normal.text, span.start, span.end, strength, self.weights):
                return None
        return best, shares[best]

    def _unlinked(self, text: str, normal: NormalText, span: Match, reason: str) -> Unlinked:
        start, end = normal.starts[span.start], normal.ends[span.end - 1]
        return Unlinked(start, end, text[start:end], reason, self.candidates(span))

    def _found(self, normal: NormalText) -> Iterator[Match]:
        surfaces = self._surfaces
        for start, surface, index in find_matches(normal, surfaces.prefixes, surfaces.longest):
            if not self._is_weak(normal.text, surface, start, index):
                yield Match(start, start + len(surface), index, surfaces.best_prior(index))

    def _is_weak(self, text: str, surface: str, start: int, index: int) -> bool:
        if len(surface) > 1:
            return is_weak(surface, ())
        rows = self._surfaces.rows(index)
        if is_weak(surface, [(self._normal_name(entity), prior) for entity, prior in rows]):
            return True
        is_ideograph = surface.isalpha() and not surface.isascii()
        return is_ideograph and not stands_alone(text, start, start + 1)

    def _normal_name(self, entity: int) -> str:
        return normal_text(self._names[entity])


def _start(entry: tuple[Match, str]) -> int:
    return entry[0].start
