"""The page of the service: one file, and the policy that lets it run its own script alone."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from eval.search.refine import FOLD
from vlp.page import render

TEMPLATE = Path(__file__).parent / "service_page.html"
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@cache
def service_page() -> str:
    """The page; it asks for nothing but this service."""
    return render(TEMPLATE, title="Search", fold=FOLD)


@cache
def policy(html: str) -> str:
    """The Content-Security-Policy of a page: its own scripts by their sha256, pictures in data: URIs, this host."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in SCRIPT.findall(html)]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
