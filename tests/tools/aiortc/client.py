"""Plays over WHEP or publishes over WHIP with aiortc, and prints what came of it as one line of JSON.

    client.py play URL --pictures N         decodes so many pictures, then ends the session
    client.py publish URL --codec H264      publishes grey pictures and silence until it gets SIGTERM or SIGINT
"""

import argparse
import asyncio
import json
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
from fractions import Fraction

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import AudioStreamTrack

# no STUN: all is on this machine
CONFIGURATION = RTCConfiguration(iceServers=[])


class Pictures(VideoStreamTrack):
    """Pictures of 320x240 whose brightness changes from each to the next."""

    count = 0

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        frame = av.VideoFrame(320, 240, "yuv420p")
        for plane, value in zip(frame.planes, (16 + self.count % 200, 128, 128)):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = pts, Fraction(time_base)
        self.count += 1
        return frame


def request(method, url, body, token):
    headers = {"Content-Type": "application/sdp"} if body else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    message = urllib.request.Request(url, data=body, headers=headers, method=method)
    with urllib.request.urlopen(message, timeout=30) as answer:
        location = answer.headers.get("Location")
        return answer.status, location and urllib.parse.urljoin(url, location), answer.read().decode()


async def connect(connection, arguments):
    """Posts the offer, which has all candidates, takes the answer and returns the session's address."""
    await connection.setLocalDescription(await connection.createOffer())
    body = connection.localDescription.sdp.encode()
    status, resource, answer = await asyncio.to_thread(request, "POST", arguments.url, body, arguments.token)
    if status != 201:
        sys.exit(f"the offer was answered {status}")
    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return resource


async def play(arguments):
    connection = RTCPeerConnection(CONFIGURATION)
    for kind in ("video", "audio"):
        connection.addTransceiver(kind, direction="recvonly")
    resource = await connect(connection, arguments)
    tracks = {receiver.track.kind: receiver.track for receiver in connection.getReceivers()}
    seen = {"pictures": 0, "sounds": 0, "width": 0, "height": 0}

    async def listen():
        while True:
            await tracks["audio"].recv()
            seen["sounds"] += 1

    listening = asyncio.create_task(listen())
    while seen["pictures"] < arguments.pictures:
        frame = await asyncio.wait_for(tracks["video"].recv(), 60)
        seen["pictures"] += 1
        seen["width"], seen["height"] = frame.width, frame.height
    listening.cancel()
    seen["ended"], _, _ = await asyncio.to_thread(request, "DELETE", resource, None, arguments.token)
    await connection.close()
    print(json.dumps(seen), flush=True)


async def publish(arguments):
    connection = RTCPeerConnection(CONFIGURATION)
    pictures = Pictures()
    connection.addTransceiver(AudioStreamTrack(), direction="sendonly")
    video = connection.addTransceiver(pictures, direction="sendonly")
    codecs = RTCRtpSender.getCapabilities("video").codecs
    video.setCodecPreferences([codec for codec in codecs if codec.mimeType.lower() == f"video/{arguments.codec.lower()}"])
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    resource = await connect(connection, arguments)
    await over.wait()
    ended, _, _ = await asyncio.to_thread(request, "DELETE", resource, None, arguments.token)
    await connection.close()
    print(json.dumps({"pictures": pictures.count, "ended": ended}), flush=True)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("action", choices=("play", "publish"))
parser.add_argument("url")
parser.add_argument("--pictures", type=int, default=30)
parser.add_argument("--codec", default="H264")
parser.add_argument("--token")
options = parser.parse_args()
asyncio.run(play(options) if options.action == "play" else publish(options))
