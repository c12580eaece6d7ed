"""A client in thirty lines: python examples/client.py 三维立体风格的老虎 tiger.png [http://…:8000]

The key, if the server wants one, is read from RAPID_DIFFUSION_KEY.
"""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib import error, request


def generate(prompt: str, url: str = "http://127.0.0.1:8000", **wishes: Any) -> dict[str, Any]:
    """The answer of `POST /generate`; `wishes` are its other fields, such as seed=7.

    Raises `ValueError` with the server's words, which name the parameter that is wrong.
    """
    body = json.dumps({"prompt": prompt, **wishes}).encode()
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("RAPID_DIFFUSION_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        with request.urlopen(request.Request(f"{url}/generate", body, headers)) as answer:
            return dict(json.load(answer))
    except error.HTTPError as refused:
        raise ValueError(json.load(refused)["detail"]) from None


if __name__ == "__main__":
    drawn = generate(sys.argv[1], *sys.argv[3:4])["data"][0]
    Path(sys.argv[2]).write_bytes(base64.b64decode(drawn["b64_json"]))
    print(f"{sys.argv[2]}: seed {drawn['seed']}, {drawn['width']}x{drawn['height']}")
