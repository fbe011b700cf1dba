"""A large model behind a server of the shape of vLLM's API (OpenAI's chat completions): pictures go as data urls."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from datacomp_core.captioners.base import WriterSpec
from datacomp_core.errors import DataError, SpecError, StoreError

TIMEOUT_SECONDS = 300
ATTEMPTS = 5
BUSY = (408, 429, 500, 502, 503, 504)
AT_ONCE = 32
DESCRIBE = "Describe the picture in one sentence."
TRANSLATE = "Translate the text to English. Answer with the translation alone."


class ChatApiCaptioner:
    """A model of a server. What a server draws is its own affair: seed and sampling are sent with every request."""

    def __init__(self, spec: WriterSpec, server: str) -> None:
        if not server:
            raise SpecError(
                f"{spec.model} needs a server: give its address in DATACOMP_CAPTION_SERVER, such as http://host:8000/v1."
            )
        self.spec, self.url = spec, f"{server.rstrip('/')}/chat/completions"

    def write(self, asked: Sequence[Any], seed: int) -> list[list[str]]:
        with ThreadPoolExecutor(min(AT_ONCE, len(asked))) as pool:
            return list(pool.map(lambda one: self._one(one[1], seed + one[0]), enumerate(asked)))

    def _one(self, asked: Any, seed: int) -> list[str]:
        spec = self.spec
        answer = self._asked(
            {
                "model": spec.model,
                "messages": [{"role": "user", "content": _content(asked, spec.prompt)}],
                "max_tokens": spec.max_tokens,
                "temperature": spec.temperature,
                "top_p": spec.top_p,
                "n": spec.num_captions,
                "seed": seed,
            }
        )
        try:
            texts = [str(choice["message"]["content"] or "").strip() for choice in answer["choices"]]
        except (KeyError, TypeError, IndexError) as problem:
            raise DataError(f"{self.url} does not answer in the form of OpenAI's chat API: {str(answer)[:200]!r}.") from problem
        if len(texts) != spec.num_captions:
            raise DataError(f"{self.url} gave {len(texts)} texts where {spec.num_captions} were asked for.")
        return texts

    def _asked(self, body: dict[str, Any]) -> Any:
        import requests

        told = ""
        for attempt in range(ATTEMPTS):
            try:
                reply = requests.post(self.url, json=body, timeout=TIMEOUT_SECONDS)
            except requests.RequestException as problem:
                told = str(problem)
            else:
                if reply.status_code == requests.codes.ok:
                    return _json(reply, self.url)
                told = f"status {reply.status_code}: {reply.text[:200]}"
                if reply.status_code not in BUSY:
                    raise SpecError(f"{self.url} rejects the request for {self.spec.model} ({told}).")
            time.sleep(min(30, 2**attempt) * 0.25)
        raise StoreError(f"{self.url} did not answer within {ATTEMPTS} tries ({told}): start it, and run again.")


def _json(reply: Any, url: str) -> Any:
    try:
        return reply.json()
    except ValueError as problem:
        raise DataError(f"{url} does not answer in JSON: {reply.text[:200]!r}.") from problem


def _content(asked: Any, prompt: str) -> Any:
    if isinstance(asked, str):
        return f"{prompt or TRANSLATE}\n\n{asked}"
    buffer = io.BytesIO()
    asked.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt or DESCRIBE}]
