"""Follows /v1/changes over a WebSocket, and prints each event on a line: follow_socket.py URL [SINCE].

When the connection breaks it comes back, and goes on after the last event that it has printed.
"""

import asyncio
import json
import sys
import urllib.parse

import websockets


async def follow(url, since):
    while True:
        query = "?" + urllib.parse.urlencode({"since": since}) if since else ""
        try:
            async with websockets.connect(url + query, open_timeout=10, close_timeout=1, max_size=None) as socket:
                async for message in socket:
                    event = json.loads(message)
                    print(message, flush=True)
                    if "error" in event:
                        return
                    since = event["id"]
        except websockets.exceptions.InvalidStatusCode as refused:
            if refused.status_code < 500:
                print(json.dumps({"error": f"HTTP {refused.status_code}"}), flush=True)
                return
        except (OSError, EOFError, asyncio.TimeoutError, websockets.exceptions.WebSocketException):
            pass
        print(json.dumps({"cut": True}), flush=True)
        await asyncio.sleep(0.05)


asyncio.run(follow(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
