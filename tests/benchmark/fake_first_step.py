"""A first step that computes nothing: it tells its options and its cache, and fails if told to."""

import json
import os
import sys
from pathlib import Path

options = json.loads(sys.stdin.readline())
cache = Path(os.environ["BMOJO_CACHE_DIR"])
found = cache.is_dir() and any(cache.iterdir())
cache.mkdir(exist_ok=True)
(cache / "program").touch()
if options["model"] == "broken":
    sys.exit("no such thing")
loss = 3.2 if options["model"] == "right" else 9.0
times = {"import": 1.0, "kernels": 0.2, "make": 1.0, "compile": 0.5 if found else 4.0, "step": 1.0}
print(json.dumps({**times, "loss": loss}))
