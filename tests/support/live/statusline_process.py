"""JSON lines on stdout beside a status line on stderr, as hybrid-infer would write them."""

import time

from hybrid_edge.runtime.outputs.result_lines import JsonLines
from hybrid_edge.runtime.outputs.statusline import StatusLine
from hybrid_edge.runtime.sources.events import Event
from support.live.results import make_result, make_status

if __name__ == "__main__":
    sinks = (JsonLines(2), StatusLine())
    for index in range(10):
        for sink in sinks:
            sink.write(make_result(index=index))
            sink.status(make_status(faults={"lost": 1}))
            sink.poll()
        time.sleep(0.06)
    for sink in sinks:
        sink.event(Event("lost", "cam0", "the camera was unplugged", time.time()))
        sink.close()
