"""An RTSP server for tests, run by Debian's Python (python3-gi, gir1.2-gst-rtsp-server-1.0), standard library only.

    /usr/bin/python3 rtsp_server.py [--clip FILE] [--fps 25] [--size 320x192] [--gop 25] [--bframes 0] [--mtu 1400]
                                    [--codec h264|h265|jpeg] [--slices 2] [--shared] [--spots]
                                    [--user NAME --password WORD]

Prints one JSON line {"port": ..., "start_ns": ...} and serves until stdin closes:

    /clip    the file, from its start for each client, in real time, without encoding it again
    /clock   pictures drawn now: 16x16 px squares, dark or light. The first 24, row by row from the top left, are the
             picture's number, most significant first; the others follow from the number (`squares`), so that a picture
             that is damaged anywhere shows it. Number n was taken at CLOCK_MONOTONIC start_ns + n / fps, whoever asks
             and whenever.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time

SQUARE_PX = 16
NUMBER_BITS = 24
DARK, LIGHT = 40, 210
SPOT = (144, 80, 176, 112)

ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max={gop} bframes={bframes} "
    "sliced-threads={sliced} threads={slices} ! "
    "h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 mtu={mtu}",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max={gop} ! "
    "h265parse ! rtph265pay name=pay0 pt=96 config-interval=-1 mtu={mtu}",
    "jpeg": "jpegenc quality=90 ! rtpjpegpay name=pay0 pt=26 mtu={mtu}",
}


def squares(number: int, count: int) -> list[bool]:
    """Which squares of picture `number` are light: its bits first, then bits of a generator seeded by it."""
    light = [bool(number >> (NUMBER_BITS - 1 - bit) & 1) for bit in range(NUMBER_BITS)]
    state = number * 2654435761 % 2**32 or 1
    while len(light) < count:
        state = (state * 1664525 + 1013904223) % 2**32
        light.append(bool(state >> 31))
    return light[:count]


def draw(number: int, width: int, height: int, *, spots: bool = False) -> bytes:
    """Picture `number` as I420; with `spots` every odd one has a red spot in its middle."""
    columns, rows = width // SQUARE_PX, height // SQUARE_PX
    light = squares(number, columns * rows)
    luma = bytearray()
    for row in range(rows):
        for column in range(columns):
            luma += bytes([LIGHT if light[row * columns + column] else DARK]) * SQUARE_PX
        luma += luma[-width:] * (SQUARE_PX - 1)
    blue, red = bytearray(b"\x80" * (width * height // 4)), bytearray(b"\x80" * (width * height // 4))
    if spots and number % 2:
        paint(luma, width, SPOT, 81)
        half = tuple(edge // 2 for edge in SPOT)
        paint(blue, width // 2, half, 90)
        paint(red, width // 2, half, 240)
    return bytes(luma + blue + red)


def paint(plane: bytearray, width: int, box: tuple[int, ...], value: int) -> None:
    for row in range(box[1], box[3]):
        plane[row * width + box[0] : row * width + box[2]] = bytes([value]) * (box[2] - box[0])


def serve(args: argparse.Namespace) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    width, height = (int(side) for side in args.size.split("x"))
    start_ns = time.monotonic_ns()
    period_ns = int(1e9 / args.fps)

    class Clock(GstRtspServer.RTSPMediaFactory):
        """Draws a picture whenever the encoder wants one and its time has come."""

        def do_create_element(self, _url: object) -> object:
            caps = f"video/x-raw,format=I420,width={width},height={height},framerate={round(args.fps)}/1"
            encoder = ENCODERS[args.codec].format(
                gop=args.gop, bframes=args.bframes, mtu=args.mtu, slices=args.slices, sliced=args.slices > 1
            )
            element = Gst.parse_launch(f"( appsrc name=source is-live=true format=time caps={caps} ! {encoder} )")
            source = element.get_by_name("source")
            state = {"number": -1, "first": None}

            def feed(source: object, _length: int) -> None:
                now = time.monotonic_ns()
                number = max(state["number"] + 1, (now - start_ns) // period_ns)
                due_ns = start_ns + number * period_ns
                time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
                if state["first"] is None:
                    state["first"] = number
                state["number"] = number
                buffer = Gst.Buffer.new_wrapped(draw(number, width, height, spots=args.spots))
                buffer.pts = (number - state["first"]) * period_ns
                buffer.duration = period_ns
                source.emit("push-buffer", buffer)

            source.connect("need-data", feed)
            return element

    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    mounts = server.get_mount_points()
    clock = Clock()
    clock.set_shared(args.shared)
    mounts.add_factory("/clock", clock)
    if args.clip:
        clip = GstRtspServer.RTSPMediaFactory()
        clip.set_launch(
            f'( filesrc location="{args.clip}" ! qtdemux ! h264parse ! '
            f"rtph264pay name=pay0 pt=96 config-interval=-1 mtu={args.mtu} )"
        )
        mounts.add_factory("/clip", clip)
    if args.user:
        protect(server, mounts, args, GstRtspServer)
    server.attach(None)
    loop = GLib.MainLoop()
    print(json.dumps({"port": server.get_bound_port(), "start_ns": start_ns}), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), loop.quit()), daemon=True).start()
    loop.run()


def protect(server: object, mounts: object, args: argparse.Namespace, lib: object) -> None:
    """Only `--user` with `--password` may look."""
    auth = lib.RTSPAuth()
    token = lib.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(lib.RTSPAuth.make_basic(args.user, args.password), token)
    server.set_auth(auth)
    for path in ("/clock", "/clip"):
        factory = mounts.match(path)[0]
        if factory is not None:
            permissions = lib.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip")
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--size", default="320x192")
    parser.add_argument("--gop", type=int, default=25)
    parser.add_argument("--bframes", type=int, default=0)
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--mtu", type=int, default=1400)
    parser.add_argument("--codec", choices=sorted(ENCODERS), default="h264")
    parser.add_argument("--shared", action="store_true", help="one encoder for all")
    parser.add_argument("--spots", action="store_true", help="a red spot on every odd picture")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    serve(parser.parse_args())
