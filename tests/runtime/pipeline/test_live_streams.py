import signal
import time
import uuid
from pathlib import Path

import pytest
from support.live.run import LiveRun, processes_of
from support.models.bundles import make_bundle
from support.streams.servers import MjpegStream, RtspStream, rtsp_missing


@pytest.mark.skipif(rtsp_missing() is not None, reason=str(rtsp_missing()))
def test_servers_that_die_and_come_back_cost_no_worker_and_lines_go_on(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    bundle = make_bundle(tmp_path / "bundle")
    with (
        RtspStream(fps=10) as camera,
        MjpegStream(fps=10) as web,
        LiveRun(camera.url, web.url, "--bundle", bundle, "--headless", environment={"MARK": mark}) as run,
    ):
        urls = {camera.url, web.url}

        def told(kind: str) -> bool:
            return {line["source"] for line in run.events(kind)} == urls

        run.until(lambda: {line["source"] for line in run.results} == urls, what="a result of each")
        workers = processes_of(mark)
        for stream in (camera, web):
            stream.kill()
        camera.kill_server()
        run.until(lambda: told("lost"), what="lost")
        time.sleep(1)
        silent = len(run.results)
        camera.start_server()
        for stream in (camera, web):
            stream.restart()
        back = time.monotonic()
        run.until(lambda: told("reconnected"), what="reconnected")
        run.until(lambda: {line["source"] for line in run.results[silent:]} == urls, what="results of each again")
        flowing = max(next(line["_at"] for line in run.results[silent:] if line["source"] == url) for url in urls)
        assert flowing < back + 10  # 5 s, on a machine that does nothing else
        assert all(line["reconnects"] >= 1 for line in run.results[silent:])
        assert processes_of(mark) == workers
        assert not run.events("engine-hung")

        before = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
        assert time.monotonic() - before < 3  # 2 s, likewise
        assert run.errors[-1] == "interrupted"
