"""Run the GStreamer pipeline that comes through stdin, as gst-launch-1.0 runs one that stands on its command line.

There everybody on the machine could read its passwords. ``child`` starts this program, which imports nothing of ours;
its words are separated by zero bytes. It ends with the pipeline, or with whoever started it, and says why on stdout.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from ctypes import POINTER, byref, c_char_p, c_void_p

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>: the signal that comes when the thread ends that started this process
FAILURE, PLAYING = 0, 4  # GST_STATE_CHANGE_FAILURE, GST_STATE_PLAYING
MESSAGES = 1 | 2 | 1 << 21  # GST_MESSAGE_EOS, GST_MESSAGE_ERROR, GST_MESSAGE_ASYNC_DONE
CUSTOM_UPSTREAM = 270 << 8 | 1  # GST_EVENT_CUSTOM_UPSTREAM
CONVERTER = b"hybrid-edge"  # the name of the element whose input is raw video
KEY_FRAME = b"GstForceKeyUnit, all-headers=(boolean)true"  # a request as gst_video_event_new_upstream_force_key_unit's
POINTERS = (
    "gst_parse_launchv",
    "gst_element_get_bus",
    "gst_bus_timed_pop_filtered",
    "gst_message_get_structure",
    "gst_bin_get_by_name",
    "gst_structure_from_string",
    "gst_event_new_custom",
)
FOREVER, REQUEST_INTERVAL = 2**64 - 1, 500_000_000  # nanoseconds; GST_CLOCK_TIME_NONE


class GError(ctypes.Structure):
    """This structure is GLib's GError."""

    _fields_ = (("domain", ctypes.c_uint32), ("code", ctypes.c_int), ("message", c_char_p))


def main() -> str:
    """Run the pipeline to its end; return the reason, empty where there were no more frames."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for a call into C to return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    words = sys.stdin.buffer.read().split(b"\0")
    gst = ctypes.CDLL("libgstreamer-1.0.so.0")
    gst.gst_init(None, None)
    for name in POINTERS:
        getattr(gst, name).restype = c_void_p
    gst.gst_structure_get_name.restype = c_char_p
    error, details = POINTER(GError)(), c_char_p()
    pipeline = c_void_p(gst.gst_parse_launchv((c_char_p * (len(words) + 1))(*words), byref(error)))
    if not error and (message := _last_message(gst, pipeline)):
        gst.gst_message_parse_error(message, byref(error), byref(details))
    where = (details.value or b"").rpartition(b" (): ")[2]  # behind the place in the source: the element, and the cause
    words = b" ".join([b"ERROR:", error.contents.message, *where.split()]) if error else b""
    return words.decode(errors="replace")


def _last_message(gst: ctypes.CDLL, pipeline: c_void_p) -> c_void_p | None:
    """Play a pipeline, ask for a key frame until the first one is out, and return the error at its end, or None."""
    flows = gst.gst_element_set_state(pipeline, PLAYING) == FAILURE  # then the error is there already
    bus = c_void_p(gst.gst_element_get_bus(pipeline))
    converter = c_void_p(gst.gst_bin_get_by_name(pipeline, CONVERTER))  # what follows is an encoder, and takes requests
    while True:
        wait = ctypes.c_uint64(FOREVER if flows else REQUEST_INTERVAL)
        message = c_void_p(gst.gst_bus_timed_pop_filtered(bus, wait, MESSAGES))
        structure = c_void_p(gst.gst_message_get_structure(message)) if message else None
        if not message:
            request = c_void_p(gst.gst_structure_from_string(KEY_FRAME, None))
            gst.gst_element_send_event(converter, c_void_p(gst.gst_event_new_custom(CUSTOM_UPSTREAM, request)))
        elif not structure:  # the end has none
            return None
        elif gst.gst_structure_get_name(structure) != b"GstMessageAsyncDone":
            return message
        else:
            flows = True


if __name__ == "__main__":
    sys.stdout.write(main())
