"""Print, as JSON, every route of the MLflow server with authentication: `[method, path]`, path parameters filled in.

Run with the variables that `mlflow server --app-name basic-auth` runs with; builds the application, serves nothing.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from mlflow.server import app as flask_app
from mlflow.server.auth import create_app


def native(routes: Any, prefix: str = "") -> set[tuple[str, str]]:
    """The routes of FastAPI, those of included and mounted applications too."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        path = prefix + getattr(route, "path", "")
        found |= {(method, path) for method in getattr(route, "methods", None) or ()}
        if included := getattr(route, "original_router", None):  # of include_router, which FastAPI resolves on demand
            found |= native(included.routes, path + route.include_context.prefix)
        inner = getattr(route, "routes", None) or getattr(getattr(route, "app", None), "routes", None)
        found |= native(inner, path) if inner else set()
    return found


if __name__ == "__main__":
    application = create_app()
    found = native(application.routes)
    found |= {(method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods or ()}
    routes = sorted({(method, re.sub(r"[<{].*?[>}]", "1", path)) for method, path in found if path})
    sys.stdout.write(json.dumps(routes))
