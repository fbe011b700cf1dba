"""Names runs, and sets the message of a rejected or failed run. A run is named after its request. Prefect names a run only
when its parameters are valid, so a hook gives a rejected run its name and a one-sentence message. A failure that our errors
explain in one sentence is logged once as that sentence, without a traceback.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ParameterTypeError
from prefect.flows import FlowStateHook
from prefect.runtime import flow_run as running
from prefect.states import Failed

from datacomp_core.errors import DatacompError
from datacomp_core.recipes.load import is_text

MAX_NAME = 80
REFUSED = "Validation of flow parameters failed"
INVALID = re.compile(r"^\s*- (?:spec(?:\.(?P<field>[\w.]+))?: )?(?:Value error, )?(?P<why>.+)$", re.MULTILINE)
AT_THE_END = "Engine execution exited"
LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def run_name(pattern: str) -> Callable[[], str]:
    """A name for Prefect's `flow_run_name`, from the parameters of the run: `pattern` as for `str.format`."""
    return lambda: filled(pattern, running.parameters)


def filled(pattern: str, parameters: Mapping[str, Any]) -> str:
    return pattern.format_map(_Asked(parameters))[:MAX_NAME]


class _Asked(dict[str, Any]):
    """Return the fields of a run's `spec` and its other parameters. A missing or invalid field becomes `?`,
    and one with fields of its own becomes its `name`. A recipe is followed by the decoding of images if it is not `full`."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        spec = parameters.get("spec", {})
        given = dict(spec) if isinstance(spec, Mapping) else spec.model_dump(mode="json")
        given = {key: value.get("name", "?") if isinstance(value, Mapping) else value for key, value in given.items()}
        super().__init__({**given, **{name: value for name, value in parameters.items() if name != "spec"}})
        decoding = str(given.get("decoding") or "full")
        self["recipe"] = _recipe(spec, str(given.get("recipe", "?"))) + ("" if decoding == "full" else f"-{decoding}")

    def __missing__(self, name: str) -> str:
        return "?"


def _recipe(spec: Any, given: str) -> str:
    """Return a recipe's name; a recipe in YAML has the name that it gives or receives."""
    if not is_text(given):
        return given
    try:
        return spec.subset().recipe if hasattr(spec, "subset") else "own filter"
    except DatacompError:
        return "own filter"


def name_refused_runs(pattern: str) -> FlowStateHook[..., Any]:
    """Hook for failed runs: a run with rejected parameters gets the name of its request and a one-sentence message."""

    def name_refused_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        if not (state.message or "").startswith(REFUSED):
            return
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(flow_run.id, filled(pattern, flow_run.parameters))
            client.set_flow_run_state(flow_run.id, Failed(name="Refused", message=sentence(state.message or "")), force=True)

    return name_refused_run


def sentence(message: str) -> str:
    """Return what was wrong with the parameters, without Prefect's and pydantic's wrapping."""
    found = [(f"{match['field']}: " if match["field"] else "") + match["why"].strip() for match in INVALID.finditer(message)]
    return "Refused: " + " ".join(found) if found else message


class OneSentence(logging.Filter):
    """Logs a failure that has a sentence (one of our errors, a rejected form) once as that sentence, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        problem = record.exc_info[1] if record.exc_info else None
        if not isinstance(problem, DatacompError | ParameterTypeError):
            return True
        if isinstance(problem, DatacompError) and record.getMessage().startswith(AT_THE_END):
            return False  # already logged when it happened
        record.msg, record.args = sentence(str(problem)), ()
        record.exc_info, record.exc_text = None, None
        return True


def quieten() -> None:
    """Make the loggers of runs report our errors in one sentence. Idempotent."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, OneSentence) for one in logger.filters):
            logger.addFilter(OneSentence())
