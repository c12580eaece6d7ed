"""One table from errors to statuses, and it is whole."""

import string
from collections.abc import Iterator

import pytest
import torch

from rapid_diffusion.errors import CheckpointError, InvalidRequestError, RapidDiffusionError
from server.errors import PROBLEM_OF_ERROR, problem_of_error, shown
from server.messages import KINDS
from server.reasons import REASONS

STATUS = {
    "InvalidRequestError": 422,
    "CheckpointError": 500,
    "MissingDependencyError": 500,
    "NumericalError": 500,
    "OutputError": 500,
    "CanceledError": 499,
}


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def make(kind: type[Exception]) -> Exception:
    return (
        kind("first", "second")
        if issubclass(kind, InvalidRequestError | CheckpointError)
        else kind("only")
    )


def test_every_error_of_the_library_has_its_status() -> None:
    kinds = [
        kind for kind in tree(RapidDiffusionError) if kind.__module__ == "rapid_diffusion.errors"
    ]
    assert len(kinds) == 8
    assert set(kinds) <= set(PROBLEM_OF_ERROR)
    for kind in kinds:
        assert problem_of_error(make(kind)).status == STATUS.get(kind.__name__, 500)


def test_errors_derived_from_them_follow_their_parents() -> None:
    class FieldError(InvalidRequestError):
        pass

    problem = problem_of_error(FieldError("knowledge", "unknown entity"))
    assert (problem.status, problem.param) == (422, "entities")
    assert problem.values["reason"] == "entities: unknown entity"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), MemoryError()])
def test_missing_memory_is_503_with_retry_after(error: Exception) -> None:
    problem = problem_of_error(error)
    assert (problem.status, problem.code) == (503, "out_of_device_memory")
    assert problem.retry_after is not None


def test_unknown_errors_are_internal() -> None:
    assert problem_of_error(KeyError("x")).code == "internal"


def test_both_languages_name_the_same_facts() -> None:
    def names(template: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name}

    for kind in KINDS.values():
        assert names(kind.detail["en"]) == names(kind.detail["zh"])
    for words in REASONS.values():
        assert names(words["en"]) == names(words["zh"])


def test_received_values_are_quoted_short_and_encodable() -> None:
    assert len(shown("虎" * 1000)) < 100
    assert shown("\ud800").encode() == b"'\\ud800'"
