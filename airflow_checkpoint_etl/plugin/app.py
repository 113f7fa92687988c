"""The plugin's FastAPI app: its endpoints, and the scripts of its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from airflow_checkpoint_etl.plugin import acting, reading

STATIC: Final = Path(__file__).parent / "static"


def make_app() -> FastAPI:
    """Return the app, to be mounted below the API server's own path.

    The scripts hold nothing of anybody's and need no user; every endpoint does.
    """
    app = FastAPI(title="Checkpoints", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(reading.router)
    app.include_router(acting.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
