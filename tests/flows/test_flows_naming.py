"""What a run is called, and what its page says when it was refused or failed."""

from __future__ import annotations

import logging

import pytest
from prefect.exceptions import ParameterTypeError

from datacomp_core.errors import DataError
from flows.captioning import CaptioningSpec
from flows.experiment import experiment
from flows.naming import LOGGERS, OneSentence, filled, quieten, sentence


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "no_filtr"}, "Refused: Unknown recipe 'no_filtr'. Did you mean 'no_filter'?"),
        ({"recipe": "kind: wrds\n"}, "Refused: Unknown filter kind in Recipe 'wrds'. Did you mean 'words'?"),
        ({"seed": -1}, "Refused: seed: Input should be greater than or equal to 0"),
    ],
)
def test_a_refusal_is_one_sentence(given: dict[str, object], said: str) -> None:
    with pytest.raises(ParameterTypeError) as problem:
        experiment.validate_parameters({"spec": given})
    told = sentence(f"Validation of flow parameters failed with error: {problem.value}")
    assert told.startswith(said)
    assert "\n" not in told


def record(problem: Exception, message: str = "Encountered exception during execution") -> logging.LogRecord:
    try:
        raise problem
    except Exception as raised:
        return logging.LogRecord(
            "prefect.flow_runs", logging.ERROR, "", 0, message, (), (type(raised), raised, raised.__traceback__)
        )


def test_our_errors_are_logged_as_their_sentence_once() -> None:
    kept = record(DataError("The shard 3.tar is damaged at byte 512."))
    assert OneSentence().filter(kept)
    assert (kept.getMessage(), kept.exc_info) == ("The shard 3.tar is damaged at byte 512.", None)
    again = record(DataError("The shard 3.tar is damaged at byte 512."), "Engine execution exited with unexpected exception")
    assert not OneSentence().filter(again)


def test_an_error_of_the_code_keeps_its_traceback() -> None:
    kept = record(KeyError("x"))
    assert OneSentence().filter(kept)
    assert kept.exc_info is not None


def test_quietening_twice_adds_one_filter() -> None:
    quieten()
    quieten()
    for name in LOGGERS:
        assert sum(isinstance(one, OneSentence) for one in logging.getLogger(name).filters) == 1


@pytest.mark.parametrize(("make", "told"), [({"kind": "generate", "name": "blip"}, "blip"), ({}, "?"), (None, "?")])
def test_a_request_within_a_request_is_called_by_its_name(make: dict[str, str] | None, told: str) -> None:
    spec = {"scale": "tiny"} if make is None else {"scale": "tiny", "make": make}
    assert filled("{scale}-captions-{make}", {"spec": spec}) == f"tiny-captions-{told}"
    if make:
        spec_of_python = CaptioningSpec.model_validate(
            {"scale": "tiny", "make": {"kind": "template", "name": told, "template": "{text}"}}
        )
        assert filled("{scale}-captions-{make}", {"spec": spec_of_python}) == f"tiny-captions-{told}"
