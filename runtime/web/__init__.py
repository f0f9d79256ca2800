"""Serves a live page and its API while a pipeline runs: pictures, answers, counts and faults, to who may see them.

The pipeline tells ``LiveState``, a sink, what happens; everything else runs on threads of its own, and what it costs is
bounded. This room must not know what fills the pipeline: a picture to classify goes to a function that it is given.

    access         who is let in: addresses, names, token, sessions, rates
    live_state     what the API tells, kept in microseconds a result
    motion_jpeg    pictures, encoded once for all viewers
    http_server    connections: accepted, timed, bounded (uvicorn)
    entrance       requests: let in or refused
    routes         the API and the page's files (starlette), described in ``openapi.json``
    live_page      all of them together
"""
