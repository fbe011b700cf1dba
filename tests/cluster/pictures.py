"""A web server of pictures: `/<number>.jpg` is one that depends on the number alone; a tenth of them are not there."""

from __future__ import annotations

import io
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def picture(number: int) -> bytes:
    """Coarse noise of a few colours, so that hashes and models tell pictures apart; every seventh is a copy of another."""
    chance = np.random.default_rng(number - 1 if number % 7 == 6 else number)
    coarse = Image.fromarray(chance.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((64, 56), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        number = int(self.path.strip("/").partition(".")[0])
        if number % 10 == 9:
            self.send_error(404)
            return
        data = picture(number)
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
